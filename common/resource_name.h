#ifndef ATTUNE_COMMON_RESOURCE_NAME_H_
#define ATTUNE_COMMON_RESOURCE_NAME_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Resource names: "models/smollm2", "datasets/r8", "tuningJobs/r8-lora".
namespace attune {

inline constexpr absl::string_view kModels = "models";
inline constexpr absl::string_view kDatasets = "datasets";
inline constexpr absl::string_view kTuningJobs = "tuningJobs";
inline constexpr absl::string_view kComparisons = "comparisons";
inline constexpr absl::string_view kAliases = "aliases";

// OK if `id` is [a-z]([a-z0-9-]{0,61}[a-z0-9])?; else names `field`.
absl::Status CheckId(absl::string_view id, absl::string_view field);

// The id in "{collection}/{id}". INVALID_ARGUMENT (naming `field`) if `name` is
// empty, of another collection or its id is malformed.
absl::StatusOr<std::string> ParseName(absl::string_view collection, absl::string_view name, absl::string_view field);

// A fresh id: `prefix`-xxxxxxxx with 40 random bits. `prefix` must be a valid id.
std::string RandomId(absl::string_view prefix);

// Turns any text into a valid id: lower case, runs of other characters to one
// '-', cut to 48 bytes; "x" if nothing is left.
std::string MakeId(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_COMMON_RESOURCE_NAME_H_
