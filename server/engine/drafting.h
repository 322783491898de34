#ifndef ATTUNE_SERVER_ENGINE_DRAFTING_H_
#define ATTUNE_SERVER_ENGINE_DRAFTING_H_

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/lane.h"
#include "server/engine/request.h"

namespace attune {

// Guesses answers' next tokens, for the next step to check (speculative decoding, Leviathan et
// al. 2023; of a draft model's tokens those are right that the model itself would have drawn, with
// the same draw). By looking up what followed before, or by a draft model, which reads along as
// a task of its own, the companion: while it drafts, the answer is held. A companion that has not
// caught up, or has lost its pages, is not waited for. Used on the engine's thread only.
class Drafting {
 public:
  // `lane_for`: the lane of a model's base, made if need be.
  explicit Drafting(std::function<absl::StatusOr<Lane*>(const BaseModel&)> lane_for) : lane_for_(std::move(lane_for)) {}

  // Makes guesses for an answer, or has them made. REQUIRES: it has none, and all but its last
  // token is computed or was given up.
  void Draft(Task* task);
  // After a check: longer drafts where all of them were right, shorter ones where none was.
  static void Adapt(Task* task, int64_t drafted, int64_t right);
  // Takes what a companion's step gave.
  void HandleDraft(const Lane::Output& output);
  // A companion was pushed out: who waits for it waits no longer.
  void HandlePreempted(Task* companion);
  // A companion's step failed.
  void HandleFailed(Task* companion);
  // The answer ends; its companion goes.
  void Release(Task* task);

 private:
  // How many tokens may be guessed now.
  static int64_t Room(const Task& task);
  // The answer's known tokens, as the companion reads them: behind its own virtual tokens.
  static std::vector<int32_t> TokensFor(const Task& companion);
  void StartCompanion(Task* task);
  void AskCompanion(Task* task);
  // Gives the answer what was drafted, if it still waits for that.
  static void Deliver(Task* companion);
  void Remove(Task* companion);

  const std::function<absl::StatusOr<Lane*>(const BaseModel&)> lane_for_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_DRAFTING_H_
