#include "client/cli/text.h"

#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/context.h"
#include "common/error.h"
#include "common/file.h"

namespace attune::cli {
namespace {

std::string WithoutLastLineEnd(absl::string_view text) {
  absl::ConsumeSuffix(&text, "\n");
  absl::ConsumeSuffix(&text, "\r");
  return std::string(text);
}

}  // namespace

std::string Unescape(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    char meant = next == 'n' ? '\n' : next == 't' ? '\t' : next == 'r' ? '\r' : next == '\\' ? '\\' : '\0';
    out += meant == '\0' ? text[i] : meant;
    if (meant != '\0') ++i;
  }
  return out;
}

absl::StatusOr<std::string> ReadTemplate(const std::string& argument) {
  if (argument.empty() || argument[0] != '@') return Unescape(argument);
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(argument.substr(1)));
  return WithoutLastLineEnd(text);
}

std::string ReadAll(std::istream& in) {
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  return WithoutLastLineEnd(text);
}

absl::StatusOr<std::map<std::string, std::string>> ParsePairs(const std::vector<std::string>& items,
                                                              absl::string_view option) {
  std::map<std::string, std::string> pairs;
  for (const std::string& item : items) {
    size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) {
      return UsageError(absl::StrCat(option, ": '", item, "' is not of the form name=value"));
    }
    if (!pairs.emplace(item.substr(0, equals), item.substr(equals + 1)).second) {
      return UsageError(absl::StrCat(option, ": '", item.substr(0, equals), "' is given twice"));
    }
  }
  return pairs;
}

}  // namespace attune::cli
