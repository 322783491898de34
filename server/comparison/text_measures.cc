#include "server/comparison/text_measures.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "server/comparison/answer_scorer.h"
#include "server/comparison/measure_names.h"
#include "server/evaluation/measures/bleu.h"
#include "server/evaluation/measures/bootstrap.h"
#include "server/evaluation/measures/structured.h"

namespace attune {
namespace {

constexpr double kShortAnswer = 3;  // words
constexpr int kBleuResamples = 500;

// What a program reads: a bare number or word is JSON, too, but hardly meant as such.
bool IsJson(absl::string_view text) {
  const absl::string_view stripped = absl::StripAsciiWhitespace(text);
  return (absl::StartsWith(stripped, "{") || absl::StartsWith(stripped, "[")) && IsValidJson(stripped);
}

bool AreJson(absl::Span<const std::string> expected) {
  bool has_any = false;
  for (const std::string& one : expected) {
    if (one.empty()) continue;
    if (!IsJson(one)) return false;
    has_any = true;
  }
  return has_any;
}

template <typename Function>
Measure MeanOver(absl::string_view name, absl::Span<const std::string> expected, absl::Span<const std::string> answers,
                 Function score) {
  std::vector<double> scores(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!expected[i].empty()) scores[i] = score(expected[i], answers[i]);
  }
  return MeanOf(name, scores);
}

Measure Bleu(absl::Span<const std::string> expected, absl::Span<const std::string> answers) {
  std::vector<BleuStatistics> statistics;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!expected[i].empty()) statistics.push_back(CountBleu(answers[i], expected.subspan(i, 1)));
  }
  if (statistics.empty()) return {std::string(kBleu)};
  const auto score = [&](absl::Span<const int64_t> rows) {
    BleuStatistics sum;
    for (int64_t row : rows) sum += statistics[row];
    return BleuScore(sum);
  };
  const int64_t count = static_cast<int64_t>(statistics.size());
  const Interval interval = BootstrapStatistic(count, score, {.resamples = kBleuResamples});
  return {std::string(kBleu), interval.value, interval.lower, interval.upper, count};
}

}  // namespace

QualityMetric MetricFor(absl::Span<const std::string> expected) {
  if (AreJson(expected)) return QualityMetric::kJsonMatch;
  size_t words = 0;
  for (const std::string& one : expected) {
    const std::vector<absl::string_view> parts = absl::StrSplit(one, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
    words += parts.size();
  }
  const double mean = static_cast<double>(words) / static_cast<double>(std::max<size_t>(1, expected.size()));
  return mean <= kShortAnswer ? QualityMetric::kExactMatch : QualityMetric::kRougeL;
}

std::vector<Measure> TextMeasures(absl::Span<const std::string> expected, absl::Span<const std::string> answers,
                                  absl::string_view pattern) {
  std::vector<Measure> measures;
  const auto add = [&](absl::string_view name, QualityMetric metric) {
    const absl::StatusOr<AnswerScorer> scorer = AnswerScorer::Create(metric, pattern);
    if (!scorer.ok()) return;
    measures.push_back(MeanOver(name, expected, answers, [&](const std::string& right, const std::string& given) {
      return scorer->Score(right, given);
    }));
  };
  add(kExactMatch, QualityMetric::kExactMatch);
  add(kTokenF1, QualityMetric::kTokenF1);
  add(kRougeL, QualityMetric::kRougeL);
  add(kChrf, QualityMetric::kChrf);
  measures.push_back(Bleu(expected, answers));
  if (AreJson(expected)) {
    measures.push_back(MeanOver(kJsonValid, expected, answers, [](const std::string&, const std::string& given) {
      return IsValidJson(given) ? 1.0 : 0.0;
    }));
  }
  if (!pattern.empty()) add(kPatternMatch, QualityMetric::kPatternMatch);
  return measures;
}

}  // namespace attune
