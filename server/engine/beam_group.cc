#include "server/engine/beam_group.h"

#include <algorithm>

#include "server/engine/sampler.h"

namespace attune {
namespace {

BeamSearch::Options OptionsOf(const Task& task) {
  const GenerateParams& params = task.generation->params;
  return {params.beams, std::min<int64_t>(params.max_tokens, task.sequence.most_tokens - task.prompt_tokens),
          params.length_penalty, params.early_stopping, task.ends};
}

}  // namespace

BeamGroup::BeamGroup(Task* first)
    : search_(OptionsOf(*first)), candidates_(search_.CandidatesPerBeam()), members_{first}, reported_(1) {}

std::vector<std::pair<int32_t, float>> BeamGroup::Likeliest(const Task& task, const float* logits,
                                                            int64_t vocab) const {
  const std::vector<int32_t>* banned = task.banned();
  const int64_t extra = banned ? static_cast<int64_t>(banned->size()) : 0;
  auto out = TopLogprobs(logits, vocab, static_cast<int>(candidates_ + extra));
  if (banned) {
    std::erase_if(out, [&](const auto& entry) { return task.IsEnd(entry.first); });
    out.resize(std::min<size_t>(out.size(), candidates_));
  }
  return out;
}

bool BeamGroup::Report(Lane* lane, const Lane::Output& output) {
  std::vector<BeamSearch::Candidate>& reported = reported_[output.task->index];
  // One that gave its pages up while it waited has read its tokens once more; or the others have
  // gone on meanwhile, in this very step.
  const int64_t end = output.first_position + output.rows;
  if (!reported.empty() || end != static_cast<int64_t>(output.task->sequence.tokens.size())) return true;
  for (const auto& [token, logprob] : output.likeliest) reported.push_back({token, logprob});
  if (--missing_ > 0) return true;
  const std::vector<BeamSearch::Step> steps = search_.Advance(reported_);
  if (steps.empty()) return false;
  Advance(lane, steps);
  return true;
}

// Those without a child go first: their pages may be needed. A parent's first child takes its place.
void BeamGroup::Advance(Lane* lane, const std::vector<BeamSearch::Step>& steps) {
  std::vector<Task*> parents = members_;
  std::vector<bool> goes_on(parents.size(), false);
  for (const BeamSearch::Step& step : steps) goes_on[step.parent] = true;
  for (size_t i = 0; i < parents.size(); ++i) {
    if (!goes_on[i]) lane->Remove(parents[i]);
  }
  members_.assign(steps.size(), nullptr);
  std::vector<bool> is_taken(parents.size(), false);
  for (size_t i = 0; i < steps.size(); ++i) {
    Task* parent = parents[steps[i].parent];
    if (!is_taken[steps[i].parent]) {
      is_taken[steps[i].parent] = true;
      members_[i] = parent;
      continue;
    }
    std::unique_ptr<Task> child = ForkOf(*parent);
    members_[i] = child.get();
    lane->AddFork(*parent, std::move(child));
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    members_[i]->index = static_cast<int>(i);
    members_[i]->sequence.tokens.push_back(steps[i].token);
  }
  reported_.assign(members_.size(), {});
  missing_ = members_.size();
}

}  // namespace attune
