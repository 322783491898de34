#ifndef ATTUNE_SERVER_ENGINE_ANSWERING_H_
#define ATTUNE_SERVER_ENGINE_ANSWERING_H_

#include <memory>
#include <vector>

#include "common/clock.h"
#include "server/engine/background.h"
#include "server/engine/drafting.h"
#include "server/engine/engine.h"
#include "server/engine/lane.h"
#include "server/engine/request.h"

namespace attune {

// What becomes of a request's answers: their tokens are handed out, answers after the first are
// forked off once the prompt is read, ends are noticed, the next tokens are guessed ahead. Used on the
// engine's thread only.
class Answering {
 public:
  // All must outlive this.
  Answering(const Clock* clock, EngineObserver* observer, Background* background, Drafting* drafting)
      : clock_(clock), observer_(observer), background_(background), drafting_(drafting) {}

  // The task of a request's first answer, or of its first beam.
  static std::unique_ptr<Task> MakeTask(const std::shared_ptr<GenerationState>& state, std::vector<int32_t> tokens);

  void HandleAnswer(Lane* lane, const Lane::Output& output);
  void HandleBeam(Lane* lane, const Lane::Output& output);
  // Ends an answer, or a whole search, and takes it out.
  void Finish(Lane* lane, Task* task, FinishReason reason);
  // Notes the end of one that was cancelled, or stopped by whoever reads it.
  void CountAbandoned(const Task& task);
  // Takes out what nobody waits for any more.
  void Drop(Lane* lane, Task* task);

 private:
  void ForkSiblings(Lane* lane, const Lane::Output& output);
  // False if the answer has ended, and was taken out.
  bool TakeToken(Lane* lane, Task* task, const TokenInfo& token);
  void NoteToken(Task* task);
  void Count(const Task& task, FinishReason reason);
  // Has the next token's mask made while the next step runs.
  void PrepareMask(Task* task);
  void EndAnswer(GenerationState* generation, int index, FinishReason reason);
  void EndSearch(Lane* lane, Task* task);

  const Clock* const clock_;
  EngineObserver* const observer_;
  Background* const background_;
  Drafting* const drafting_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_ANSWERING_H_
