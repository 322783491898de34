// Client's watch over a tuning job, which outlives connections.
#include <utility>

#include "client/attune.h"
#include "client/stubs.h"
#include "common/error.h"

namespace attune {
namespace {

// How one connection of a watch ended.
struct Leg {
  absl::Status status;
  bool progressed = false;  // delivered an event
  bool stopped = false;     // by the callback
  bool saw_end = false;     // delivered the final state
};

// Reads one connection and moves `request` past what it delivered.
Leg RunLeg(v1::TuningService::StubInterface* stub, v1::WatchTuningJobRequest* request,
           const Client::OnMessage<v1::JobEvent>& on_event, Cancellation* cancellation) {
  Leg leg;
  CallContext context(absl::InfiniteFuture(), cancellation);
  auto reader = stub->WatchTuningJob(context.get(), *request);
  v1::JobEvent event;
  while (!leg.stopped && reader->Read(&event)) {
    if (event.sequence() <= request->after_sequence()) continue;
    request->set_after_sequence(event.sequence());
    leg.progressed = true;
    leg.saw_end = leg.saw_end || (event.type() == v1::JobEvent::STATE_CHANGED && IsFinal(event.state()));
    leg.stopped = !on_event(event);
  }
  if (leg.stopped) context.get()->TryCancel();
  leg.status = FromGrpcStatus(reader->Finish());
  return leg;
}

}  // namespace

absl::Status Client::WatchTuningJob(v1::WatchTuningJobRequest request, const OnMessage<v1::JobEvent>& on_event,
                                    Cancellation* cancellation) {
  Backoff backoff(options_);
  absl::Time give_up = absl::Now() + options_.reconnect_window;
  while (true) {
    Leg leg = RunLeg(stubs_->tuning.get(), &request, on_event, cancellation);
    if (leg.stopped || (cancellation != nullptr && cancellation->cancelled())) {
      return absl::CancelledError("the watch was stopped; the job goes on");
    }
    if (leg.saw_end) return absl::OkStatus();
    if (leg.status.ok()) {
      // Either the caller had seen the end already, or the server is stopping.
      v1::GetTuningJobRequest get;
      get.set_name(request.name());
      auto job = GetTuningJob(get);
      if (job.ok() && IsFinal(job->state())) return absl::OkStatus();
      leg.status = job.ok() ? absl::UnavailableError("the server ended the watch early") : job.status();
    }
    if (!IsBrokenStream(leg.status)) return leg.status;
    if (leg.progressed) {
      backoff.Reset();
      give_up = absl::Now() + options_.reconnect_window;
    }
    if (absl::Now() >= give_up) return leg.status;
    if (!Pause(backoff.Next(), cancellation)) return absl::CancelledError("the watch was stopped; the job goes on");
  }
}

}  // namespace attune
