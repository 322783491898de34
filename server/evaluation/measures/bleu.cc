#include "server/evaluation/measures/bleu.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "server/evaluation/measures/characters.h"

namespace attune {
namespace {

using Counts = absl::flat_hash_map<std::string, int64_t>;

// Words hold no white space, so a space between them makes n-grams unambiguous.
Counts NGrams(const std::vector<std::string>& words, size_t n) {
  Counts counts;
  for (size_t i = 0; i + n <= words.size(); ++i) {
    std::string gram = words[i];
    for (size_t k = 1; k < n; ++k) absl::StrAppend(&gram, " ", words[i + k]);
    ++counts[gram];
  }
  return counts;
}

// The length nearest to `length`; the shorter of two equally near.
int64_t Nearest(int64_t length, const std::vector<std::vector<std::string>>& references) {
  int64_t best = references[0].size();
  for (const std::vector<std::string>& reference : references) {
    const int64_t candidate = reference.size();
    const int64_t gain = std::abs(length - best) - std::abs(length - candidate);
    if (gain > 0 || (gain == 0 && candidate < best)) best = candidate;
  }
  return best;
}

bool IsStop(char c) { return c == '.' || c == ','; }

bool PartsWords(char c) { return absl::ascii_ispunct(c) && !IsStop(c) && c != '\'' && c != '-'; }

std::string SpaceAroundPunctuation(absl::string_view text) {
  std::string out;
  for (char c : text) {
    if (PartsWords(c)) {
      out += {' ', c, ' '};
    } else {
      out += c;
    }
  }
  return out;
}

// The next three take pairs from left to right; no character is in two pairs.
template <typename Matches, typename Write>
std::string ReplacePairs(absl::string_view text, Matches matches, Write write) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i + 1 < text.size() && matches(text[i], text[i + 1])) {
      write(text[i], text[i + 1], &out);
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string SplitStopsAfterNonDigits(absl::string_view text) {
  return ReplacePairs(
      text, [](char a, char b) { return !absl::ascii_isdigit(a) && IsStop(b); },
      [](char a, char b, std::string* out) {
        *out += {a, ' ', b, ' '};
      });
}

std::string SplitStopsBeforeNonDigits(absl::string_view text) {
  return ReplacePairs(
      text, [](char a, char b) { return IsStop(a) && !absl::ascii_isdigit(b); },
      [](char a, char b, std::string* out) {
        *out += {' ', a, ' ', b};
      });
}

std::string SplitDashesAfterDigits(absl::string_view text) {
  return ReplacePairs(
      text, [](char a, char b) { return absl::ascii_isdigit(a) && b == '-'; },
      [](char a, char b, std::string* out) {
        *out += {a, ' ', b, ' '};
      });
}

}  // namespace

BleuStatistics& BleuStatistics::operator+=(const BleuStatistics& other) {
  answer_words += other.answer_words;
  reference_words += other.reference_words;
  for (int n = 0; n < kOrders; ++n) {
    matches[n] += other.matches[n];
    totals[n] += other.totals[n];
  }
  return *this;
}

std::vector<std::string> Tokenize13a(absl::string_view text) {
  // What stands at the end goes first: a dash before a line's end joins, but not before the text's.
  const std::vector<absl::string_view> words = SplitWords(text);
  if (words.empty()) return {};
  text = text.substr(0, words.back().data() + words.back().size() - text.data());
  // One after the other, as the rules do: what one makes the next may take.
  std::string line(text);
  for (const auto& [from, to] : {std::pair("<skipped>", ""),
                                 {"-\n", ""},
                                 {"\n", " "},
                                 {"&quot;", "\""},
                                 {"&amp;", "&"},
                                 {"&lt;", "<"},
                                 {"&gt;", ">"}}) {
    line = absl::StrReplaceAll(line, {{from, to}});
  }
  line = SpaceAroundPunctuation(absl::StrCat(" ", line, " "));
  line = SplitDashesAfterDigits(SplitStopsBeforeNonDigits(SplitStopsAfterNonDigits(line)));
  const std::vector<absl::string_view> split = SplitWords(line);
  return std::vector<std::string>(split.begin(), split.end());
}

BleuStatistics CountBleu(absl::string_view answer, absl::Span<const std::string> references) {
  const std::vector<std::string> words = Tokenize13a(answer);
  std::vector<std::vector<std::string>> others;
  for (const std::string& reference : references) others.push_back(Tokenize13a(reference));
  BleuStatistics out;
  out.answer_words = words.size();
  out.reference_words = Nearest(out.answer_words, others);
  for (int n = 1; n <= BleuStatistics::kOrders; ++n) {
    Counts allowed;  // the most that one reference has
    for (const std::vector<std::string>& other : others) {
      for (const auto& [gram, count] : NGrams(other, n)) allowed[gram] = std::max(allowed[gram], count);
    }
    for (const auto& [gram, count] : NGrams(words, n)) {
      const auto it = allowed.find(gram);
      if (it != allowed.end()) out.matches[n - 1] += std::min(count, it->second);
    }
    out.totals[n - 1] = std::max<int64_t>(0, out.answer_words - n + 1);
  }
  return out;
}

double BleuScore(const BleuStatistics& statistics) {
  const auto& [matches, totals] = std::tie(statistics.matches, statistics.totals);
  if (std::all_of(matches.begin(), matches.end(), [](int64_t n) { return n == 0; })) return 0;
  double log_precisions = 0, smoothing = 1;
  for (int n = 0; n < BleuStatistics::kOrders; ++n) {
    if (totals[n] == 0) return 0;
    if (matches[n] == 0) smoothing *= 2;
    const double count = matches[n] == 0 ? 1 / smoothing : matches[n];
    log_precisions += std::log(count / totals[n]);
  }
  const double ratio = static_cast<double>(statistics.reference_words) / statistics.answer_words;
  const double brevity = ratio > 1 ? 1 - ratio : 0;
  return std::exp(brevity + log_precisions / BleuStatistics::kOrders);
}

}  // namespace attune
