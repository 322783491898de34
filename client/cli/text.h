#ifndef ATTUNE_CLIENT_CLI_TEXT_H_
#define ATTUNE_CLIENT_CLI_TEXT_H_

#include <istream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// How the command reads text arguments.
namespace attune::cli {

// Turns \n, \t, \r and \\ into what they stand for; any other backslash stays.
std::string Unescape(absl::string_view text);

// A template argument: "@FILE" is the file's text without its last line end,
// anything else is unescaped.
absl::StatusOr<std::string> ReadTemplate(const std::string& argument);

// All of `in`, without the last line end.
std::string ReadAll(std::istream& in);

// "name=value" items; INVALID_ARGUMENT, naming `option`, for one without '='
// or without name, or for a name given twice.
absl::StatusOr<std::map<std::string, std::string>> ParsePairs(const std::vector<std::string>& items,
                                                              absl::string_view option);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_TEXT_H_
