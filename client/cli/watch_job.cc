#include "client/cli/watch_job.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "common/error.h"

namespace attune::cli {
namespace {

// Turns a job's events into lines.
class Display {
 public:
  Display(Context* context, const std::string& name)
      : context_(context), label_(BareName(name)), writer_(context->out, context->out_is_terminal) {}

  void Show(const v1::JobEvent& event) {
    if (context_->json) return PrintJsonLine(context_->out, event);
    if (event.state() != v1::TuningJob::STATE_UNSPECIFIED) state_ = event.state();
    switch (event.type()) {
      case v1::JobEvent::STATE_CHANGED:
        writer_.Print(absl::StrCat(label_, "  ", v1::TuningJob::State_Name(state_), event.message().empty() ? "" : "  ",
                                   Printable(event.message())));
        if (state_ == v1::TuningJob::PAUSED) writer_.Print(absl::StrCat("Go on with: attune jobs resume ", label_));
        break;
      case v1::JobEvent::LOG:
        writer_.Print(absl::StrCat(label_, "  ", Printable(event.message())));
        break;
      case v1::JobEvent::EVALUATION:
        writer_.Print(absl::StrCat(label_, "  ", FormatEvaluation(event.progress())));
        break;
      case v1::JobEvent::PROGRESS:
        writer_.Update(FormatJobProgress(label_, state_, event.progress(), TerminalWidth()), absl::Now());
        break;
      default:  // checkpoints are for `jobs checkpoints`
        break;
    }
  }

  void Clear() { writer_.Clear(); }

 private:
  Context* const context_;
  const std::string label_;
  ProgressWriter writer_;
  v1::TuningJob::State state_ = v1::TuningJob::STATE_UNSPECIFIED;
};

int ReportEnd(Context* context, const v1::TuningJob& job) {
  if (job.state() == v1::TuningJob::SUCCEEDED) {
    if (context->json) return kExitOk;
    std::string model = BareName(job.tuned_model());
    context->out << "tuned model: " << job.tuned_model() << " (training took " << FormatSeconds(job.training_seconds())
                 << ")\nTry it: attune generate " << model << " \"...\"\n";
    return kExitOk;
  }
  context->out.flush();
  if (job.has_error()) {
    context->err << "error: job " << BareName(job.name()) << " failed: " << Printable(job.error().message()) << " ("
                 << job.error().reason() << ")\n";
  } else {
    context->err << "error: job " << BareName(job.name()) << " ended as " << v1::TuningJob::State_Name(job.state())
                 << (job.state_reason().empty() ? "" : ": ") << Printable(job.state_reason()) << " (JOB_"
                 << v1::TuningJob::State_Name(job.state()) << ")\n";
  }
  return kExitFailed;
}

}  // namespace

absl::StatusOr<int> WatchJob(Context* context, const std::string& name, int64_t after_sequence) {
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  v1::WatchTuningJobRequest watch;
  watch.set_name(name);
  watch.set_after_sequence(after_sequence);
  Display display(context, name);
  Cancellation cancellation;
  absl::Status status;
  {
    InterruptGuard guard(&cancellation);
    status = client->WatchTuningJob(
        watch,
        [&](const v1::JobEvent& event) {
          display.Show(event);
          return true;
        },
        &cancellation);
  }
  display.Clear();
  if (cancellation.cancelled()) {
    context->err << "Detached; the job goes on. Watch it again with: attune jobs watch " << BareName(name) << "\n";
    return kExitOther;
  }
  ATTUNE_RETURN_IF_ERROR(status);
  v1::GetTuningJobRequest get;
  get.set_name(name);
  ATTUNE_ASSIGN_OR_RETURN(v1::TuningJob job, client->GetTuningJob(get));
  return ReportEnd(context, job);
}

}  // namespace attune::cli
