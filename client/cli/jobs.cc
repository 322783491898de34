// attune jobs ...
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/describe.h"
#include "client/cli/output.h"
#include "client/cli/watch_job.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

struct ListArgs {
  std::vector<std::string> states;
  std::string tenant;
  int64_t limit = 0;
};

void PrintJobs(Context* context, const std::vector<v1::TuningJob>& jobs) {
  if (context->json) {
    std::vector<const google::protobuf::Message*> items;
    for (const v1::TuningJob& job : jobs) items.push_back(&job);
    return PrintJsonList(context->out, "tuning_jobs", items);
  }
  if (jobs.empty()) {
    context->out << "There are no such jobs. Start one with: attune tune --base MODEL --data DATASET --method lora\n";
    return;
  }
  Table table({"ID", "METHOD", "STATE", "STEP", "LOSS", "VALIDATION", "BASE", "DATASET", "CREATED"});
  for (const v1::TuningJob& job : jobs) {
    const v1::JobProgress& p = job.progress();
    table.Add({BareName(job.name()), MethodName(job), v1::TuningJob::State_Name(job.state()),
               p.step() > 0 ? absl::StrCat(p.step(), "/", p.total_steps()) : "",
               p.step() > 0 && p.train_loss() != 0 ? FormatNumber(p.train_loss()) : "",
               p.validation_loss() > 0 ? FormatNumber(p.validation_loss()) : "", BareName(job.base_model()),
               BareName(job.dataset()), FormatAge(job.create_time(), absl::Now())});
  }
  table.Print(context->out);
}

absl::StatusOr<int> List(Context* context, const ListArgs& args) {
  v1::ListTuningJobsRequest request;
  request.set_tenant(args.tenant);
  for (const std::string& text : args.states) {
    v1::TuningJob::State state;
    if (!v1::TuningJob::State_Parse(absl::AsciiStrToUpper(text), &state)) {
      return UsageError(absl::StrCat("--state: '", text,
                                     "' is none of queued, preparing, running, paused, succeeded, failed, cancelled"));
    }
    request.add_states(state);
  }
  if (args.limit > 0 && args.limit < 100) request.set_page_size(static_cast<int>(args.limit));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  std::vector<v1::TuningJob> jobs;
  ATTUNE_RETURN_IF_ERROR(client->ForEachTuningJob(request, [&](const v1::TuningJob& job) {
    jobs.push_back(job);
    return args.limit <= 0 || static_cast<int64_t>(jobs.size()) < args.limit;
  }));
  PrintJobs(context, jobs);
  return kExitOk;
}

void AddList(CLI::App* group, Context* context) {
  auto args = std::make_shared<ListArgs>();
  CLI::App* command = group->add_subcommand("list", "List jobs, newest first");
  AddRepeated(command, "--state", args->states, "Only jobs in this state, e.g. running; may be repeated")
      ->delimiter(',');
  command->add_option("--tenant", args->tenant, "Only jobs of this tenant");
  command->add_option("--limit", args->limit, "At most so many (default: all)");
  command->callback([context, args] { context->action = [context, args] { return List(context, *args); }; });
}

using JobAction = absl::StatusOr<int> (*)(Context*, Client*, const std::string& name);

// A command that takes a job's id and nothing else.
void AddAction(CLI::App* group, Context* context, const std::string& name, const std::string& help, JobAction run) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = group->add_subcommand(name, help);
  command->add_option("id", *id, "Id of the job")->required();
  command->callback([context, id, run] {
    context->action = [context, id, run]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      return run(context, client, FullName(kTuningJobs, *id));
    };
  });
}

// Calls a method that takes a name and returns the job; prints the job.
template <typename Request, typename Method>
absl::StatusOr<int> ShowJob(Context* context, Client* client, const std::string& name, Method method) {
  Request request;
  request.set_name(name);
  ATTUNE_ASSIGN_OR_RETURN(v1::TuningJob job, (client->*method)(request));
  context->json ? PrintJson(context->out, job) : PrintJob(context->out, job);
  return kExitOk;
}

