#include "server/advice/rules.h"

#include <algorithm>
#include <cmath>

#include "server/advice/finding.h"

namespace attune {
namespace {

constexpr double kReferenceParameters = 1e9;
constexpr double kFreeTextLabels = 20;
constexpr double kUsualDistance = 1.5;  // nats; where it was not measured
// What is farther is mostly an answer's form, which a few rows teach: on R8 SmolLM2 is 9.8 nats away, and LoRA wins
// 0.97.
constexpr double kFarthestDistance = 4;
// What rows that are too few add to the spread.
constexpr double kFewRowsSpread = 0.5;
// How far a learning curve moves LoRA's figure, and how much of that the other tuned methods follow.
constexpr double kCurveUp = 0.7, kCurveDown = 0.3, kCurveForOthers = 0.5;
constexpr double kFarthest = 10;  // times the most rows of the curve
// Of what few-shot answers leave, a search over instructions and examples wins about a tenth, at most three
// (Zhou et al. 2023; Yang et al. 2024: gains over few-shot prompts of some points).
constexpr double kSearchGain = 0.1, kMostSearchGain = 0.3;

double LabelCount(const Evidence& evidence) {
  return evidence.labels > 0 ? static_cast<double>(evidence.labels) : kFreeTextLabels;
}

double Decades(const Evidence& evidence) {
  const double parameters = static_cast<double>(evidence.parameters);
  return evidence.parameters > 0 ? std::clamp(std::log10(parameters / kReferenceParameters), -2.0, 2.0) : 0;
}

// Quality of the base model as it is.
Proportion StartOf(const Evidence& evidence) {
  if (evidence.zero_shot) return *evidence.zero_shot;
  const double guess = evidence.labels > 0 ? 1 / static_cast<double>(evidence.labels) : 0;
  return {guess, 0, std::max(0.6, guess), 0};
}

// The share of the rule's strength that so many rows bring.
double RowShare(const MethodRule& rule, const Evidence& evidence) {
  if (rule.half_rows == 0) return 1;
  const double rows = static_cast<double>(evidence.rows), half = rule.half_rows * LabelCount(evidence);
  return rows / (rows + half);
}

double ShareOf(const RuleTable& table, ContenderKind kind, const Evidence& evidence) {
  const MethodRule& rule = table.rules.at(kind);
  const double distance = std::clamp(evidence.task_distance.value_or(kUsualDistance), 0.0, kFarthestDistance);
  const double strength =
      std::clamp(rule.strength + rule.per_decade * Decades(evidence) - rule.per_nat * distance, 0.0, 1.0);
  const auto shift = table.shift.find(kind);
  return std::clamp(strength * RowShare(rule, evidence) + (shift == table.shift.end() ? 0 : shift->second), 0.0, 1.0);
}

// By the table alone.
Expectation ByRule(const RuleTable& table, ContenderKind kind, const Evidence& evidence) {
  const MethodRule& rule = table.rules.at(kind);
  const Proportion start = StartOf(evidence);
  Expectation expected;
  expected.share = ShareOf(table, kind, evidence);
  double spread = rule.spread + kFewRowsSpread * (1 - RowShare(rule, evidence));
  if (!evidence.zero_shot) spread *= 2;
  const double low = std::max(0.0, expected.share - spread), high = std::min(1.0, expected.share + spread);
  expected.quality = start.value + (1 - start.value) * expected.share;
  // A better start leaves less to win, so that its interval matters by what the method does not win.
  expected.lower = start.lower + (1 - start.lower) * low;
  expected.upper = start.upper + (1 - start.upper) * high;
  expected.findings = {std::string(kZeroShotQuality), std::string(kRows), std::string(kLabels)};
  return expected;
}

// Where the curve leads with all rows; the points must make a curve.
std::optional<double> CurveQuality(const Evidence& evidence) {
  const absl::StatusOr<LearningCurve> curve = FitLearningCurve(evidence.curve);
  if (!curve.ok()) return std::nullopt;
  double most = 0;
  for (const CurvePoint& point : evidence.curve) most = std::max(most, point.examples);
  return curve->Quality(std::clamp(static_cast<double>(evidence.rows), 1.0, kFarthest * most));
}

// How far the curve moves LoRA's figure.
double CurveMove(const RuleTable& table, double curve, const Evidence& evidence) {
  const double difference = curve - ByRule(table, ContenderKind::kLora, evidence).quality;
  return difference * (difference > 0 ? kCurveUp : evidence.curve_is_sure ? kCurveDown : 0);
}

// Upwards the lower end stays: a curve is made of few asked rows, and may be lucky.
void Move(double by, Expectation* expected) {
  expected->quality = std::clamp(expected->quality + by, 0.0, 1.0);
  expected->lower = std::clamp(expected->lower + std::min(by, 0.0), 0.0, expected->quality);
  expected->upper = std::clamp(expected->upper + by, expected->quality, 1.0);
}

// What short jobs reached, a proper one reaches, too.
void RaiseFloor(const Evidence& evidence, Expectation* expected) {
  for (const CurvePoint& point : evidence.curve) {
    if (point.examples > static_cast<double>(evidence.rows)) continue;
    expected->lower = std::max(expected->lower, std::min(expected->quality, point.quality - 2 * point.standard_error));
  }
}

void UseCurve(const RuleTable& table, ContenderKind kind, const Evidence& evidence, Expectation* expected) {
  const std::optional<double> curve = CurveQuality(evidence);
  if (!curve) return;
  const bool is_lora = kind == ContenderKind::kLora;
  const double move = CurveMove(table, *curve, evidence);
  if (move == 0) return;
  Move(move * (is_lora ? 1 : kCurveForOthers), expected);
  if (is_lora) RaiseFloor(evidence, expected);
  expected->is_measured = is_lora;
  expected->findings.push_back(std::string(kLearningCurve));
}

Expectation OfZeroShot(const Evidence& evidence) {
  const Proportion start = StartOf(evidence);
  Expectation expected{start.value, start.lower, start.upper, 0, evidence.zero_shot.has_value(), {}};
  expected.findings = {std::string(kZeroShotQuality)};
  return expected;
}

// A search begins from prompts with examples: what these reach is its floor.
Expectation OfProbedPrompt(const RuleTable& table, const Evidence& evidence) {
  const Proportion &zero = *evidence.zero_shot, &few = *evidence.few_shot;
  const Proportion& best = few.value > zero.value ? few : zero;
  const auto shift = table.shift.find(ContenderKind::kTextPrompt);
  const double gain = std::clamp(kSearchGain + (shift == table.shift.end() ? 0 : shift->second), 0.0, 1.0);
  Expectation expected;
  expected.quality = best.value + (1 - best.value) * gain;
  expected.lower = std::min(best.lower, expected.quality);
  expected.upper = std::max(expected.quality, best.upper + (1 - best.upper) * std::max(kMostSearchGain, gain));
  expected.share = zero.value < 1 ? (expected.quality - zero.value) / (1 - zero.value) : 0;
  expected.is_measured = true;
  expected.findings = {std::string(kFewShotQuality), std::string(kZeroShotQuality)};
  return expected;
}

}  // namespace

RuleTable PriorRules() {
  RuleTable table;
  // A prompt of examples and instructions: larger models follow it far better (Brown et al. 2020), and it cannot teach
  // what is far from what the model does by itself (Min et al. 2022).
  table.rules[ContenderKind::kTextPrompt] = {
      .strength = 0.45, .per_decade = 0.12, .per_nat = 0.04, .half_rows = 0.5, .spread = 0.25};
  // Comes near full tuning only as models grow (Lester et al. 2021, figure 1). Measured with 135 M: 0.95 of the headroom on
  // all of R8, but 0.40 on the 77 labels of Banking77 (tests/bench/results/2026-11-26-advise-h100.md), hence the spread.
  table.rules[ContenderKind::kSoftPrompt] = {
      .strength = 0.93, .per_decade = 0.04, .per_nat = 0.01, .half_rows = 5, .spread = 0.2};
  // As prompts, in every layer (Li and Liang 2021; Liu et al. 2022, P-Tuning v2); sensitive to its start, too.
  table.rules[ContenderKind::kPrefix] = {
      .strength = 0.92, .per_decade = 0.03, .per_nat = 0.01, .half_rows = 5.5, .spread = 0.14};
  // Good with few rows (Liu et al. 2022, T-Few), too few parameters for much more.
  table.rules[ContenderKind::kIa3] = {
      .strength = 0.92, .per_decade = 0.02, .per_nat = 0.01, .half_rows = 3.5, .spread = 0.10};
  // As good as full tuning on most tasks (Hu et al. 2022), less where much is new (Biderman et al. 2024). Measured with
  // 135 M, same file: 0.97 of the headroom on all of R8, 0.88 on all of Banking77.
  table.rules[ContenderKind::kLora] = {
      .strength = 0.985, .per_decade = 0.005, .per_nat = 0.004, .half_rows = 3, .spread = 0.06};
  // The last quarter of the layers: between prompts and full tuning.
  table.rules[ContenderKind::kPartial] = {
      .strength = 0.95, .per_decade = 0.01, .per_nat = 0.004, .half_rows = 5.5, .spread = 0.07};
  // Needs more rows than LoRA at its low learning rates, and wins most where the task is far (Biderman et al. 2024).
  table.rules[ContenderKind::kFull] = {
      .strength = 0.99, .per_decade = 0.003, .per_nat = 0, .half_rows = 6, .spread = 0.05};
  // The prompt's instructions save rows; with many it makes no difference (Le Scao and Rush 2021: a prompt is worth
  // hundreds of rows on small data).
  table.rules[ContenderKind::kHybrid] = {
      .strength = 0.985, .per_decade = 0.005, .per_nat = 0.004, .half_rows = 2.7, .spread = 0.06};
  return table;
}

Expectation Expect(const RuleTable& table, ContenderKind kind, const Evidence& evidence) {
  if (!table.rules.contains(kind)) return OfZeroShot(evidence);
  if (kind == ContenderKind::kTextPrompt && evidence.zero_shot && evidence.few_shot) {
    return OfProbedPrompt(table, evidence);
  }
  Expectation expected = ByRule(table, kind, evidence);
  if (evidence.task_distance) expected.findings.push_back(std::string(kTaskDistance));
  if (ChangesWeights(kind)) UseCurve(table, kind, evidence, &expected);
  return expected;
}

}  // namespace attune
