#include <locale.h>
#include <wctype.h>

#include <algorithm>
#include <vector>

#include "common/utf8.h"
#include "server/tokenizer/jinja_runtime.h"

namespace attune::jinja {
namespace {

bool IsLetter(uint32_t code, locale_t locale) { return iswalpha_l(code, locale) != 0; }

// Unicode's simple case mapping; never freed, as it is used until the end.
locale_t Locale() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  return locale;
}

enum class Case { kUpper, kLower };

void AppendCased(uint32_t code, Case to, std::string* out) {
  const locale_t locale = Locale();
  if (code == 0xDF && to == Case::kUpper) {
    *out += "SS";
  } else if (locale == nullptr) {
    const bool letter = to == Case::kUpper ? code >= 'a' && code <= 'z' : code >= 'A' && code <= 'Z';
    AppendUtf8(letter ? code ^ 0x20 : code, out);
  } else {
    AppendUtf8(to == Case::kUpper ? towupper_l(code, locale) : towlower_l(code, locale), out);
  }
}

// Maps each character to the case that `choose(first letter of a word)` gives.
template <typename Choose>
std::string MapCase(const std::string& text, Choose choose) {
  std::string out;
  bool after_letter = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text, i);
    if (c.valid) {
      AppendCased(c.code, choose(i, after_letter), &out);
    } else {
      out.append(text, i, c.length);
    }
    const locale_t locale = Locale();
    after_letter = c.valid && locale != nullptr && IsLetter(c.code, locale);
    i += c.length;
  }
  return out;
}

}  // namespace

bool IsPythonSpace(uint32_t code) { return IsUnicodeSpace(code) || (code >= 0x1C && code <= 0x1F); }

std::string Strip(const std::string& text, bool left, bool right, const std::string* set) {
  std::vector<uint32_t> codes;
  for (size_t i = 0; set != nullptr && i < set->size(); i += DecodeUtf8(*set, i).length) {
    codes.push_back(DecodeUtf8(*set, i).code);
  }
  const auto drops = [&](uint32_t code) {
    return set == nullptr ? IsPythonSpace(code) : std::find(codes.begin(), codes.end(), code) != codes.end();
  };
  // Where what stays begins, and where it ends; nothing stays at first.
  size_t begin = text.size(), end = left ? text.size() : 0;
  bool found = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text, i);
    if (!drops(c.code)) {
      if (!found) begin = i;
      found = true;
      end = i + c.length;
    }
    i += c.length;
  }
  if (!left) begin = 0;
  if (!right) end = text.size();
  return begin < end ? text.substr(begin, end - begin) : "";
}

std::string Upper(const std::string& text) {
  return MapCase(text, [](size_t, bool) { return Case::kUpper; });
}

std::string Lower(const std::string& text) {
  return MapCase(text, [](size_t, bool) { return Case::kLower; });
}

std::string Title(const std::string& text) {
  return MapCase(text, [](size_t, bool after_letter) { return after_letter ? Case::kLower : Case::kUpper; });
}

std::string Capitalize(const std::string& text) {
  return MapCase(text, [](size_t place, bool) { return place == 0 ? Case::kUpper : Case::kLower; });
}

std::string Replace(const std::string& text, const std::string& from, const std::string& to, int64_t count) {
  std::string out;
  size_t at = 0;
  for (; count != 0 && at <= text.size(); --count) {
    if (from.empty()) {  // before every character, and at the end
      out += to;
      if (at == text.size()) return out;
      const size_t length = DecodeUtf8(text, at).length;
      out.append(text, at, length);
      at += length;
      continue;
    }
    const size_t found = text.find(from, at);
    if (found == std::string::npos) break;
    out.append(text, at, found - at);
    out += to;
    at = found + from.size();
    if (out.size() > Runtime::kMaxTextBytes) return out;
  }
  if (at < text.size()) out.append(text, at);
  return out;
}

}  // namespace attune::jinja
