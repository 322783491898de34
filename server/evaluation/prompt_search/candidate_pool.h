#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_CANDIDATE_POOL_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_CANDIDATE_POOL_H_

#include <cstdint>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "server/evaluation/prompt_search/candidate.h"
#include "server/evaluation/prompt_search/search_data.h"

namespace attune {

// Makes the prompts that a round tries, none twice. What it makes follows from the seed and
// from what it was given. Not thread-safe.
class CandidatePool {
 public:
  // Both must outlive it.
  CandidatePool(const SearchData* data, const SearchSettings* settings);

  // The first round's: the data's own format with nothing before it ("baseline"), the given
  // instructions as they are, then mixtures of instructions, formats and examples.
  std::vector<Candidate> First(const std::vector<std::string>& proposed);

  // A later round's: `best` ones, each changed in one thing. REQUIRES: `best` is not empty.
  std::vector<Candidate> Next(const std::vector<Candidate>& best, const std::vector<std::string>& proposed);

  // At most `count` training rows, chosen as the settings say.
  std::vector<int64_t> DrawExamples(int64_t count);

 private:
  struct Instruction {
    std::string text, origin;
  };
  std::vector<Instruction> FirstInstructions(const std::vector<std::string>& proposed) const;
  Candidate Changed(const Candidate& parent, uint64_t change, const std::vector<std::string>& proposed);
  // So many, chosen as the settings say: the same for every row, or retrieved, then in the data's own format.
  void ChooseExamples(int64_t count, Candidate* out);
  const PromptFormat& AnyFormat() { return data_->formats[random_() % data_->formats.size()]; }
  // Unless it was made before.
  void Add(Candidate candidate, std::vector<Candidate>* out);

  const SearchData* const data_;
  const SearchSettings* const settings_;
  std::mt19937_64 random_;
  std::set<std::string> made_;
  int64_t choices_ = 0;  // of examples
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_CANDIDATE_POOL_H_
