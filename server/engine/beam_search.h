#ifndef ATTUNE_SERVER_ENGINE_BEAM_SEARCH_H_
#define ATTUNE_SERVER_ENGINE_BEAM_SEARCH_H_

#include <cstdint>
#include <vector>

namespace attune {

// Beam search over log-probabilities, as transformers does it: of all continuations of the
// running beams the likeliest go on, and those that end are kept by their score, the sum of their
// log-probabilities over length^length_penalty. Holds no tensor. Not thread-safe.
class BeamSearch {
 public:
  struct Options {
    int beams = 1;             // that run and are kept
    int64_t most_tokens = 0;   // of an answer, an end token included; at least 1
    double length_penalty = 1;
    bool stops_early = false;  // once as many have ended as there are beams, whatever might come
    std::vector<int32_t> ends;
  };
  explicit BeamSearch(Options options);

  struct Candidate {
    int32_t token;
    double logprob;
  };
  // How many of a beam's likeliest tokens Advance needs.
  int64_t CandidatesPerBeam() const;

  struct Step {
    int parent;  // running beam that goes on
    int32_t token;
  };
  // Takes each running beam's likeliest tokens, likeliest first (the first time there is one beam),
  // and says how the next running beams come about; none when the search is over.
  std::vector<Step> Advance(const std::vector<std::vector<Candidate>>& candidates);

  struct Answer {
    std::vector<int32_t> tokens;  // without the end token
    std::vector<double> logprobs;  // of these
    double score = 0;
    bool ended = false;  // by an end token, not by its length
  };
  // The best `count` that have ended, best first. REQUIRES: the search is over.
  std::vector<Answer> Best(int count) const;

 private:
  struct Beam {
    std::vector<int32_t> tokens;
    std::vector<double> logprobs;
    double sum = 0;
  };
  struct Continuation {
    int parent;
    Candidate candidate;
    double sum;
  };
  std::vector<Continuation> Likeliest(const std::vector<std::vector<Candidate>>& candidates) const;
  void Keep(const Continuation& continuation, bool is_end);
  bool MayImprove() const;

  const Options options_;
  std::vector<Beam> running_;
  std::vector<Answer> ended_;  // best first, at most `beams`
  int64_t length_ = 0;         // tokens of each running beam
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_BEAM_SEARCH_H_
