#include "common/utf8.h"

#include <algorithm>

namespace attune {
namespace {

// Length, and the range of the second byte, by the first byte (Unicode table 3-7).
struct Lead {
  int length;
  uint8_t low, high;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Char DecodeUtf8(absl::string_view text, size_t position) {
  const uint8_t first = text[position];
  const Lead lead = LeadOf(first);
  Utf8Char result;
  if (lead.length == 0) return result;
  if (lead.length == 1) return {first, 1, true, false};
  uint32_t code = first & (0xFF >> (lead.length + 1));
  for (int i = 1; i < lead.length; ++i) {
    if (position + i >= text.size()) {
      result.length = i;
      result.cut = true;
      return result;
    }
    const uint8_t byte = text[position + i];
    const uint8_t low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) {
      result.length = i;
      return result;
    }
    code = code << 6 | (byte & 0x3F);
  }
  return {code, static_cast<size_t>(lead.length), true, false};
}

void AppendUtf8(uint32_t code, std::string* out) {
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xC0 | code >> 6));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | code >> 12));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | code >> 18));
    out->push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

bool IsValidUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Char character = DecodeUtf8(text, i);
    if (!character.valid) return false;
    i += character.length;
  }
  return true;
}

size_t CountUtf8Characters(absl::string_view text) {
  return text.size() - std::count_if(text.begin(), text.end(), IsUtf8Continuation);
}

size_t CharacterStartBefore(absl::string_view text, size_t position) {
  while (position > 0 && position < text.size() && IsUtf8Continuation(text[position])) --position;
  return position;
}

size_t CharacterStartAfter(absl::string_view text, size_t position) {
  while (position < text.size() && IsUtf8Continuation(text[position])) ++position;
  return position;
}

std::string ReplaceBrokenUtf8(absl::string_view text, bool keep_cut) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text, i);
    if (c.valid || (c.cut && keep_cut)) {
      out.append(text.data() + i, c.length);
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += c.length;
  }
  return out;
}

size_t CutUtf8Bytes(absl::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const Utf8Char c = DecodeUtf8(text, text.size() - back);
    if (c.cut && c.length == back) return back;
  }
  return 0;
}

bool IsUnicodeSpace(uint32_t code) {
  return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

}  // namespace attune
