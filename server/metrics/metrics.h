#ifndef ATTUNE_SERVER_METRICS_METRICS_H_
#define ATTUNE_SERVER_METRICS_METRICS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace attune {

// Every figure that Attune hands to Prometheus; metrics.cc holds each name, unit,
// bucket and help text, and no other file does. Names are "attune_" and the stem
// that dashboards of language model servers already use. Thread-safe; no call blocks
// for longer than a map look-up.
class Metrics {
 public:
  struct Options {
    // Model names that get series of their own; all further ones share "other".
    int max_model_names = 200;
    std::string version;
    std::string device;  // as people read it, e.g. "cpu float32, 2 threads"
  };

  // What is read at each scrape rather than counted along.
  struct Gauges {
    int64_t requests_running = 0, requests_waiting = 0;
    double kv_cache_usage = 0;  // 0 to 1
    int64_t swap_total = 0, swap_used = 0;                        // bytes
    int64_t device_memory_total = 0, device_memory_reserved = 0;  // bytes
    int64_t resident_adapters = 0, resident_bytes = 0;
    double generation_seconds = 0, training_seconds = 0;  // of the device, since the start
    std::optional<double> energy_joules;                  // likewise; unset: the device does not tell
    std::map<std::pair<std::string, std::string>, int64_t> jobs;  // {state, method} -> jobs
  };

  explicit Metrics(const Options& options);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // A call of a gRPC method ended. `code` is the status code's name, e.g. "NOT_FOUND".
  void RpcFinished(absl::string_view service, absl::string_view method, absl::string_view code, double seconds);

  // The engine took one step with so many sequences in its batch.
  void EngineStep(int sequences, double seconds);
  // Seconds; `first_token` counts from the request's arrival.
  void FirstToken(absl::string_view model, double queue, double prefill, double first_token);
  void InterToken(absl::string_view model, double seconds);
  // `reason` is "stop", "length" or "cancelled"; `decode` seconds are those after the first token.
  void RequestFinished(absl::string_view model, absl::string_view reason, int prompt_tokens, int generated_tokens,
                       double decode, double total);
  void Preempted();
  // Of preempted ones, so many had their pages copied to the host; bytes that were, and that came back.
  void Swapped(int64_t sequences_out, int64_t bytes_out, int64_t bytes_in);
  void LetIn(int64_t tokens, int64_t cached);
  // An answer's first token needed no pass.
  void KnownPrompt();
  // A step of generation that training could put off began so long after its time.
  void PutOff(double late_seconds);
  // Tokens that were guessed ahead, and how many of them were right.
  void Drafted(int64_t drafted, int64_t accepted);

  // An optimizer step of a job that tunes `model`.
  void TrainingStep(absl::string_view model, int64_t tokens, double seconds, double loss);
  // A job left the queue.
  void JobStarted(absl::string_view method, double queue_wait_seconds);

  void DatasetStored(int64_t accepted_rows, int64_t skipped_rows);

  // An alias sent a request to a model.
  void AliasRequest(absl::string_view alias, absl::string_view model) ABSL_LOCKS_EXCLUDED(mutex_);
  // Removes a deleted alias's series.
  void ForgetAlias(absl::string_view alias) ABSL_LOCKS_EXCLUDED(mutex_);

  // Removes a deleted model's series and frees its name's place.
  void ForgetModel(absl::string_view model) ABSL_LOCKS_EXCLUDED(mutex_);

  // `read` is called at the start of each Render. Set before the first one.
  void SetGaugeReader(std::function<Gauges()> read) ABSL_LOCKS_EXCLUDED(mutex_);

  // All series in Prometheus' text format.
  std::string Render() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Families;     // metrics.cc
  struct ModelSeries;  // the series of one model name
  struct AliasSeries;  // those of one alias, by model

  ModelSeries& Series(absl::string_view model) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetGauges(const Gauges& gauges) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int max_model_names_;
  const std::unique_ptr<Families> families_;
  absl::Mutex mutex_;
  std::map<std::string, std::unique_ptr<ModelSeries>, std::less<>> models_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::unique_ptr<AliasSeries>, std::less<>> aliases_ ABSL_GUARDED_BY(mutex_);
  std::function<Gauges()> read_gauges_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace attune

#endif  // ATTUNE_SERVER_METRICS_METRICS_H_
