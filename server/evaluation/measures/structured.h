#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_STRUCTURED_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_STRUCTURED_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

// Answers that are to be JSON. Nothing but white space may stand around the value, and values may be
// nested kMaxJsonDepth deep; what is more, or no JSON (RFC 8259), is not valid.
namespace attune {

inline constexpr int kMaxJsonDepth = 256;

bool IsValidJson(absl::string_view answer);

// Whether the answer is an object that has all of `keys`; it may have more.
bool IsJsonObjectWith(absl::string_view answer, absl::Span<const std::string> keys);

// Whether both are valid and mean the same: the order of members and how a number is written do not
// count, nor do earlier members of a name that stands twice.
bool JsonEquals(absl::string_view answer, absl::string_view reference);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_STRUCTURED_H_
