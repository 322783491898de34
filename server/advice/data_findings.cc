#include "server/advice/data_findings.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/evaluation/measures/duplicates.h"
#include "server/evaluation/measures/label_balance.h"
#include "server/evaluation/measures/label_noise.h"
#include "server/evaluation/measures/leakage.h"
#include "server/evaluation/measures/minhash.h"
#include "server/evaluation/measures/percentile.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {
namespace {

using Severity = Finding::Severity;

constexpr int64_t kFewRows = 40, kFewTestRows = 50, kFewOfALabel = 8;
constexpr size_t kMostForNear = 20'000;
// What a comparison holds out when no test data is given.
constexpr double kHeldOut = 0.2;
constexpr int64_t kMostHeldOut = 2000;
constexpr int kNeighbors = 10;
constexpr size_t kNamedRows = 8;

Finding Plain(absl::string_view name, double value, std::string text, Severity severity = Severity::kInfo) {
  return {std::string(name), value, value, value, 0, std::move(text), severity};
}

Finding Share(absl::string_view name, int64_t part, int64_t all, std::string text, Severity severity) {
  const Proportion share = WilsonInterval(part, all);
  return {std::string(name), share.value, share.lower, share.upper, all, std::move(text), severity};
}

// A share that is a warning above `bound`.
Severity AboveIs(double share, double bound) { return share > bound ? Severity::kWarning : Severity::kInfo; }

std::string Percent(double share) { return absl::StrFormat("%.1f%%", 100 * share); }

std::vector<std::string> TextsOf(const std::vector<SplitRow>& rows, bool with_label) {
  std::vector<std::string> texts;
  for (const SplitRow& row : rows) texts.push_back(with_label ? absl::StrCat(row.text, "\x1d", row.label) : row.text);
  return texts;
}

int64_t CountRepeats(const std::vector<int64_t>& first) {
  int64_t repeats = 0;
  for (size_t i = 0; i < first.size(); ++i) repeats += first[i] != static_cast<int64_t>(i);
  return repeats;
}

void FindRows(const DataView& data, int64_t repeats, std::vector<Finding>* findings) {
  const int64_t all = static_cast<int64_t>(data.train.size()), rows = all - repeats;
  const bool is_given = !data.test.empty();
  const int64_t held_out = std::min<int64_t>(kMostHeldOut, static_cast<int64_t>(kHeldOut * static_cast<double>(rows)));
  const int64_t test = is_given ? static_cast<int64_t>(data.test.size()) : held_out;
  findings->push_back(Plain(kRows, static_cast<double>(rows),
                            absl::StrCat(rows, " different rows to learn from",
                                         rows < kFewRows ? ": few; prompts may do as well as training" : "", "."),
                            rows < kFewRows ? Severity::kWarning : Severity::kInfo));
  std::string text =
      is_given ? absl::StrCat(test, " test rows were given") : absl::StrCat(test, " rows can be held out to test on");
  if (test < kFewTestRows) absl::StrAppend(&text, ": methods that are close to each other cannot be told apart");
  findings->push_back(Plain(kTestRows, static_cast<double>(test), text + ".",
                            test < kFewTestRows ? Severity::kWarning : Severity::kInfo));
}

void FindLengths(const DataView& data, std::vector<Finding>* findings) {
  if (data.example_tokens.empty()) return;
  const std::vector<double> whole = Percentiles(data.example_tokens, {50, 95, 100});
  const int64_t cut = std::count_if(data.example_tokens.begin(), data.example_tokens.end(), [&](double tokens) {
    return data.context_tokens > 0 && tokens > static_cast<double>(data.context_tokens);
  });
  std::string text =
      absl::StrFormat("Examples have %.0f tokens in the middle, %.0f at the 95th percentile, %.0f at most", whole[0],
                      whole[1], whole[2]);
  if (cut > 0) {
    const double share = static_cast<double>(cut) / static_cast<double>(data.example_tokens.size());
    absl::StrAppend(&text, "; ", Percent(share), " are longer than ", data.context_tokens,
                    " tokens and lose a part of their prompt");
  }
  findings->push_back(Plain(kExampleTokens, whole[1], text + ".",
                            AboveIs(static_cast<double>(cut), 0.05 * static_cast<double>(data.example_tokens.size()))));
  if (data.answer_tokens.empty()) return;
  const std::vector<double> answers = Percentiles(data.answer_tokens, {50, 95});
  findings->push_back(Plain(
      kAnswerTokens, answers[0],
      absl::StrFormat("Answers have %.0f tokens in the middle, %.0f at the 95th percentile.", answers[0], answers[1])));
}

void FindLabels(const DataView& data, std::vector<Finding>* findings) {
  if (!data.has_labels) {
    findings->push_back(
        Plain(kLabels, 0, "Answers are free text: an answer counts only if it is exactly the expected one."));
    return;
  }
  std::vector<std::string> labels;
  for (const SplitRow& row : data.train) labels.push_back(row.label);
  const LabelBalance balance = MeasureLabelBalance(labels);
  const auto by_count = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto most = std::max_element(balance.counts.begin(), balance.counts.end(), by_count);
  const auto least = std::min_element(balance.counts.begin(), balance.counts.end(), by_count);
  findings->push_back(Plain(kLabels, static_cast<double>(balance.counts.size()),
                            absl::StrCat(balance.counts.size(), " different labels.")));
  findings->push_back(Plain(kLabelBalance, balance.majority,
                            absl::StrFormat("Whoever always says '%s' is right on %s; evenness %.2f of 1.", most->first,
                                            Percent(balance.majority), balance.evenness),
                            AboveIs(balance.majority, 0.8)));
  const bool is_rare = least->second < kFewOfALabel;
  findings->push_back(Plain(kRarestLabel, static_cast<double>(least->second),
                            absl::StrCat("The rarest label, '", least->first, "', has ", least->second, " rows",
                                         is_rare ? ": too few to learn it reliably, or to measure it" : "", "."),
                            is_rare ? Severity::kWarning : Severity::kInfo));
}

void FindRepeats(const DataView& data, int64_t repeats, std::vector<Finding>* findings) {
  const int64_t all = static_cast<int64_t>(data.train.size());
  const double share = static_cast<double>(repeats) / static_cast<double>(all);
  findings->push_back(
      Share(kDuplicates, repeats, all,
            absl::StrCat(repeats, " of ", all, " rows repeat another one but for case and white space."),
            AboveIs(share, 0.05)));
  const size_t looked_at = std::min(data.train.size(), kMostForNear);
  NearDuplicateIndex index;
  int64_t near = 0;
  for (size_t i = 0; i < looked_at; ++i) {
    near += index.Find(data.train[i].text).has_value();
    index.Add(data.train[i].text);
  }
  findings->push_back(
      Share(kNearDuplicates, near, static_cast<int64_t>(looked_at),
            absl::StrCat(near, " of ", looked_at, " rows have four fifths of their word triples from an earlier row."),
            AboveIs(static_cast<double>(near) / static_cast<double>(looked_at), 0.1)));
}

// Rows with the text of an earlier one and another label: some of them must be wrong.
void FindConflicts(const DataView& data, std::vector<Finding>* findings) {
  if (!data.has_labels) return;
  const std::vector<int64_t> first = FirstOccurrences(TextsOf(data.train, false));
  int64_t conflicts = 0;
  for (size_t i = 0; i < first.size(); ++i) conflicts += data.train[i].label != data.train[first[i]].label;
  const int64_t all = static_cast<int64_t>(first.size());
  findings->push_back(Share(kConflictingLabels, conflicts, all,
                            conflicts == 0 ? "No text has two labels."
                                           : absl::StrCat(conflicts,
                                                          " rows have the text of an earlier row and another label: no "
                                                          "model can have both right."),
                            AboveIs(static_cast<double>(conflicts) / static_cast<double>(all), 0.005)));
}

void FindLeaks(const DataView& data, std::vector<Finding>* findings) {
  if (data.test.empty()) return;
  const Leakage leakage = FindLeakage(TextsOf(data.train, false), TextsOf(data.test, false));
  const int64_t leaked = static_cast<int64_t>(leakage.rows.size()), all = static_cast<int64_t>(data.test.size());
  Severity severity = AboveIs(leakage.share.value, 0.005);
  if (leakage.share.value > 0.05) severity = Severity::kProblem;
  std::string text = absl::StrCat(leaked, " of ", all, " test rows stand in the training rows, too, exactly or nearly");
  if (severity == Severity::kProblem)
    absl::StrAppend(&text, ": measured quality would be too good; take them out of the training rows");
  findings->push_back(Share(kLeakage, leaked, all, text + ".", severity));
}

// The rows of labels that have enough of them.
std::vector<size_t> FrequentlyLabelled(const DataView& data, const EmbeddedRows& embedded) {
  std::map<std::string, int64_t> counts;
  for (int64_t row : embedded.rows) ++counts[data.train[row].label];
  std::vector<size_t> kept;
  for (size_t i = 0; i < embedded.rows.size(); ++i) {
    if (counts[data.train[embedded.rows[i]].label] > kNeighbors) kept.push_back(i);
  }
  return kept;
}

std::vector<float> Centred(const EmbeddedRows& embedded, const std::vector<size_t>& kept, size_t width) {
  std::vector<double> mean(width);
  for (size_t i : kept) {
    for (size_t j = 0; j < width; ++j) mean[j] += embedded.features[i * width + j] / static_cast<double>(kept.size());
  }
  std::vector<float> features;
  for (size_t i : kept) {
    for (size_t j = 0; j < width; ++j)
      features.push_back(embedded.features[i * width + j] - static_cast<float>(mean[j]));
  }
  return features;
}

}  // namespace