absl::StatusOr<int> Get(Context* context, Client* client, const std::string& name) {
  return ShowJob<v1::GetTuningJobRequest>(context, client, name, &Client::GetTuningJob);
}

absl::StatusOr<int> Cancel(Context* context, Client* client, const std::string& name) {
  return ShowJob<v1::CancelTuningJobRequest>(context, client, name, &Client::CancelTuningJob);
}

absl::StatusOr<int> PauseJob(Context* context, Client* client, const std::string& name) {
  return ShowJob<v1::PauseTuningJobRequest>(context, client, name, &Client::PauseTuningJob);
}

absl::StatusOr<int> Resume(Context* context, Client* client, const std::string& name) {
  return ShowJob<v1::ResumeTuningJobRequest>(context, client, name, &Client::ResumeTuningJob);
}

absl::StatusOr<int> Delete(Context* context, Client* client, const std::string& name) {
  v1::DeleteTuningJobRequest request;
  request.set_name(name);
  ATTUNE_RETURN_IF_ERROR(client->DeleteTuningJob(request));
  context->out << (context->json ? "{}" : absl::StrCat("deleted ", name)) << "\n";
  return kExitOk;
}

absl::StatusOr<int> Checkpoints(Context* context, Client* client, const std::string& name) {
  v1::ListCheckpointsRequest request;
  request.set_parent(name);
  ATTUNE_ASSIGN_OR_RETURN(v1::ListCheckpointsResponse response, client->ListCheckpoints(request));
  if (context->json) {
    std::vector<const google::protobuf::Message*> items;
    for (const v1::Checkpoint& checkpoint : response.checkpoints()) items.push_back(&checkpoint);
    PrintJsonList(context->out, "checkpoints", items);
    return kExitOk;
  }
  if (response.checkpoints().empty()) {
    context->out << "The job has no checkpoints.\n";
    return kExitOk;
  }
  Table table({"STEP", "LOSS", "VALIDATION", "ACCURACY", "BEST", "SIZE", "CREATED"});
  for (const v1::Checkpoint& c : response.checkpoints()) {
    const bool evaluated = c.validation_loss() > 0;
    table.Add({absl::StrCat(c.step()), FormatNumber(c.train_loss()), evaluated ? FormatNumber(c.validation_loss()) : "",
               evaluated ? FormatNumber(c.validation_token_accuracy()) : "", c.best() ? "yes" : "",
               FormatBytes(c.size_bytes()), FormatAge(c.create_time(), absl::Now())});
  }
  table.Print(context->out);
  return kExitOk;
}

void AddWatch(CLI::App* group, Context* context) {
  struct Args {
    std::string id;
    int64_t after = 0;
  };
  auto args = std::make_shared<Args>();
  CLI::App* command = group->add_subcommand("watch", "Follow a job until it ends; Ctrl-C leaves it running");
  command->add_option("id", args->id, "Id of the job")->required();
  command->add_option("--after", args->after, "Only events after this sequence number (default: all of them)");
  command->callback([context, args] {
    context->action = [context, args] { return WatchJob(context, FullName(kTuningJobs, args->id), args->after); };
  });
}

}  // namespace

void AddJobCommands(CLI::App* app, Context* context) {
  CLI::App* group = app->add_subcommand("jobs", "List, watch and steer tuning jobs");
  group->require_subcommand(1);
  AddList(group, context);
  AddAction(group, context, "get", "Show one job", Get);
  AddWatch(group, context);
  AddAction(group, context, "cancel", "Stop a job for good", Cancel);
  AddAction(group, context, "pause", "Stop a job after saving a checkpoint", PauseJob);
  AddAction(group, context, "resume", "Put a paused job back into the queue", Resume);
  AddAction(group, context, "delete", "Remove an ended job and its checkpoints; the tuned model stays", Delete);
  AddAction(group, context, "checkpoints", "List a job's checkpoints, newest first", Checkpoints);
}

}  // namespace attune::cli
