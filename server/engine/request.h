#ifndef ATTUNE_SERVER_ENGINE_REQUEST_H_
#define ATTUNE_SERVER_ENGINE_REQUEST_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
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
  bool IsCancelled() const ABSL_LOCKS_EXCLUDED(mutex_);
  // What timings() would be if the request ended now.
  RequestTimings TimingsAt(absl::Time now) const ABSL_LOCKS_EXCLUDED(mutex_);
  void Push(GenerationUpdate update, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the whole request with an error.
  void Fail(absl::Status status, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetQueued(double seconds) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetFirstToken(double seconds) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetCached(int64_t tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  void AddDrafts(int64_t drafted, int64_t accepted) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Close(int index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Ready() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !updates_.empty() || open_ == 0; }

  mutable absl::Mutex mutex_;
  std::deque<GenerationUpdate> updates_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> stopped_ ABSL_GUARDED_BY(mutex_);  // by answer: no further update
  int open_ ABSL_GUARDED_BY(mutex_);                   // answers without their last update
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
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

class BeamGroup;
struct Task;

// How a task's drafts are made. Used on the engine's thread only.
struct DraftState {
  int64_t length = 0;         // of the next draft: longer where all were right, shorter where none was
  Task* companion = nullptr;  // the draft model's sequence; null: by lookup, or it could not go on
  bool is_asked = false;      // the companion is at it, and the task is held
};

// One sequence and what it is for: an answer, a beam of a search, a draft of another's next
// tokens, a prompt to be scored, or a continuation. Used on the engine's thread only, but for
// what ChooseTokens does.
struct Task {
  enum class Kind { kAnswer, kBeam, kDraft, kScorePrompt, kScoreContinuation };
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
  bool is_removed = false;  // from its lane: nothing more is to be done with it
  // What ends an answer: the model's end tokens, unless they are ignored, and the request's own.
  std::vector<int32_t> ends;

  // Of an answer: how many others, of the next indices, begin with the same prompt and are still to
  // be forked once it is read.
  int siblings = 0;
  // Its form, or null. Where `mask_ready` is set, another thread works on it until then.
  std::shared_ptr<GrammarState> grammar;
  std::shared_ptr<absl::Notification> mask_ready;
  std::unique_ptr<DraftState> draft;  // of an answer that is drafted ahead
  Task* drafts_for = nullptr;         // of a draft
  std::shared_ptr<BeamGroup> beams;   // of a beam; `index` is its place among the running ones

  int64_t known() const { return sequence.known(); }
  int64_t generated() const { return known() - prompt_tokens; }
  bool IsEnd(int32_t token) const { return std::find(ends.begin(), ends.end(), token) != ends.end(); }
  // Tokens that are not to be chosen as the one that is `ahead` behind the next, or null.
  const std::vector<int32_t>* banned(int64_t ahead = 0) const {
    if (!generation || generated() + sequence.in_flight + ahead >= generation->params.min_tokens) return nullptr;
    return &ends;
  }
  bool IsAbandoned() const {
    switch (kind) {
      case Kind::kAnswer: return generation->IsStopped(index);
      case Kind::kBeam: return generation->IsStopped(0);
      case Kind::kDraft: return false;  // goes with the task that it drafts for
      case Kind::kScorePrompt:
      case Kind::kScoreContinuation: return score->ended;
    }
    return false;
  }
};

// What stands before a prompt of the model in a sequence: -1 - i for each row i of its soft prompt.
std::vector<int32_t> VirtualTokens(const ServedModel& model);

// A task that goes on, of the same kind, from where `parent` is. Its form and drafts are not copied.
std::unique_ptr<Task> ForkOf(const Task& parent);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_REQUEST_H_
