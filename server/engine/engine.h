#ifndef ATTUNE_SERVER_ENGINE_ENGINE_H_
#define ATTUNE_SERVER_ENGINE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "server/adapters/residency.h"
#include "server/device/arbiter.h"
#include "server/grammar/grammar.h"

// Generation: requests in, tokens out. No torch headers here: gRPC handlers
// include this file.
namespace attune {

// How the next token is chosen; fields as in generation_service.proto, all ranges
// checked by the caller.
struct SamplingParams {
  double temperature = 0;  // 0: greedy
  double top_p = 1;
  int top_k = 0;  // 0: all
  double min_p = 0;
  double repetition_penalty = 1;
  double frequency_penalty = 0;
  double presence_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to the logit of a token, after penalties
};

enum class FinishReason { kNone = 0, kStop = 1, kLength = 2, kCancelled = 3 };

// A token and how likely it was, before temperature, penalties and filters.
struct TokenInfo {
  int32_t id = 0;
  float logprob = 0;                                  // valid if asked for
  std::vector<std::pair<int32_t, float>> alternatives;  // likeliest first
};

struct GenerateParams {
  std::shared_ptr<const ServedModel> model;
  std::vector<int32_t> prompt;  // at least one token; prompt and answer must fit the context
  SamplingParams sampling;      // answer i uses seed + i
  int max_tokens = 256;
  int n = 1;
  bool logprobs = false;
  int top_logprobs = 0;
  bool ignore_eos = false;
  int min_tokens = 0;                   // before so many no token is chosen that would end the answer
  std::vector<int32_t> stop_tokens;     // end an answer as end tokens do, also under ignore_eos
  // The form of the answers, of the model's tokenizer; null: any. With it neither ignore_eos nor min_tokens.
  std::shared_ptr<const Grammar> grammar;
  // Most tokens that are guessed ahead and checked in one step, 0 for none: by the draft model, of the
  // same vocabulary, or, without one, by looking up what followed before. The text stays what it is
  // without, up to the rounding of sums.
  int draft_tokens = 0;
  std::shared_ptr<const ServedModel> draft_model;
  // Above 0: the n best answers of a search with so many beams, at least n, handed out at its end.
  // Greedy, without grammar, drafts, penalties and biases.
  int beams = 0;
  double length_penalty = 1;
  bool early_stopping = false;
  int priority = 0;    // higher goes first, and takes the place of lower ones that run
  std::string tenant;  // tenants share the engine fairly
  absl::Time deadline = absl::InfiniteFuture();  // a request that is still waiting then ends with DEADLINE_EXCEEDED
};

// What happened to one answer.
struct GenerationUpdate {
  int index = 0;
  bool has_token = false;  // an end token is not handed out
  TokenInfo token;
  FinishReason finish = FinishReason::kNone;  // set in an answer's last update
  double score = 0;  // with beams, in the last update: sum of log-probabilities / length^length_penalty
};

// Seconds, counted from Generate() or ScoreAsync(), and what was saved of them.
struct RequestTimings {
  double queue_seconds = 0;
  double first_token_seconds = 0;
  double total_seconds = 0;
  int64_t cached_tokens = 0;                        // of the prompt, that the prefix cache had
  int64_t drafted_tokens = 0, accepted_tokens = 0;  // guessed ahead, over all answers, and right
};

// A running request; destroying it cancels what still runs. Thread-safe.
class Generation {
 public:
  virtual ~Generation() = default;
  // Waits for the next update; false at the end (every answer's last update was
  // handed out, or the request failed: see status()).
  virtual bool Next(GenerationUpdate* update) = 0;
  // Ends one answer (a stop string was found) and frees its place at once; no
  // further update comes for it.
  virtual void StopAnswer(int index) = 0;
  // Ends all; frees their places at once. A blocked Next returns.
  virtual void Cancel() = 0;
  virtual absl::Status status() const = 0;
  // Final once Next has returned false.
  virtual RequestTimings timings() const = 0;
};

// Of work that nobody waits for at a screen: searches, comparisons, advice.
inline constexpr int kBackgroundPriority = -100;

struct ScoreParams {
  std::shared_ptr<const ServedModel> model;
  std::vector<int32_t> prompt;                      // at least one token
  std::vector<std::vector<int32_t>> continuations;  // at least one, none empty
  absl::Time deadline = absl::InfiniteFuture();
  int priority = 0;    // as in GenerateParams
  std::string tenant;
};

struct ScoredContinuation {
  double logprob = 0;             // sum over the tokens
  bool is_greedy = true;          // each token was the likeliest
  std::vector<TokenInfo> tokens;  // with logprob, no alternatives
  std::vector<uint8_t> greedy;    // one per token
};

struct ScoreResult {
  std::vector<ScoredContinuation> continuations;  // in the request's order
  RequestTimings timings;
};

struct EmbedParams {
  std::shared_ptr<const ServedModel> model;
  std::vector<std::vector<int32_t>> inputs;  // at least one, none empty, each fits the context
  enum class Pooling { kMean, kLast } pooling = Pooling::kMean;
  bool normalize = false;  // to length 1
  absl::Time deadline = absl::InfiniteFuture();
};

struct EmbedResult {
  // By input: the mean of the last layer's normalised hidden states over its tokens, virtual ones
  // left out, or the last one of these; as many numbers as the model is wide.
  std::vector<std::vector<float>> embeddings;
  RequestTimings timings;
};

// What the engine tells its watcher; called on the engine's thread, must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnStep(int sequences, int prompt_tokens, int generated_tokens, double seconds) {}
  virtual void OnFirstToken(const ServedModel& model, double queue_seconds, double prefill_seconds,
                            double first_token_seconds) {}
  virtual void OnInterTokenLatency(const ServedModel& model, double seconds) {}
  virtual void OnFinished(const ServedModel& model, FinishReason reason, int prompt_tokens, int generated_tokens,
                          const RequestTimings& timings) {}
  virtual void OnPreempted() {}
  // Of sequences that were preempted in a step, how many had their pages copied to the host; bytes of pages that
  // were, and that came back to sequences which were let in again.
  virtual void OnSwapped(int64_t sequences_out, int64_t bytes_out, int64_t bytes_in) {}
  // A step that training could put off, and how long after its time it began.
  virtual void OnPutOff(double late_seconds) {}
  // Tokens of sequences that were let in, those left out that came back from the host, and how many of these the prefix
  // cache had.
  virtual void OnLetIn(int64_t tokens, int64_t cached) {}
  // A first token that needed no pass: what follows its prompt was known.
  virtual void OnKnownPrompt() {}
  // Tokens that were guessed and checked in a step, and how many of those were right.
  virtual void OnDrafts(int64_t drafted, int64_t accepted) {}
};

