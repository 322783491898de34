#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_ROW_SCORER_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_ROW_SCORER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/evaluation/prompt_search/input_embeddings.h"
#include "server/evaluation/prompt_search/prepared_prompt.h"
#include "server/evaluation/prompt_search/search_host.h"

namespace attune {

std::vector<int64_t> FirstRows(int64_t count);  // of the validation rows

// Puts prompts and rows to the model through the engine, many at a time, and writes what comes
// back into the memo. Not thread-safe.
class RowScorer {
 public:
  // `host` must outlive it.
  explicit RowScorer(const SearchHost* host) : host_(*host), embeddings_(host) {}

  // Has each prompt meet these rows, and of label tasks the content-free inputs; what the memo knows is not asked
  // again. False if the budget ended before. CANCELLED when the job is to stop: what was under way is in the memo then,
  // unless it is cancelled.
  absl::StatusOr<bool> Score(const std::vector<const PreparedPrompt*>& prompts, const std::vector<int64_t>& rows);

 private:
  struct Work;     // one call to make
  struct Pending;  // where the engine leaves its answer

  // What the memo lacks, in the order in which it is to be asked: first one call of each prompt,
  // whose beginning the others then find in the prefix cache.
  std::vector<Work> Missing(const std::vector<const PreparedPrompt*>& prompts, const std::vector<int64_t>& rows) const;
  absl::StatusOr<Row> RowOf(const Work& work) const;
  const Row& RowOf(int64_t row) const;
  // Has the inputs of prompts that retrieve their examples embedded. False if the budget has no room for it.
  absl::StatusOr<bool> EmbedInputs(const std::vector<Work>& works);
  absl::StatusOr<bool> RunAll(const std::vector<Work>& works);
  // False if the budget has no room for it.
  absl::StatusOr<bool> Begin(const Work& work);
  absl::StatusOr<ScoreParams> ParamsFor(const Work& work) const;
  void Submit(const std::shared_ptr<Pending>& pending);
  absl::Status HarvestOldest();
  // Into the memo, with what it cost.
  absl::Status Count(const Pending& pending);
  // Of a search that stops: counts what comes back, but for a cancelled job. Returns `status`.
  absl::Status Abandon(const absl::Status& status);
  // Null for one that could not be asked.
  absl::Status Keep(const Work& work, const ScoreResult* result);

  const SearchHost& host_;
  InputEmbeddings embeddings_;
  std::deque<std::shared_ptr<Pending>> window_;  // under way, oldest first
  absl::Time counted_until_;                     // of the seconds that the memo has
};

// The labels' offsets after the content-free inputs that the memo has; empty unless all of them.
std::vector<double> OffsetsOf(const SearchMemo& memo, const std::string& prompt);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_ROW_SCORER_H_
