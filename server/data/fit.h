#ifndef ATTUNE_SERVER_DATA_FIT_H_
#define ATTUNE_SERVER_DATA_FIT_H_

#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

// Cutting texts so that they fit a number of tokens.
namespace attune {

// Which side of a text stays when it is cut.
enum class Keep { kBeginning, kEnd };

// `bytes` bytes of that side, or a little less: no character is cut in two.
absl::string_view Part(absl::string_view text, size_t bytes, Keep keep);

// A part of `text` for which `count` gives at most `room` tokens: as large a one as
// few calls find. `full_count` is what `count` gives for all of `text`, and is above
// `room`. Nothing if not even the empty text fits. What it returns was counted.
std::optional<std::string> FitText(absl::string_view text, Keep keep, size_t full_count, size_t room,
                                   const std::function<size_t(absl::string_view part)>& count);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_FIT_H_
