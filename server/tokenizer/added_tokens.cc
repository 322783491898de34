#include "server/tokenizer/added_tokens.h"

#include "common/utf8.h"


namespace attune {
namespace {

// The start of the white space that ends at `end`.
size_t SpaceBefore(absl::string_view text, size_t begin, size_t end) {
  while (end > begin) {
    size_t start = end - 1;
    while (start > begin && end - start < 4 && IsUtf8Continuation(text[start])) --start;
    const Utf8Char c = DecodeUtf8(text, start);
    if (!c.valid || start + c.length != end || !IsUnicodeSpace(c.code)) break;
    end = start;
  }
  return end;
}

size_t SpaceAfter(absl::string_view text, size_t begin) {
  while (begin < text.size()) {
    const Utf8Char c = DecodeUtf8(text, begin);
    if (!c.valid || !IsUnicodeSpace(c.code)) break;
    begin += c.length;
  }
  return begin;
}

}  // namespace

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens) : ends_(1, -1) {
  for (const AddedToken& token : tokens) {
    if (token.text.empty()) continue;
    uint32_t node = 0;
    for (const char c : token.text) {
      const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
      const auto [it, inserted] = next_.try_emplace(key, static_cast<uint32_t>(ends_.size()));
      if (inserted) ends_.push_back(-1);
      node = it->second;
    }
    starts_[static_cast<uint8_t>(token.text[0])] = true;
    ends_[node] = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(token);
  }
}

AddedTokens::Match AddedTokens::Longest(absl::string_view text, size_t start, bool parse_special) const {
  Match match;
  uint32_t node = 0;
  for (size_t i = start; i < text.size(); ++i) {
    const auto it = next_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
    if (it == next_.end()) break;
    node = it->second;
    const int32_t token = ends_[node];
    if (token >= 0 && (parse_special || !tokens_[token].special)) match = {i + 1, token};
  }
  return match;
}

std::vector<TextPiece> AddedTokens::Split(absl::string_view text, bool parse_special) const {
  std::vector<TextPiece> pieces;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    Match match;
    if (starts_[static_cast<uint8_t>(text[i])]) match = Longest(text, i, parse_special);
    if (match.token < 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[match.token];
    const size_t start = token.strip_left ? SpaceBefore(text, begin, i) : i;
    const size_t end = token.strip_right ? SpaceAfter(text, match.end) : match.end;
    if (start > begin) pieces.push_back({text.substr(begin, start - begin), -1});
    pieces.push_back({text.substr(start, end - start), token.id});
    begin = i = end;
  }
  if (begin < text.size()) pieces.push_back({text.substr(begin), -1});
  return pieces;
}

}  // namespace attune
