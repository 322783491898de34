#ifndef ATTUNE_SERVER_ADVICE_ADVISOR_H_
#define ATTUNE_SERVER_ADVICE_ADVISOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/registry.h"
#include "server/adapters/residency.h"
#include "server/advice/calibration.h"
#include "server/advice/evidence.h"
#include "server/advice/finding.h"
#include "server/advice/ranking.h"
#include "server/advice/retrospect.h"
#include "server/comparison/comparison_store.h"
#include "server/data/dataset_store.h"
#include "server/engine/engine.h"
#include "server/jobs/manager.h"

namespace attune {

// What is to be advised on. Fields as in proto/attune/v1/advice_service.proto.
struct AdviceRequest {
  std::string base_model, dataset;  // ids
  std::string test_dataset;         // empty: rows are held out
  DataOptions data;
  Needs needs;
  double curve_seconds = 60;  // 0: no learning curve
  uint64_t seed = 42;
  std::string tenant;
};

struct Advice {
  std::vector<Finding> findings;
  Ranking ranking;
  std::optional<Retrospective> retrospective;  // about the newest comparison of the same base model and dataset
  int64_t past_comparisons = 0;                // that taught the rules
  double seconds = 0;                          // that the advice took
};

// What advisors work with; all outlive them.
struct AdvisorDeps {
  const ComparisonStore* comparisons = nullptr;
  JobManager* jobs = nullptr;
  DatasetStore* datasets = nullptr;
  const ModelRegistry* models = nullptr;
  Engine* engine = nullptr;
  std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(absl::string_view id)> acquire;
  std::function<absl::Status(absl::string_view id)> delete_model;
};

// Answers which method to take before any money is spent, and looks back at what it would have said. Thread-safe.
class Advisor {
 public:
  // Told what is being done; false ends the advice with CANCELLED. Called often, with the same line again.
  using Progress = std::function<bool(const std::string& what)>;

  explicit Advisor(const AdvisorDeps& deps) : deps_(deps) {}

  // Before the first advice: removes what those of an earlier server have left behind.
  void RemoveLeftOvers() const;

  // Looks at the data, asks the base model, lets short jobs run and ranks. Nothing is left behind. NOT_FOUND for a
  // model or dataset; FAILED_PRECONDITION (BASE_IS_ADAPTER), (NO_ANSWERS) for plain text, (NOT_ENOUGH_DATA) for fewer
  // than 2 rows.
  absl::StatusOr<Advice> Advise(const AdviceRequest& request, const Progress& progress) const;

  // What the rules, taught by all other comparisons, would have named before this one. NOT_FOUND; FAILED_PRECONDITION
  // (NO_RIGHT_ANSWERS) for a metric such as ROUGE-L; else as LookBack.
  absl::StatusOr<Retrospective> Retrospect(absl::string_view comparison) const;

 private:
  // Those of the newest 1000 comparisons that succeeded and counted right answers, with their base models' sizes.
  absl::StatusOr<std::vector<PastComparison>> Past() const;

  const AdvisorDeps deps_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_ADVISOR_H_
