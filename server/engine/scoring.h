#ifndef ATTUNE_SERVER_ENGINE_SCORING_H_
#define ATTUNE_SERVER_ENGINE_SCORING_H_

#include <memory>

#include "common/clock.h"
#include "server/engine/engine.h"
#include "server/engine/lane.h"
#include "server/engine/request.h"

namespace attune {

// What becomes of scoring tasks: the prompt is read once and forked for each continuation of more
// than one token. Used on the engine's thread only.
class Scoring {
 public:
  // Both must outlive this.
  Scoring(const Clock* clock, EngineObserver* observer) : clock_(clock), observer_(observer) {}

  static std::unique_ptr<Task> MakeTask(ScoreParams params, std::vector<int32_t> tokens,
                                        std::function<void(absl::StatusOr<ScoreResult>)> done, absl::Time now);
  void HandlePrompt(Lane* lane, const Lane::Output& output);
  void HandleContinuation(Lane* lane, const Lane::Output& output);

 private:
  static std::unique_ptr<Task> Continue(const Task& prompt, size_t index);
  void End(ScoreState* score, const Task& task);

  const Clock* const clock_;
  EngineObserver* const observer_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_SCORING_H_
