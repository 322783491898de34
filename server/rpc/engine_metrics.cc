#include "server/rpc/engine_metrics.h"

#include <algorithm>

namespace attune {
namespace {

absl::string_view ReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kNone:
    case FinishReason::kCancelled:
      break;
  }
  return "cancelled";
}

}  // namespace

void EngineMetrics::OnStep(int sequences, int prompt_tokens, int generated_tokens, double seconds) {
  metrics_->EngineStep(sequences, seconds);
}

void EngineMetrics::OnFirstToken(const ServedModel& model, double queue_seconds, double prefill_seconds,
                                 double first_token_seconds) {
  metrics_->FirstToken(model.info.id, queue_seconds, prefill_seconds, first_token_seconds);
}

void EngineMetrics::OnInterTokenLatency(const ServedModel& model, double seconds) {
  metrics_->InterToken(model.info.id, seconds);
}

void EngineMetrics::OnFinished(const ServedModel& model, FinishReason reason, int prompt_tokens, int generated_tokens,
                               const RequestTimings& timings) {
  const double decode = std::max(0.0, timings.total_seconds - timings.first_token_seconds);
  metrics_->RequestFinished(model.info.id, ReasonName(reason), prompt_tokens, generated_tokens, decode,
                            timings.total_seconds);
}

void EngineMetrics::OnPreempted() { metrics_->Preempted(); }
void EngineMetrics::OnSwapped(int64_t sequences_out, int64_t bytes_out, int64_t bytes_in) {
  metrics_->Swapped(sequences_out, bytes_out, bytes_in);
}

void EngineMetrics::OnPutOff(double late_seconds) { metrics_->PutOff(late_seconds); }
void EngineMetrics::OnDrafts(int64_t drafted, int64_t accepted) { metrics_->Drafted(drafted, accepted); }
void EngineMetrics::OnKnownPrompt() { metrics_->KnownPrompt(); }
void EngineMetrics::OnLetIn(int64_t tokens, int64_t cached) { metrics_->LetIn(tokens, cached); }

}  // namespace attune
