#ifndef ATTUNE_SERVER_COMPARISON_REPORT_NAMES_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_NAMES_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/comparison/comparison.h"

// What a report calls things, for readers who do not tune models.
namespace attune {

absl::string_view ContenderTitle(ContenderKind kind);    // "LoRA"
absl::string_view ContenderMeaning(ContenderKind kind);  // one sentence
// Of the proto's name; the name itself if no contender has it.
std::string TitleOfName(absl::string_view name);

absl::string_view MetricTitle(QualityMetric metric);
absl::string_view StateTitle(ComparisonState state);

// What a measure says, and how to read it.
struct MeasureMeaning {
  absl::string_view definition, reading;
};
MeasureMeaning MeaningOf(absl::string_view measure);

// By rank; those without one follow in their own order.
std::vector<const Contender*> ByRank(const Comparison& comparison);
// Null if there is none.
const Contender* Winner(const Comparison& comparison);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_NAMES_H_
