#ifndef ATTUNE_SERVER_ENGINE_BEAM_GROUP_H_
#define ATTUNE_SERVER_ENGINE_BEAM_GROUP_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "server/engine/beam_search.h"
#include "server/engine/lane.h"
#include "server/engine/request.h"

namespace attune {

// The running beams of one search, each a task over pages of its own and pages shared with the
// others. They wait for each other at every token. Used on the engine's thread, Likeliest on any.
class BeamGroup {
 public:
  // `first` reads the prompt.
  explicit BeamGroup(Task* first);

  // What the search needs of a row of logits. Log-probabilities are the model's; before
  // min_tokens no end token is among them.
  std::vector<std::pair<int32_t, float>> Likeliest(const Task& task, const float* logits, int64_t vocab) const;

  // Takes what a member's step gave. Once all members have theirs, moves on by a token; false if
  // the search is over.
  bool Report(Lane* lane, const Lane::Output& output);

  const BeamSearch& search() const { return search_; }
  const std::vector<Task*>& members() const { return members_; }

 private:
  void Advance(Lane* lane, const std::vector<BeamSearch::Step>& steps);

  BeamSearch search_;
  const int64_t candidates_;
  std::vector<Task*> members_;
  std::vector<std::vector<BeamSearch::Candidate>> reported_;  // by member
  size_t missing_ = 1;                                        // of reported_
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_BEAM_GROUP_H_
