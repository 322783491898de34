#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PROPOSER_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PROPOSER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/evaluation/prompt_search/search_host.h"

namespace attune {

// Has the model itself write instructions: from rows with their answers (as APE, Zhou et al.
// 2022), and from an instruction with rows that it went wrong on (as OPRO, Yang et al. 2023,
// and ProTeGi, Pryzant et al. 2023). Not thread-safe.
class Proposer {
 public:
  // `host` must outlive it.
  explicit Proposer(const SearchHost* host) : host_(*host) {}

  // At most `count`, cleaned and distinct; none if the budget, or the model's context, has no
  // room. The same request of the same search is asked once. CANCELLED as RowScorer::Score.
  absl::StatusOr<std::vector<std::string>> FromExamples(const std::vector<int64_t>& train_rows, int count);
  absl::StatusOr<std::vector<std::string>> FromErrors(const std::string& instruction,
                                                      const std::vector<int64_t>& train_rows, int count);

 private:
  absl::StatusOr<std::string> Describe(const std::vector<int64_t>& train_rows) const;
  absl::StatusOr<std::vector<std::string>> Ask(const std::string& question, int count);
  absl::StatusOr<std::vector<std::string>> Generate(const GenerateParams& params);

  const SearchHost& host_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_PROPOSER_H_
