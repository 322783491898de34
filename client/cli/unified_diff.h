#ifndef ATTUNE_CLIENT_CLI_UNIFIED_DIFF_H_
#define ATTUNE_CLIENT_CLI_UNIFIED_DIFF_H_

#include <string>

#include "absl/strings/string_view.h"

namespace attune::cli {

// What turns one text into another, line by line, in diff's unified form with three lines
// around each change; empty for equal texts. The fewest changes (a longest common subsequence).
std::string UnifiedDiff(absl::string_view old_name, absl::string_view old_text, absl::string_view new_name,
                        absl::string_view new_text);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_UNIFIED_DIFF_H_
