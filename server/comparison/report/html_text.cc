#include "server/comparison/report/html_text.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "common/utf8.h"

namespace attune {
namespace {

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

struct Character {
  uint32_t code = 0;
  size_t bytes = 1;  // a byte of a broken one is one of its own
  bool is_valid = false;
};

// REQUIRES: `text` is not empty.
Character FirstCharacter(absl::string_view text) {
  const Utf8Char c = DecodeUtf8(text, 0);
  return c.valid ? Character{c.code, c.length, true} : Character();
}

bool TurnsDirection(uint32_t code) { return (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069); }

// Never allowed in HTML: U+0080 to U+009F, and the last two code points of each plane and U+FDD0 to U+FDEF.
bool IsNoText(uint32_t code) {
  return (code >= 0x80 && code < 0xa0) || (code & 0xfffe) == 0xfffe || (code >= 0xfdd0 && code <= 0xfdef);
}

void AppendControlPicture(uint32_t code, std::string* out) {
  out->append("\xe2\x90");
  out->push_back(static_cast<char>(0x80 + (code == 0x7f ? 0x21 : code)));
}

void AppendEscaped(const Character& character, absl::string_view bytes, std::string* out) {
  if (!character.is_valid || TurnsDirection(character.code) || IsNoText(character.code)) {
    absl::StrAppend(out, kReplacement);
    return;
  }
  switch (character.code) {
    case '&':
      out->append("&amp;");
      return;
    case '<':
      out->append("&lt;");
      return;
    case '>':
      out->append("&gt;");
      return;
    case '"':
      out->append("&quot;");
      return;
    case '\'':
      out->append("&#39;");
      return;
    case '\t':
    case '\n':
      out->push_back(static_cast<char>(character.code));
      return;
    default:
      break;
  }
  if (character.code < 0x20 || character.code == 0x7f) return AppendControlPicture(character.code, out);
  absl::StrAppend(out, bytes);
}

}  // namespace

std::string EscapeHtml(absl::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  while (!text.empty()) {
    const Character character = FirstCharacter(text);
    AppendEscaped(character, text.substr(0, character.bytes), &out);
    text.remove_prefix(character.bytes);
  }
  return out;
}

std::string Isolated(absl::string_view text) { return absl::StrCat("<bdi>", EscapeHtml(text), "</bdi>"); }

std::string CutText(absl::string_view text, int max_characters) {
  absl::string_view rest = text;
  for (int i = 0; i < max_characters && !rest.empty(); ++i) rest.remove_prefix(FirstCharacter(rest).bytes);
  if (rest.empty()) return std::string(text);
  return absl::StrCat(text.substr(0, text.size() - rest.size()), "…");
}

}  // namespace attune
