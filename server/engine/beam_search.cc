#include "server/engine/beam_search.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace attune {

BeamSearch::BeamSearch(Options options) : options_(std::move(options)), running_(1) {}

int64_t BeamSearch::CandidatesPerBeam() const {
  // Enough to go on with, even if every end token is among the likeliest of every beam.
  return std::max<int64_t>(2, 1 + static_cast<int64_t>(options_.ends.size())) * options_.beams;
}

std::vector<BeamSearch::Continuation> BeamSearch::Likeliest(
    const std::vector<std::vector<Candidate>>& candidates) const {
  std::vector<Continuation> all;
  for (size_t beam = 0; beam < candidates.size(); ++beam) {
    for (const Candidate& candidate : candidates[beam]) {
      all.push_back({static_cast<int>(beam), candidate, running_[beam].sum + candidate.logprob});
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.sum > b.sum; });
  all.resize(std::min<size_t>(all.size(), CandidatesPerBeam()));
  return all;
}

void BeamSearch::Keep(const Continuation& continuation, bool is_end) {
  const Beam& parent = running_[continuation.parent];
  Answer answer{parent.tokens, parent.logprobs,
                continuation.sum / std::pow(static_cast<double>(length_ + 1), options_.length_penalty), is_end};
  if (!is_end) {
    answer.tokens.push_back(continuation.candidate.token);
    answer.logprobs.push_back(continuation.candidate.logprob);
  }
  const auto at = std::upper_bound(ended_.begin(), ended_.end(), answer,
                                   [](const Answer& a, const Answer& b) { return a.score > b.score; });
  ended_.insert(at, std::move(answer));
  if (ended_.size() > static_cast<size_t>(options_.beams)) ended_.pop_back();
}

bool BeamSearch::MayImprove() const {
  if (ended_.size() < static_cast<size_t>(options_.beams)) return true;
  if (options_.stops_early) return false;
  // The best of the running ones, if it ended here: no proof, but what transformers goes by.
  return running_[0].sum / std::pow(static_cast<double>(length_), options_.length_penalty) > ended_.back().score;
}

std::vector<BeamSearch::Step> BeamSearch::Advance(const std::vector<std::vector<Candidate>>& candidates) {
  const std::vector<Continuation> likeliest = Likeliest(candidates);
  const bool is_last = length_ + 1 >= options_.most_tokens;
  std::vector<Step> steps;
  std::vector<Beam> next;
  for (size_t rank = 0; rank < likeliest.size(); ++rank) {
    const Continuation& c = likeliest[rank];
    const bool is_end = std::find(options_.ends.begin(), options_.ends.end(), c.candidate.token) != options_.ends.end();
    if (is_end || is_last) {
      // One that many others outrank is no candidate for the best.
      if (rank < static_cast<size_t>(options_.beams)) Keep(c, is_end);
    } else if (next.size() < static_cast<size_t>(options_.beams)) {
      Beam beam = running_[c.parent];
      beam.tokens.push_back(c.candidate.token);
      beam.logprobs.push_back(c.candidate.logprob);
      beam.sum = c.sum;
      next.push_back(std::move(beam));
      steps.push_back({c.parent, c.candidate.token});
    }
  }
  running_ = std::move(next);
  ++length_;
  if (is_last || running_.empty() || !MayImprove()) steps.clear();
  return steps;
}

std::vector<BeamSearch::Answer> BeamSearch::Best(int count) const {
  return {ended_.begin(), ended_.begin() + std::min<size_t>(count, ended_.size())};
}

}  // namespace attune
