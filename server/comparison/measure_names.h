#ifndef ATTUNE_SERVER_COMPARISON_MEASURE_NAMES_H_
#define ATTUNE_SERVER_COMPARISON_MEASURE_NAMES_H_

#include <vector>

#include "absl/strings/string_view.h"

// The names of a contender's measures. Definitions, with their papers: server/evaluation/README.md.
namespace attune {

// Quality, on the test part.
inline constexpr absl::string_view kQuality = "quality";  // the comparison's metric
inline constexpr absl::string_view kMacroF1 = "macro_f1";
inline constexpr absl::string_view kExactMatch = "exact_match";      // these of generated answers
inline constexpr absl::string_view kTokenF1 = "token_f1";
inline constexpr absl::string_view kRougeL = "rouge_l";
inline constexpr absl::string_view kChrf = "chrf";
inline constexpr absl::string_view kBleu = "bleu";                   // of the whole test part
inline constexpr absl::string_view kJsonValid = "json_valid";        // where all expected answers are JSON
inline constexpr absl::string_view kPatternMatch = "pattern_match";  // where there is a pattern
inline constexpr absl::string_view kLoss = "loss";                            // nats per answer token
inline constexpr absl::string_view kPerplexity = "perplexity";                // e to the loss
inline constexpr absl::string_view kCalibrationError = "calibration_error";  // expected calibration error
// Side effects.
inline constexpr absl::string_view kProbeAccuracy = "probe_accuracy";      // on tasks it was not tuned for
inline constexpr absl::string_view kForgetting = "forgetting";             // probe accuracy lost against the base model
inline constexpr absl::string_view kRetention = "retention";               // quality on the user's retention set
inline constexpr absl::string_view kRetentionLoss = "retention_loss";      // of it, what was lost against the base model
inline constexpr absl::string_view kDivergence = "divergence";             // KL from the base model on its own text, nats per token
inline constexpr absl::string_view kConsistency = "consistency";           // same answer to paraphrased inputs
inline constexpr absl::string_view kResampled = "resampled";               // same answer when it is drawn again
inline constexpr absl::string_view kOverfitting = "overfitting";           // quality on training rows less that on validation rows
inline constexpr absl::string_view kMemorized = "memorized";               // training rows that it goes on with word for word
// Data efficiency.
inline constexpr absl::string_view kTwiceTheData = "twice_the_data";  // quality foreseen, if the learning curve tells
// Cost.
inline constexpr absl::string_view kTrainingSeconds = "training_seconds";  // on the device, of the published trial
inline constexpr absl::string_view kSearchSeconds = "search_seconds";      // of all its trials
inline constexpr absl::string_view kTrainingEnergy = "training_energy";    // joules of the device, of the published trial
inline constexpr absl::string_view kSearchEnergy = "search_energy";        // of all its trials
inline constexpr absl::string_view kTrainingMemory = "training_memory";    // peak bytes of the device, beside the base model's
inline constexpr absl::string_view kModelBytes = "model_bytes";            // on disk
inline constexpr absl::string_view kPromptTokens = "prompt_tokens";        // of a request, on average
inline constexpr absl::string_view kRequestMilliseconds = "request_milliseconds";  // alone, the median
inline constexpr absl::string_view kPrice = "price";                       // of all its trials, in the user's currency

// How a measure is read.
struct MeasureInfo {
  absl::string_view name, title, unit;
  bool is_higher_better = true;
  bool is_share = false;  // 0 to 1
};
const std::vector<MeasureInfo>& MeasureInfos();
// REQUIRES: it is one of the above.
const MeasureInfo& InfoOf(absl::string_view name);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_MEASURE_NAMES_H_
