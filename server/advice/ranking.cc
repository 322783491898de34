#include "server/advice/ranking.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "server/advice/finding.h"
#include "server/advice/ranking_needs.h"

namespace attune {
namespace {

constexpr double kWideOverlap = 0.5;  // of the narrower range
constexpr double kFarTask = 2;        // nats per token
constexpr int64_t kSettlingRows = 300;
constexpr double kSettlingTrials = 2, kMeasuringShare = 0.25;  // what a comparison does of each, and asks besides
constexpr double kWidest = 0.3, kNarrow = 0.15;
constexpr int64_t kTaughtByComparisons = 3;

// A recommendation on its way to its place.
struct Placed {
  Recommendation recommendation;
  NeedsEffect effect;
  double utility = 0;
};

Confidence ConfidenceOf(const RuleTable& table, const Expectation& expected, ContenderKind kind,
                        const Evidence& evidence) {
  const double width = expected.upper - expected.lower;
  if (!evidence.zero_shot || width > kWidest) return Confidence::kLow;
  const auto taught = table.comparisons.find(kind);
  const bool is_taught = taught != table.comparisons.end() && taught->second >= kTaughtByComparisons;
  return width <= kNarrow && (expected.is_measured || is_taught) ? Confidence::kHigh : Confidence::kMedium;
}

std::string DataText(const Evidence& evidence) {
  return evidence.labels > 0 ? absl::StrCat(evidence.rows, " rows for ", evidence.labels, " labels")
                             : absl::StrCat(evidence.rows, " rows with free answers");
}

Reason ExpectationReason(ContenderKind kind, const Expectation& expected, const Evidence& evidence) {
  Reason reason{"", expected.findings, false};
  if (kind == ContenderKind::kZeroShot) {
    reason.text = evidence.zero_shot ? absl::StrFormat("Measured: %.2f on %d rows, with nothing to train.",
                                                       expected.quality, evidence.zero_shot->count)
                                     : "The base model was not asked; it may guess, or be able to do the task.";
  } else if (kind == ContenderKind::kTextPrompt && expected.is_measured) {
    reason.text = absl::StrFormat(
        "A few examples before the prompt reach %.2f where the prompt alone reaches %.2f; a search "
        "usually adds a tenth of what is left.",
        evidence.few_shot->value, evidence.zero_shot->value);
  } else {
    reason.text = absl::StrFormat("With %s it usually wins %.0f%% of what the base model leaves.", DataText(evidence),
                                  100 * expected.share);
  }
  return reason;
}

void AddDistanceReason(const Evidence& evidence, Recommendation* r) {
  if (!evidence.task_distance || r->kind == ContenderKind::kZeroShot) return;
  const bool is_far = *evidence.task_distance >= kFarTask;
  const std::string distance = absl::StrFormat("%.1f nats per token %s to the base model than its own text",
                                               *evidence.task_distance, "less likely");
  if (is_far && ChangesWeights(r->kind)) {
    r->reasons.push_back({absl::StrCat("The answers are ", distance, ": far away, which training bridges."),
                          {std::string(kTaskDistance)}});
  } else if (is_far) {
    r->reasons.push_back({absl::StrCat("The answers are ", distance, ": far away, which words alone seldom bridge."),
                          {std::string(kTaskDistance)},
                          true});
  } else if (!ChangesWeights(r->kind)) {
    r->reasons.push_back(
        {absl::StrFormat("The answers are near to what the base model says by itself (%.1f nats per token).",
                         *evidence.task_distance),
         {std::string(kTaskDistance)}});
  }
}

void AddCurveReason(const Evidence& evidence, Recommendation* r) {
  if (r->kind != ContenderKind::kLora || evidence.curve.empty()) return;
  const auto best = std::max_element(evidence.curve.begin(), evidence.curve.end(),
                                     [](const CurvePoint& a, const CurvePoint& b) { return a.examples < b.examples; });
  const bool is_telling = best->quality >= evidence.majority || evidence.curve_is_sure;
  r->reasons.push_back({absl::StrFormat("A short trial with %.0f rows reached %.2f%s", best->examples, best->quality,
                                        is_telling ? "." : ", too short to tell what a proper one would."),
                        {std::string(kLearningCurve)}});
}

void AddDataReasons(const Evidence& evidence, Recommendation* r) {
  if (r->kind != ContenderKind::kZeroShot && evidence.labels > 0 && r->quality < evidence.majority) {
    r->reasons.push_back(
        {absl::StrFormat("It is not expected to beat always saying the commonest label (%.2f).", evidence.majority),
         {std::string(kLabelBalance)},
         true});
  }
  if (ChangesWeights(r->kind) && evidence.rows < kEnoughRows) {
    r->reasons.push_back(
        {absl::StrCat("Only ", evidence.rows, " rows: training may learn them by heart instead of the task."),
         {std::string(kRows)},
         true});
  }
}

Placed Place(const RuleTable& table, ContenderKind kind, const MethodCost& cost, const Evidence& evidence,
             const Needs& needs) {
  const Expectation expected = Expect(table, kind, evidence);
  Placed placed;
  Recommendation& r = placed.recommendation;
  r.kind = kind;
  r.quality = expected.quality;
  r.lower = expected.lower;
  r.upper = expected.upper;
  r.device_seconds = cost.device_seconds;
  r.price = cost.device_seconds / 3600 * needs.price_per_device_hour;
  r.confidence = ConfidenceOf(table, expected, kind, evidence);
  r.reasons.push_back(ExpectationReason(kind, expected, evidence));
  const auto taught = table.comparisons.find(kind);
  if (taught != table.comparisons.end() && taught->second > 0) {
    r.reasons.push_back(
        {absl::StrFormat("%d stored comparison%s moved this by %+.1f points of what the base model leaves.",
                         taught->second, taught->second > 1 ? "s" : "", 100 * table.shift.at(kind)),
         {std::string(kPastComparisons)}});
  }
  AddDistanceReason(evidence, &r);
  AddCurveReason(evidence, &r);
  AddDataReasons(evidence, &r);
  placed.effect = WeighNeeds(evidence, needs, &r);
  const double useful = needs.accuracy > 0 ? std::min(r.quality, needs.accuracy) : r.quality;
  placed.utility = useful - placed.effect.penalty;
  return placed;
}

double Overlap(const Recommendation& a, const Recommendation& b) {
  const double shared = std::min(a.upper, b.upper) - std::max(a.lower, b.lower);
  const double narrower = std::min(a.upper - a.lower, b.upper - b.lower);
  return narrower > 0 ? shared / narrower : shared >= 0 ? 1 : 0;
}

// What is missing to tell; empty if nothing.
std::vector<std::string> Missing(const Evidence& evidence) {
  std::vector<std::string> missing;
  if (evidence.rows < kEnoughRows)
    missing.push_back(absl::StrCat("only ", evidence.rows, " rows to learn from (", kEnoughRows, " would do)"));
  if (evidence.test_rows < kEnoughTestRows) {
    missing.push_back(
        absl::StrCat("only ", evidence.test_rows, " rows to test on (", kEnoughTestRows, " at the least)"));
  }
  if (!evidence.zero_shot) missing.push_back("the base model was not asked");
  return missing;
}

Settlement SettlementOf(const Evidence& evidence, const Recommendation& a, const Recommendation& b) {
  Settlement settlement;
  settlement.contenders = {a.kind, b.kind};
  settlement.rows = std::min(evidence.rows, kSettlingRows);
  const double share =
      evidence.rows > 0 ? static_cast<double>(settlement.rows) / static_cast<double>(evidence.rows) : 1;
  settlement.device_seconds = (a.device_seconds + b.device_seconds) * share * kSettlingTrials * (1 + kMeasuringShare);
  if (evidence.rows < kEnoughRows) {
    settlement.text =
        absl::StrCat("Collect rows first: ", kEnoughRows, " at the least, better 10 of each label. Then compare ",
                     MethodTitle(a.kind), " and ", MethodTitle(b.kind), " on them.");
  } else {
    settlement.text = absl::StrCat("To settle it, compare ", MethodTitle(a.kind), " and ", MethodTitle(b.kind), " on ",
                                   settlement.rows, " rows: ", AboutTime(settlement.device_seconds), " of the device.");
  }
  return settlement;
}

std::string RangeText(const Recommendation& r) {
  return absl::StrFormat("%s, expected at %.2f (%.2f to %.2f)", MethodTitle(r.kind), r.quality, r.lower, r.upper);
}

void Judge(const Evidence& evidence, Ranking* ranking) {
  const std::vector<Recommendation>& list = ranking->recommendations;
  if (list.empty()) {
    ranking->text = "There is no method that could be recommended.";
    return;
  }
  const Recommendation& first = list[0];
  ranking->verdict = AdviceVerdict::kRecommended;
  ranking->text =
      absl::StrCat("Take ", RangeText(first), ", for ",
                   first.device_seconds > 0 ? AboutTime(first.device_seconds) : "no time", " of the device.");
  const bool has_rival =
      list.size() > 1 && Overlap(first, list[1]) >= kWideOverlap && list[1].meets_needs == first.meets_needs;
  if (has_rival) {
    const std::vector<std::string> missing = Missing(evidence);
    ranking->settlement = SettlementOf(evidence, first, list[1]);
    ranking->verdict = missing.empty() ? AdviceVerdict::kTied : AdviceVerdict::kNotEnoughToTell;
    if (missing.empty()) {
      absl::StrAppend(&ranking->text, " ", RangeText(list[1]), ", may do as well. ", ranking->settlement.text);
    } else {
      ranking->text =
          absl::StrCat("Not enough data to tell: ", absl::StrJoin(missing, ", "), ", and the ranges of ",
                       RangeText(first), ", and ", RangeText(list[1]), ", overlap. ", ranking->settlement.text);
    }
  }
  if (!first.meets_needs) absl::StrAppend(&ranking->text, " No method meets all needs; this one comes nearest.");
}

}  // namespace

std::string MethodTitle(ContenderKind kind) {
  if (kind == ContenderKind::kZeroShot) return "the base model as it is";
  if (kind == ContenderKind::kLora) return "LoRA";
  if (kind == ContenderKind::kIa3) return "IA3";
  if (kind == ContenderKind::kHybrid) return "LoRA with a searched prompt";
  if (kind == ContenderKind::kFull || kind == ContenderKind::kPartial)
    return absl::StrCat(ContenderName(kind), " fine-tuning");
  return absl::StrCat("a ", absl::StrReplaceAll(ContenderName(kind), {{"_", " "}}));
}

std::string AboutTime(double seconds) {
  if (seconds < 100) return absl::StrFormat("about %.0f s", std::max(1.0, seconds));
  if (seconds < 100 * 60) return absl::StrFormat("about %.0f minutes", seconds / 60);
  if (seconds < 48 * 3600) return absl::StrFormat("about %.2g hours", seconds / 3600);
  return absl::StrFormat("about %.2g days", seconds / 86400);
}

Ranking Rank(const RuleTable& table, const Evidence& evidence, const Needs& needs) {
  std::vector<Placed> placed;
  for (const auto& [kind, cost] : evidence.costs) placed.push_back(Place(table, kind, cost, evidence, needs));
  std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    if (a.effect.broken != b.effect.broken) return a.effect.broken < b.effect.broken;
    return a.utility > b.utility;
  });
  Ranking ranking;
  for (Placed& one : placed) ranking.recommendations.push_back(std::move(one.recommendation));
  Judge(evidence, &ranking);
  return ranking;
}

}  // namespace attune
