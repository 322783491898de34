#include "server/comparison/report/html_text.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace attune {
namespace {

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

struct Character {
  char32_t code = 0;
  size_t bytes = 1;
  bool is_valid = false;
};

int BytesByLead(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  return lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
}

// REQUIRES: `text` is not empty.
Character FirstCharacter(absl::string_view text) {
  const auto lead = static_cast<uint8_t>(text[0]);
  const int bytes = BytesByLead(lead);
  if (bytes == 0 || text.size() < static_cast<size_t>(bytes)) return {};
  char32_t code = bytes == 1 ? lead : lead & (0x7f >> bytes);
  for (int i = 1; i < bytes; ++i) {
    const auto next = static_cast<uint8_t>(text[i]);
    if ((next & 0xc0) != 0x80) return {};
    code = code << 6 | (next & 0x3f);
  }
  const bool is_overlong = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
  const bool is_surrogate = code >= 0xd800 && code < 0xe000;
  if (is_overlong || is_surrogate || code > 0x10ffff) return {};
  return {code, static_cast<size_t>(bytes), true};
}

bool TurnsDirection(char32_t code) { return (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069); }

// Never allowed in HTML: U+0080 to U+009F, and the last two code points of each plane and U+FDD0 to U+FDEF.
bool IsNoText(char32_t code) {
  return (code >= 0x80 && code < 0xa0) || (code & 0xfffe) == 0xfffe || (code >= 0xfdd0 && code <= 0xfdef);
}

void AppendControlPicture(char32_t code, std::string* out) {
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
