#ifndef ATTUNE_SERVER_ADVICE_CURVE_PROBE_H_
#define ATTUNE_SERVER_ADVICE_CURVE_PROBE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/adapters/residency.h"
#include "server/advice/finding.h"
#include "server/comparison/answers.h"
#include "server/data/dataset_store.h"
#include "server/engine/engine.h"
#include "server/evaluation/measures/learning_curve.h"
#include "server/jobs/manager.h"

// How quality grows with rows, seen on short LoRA jobs.
namespace attune {

// The curve's jobs: all take as many optimizer steps, so that it is rows that make the difference.
struct CurvePlan {
  std::vector<int64_t> sizes;  // rows of each, rising; empty: no time for a curve
  int64_t steps = 0;
  double seconds = 0;  // that it would take; where there is no time for it, the shortest one
};
// A quarter, a half and all of the rows that the steps read once, at most `rows`; as many steps as three jobs have time
// for, 16 to 60, and no more than read all rows four times. `seconds_per_row`: of training on a row once; `other_seconds`: what each job takes besides. Pure.
CurvePlan PlanCurve(int64_t rows, double seconds_per_row, double other_seconds, double seconds);

struct CurveDeps {
  Engine* engine = nullptr;
  JobManager* jobs = nullptr;
  DatasetStore* datasets = nullptr;
  std::function<absl::StatusOr<std::shared_ptr<const ServedModel>>(absl::string_view id)> acquire;
  std::function<absl::Status(absl::string_view id)> delete_model;
};

struct CurveRequest {
  std::string id;  // begins the names of what is made meanwhile: [a-z][a-z0-9-]*, unused
  JobSpec job;     // base model, data options, tenant
  DatasetInfo data;
  std::vector<Row> rows;  // to train on; any beginning is a fair sample
  CurvePlan plan;
  EvalTask asked;           // held out
  absl::Time deadline;  // a job that runs then is stopped, and its point left out
};

// One point for each job that ended in time, none if the device was busy. Datasets, jobs and models that were made are
// gone when it returns. CANCELLED once `go_on` says so.
absl::StatusOr<std::vector<CurvePoint>> ProbeCurve(const CurveDeps& deps, const CurveRequest& request,
                                                   const GoOn& go_on);

// Removes what advices of an earlier server have left behind: jobs, datasets and models. Waits for jobs that run.
void RemoveLeftOvers(const CurveDeps& deps);

// The points in plain words, and where they lead with `rows`; nothing without points. Pure.
std::vector<Finding> FindingsOf(const std::vector<CurvePoint>& points, int64_t rows);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_CURVE_PROBE_H_