std::vector<Finding> FindInData(const DataView& data) {
  std::vector<Finding> findings;
  if (data.train.empty()) return findings;
  const int64_t repeats = CountRepeats(FirstOccurrences(TextsOf(data.train, true)));
  FindRows(data, repeats, &findings);
  FindLengths(data, &findings);
  FindLabels(data, &findings);
  FindRepeats(data, repeats, &findings);
  FindConflicts(data, &findings);
  FindLeaks(data, &findings);
  return findings;
}

std::vector<Finding> FindLabelNoiseIn(const DataView& data, const EmbeddedRows& embedded) {
  if (!data.has_labels || embedded.rows.empty()) return {};
  const std::vector<size_t> kept = FrequentlyLabelled(data, embedded);
  std::map<std::string, int32_t> ids;
  std::vector<int32_t> labels;
  for (size_t i : kept) {
    const std::string& label = data.train[embedded.rows[i]].label;
    labels.push_back(ids.try_emplace(label, static_cast<int32_t>(ids.size())).first->second);
  }
  if (ids.size() < 2) return {};
  const size_t width = embedded.features.size() / embedded.rows.size();
  const absl::StatusOr<LabelNoise> noise = FindLabelNoise(Centred(embedded, kept, width), labels, kNeighbors);
  if (!noise.ok()) return {};
  std::vector<std::string> named;
  for (int64_t suspect : noise->suspects) {
    if (named.size() < kNamedRows) named.push_back(absl::StrCat(embedded.rows[kept[suspect]] + 1));
  }
  std::string text = absl::StrCat(noise->suspects.size(), " of ", kept.size(),
                                  " rows have another label than most of the rows "
                                  "that look alike to the base model");
  if (!named.empty()) absl::StrAppend(&text, "; look at rows ", absl::StrJoin(named, ", "));
  absl::StrAppend(&text, ". Hard and rare rows are among them, too: it is a list to read, no rate of errors.");
  return {Share(kLabelNoise, static_cast<int64_t>(noise->suspects.size()), static_cast<int64_t>(kept.size()), text,
                AboveIs(noise->rate, 0.25))};
}

}  // namespace attune
