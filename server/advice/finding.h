#ifndef ATTUNE_SERVER_ADVICE_FINDING_H_
#define ATTUNE_SERVER_ADVICE_FINDING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace attune {

// Something that the data, the base model or the needs show. Reasons name the findings that they rest on.
struct Finding {
  // The numbers are the proto's.
  enum class Severity {
    kInfo = 1,
    kWarning = 2,  // look at it
    kProblem = 3,  // figures will mislead until it is mended
  };
  std::string name;                        // one of those below
  double value = 0, lower = 0, upper = 0;  // with its 95% interval; the value itself where it has none
  int64_t count = 0;                       // examples behind it; 0: it is no average
  std::string text;                        // in plain words
  Severity severity = Severity::kInfo;
  bool operator==(const Finding&) const = default;
};

// Of the data.
inline constexpr absl::string_view kRows = "rows";                       // to train on, repeated ones left out
inline constexpr absl::string_view kTestRows = "test_rows";              // to measure on, given or held out
inline constexpr absl::string_view kExampleTokens = "example_tokens";    // 95th percentile of whole examples
inline constexpr absl::string_view kAnswerTokens = "answer_tokens";      // median
inline constexpr absl::string_view kLabels = "labels";                   // distinct ones; 0: answers are free text
inline constexpr absl::string_view kLabelBalance = "label_balance";      // the share of the commonest label
inline constexpr absl::string_view kRarestLabel = "rarest_label";        // its rows
inline constexpr absl::string_view kDuplicates = "duplicates";           // share of rows
inline constexpr absl::string_view kNearDuplicates = "near_duplicates";  // share of rows
inline constexpr absl::string_view kConflictingLabels =
    "conflicting_labels";                                        // share of rows equal to one of another label
inline constexpr absl::string_view kLeakage = "leakage";         // share of test rows
inline constexpr absl::string_view kLabelNoise = "label_noise";  // share that their neighbours outvote
// Of the base model.
inline constexpr absl::string_view kParameters = "parameters";
inline constexpr absl::string_view kZeroShotQuality = "zero_shot";
inline constexpr absl::string_view kFewShotQuality = "few_shot";
inline constexpr absl::string_view kTaskDistance = "task_distance";    // nats per token
inline constexpr absl::string_view kLearningCurve = "learning_curve";  // expected of LoRA with all rows
// Of the methods.
inline constexpr absl::string_view kDeviceSeconds = "device_seconds";      // estimated, of one job with its defaults
inline constexpr absl::string_view kRequestTime = "request_milliseconds";  // of a request alone, without examples
inline constexpr absl::string_view kPastComparisons = "past_comparisons";  // that the rules were calibrated on

// Null if there is none of that name.
inline const Finding* FindFinding(const std::vector<Finding>& findings, absl::string_view name) {
  for (const Finding& finding : findings) {
    if (finding.name == name) return &finding;
  }
  return nullptr;
}

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_FINDING_H_
