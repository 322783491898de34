#include "server/advice/advisor.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "server/advice/advice_run.h"
#include "server/advice/curve_probe.h"
#include "server/advice/rules.h"

namespace attune {
namespace {

constexpr int kMostPast = 1000;

// The newest one of the same base model and dataset.
const PastComparison* FindSame(const std::vector<PastComparison>& past, const AdviceRequest& request) {
  for (const PastComparison& one : past) {
    if (one.comparison.spec.base_model == request.base_model && one.comparison.spec.dataset == request.dataset)
      return &one;
  }
  return nullptr;
}

// With what was just gathered, but as many rows as the comparison trained on. Rules are taught by the others alone.
std::optional<Retrospective> LookBackAtSame(const std::vector<PastComparison>& past, const AdviceRequest& request,
                                            Evidence evidence) {
  const PastComparison* same = FindSame(past, request);
  if (!same) return std::nullopt;
  const RuleTable table = Calibrate(PriorRules(), Without(past, same->comparison.spec.id));
  evidence.rows = same->comparison.train_examples;
  evidence.test_rows = same->comparison.test_examples;
  absl::StatusOr<Retrospective> found = LookBack(table, std::move(evidence), request.needs, same->comparison);
  if (!found.ok()) return std::nullopt;
  return *std::move(found);
}

Finding PastFinding(int64_t comparisons) {
  const double value = static_cast<double>(comparisons);
  return {std::string(kPastComparisons),
          value,
          value,
          value,
          0,
          comparisons == 0 ? "No comparison was made here yet: the rules are those of the books."
                           : absl::StrCat("The rules were taught by ", comparisons, " comparison",
                                          comparisons > 1 ? "s" : "", " that this server keeps.")};
}

}  // namespace

absl::StatusOr<std::vector<PastComparison>> Advisor::Past() const {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Comparison> all,
                          deps_.comparisons->List(kMostPast, std::numeric_limits<int64_t>::max()));
  std::vector<PastComparison> past;
  for (Comparison& comparison : all) {
    if (comparison.state != ComparisonState::kSucceeded) continue;
    // A mean of ROUGE-L says nothing about the share of right answers.
    if (!CountsRightAnswers(comparison.metric)) continue;
    const absl::StatusOr<ModelInfo> base = deps_.models->Get(comparison.spec.base_model);
    past.push_back({std::move(comparison), base.ok() ? base->architecture.parameters : 0});
  }
  return past;
}

void Advisor::RemoveLeftOvers() const {
  attune::RemoveLeftOvers({deps_.engine, deps_.jobs, deps_.datasets, deps_.acquire, deps_.delete_model});
}

absl::StatusOr<Advice> Advisor::Advise(const AdviceRequest& request, const Progress& progress) const {
  const absl::Time start = absl::Now();
  AdviceRun run(deps_, request, progress);
  ATTUNE_RETURN_IF_ERROR(run.Gather());
  ATTUNE_ASSIGN_OR_RETURN(std::vector<PastComparison> past, Past());
  Advice advice;
  advice.findings = run.findings();
  advice.past_comparisons = static_cast<int64_t>(past.size());
  advice.findings.push_back(PastFinding(advice.past_comparisons));
  advice.ranking = Rank(Calibrate(PriorRules(), past), run.evidence(), request.needs);
  advice.retrospective = LookBackAtSame(past, request, run.evidence());
  advice.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return advice;
}

absl::StatusOr<Retrospective> Advisor::Retrospect(absl::string_view id) const {
  ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, deps_.comparisons->Get(id));
  if (!CountsRightAnswers(comparison.metric)) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_RIGHT_ANSWERS",
                     absl::StrCat("'comparisons/", id, "' is judged by ", MetricName(comparison.metric),
                                  ", and advice foresees shares of right answers."));
  }
  ATTUNE_ASSIGN_OR_RETURN(std::vector<PastComparison> past, Past());
  const absl::StatusOr<ModelInfo> base = deps_.models->Get(comparison.spec.base_model);
  const Evidence evidence = EvidenceOf(comparison, base.ok() ? base->architecture.parameters : 0);
  return LookBack(Calibrate(PriorRules(), Without(past, comparison.spec.id)), evidence, Needs(), comparison);
}

}  // namespace attune
