// Client's watches over tuning jobs and comparisons, which outlive connections.
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"

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

// The same of a comparison's states.
Leg RunLeg(v1::ComparisonService::StubInterface* stub, v1::WatchComparisonRequest* request,
           const Client::OnMessage<v1::Comparison>& on_change, Cancellation* cancellation) {
  Leg leg;
  CallContext context(absl::InfiniteFuture(), cancellation);
  auto reader = stub->WatchComparison(context.get(), *request);
  v1::Comparison comparison;
  while (!leg.stopped && reader->Read(&comparison)) {
    if (comparison.version() <= request->after_version()) continue;
    request->set_after_version(comparison.version());
    leg.progressed = true;
    leg.saw_end = leg.saw_end || IsFinal(comparison.state());
    leg.stopped = !on_change(comparison);
  }
  if (leg.stopped) context.get()->TryCancel();
  leg.status = FromGrpcStatus(reader->Finish());
  return leg;
}

// Leg after leg until the end was seen. `has_ended` asks for it where a leg ended well without; `what` is watched.
absl::Status WatchToEnd(const ClientOptions& options, Cancellation* cancellation, absl::string_view what,
                        const std::function<Leg()>& run_leg, const std::function<absl::StatusOr<bool>()>& has_ended) {
  const auto stopped = [&] { return absl::CancelledError(absl::StrCat("the watch was stopped; the ", what, " goes on")); };
  Backoff backoff(options);
  absl::Time give_up = absl::Now() + options.reconnect_window;
  while (true) {
    const absl::Time begun = absl::Now();
    Leg leg = run_leg();
    if (leg.stopped || (cancellation != nullptr && cancellation->cancelled())) return stopped();
    if (leg.saw_end) return absl::OkStatus();
    if (leg.status.ok()) {
      // Either the caller had seen the end already, or the server is stopping.
      const absl::StatusOr<bool> ended = has_ended();
      if (ended.ok() && *ended) return absl::OkStatus();
      leg.status = ended.ok() ? absl::UnavailableError("the server ended the watch early") : ended.status();
    }
    if (!IsBrokenStream(leg.status)) return leg.status;
    // A connection that held was one, though nothing happened meanwhile.
    if (leg.progressed || absl::Now() - begun >= options.reconnect_window) {
      backoff.Reset();
      give_up = absl::Now() + options.reconnect_window;
    }
    if (absl::Now() >= give_up) return leg.status;
    if (!Pause(backoff.Next(), cancellation)) return stopped();
  }
}

}  // namespace

absl::Status Client::WatchTuningJob(v1::WatchTuningJobRequest request, const OnMessage<v1::JobEvent>& on_event,
                                    Cancellation* cancellation) {
  return WatchToEnd(
      options_, cancellation, "job", [&] { return RunLeg(stubs_->tuning.get(), &request, on_event, cancellation); },
      [&]() -> absl::StatusOr<bool> {
        v1::GetTuningJobRequest get;
        get.set_name(request.name());
        ATTUNE_ASSIGN_OR_RETURN(const v1::TuningJob job, GetTuningJob(get));
        return IsFinal(job.state());
      });
}

absl::Status Client::WatchComparison(v1::WatchComparisonRequest request, const OnMessage<v1::Comparison>& on_change,
                                     Cancellation* cancellation) {
  return WatchToEnd(
      options_, cancellation, "comparison",
      [&] { return RunLeg(stubs_->comparisons.get(), &request, on_change, cancellation); },
      [&]() -> absl::StatusOr<bool> {
        v1::GetComparisonRequest get;
        get.set_name(request.name());
        ATTUNE_ASSIGN_OR_RETURN(const v1::Comparison comparison, GetComparison(get));
        return IsFinal(comparison.state());
      });
}

}  // namespace attune