struct EngineStats {
  int running = 0;
  int waiting = 0;
  int64_t kv_pages_used = 0;
  int64_t kv_pages_total = 0;
  int64_t swap_bytes_used = 0;  // of EngineOptions::swap_bytes
};

struct EngineOptions {
  int max_sequences = 64;         // run together
  int max_batch_tokens = 2048;    // per step; longer prompts are read in pieces
  int max_waiting = 1024;         // more are refused: RESOURCE_EXHAUSTED (QUEUE_FULL)
  int64_t kv_tokens = 65536;      // capacity of the KV cache for one base model's shape
  // Between an answer's tokens beside training, which takes what this leaves; zero: no step is put off.
  absl::Duration inter_token_target = absl::ZeroDuration();
  // Host memory for pages of sequences that give theirs up to others, over all lanes; 0: they are always computed anew.
  int64_t swap_bytes = 0;
  bool prefix_cache = true;       // what was computed stays known, while there is room, for prompts that begin alike
  // With it, host memory for what follows whole prompts, over all lanes: the same prompt's next first token needs no pass.
  int64_t prompt_logits_bytes = int64_t{64} << 20;
};

// Whether the engine refused a request because too many wait: the same request may be tried again a moment later.
bool IsQueueFull(const absl::Status& status);

// Continuous batching over paged KV caches: one thread runs steps; each step reads
// pieces of new prompts and adds one token to every running answer, for any mix of
// models. Models with the same base weights share one forward pass. Thread-safe.
class Engine {
 public:
  virtual ~Engine() = default;

  virtual absl::StatusOr<std::unique_ptr<Generation>> Generate(GenerateParams params) = 0;

  // Log-probabilities of continuations after a prompt, which is read once. `done`
  // is called exactly once, on the engine's thread (or on the caller's, for an error
  // found at once), and must not block.
  virtual void ScoreAsync(ScoreParams params, std::function<void(absl::StatusOr<ScoreResult>)> done) = 0;
  // The same, waiting.
  absl::StatusOr<ScoreResult> Score(ScoreParams params);

  // Hidden states of texts, read between steps, at most max_batch_tokens at a time. `done` as for
  // ScoreAsync.
  virtual void EmbedAsync(EmbedParams params, std::function<void(absl::StatusOr<EmbedResult>)> done) = 0;

  virtual EngineStats stats() const = 0;

  // Refuses new requests (UNAVAILABLE, SHUTTING_DOWN), lets running ones go on for
  // `grace`, then cancels them. Idempotent.
  virtual void Shutdown(absl::Duration grace) = 0;
};

// `arbiter`, `clock` and `observer` must outlive the engine. `observer` may be null.
std::unique_ptr<Engine> MakeEngine(const EngineOptions& options, const ComputeTarget& target, Arbiter* arbiter,
                                   const Clock* clock, EngineObserver* observer);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_ENGINE_H_
