#ifndef ATTUNE_SERVER_RPC_ENGINE_METRICS_H_
#define ATTUNE_SERVER_RPC_ENGINE_METRICS_H_

#include "server/engine/engine.h"
#include "server/metrics/metrics.h"

namespace attune {

// Counts what the engine does. Thread-safe.
class EngineMetrics final : public EngineObserver {
 public:
  // `metrics` must outlive this.
  explicit EngineMetrics(Metrics* metrics) : metrics_(metrics) {}

  void OnStep(int sequences, int prompt_tokens, int generated_tokens, double seconds) override;
  void OnFirstToken(const ServedModel& model, double queue_seconds, double prefill_seconds,
                    double first_token_seconds) override;
  void OnInterTokenLatency(const ServedModel& model, double seconds) override;
  void OnFinished(const ServedModel& model, FinishReason reason, int prompt_tokens, int generated_tokens,
                  const RequestTimings& timings) override;
  void OnPreempted() override;
  void OnSwapped(int64_t sequences_out, int64_t bytes_out, int64_t bytes_in) override;
  void OnLetIn(int64_t tokens, int64_t cached) override;
  void OnKnownPrompt() override;
  void OnPutOff(double late_seconds) override;
  void OnDrafts(int64_t drafted, int64_t accepted) override;

 private:
  Metrics* const metrics_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_ENGINE_METRICS_H_
