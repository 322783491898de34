#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/evaluation/prompt_search/candidate_pool.h"
#include "server/evaluation/prompt_search/prepared_prompt.h"
#include "server/evaluation/prompt_search/proposer.h"
#include "server/evaluation/prompt_search/row_scorer.h"
#include "server/evaluation/prompt_search/search_host.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {

// Where a search stands after a round.
struct SearchRound {
  int64_t round = 0;  // from 1
  Candidate best;
  Proportion score;  // over the rows that it has met
  bool is_calibrated = false;
};

struct SearchOutcome {
  TextPrompt prompt;       // with its calibration and the trials
  int64_t max_tokens = 0;  // of a request with its answer
  Proportion score;        // of it, over the validation rows of the final
  Proportion baseline;     // of the data's own template with nothing before it, over as many rows
};

// The search for a text prompt: rounds of new prompts, each halved until the best are left,
// and a final between the best of all on more rows. Since validation rows choose, the winner's
// score is a little better than what new rows will give. Not thread-safe.
class PromptSearch {
 public:
  // `host` must outlive it; `on_round` is called after each round, and an error ends the search.
  PromptSearch(const SearchHost* host, std::function<absl::Status(const SearchRound&)> on_round);

  // CANCELLED when the job is to stop. When a limit is reached: the best so far;
  // FAILED_PRECONDITION (BUDGET_TOO_SMALL) if nothing is known by then.
  absl::StatusOr<SearchOutcome> Run();

 private:
  absl::StatusOr<std::vector<Candidate>> CandidatesFor(int64_t round);
  absl::StatusOr<std::vector<int64_t>> ErrorsOf(const PreparedPrompt& prompt);
  // Halves prompts of these numbers; sets `best_`. False when the budget is used up.
  absl::StatusOr<bool> Halve(const std::vector<int64_t>& arms);
  absl::StatusOr<bool> Measure(const std::vector<int64_t>& arms, int64_t rows);
  absl::StatusOr<SearchOutcome> Finish();
  Proportion Estimate(int64_t prompt, int64_t rows) const;
  bool IsCalibrated(int64_t prompt, int64_t rows) const;
  std::vector<double> Values(int64_t prompt, int64_t rows, bool calibrated) const;
  std::vector<TextPromptTrial> Trials() const;

  const SearchHost& host_;
  const std::function<absl::Status(const SearchRound&)> on_round_;
  CandidatePool pool_;
  Proposer proposer_;
  RowScorer scorer_;
  std::deque<PreparedPrompt> prompts_;  // all, by number; 0 is the baseline
  std::vector<int64_t> best_;           // numbers, best first
};

// The most calls of the model that a search makes.
int64_t PlannedCalls(const SearchSettings& settings, const SearchData& data);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_H_
