#include "server/tokenizer/nfc.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "common/utf8.h"
#include "server/tokenizer/nfc_tables.h"

namespace attune {
namespace {

// Below this every character is its own form C, and composes with none before it.
constexpr uint32_t kFirstOfInterest = 0x300;

// Hangul syllables are made of two or three letters by arithmetic (Unicode 3.12).
constexpr uint32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kTailCount;

struct Character {
  uint32_t code;
  uint8_t combining_class;
};

uint8_t ClassOf(uint32_t code) {
  const CombiningRange* const end = std::end(kCombiningRanges);
  const CombiningRange* const range = std::lower_bound(
      std::begin(kCombiningRanges), end, code, [](const CombiningRange& r, uint32_t c) { return r.last < c; });
  return range != end && range->first <= code ? range->combining_class : 0;
}

const CanonicalPair* Find(uint32_t code) {
  const CanonicalPair* const end = std::end(kCanonicalPairs);
  const CanonicalPair* const pair = std::lower_bound(
      std::begin(kCanonicalPairs), end, code, [](const CanonicalPair& p, uint32_t c) { return p.code < c; });
  return pair != end && pair->code == code ? pair : nullptr;
}

void Decompose(uint32_t code, std::vector<Character>* out) {
  if (code - kSyllables < kSyllableCount) {
    const uint32_t index = code - kSyllables, tail = index % kTailCount;
    out->push_back({kLeads + index / (kVowelCount * kTailCount), 0});
    out->push_back({kVowels + index / kTailCount % kVowelCount, 0});
    if (tail > 0) out->push_back({kTails + tail, 0});
    return;
  }
  const CanonicalPair* const pair = Find(code);
  if (pair == nullptr) {
    out->push_back({code, ClassOf(code)});
    return;
  }
  Decompose(pair->first, out);
  if (pair->second != 0) Decompose(pair->second, out);
}

// What two characters make together; 0: nothing.
uint32_t Compose(uint32_t first, uint32_t second) {
  static const auto* const composed = [] {
    auto* const map = new std::map<std::pair<uint32_t, uint32_t>, uint32_t>;
    for (const CanonicalPair& pair : kCanonicalPairs) {
      if (pair.composes) map->emplace(std::make_pair(pair.first, pair.second), pair.code);
    }
    return map;
  }();
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTailCount;
  }
  const uint32_t syllable = first - kSyllables;
  if (syllable < kSyllableCount && syllable % kTailCount == 0 && second - kTails - 1 < kTailCount - 1) {
    return first + (second - kTails);
  }
  const auto it = composed->find({first, second});
  return it == composed->end() ? 0 : it->second;
}

// Marks between two characters of class 0 are ordered by class, those of one class as they came.
void Order(std::vector<Character>* text) {
  for (auto begin = text->begin(); begin != text->end();) {
    if (begin->combining_class == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, text->end(), [](const Character& c) { return c.combining_class == 0; });
    std::stable_sort(begin, end, [](const Character& a, const Character& b) { return a.combining_class < b.combining_class; });
    begin = end;
  }
}

// Each character joins the last one of class 0 unless one between them keeps it off.
std::vector<Character> Composed(const std::vector<Character>& text) {
  std::vector<Character> out;
  size_t starter = 0;
  bool has_starter = false;
  for (const Character& c : text) {
    const bool adjacent = has_starter && out.size() == starter + 1;
    const bool reaches = adjacent || (has_starter && out.back().combining_class < c.combining_class);
    const uint32_t composed = reaches ? Compose(out[starter].code, c.code) : 0;
    if (composed != 0) {
      out[starter].code = composed;
      continue;
    }
    if (c.combining_class == 0) {
      starter = out.size();
      has_starter = true;
    }
    out.push_back(c);
  }
  return out;
}

void AppendNormalized(std::vector<Character>* stretch, std::string* out) {
  Order(stretch);
  for (const Character& c : Composed(*stretch)) AppendUtf8(c.code, out);
  stretch->clear();
}

bool NeedsNothing(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (static_cast<uint8_t>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Utf8Char c = DecodeUtf8(text, i);
    if (c.valid && c.code >= kFirstOfInterest) return false;
    i += c.length;
  }
  return true;
}

}  // namespace

std::string ToNfc(absl::string_view text) {
  if (NeedsNothing(text)) return std::string(text);
  std::string out;
  std::vector<Character> stretch;  // valid characters, decomposed
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text, i);
    if (c.valid) {
      Decompose(c.code, &stretch);
    } else {
      AppendNormalized(&stretch, &out);
      out.append(text.data() + i, c.length);
    }
    i += c.length;
  }
  AppendNormalized(&stretch, &out);
  return out;
}

}  // namespace attune
