#include "server/adapters/token_difference.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/utf8.h"

namespace attune {
namespace {

constexpr absl::string_view kSentences[] = {
    "The quick brown fox jumps over 13 lazy dogs; it's 3.14159, isn't it?", "  def f(x):\n\t\treturn x**2  # square\r\n\r\n",
    "caf\xC3\xA9 na\xC3\xAFve e\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD\xEF\xBC\x8C\xE4\xB8\x96\xE7\x95\x8C \xD0\x9F\xD1\x80\xD0\xB8",
    "\xF0\x9F\x98\x80\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9 <html>&amp;</html> \xC2\xA0\xE2\x80\x83\xE3\x80\x80", " leading", "trailing ", ""};
constexpr int kLongestRun = 80;

std::string SameIds(const Tokenizer& written, const Tokenizer& read, absl::string_view text, bool parse_special) {
  if (written.Encode(text, parse_special) == read.Encode(text, parse_special)) return "";
  return absl::StrCat("the text \"", text, "\" has other tokens");
}

std::string RunDifference(const Tokenizer& written, const Tokenizer& read) {
  for (const char c : {' ', '\n', '\t', '-', '0'}) {
    for (int length = 1; length <= kLongestRun; ++length) {
      std::string difference = SameIds(written, read, absl::StrCat(std::string(length, c), "a"), true);
      if (!difference.empty()) return difference;
    }
  }
  return "";
}

}  // namespace

std::string TokenDifference(const Tokenizer& written, const Tokenizer& read) {
  std::string before;
  for (int32_t id = written.vocab_size() - 1; id >= 0; --id) {
    const std::string token = written.TokenBytes(id);
    if (token.empty()) continue;
    if (token != read.TokenBytes(id) || written.IsSpecial(id) != read.IsSpecial(id)) {
      return absl::StrCat("token ", id, ", \"", token, "\", is another");
    }
    if (ReplaceBrokenUtf8(token) != token) continue;  // a part of a character
    for (const bool parse_special : {true, false}) {
      std::string difference = SameIds(written, read, token, parse_special);
      if (difference.empty()) difference = SameIds(written, read, token + before, parse_special);
      if (!difference.empty()) return difference;
    }
    before = token;
  }
  for (const absl::string_view text : kSentences) {
    std::string difference = SameIds(written, read, text, true);
    if (!difference.empty()) return difference;
  }
  return RunDifference(written, read);
}

}  // namespace attune
