#include "server/comparison/comparison.h"

#include <algorithm>

#include "server/comparison/measure_names.h"

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

bool IsTuned(ContenderKind kind) { return kind != ContenderKind::kZeroShot && kind != ContenderKind::kHandPrompt; }

bool ChangesWeights(ContenderKind kind) { return IsTuned(kind) && kind != ContenderKind::kTextPrompt; }

bool IsFinal(ComparisonState state) {
  return state != ComparisonState::kQueued && state != ComparisonState::kRunning;
}

const Measure* Contender::Find(absl::string_view name) const {
  const auto found = std::find_if(measures.begin(), measures.end(), [&](const Measure& m) { return m.name == name; });
  return found == measures.end() ? nullptr : &*found;
}

const Contender* Comparison::FindContender(ContenderKind kind) const {
  const auto found = std::find_if(contenders.begin(), contenders.end(), [&](const Contender& c) { return c.kind == kind; });
  return found == contenders.end() ? nullptr : &*found;
}

const std::vector<MeasureInfo>& MeasureInfos() {
  static const auto* const infos = new std::vector<MeasureInfo>{
      {kQuality, "Quality", "", true, true},
      {kMacroF1, "Macro F1", "", true, true},
      {kLoss, "Loss", "nats per token", false, false},
      {kCalibrationError, "Calibration error", "", false, true},
      {kProbeAccuracy, "Other skills", "", true, true},
      {kForgetting, "Forgetting", "", false, true},
      {kDivergence, "Divergence from the base model", "nats per token", false, false},
      {kConsistency, "Consistency", "", true, true},
      {kOverfitting, "Overfitting", "", false, true},
      {kTrainingSeconds, "Training", "s", false, false},
      {kSearchSeconds, "Training, all trials", "s", false, false},
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
