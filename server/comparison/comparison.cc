#include "server/comparison/comparison.h"

#include <algorithm>
#include <utility>

#include "server/comparison/measure_names.h"
#include "server/evaluation/measures/bootstrap.h"
#include "server/evaluation/measures/wilson.h"

namespace attune {

absl::string_view ContenderName(ContenderKind kind) {
  switch (kind) {
    case ContenderKind::kZeroShot: return "zero_shot";
    case ContenderKind::kHandPrompt: return "hand_prompt";
    case ContenderKind::kTextPrompt: return "text_prompt";
    case ContenderKind::kSoftPrompt: return "soft_prompt";
    case ContenderKind::kPrefix: return "prefix";
    case ContenderKind::kIa3: return "ia3";
    case ContenderKind::kLora: return "lora";
    case ContenderKind::kPartial: return "partial";
    case ContenderKind::kFull: return "full";
    case ContenderKind::kHybrid: return "hybrid";
  }
  return "";
}

absl::string_view MetricName(QualityMetric metric) {
  switch (metric) {
    case QualityMetric::kAuto: break;
    case QualityMetric::kLabelAccuracy: return "label_accuracy";
    case QualityMetric::kExactMatch: return "exact_match";
    case QualityMetric::kTokenF1: return "token_f1";
    case QualityMetric::kRougeL: return "rouge_l";
    case QualityMetric::kChrf: return "chrf";
    case QualityMetric::kNumberMatch: return "number_match";
    case QualityMetric::kJsonMatch: return "json_match";
    case QualityMetric::kPatternMatch: return "pattern_match";
    case QualityMetric::kJudge: return "judge";
    case QualityMetric::kLikelihood: return "likelihood";
  }
  return "";
}

bool CountsRightAnswers(QualityMetric metric) {
  return metric != QualityMetric::kTokenF1 && metric != QualityMetric::kRougeL && metric != QualityMetric::kChrf &&
         metric != QualityMetric::kLikelihood;
}

bool IsTuned(ContenderKind kind) { return kind != ContenderKind::kZeroShot && kind != ContenderKind::kHandPrompt; }

bool ChangesWeights(ContenderKind kind) { return IsTuned(kind) && kind != ContenderKind::kTextPrompt; }

bool IsFinal(ComparisonState state) {
  return state != ComparisonState::kQueued && state != ComparisonState::kRunning;
}

const Measure* Contender::Find(absl::string_view name) const {
  const auto found = std::find_if(measures.begin(), measures.end(), [&](const Measure& m) { return m.name == name; });
  return found == measures.end() ? nullptr : &*found;
}

void Contender::Set(Measure measure) {
  const auto found = std::find_if(measures.begin(), measures.end(), [&](const Measure& m) { return m.name == measure.name; });
  if (found == measures.end()) {
    measures.push_back(std::move(measure));
  } else {
    *found = std::move(measure);
  }
}

Measure Figure(absl::string_view name, double value) { return {std::string(name), value, value, value, 0}; }

Measure MeanOf(absl::string_view name, absl::Span<const double> values) {
  if (values.empty()) return {std::string(name)};
  const int64_t count = static_cast<int64_t>(values.size());
  if (std::all_of(values.begin(), values.end(), [](double v) { return v == 0 || v == 1; })) {
    const Proportion share = WilsonInterval(std::count(values.begin(), values.end(), 1.0), count);
    return {std::string(name), share.value, share.lower, share.upper, count};
  }
  const Interval interval = BootstrapMean(values, BootstrapOptions());
  return {std::string(name), interval.value, interval.lower, interval.upper, count};
}

const Contender* Comparison::FindContender(ContenderKind kind) const {
  const auto found = std::find_if(contenders.begin(), contenders.end(), [&](const Contender& c) { return c.kind == kind; });
  return found == contenders.end() ? nullptr : &*found;
}

const std::vector<MeasureInfo>& MeasureInfos() {
  static const auto* const infos = new std::vector<MeasureInfo>{
      {kQuality, "Quality", "", true, true},
      {kMacroF1, "Macro F1", "", true, true},
      {kExactMatch, "Exact answers", "", true, true},
      {kTokenF1, "Token F1", "", true, true},
      {kRougeL, "ROUGE-L", "", true, true},
      {kChrf, "chrF", "", true, true},
      {kBleu, "BLEU", "", true, true},
      {kJsonValid, "Valid JSON", "", true, true},
      {kPatternMatch, "Pattern matched", "", true, true},
      {kLoss, "Loss", "nats per token", false, false},
      {kPerplexity, "Perplexity", "", false, false},
      {kCalibrationError, "Calibration error", "", false, true},
      {kProbeAccuracy, "Other skills", "", true, true},
      {kForgetting, "Forgetting", "", false, true},
      {kRetention, "Retention set", "", true, true},
      {kRetentionLoss, "Lost on the retention set", "", false, true},
      {kDivergence, "Divergence from the base model", "nats per token", false, false},
      {kConsistency, "Consistency", "", true, true},
      {kResampled, "Same answer drawn again", "", true, true},
      {kOverfitting, "Overfitting", "", false, true},
      {kMemorized, "Memorised examples", "", false, true},
      {kTwiceTheData, "With twice the data", "", true, true},
      {kTrainingSeconds, "Training", "s", false, false},
      {kSearchSeconds, "Training, all trials", "s", false, false},
      {kTrainingEnergy, "Energy to train", "J", false, false},
      {kSearchEnergy, "Energy, all trials", "J", false, false},
      {kTrainingMemory, "Peak memory to train", "bytes", false, false},
      {kModelBytes, "Size on disk", "bytes", false, false},
      {kPromptTokens, "Prompt tokens a request", "tokens", false, false},
      {kRequestMilliseconds, "Time a request", "ms", false, false},
      {kPrice, "Price", "", false, false},
  };
  return *infos;
}

const MeasureInfo& InfoOf(absl::string_view name) {
  const std::vector<MeasureInfo>& infos = MeasureInfos();
  return *std::find_if(infos.begin(), infos.end(), [&](const MeasureInfo& info) { return info.name == name; });
}

}  // namespace attune
