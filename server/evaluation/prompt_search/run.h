#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_RUN_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_RUN_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/evaluation/prompt_search/runner.h"
#include "server/evaluation/prompt_search/search.h"

namespace attune {

// One run of one job: searches, reports, keeps what the model said, publishes. Not thread-safe.
class PromptSearchRun {
 public:
  // All must outlive this.
  PromptSearchRun(const PromptSearchDeps& deps, const Job& job, JobControl& control);
  absl::StatusOr<JobOutcome> Run();

 private:
  absl::Status Prepare();
  absl::StatusOr<SearchOutcome> Search();
  absl::Status Restore();
  absl::Status OnCall();
  void AddEnergy(std::optional<double> joules);
  absl::Status OnRound(const SearchRound& round);
  // Saves the memo, unless nothing has been asked since; only the newest is kept.
  absl::Status Checkpoint();
  absl::StatusOr<JobOutcome> Publish(const SearchOutcome& outcome);
  std::string CheckpointPath(int64_t step) const;
  JobProgress Progress() const;

  const PromptSearchDeps& deps_;
  const Job& job_;
  JobControl& control_;
  const SearchSettings settings_;
  std::shared_ptr<const ServedModel> model_;
  SearchData data_;
  SearchMemo memo_;
  SearchHost host_;
  EnergyShare::Part energy_;
  int64_t saved_calls_ = 0;
  double reported_seconds_ = 0;  // of those that the memo has
  double score_ = 0;             // of the best prompt so far
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_RUN_H_
