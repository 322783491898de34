#ifndef ATTUNE_SERVER_COMPARISON_REPORT_COMMAND_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_COMMAND_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/comparison/comparison.h"

namespace attune {

// The hyperparameters that were set, by the name of their option of `attune` without the dashes.
std::vector<std::pair<std::string, std::string>> SetHyperparameters(const Hyperparameters& hyperparameters);

// `text` as one word of a POSIX shell.
std::string ShellWord(absl::string_view text);

// The command that runs the comparison again, an option a line, its defaults written out. Not escaped for HTML.
std::string CompareCommand(const Comparison& comparison);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_COMMAND_H_
