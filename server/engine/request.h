#ifndef ATTUNE_SERVER_ENGINE_REQUEST_H_
#define ATTUNE_SERVER_ENGINE_REQUEST_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/engine/engine.h"
#include "server/engine/sequence.h"

namespace attune {

// What a generation's handle and the engine's thread share. Thread-safe.
class GenerationState {
 public:
  GenerationState(GenerateParams params, absl::Time arrival)
      : params(std::move(params)), arrival(arrival), stopped_(this->params.n, false), open_(this->params.n) {}

  const GenerateParams params;
  const absl::Time arrival;

  // The handle's side.
  bool Next(GenerationUpdate* update) ABSL_LOCKS_EXCLUDED(mutex_);
  void StopAnswer(int index) ABSL_LOCKS_EXCLUDED(mutex_);
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  RequestTimings timings() const ABSL_LOCKS_EXCLUDED(mutex_);

  // The engine's side. Updates for answers that were stopped are dropped.
  bool IsStopped(int index) const ABSL_LOCKS_EXCLUDED(mutex_);
  void Push(GenerationUpdate update, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the whole request with an error.
  void Fail(absl::Status status, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetQueued(double seconds) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetFirstToken(double seconds) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Close(int index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Ready() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !updates_.empty() || open_ == 0; }

  mutable absl::Mutex mutex_;
  std::deque<GenerationUpdate> updates_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> stopped_ ABSL_GUARDED_BY(mutex_);  // by answer: no further update
  int open_ ABSL_GUARDED_BY(mutex_);                   // answers without their last update
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  RequestTimings timings_ ABSL_GUARDED_BY(mutex_);
};

// A scoring request; used on the engine's thread only.
struct ScoreState {
  ScoreParams params;
  absl::Time arrival;
  std::function<void(absl::StatusOr<ScoreResult>)> done;
  ScoreResult result;
  int open = 0;  // continuations not scored yet
  bool ended = false;
};

// One sequence and what it is for: an answer, a prompt to be scored, or a
// continuation. Used on the engine's thread only.
struct Task {
  enum class Kind { kAnswer, kScorePrompt, kScoreContinuation };
  Kind kind = Kind::kAnswer;
  std::shared_ptr<const ServedModel> model;
  Sequence sequence;
  int64_t prompt_tokens = 0;  // of the sequence, virtual ones included
  std::shared_ptr<GenerationState> generation;
  std::shared_ptr<ScoreState> score;
  int index = 0;  // answer or continuation
  SamplingParams sampling;
  // On a GPU: where the last step that chose a token for it has it, until the host knows it.
  int32_t sampled_row = -1;
  absl::Time arrival, started = absl::InfinitePast(), last_token;
  absl::Time deadline = absl::InfiniteFuture();
  bool got_first_token = false;

  // Tokens that are not to be chosen now, or null.
  const std::vector<int32_t>* banned() const {
    const bool is_early = kind == Kind::kAnswer && generated() + sequence.in_flight < generation->params.min_tokens;
    return is_early ? &ends : nullptr;
  }
  // What ends an answer: the model's end tokens, unless they are ignored, and the request's own.
  std::vector<int32_t> ends;

  int64_t generated() const { return static_cast<int64_t>(sequence.tokens.size()) - prompt_tokens; }
  bool IsAbandoned() const {
    return kind == Kind::kAnswer ? generation->IsStopped(index) : score->ended;
  }
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_REQUEST_H_
