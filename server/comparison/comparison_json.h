#ifndef ATTUNE_SERVER_COMPARISON_COMPARISON_JSON_H_
#define ATTUNE_SERVER_COMPARISON_COMPARISON_JSON_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/comparison/comparison.h"

// Comparisons as JSON text, for the database. A missing field reads as unset, so that a
// database outlives added fields. Reading gives DATA_LOSS (CORRUPT_COMPARISON) if the text is not
// what these functions write.
namespace attune {

// Stable: equal specs give equal text.
std::string ComparisonSpecToJson(const ComparisonSpec& spec);

// All but the position.
std::string ComparisonToJson(const Comparison& comparison);
absl::StatusOr<Comparison> ComparisonFromJson(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_COMPARISON_JSON_H_
