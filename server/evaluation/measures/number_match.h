#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_NUMBER_MATCH_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_NUMBER_MATCH_H_

#include <optional>

#include "absl/strings/string_view.h"

namespace attune {

// The last number in a text, which is where answers that reason put their result: digits with a point and
// an exponent, commas between thousands ("1,234.5"); a minus counts only where nothing that it could
// join stands before it ("3-5" ends in 5).
std::optional<double> LastNumber(absl::string_view text);

// Whether both have a last number and these are equal up to `tolerance` times the greater magnitude.
bool NumbersMatch(absl::string_view answer, absl::string_view reference, double tolerance = 1e-6);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_NUMBER_MATCH_H_
