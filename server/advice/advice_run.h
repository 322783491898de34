#ifndef ATTUNE_SERVER_ADVICE_ADVICE_RUN_H_
#define ATTUNE_SERVER_ADVICE_ADVICE_RUN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/advice/advisor.h"
#include "server/advice/curve_probe.h"
#include "server/advice/data_findings.h"
#include "server/advice/probe_base.h"
#include "server/comparison/answers.h"

namespace attune {

// Gathers the evidence for one advice. Not thread-safe.
class AdviceRun {
 public:
  // All must outlive it.
  AdviceRun(const AdvisorDeps& deps, const AdviceRequest& request, const Advisor::Progress& progress);

  absl::Status Gather();
  const Evidence& evidence() const { return evidence_; }
  const std::vector<Finding>& findings() const { return findings_; }

 private:
  absl::Status ReadData();
  // Rows to ask the base model, and rows to learn from.
  absl::Status ChooseAsked();
  // Lengths, and prompts as tokens, of at most so many rows.
  absl::Status RenderRows();
  absl::Status LookAtData();
  absl::Status LookForNoise();
  absl::Status AskBase();
  // Estimates of every method's job.
  void EstimateCosts();
  MethodCost CostOf(ContenderKind kind) const;
  // Without sizes in its plan if there is no time for one.
  CurveRequest MakeCurve() const;
  absl::Status LearnCurve();

  absl::Status Say(const std::string& what);
  GoOn go_on() const;
  void Add(std::vector<Finding> findings);
  JobSpec JobOf(ContenderKind kind) const;

  const AdvisorDeps& deps_;
  const AdviceRequest& request_;
  const Advisor::Progress& progress_;
  std::string at_;  // what is being done
  ModelInfo base_info_;
  std::shared_ptr<const ServedModel> base_;
  DatasetInfo data_;       // with the request's templates
  std::vector<Row> rows_;  // all of the dataset
  std::vector<SplitRow> described_;
  DataView view_;
  std::vector<int64_t> rendered_;              // rows_ that view_'s lengths are of
  std::vector<std::vector<int32_t>> prompts_;  // of rendered_, as tokens
  EvalTask asked_;
  std::vector<int64_t> learned_;  // rows_ that are not asked
  BaseProbe probe_;
  Evidence evidence_;
  std::vector<Finding> findings_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_ADVICE_RUN_H_
