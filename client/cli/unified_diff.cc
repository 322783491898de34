#include "client/cli/unified_diff.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace attune::cli {
namespace {

using Lines = std::vector<absl::string_view>;

constexpr size_t kAround = 3;

// A line that stays (' '), goes ('-') or comes ('+'), and how many lines of either text are before it.
struct Edit {
  char kind;
  absl::string_view line;
  size_t old_before, new_before;
};

// The last line end ends the last line; it begins none.
Lines LinesOf(absl::string_view text) {
  absl::ConsumeSuffix(&text, "\n");
  return absl::StrSplit(text, '\n');
}

// common[i][j]: the longest common subsequence of a from i on and b from j on.
std::vector<std::vector<uint32_t>> CommonLengths(const Lines& a, const Lines& b) {
  std::vector<std::vector<uint32_t>> common(a.size() + 1, std::vector<uint32_t>(b.size() + 1, 0));
  for (size_t i = a.size(); i-- > 0;) {
    for (size_t j = b.size(); j-- > 0;) {
      common[i][j] = a[i] == b[j] ? common[i + 1][j + 1] + 1 : std::max(common[i + 1][j], common[i][j + 1]);
    }
  }
  return common;
}

std::vector<Edit> Edits(const Lines& a, const Lines& b) {
  const auto common = CommonLengths(a, b);
  std::vector<Edit> edits;
  for (size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    if (i < a.size() && j < b.size() && a[i] == b[j]) {
      edits.push_back({' ', a[i], i, j});
      ++i, ++j;
    } else if (i < a.size() && (j == b.size() || common[i + 1][j] >= common[i][j + 1])) {
      edits.push_back({'-', a[i], i, j});
      ++i;
    } else {
      edits.push_back({'+', b[j], i, j});
      ++j;
    }
  }
  return edits;
}

// "3,4": the first line and how many; the line before of none.
std::string Range(size_t before, size_t count) { return absl::StrCat(count == 0 ? before : before + 1, ",", count); }

void AppendHunk(const std::vector<Edit>& edits, size_t begin, size_t end, std::string* out) {
  const auto count = [&](char gone) {
    return static_cast<size_t>(std::count_if(edits.begin() + begin, edits.begin() + end,
                                             [gone](const Edit& edit) { return edit.kind != gone; }));
  };
  absl::StrAppend(out, "@@ -", Range(edits[begin].old_before, count('+')), " +",
                  Range(edits[begin].new_before, count('-')), " @@\n");
  for (size_t i = begin; i < end; ++i) absl::StrAppend(out, std::string(1, edits[i].kind), edits[i].line, "\n");
}

}  // namespace

std::string UnifiedDiff(absl::string_view old_name, absl::string_view old_text, absl::string_view new_name,
                        absl::string_view new_text) {
  const std::vector<Edit> edits = Edits(LinesOf(old_text), LinesOf(new_text));
  std::string out;
  const auto is_change = [](const Edit& edit) { return edit.kind != ' '; };
  for (auto at = std::find_if(edits.begin(), edits.end(), is_change); at != edits.end();) {
    const size_t first = at - edits.begin();
    // Changes with no more than twice the surroundings between them share a hunk.
    size_t last = first;
    for (size_t i = first; i < edits.size() && i <= last + 2 * kAround + 1; ++i) {
      if (is_change(edits[i])) last = i;
    }
    AppendHunk(edits, first - std::min(first, kAround), std::min(edits.size(), last + kAround + 1), &out);
    at = std::find_if(edits.begin() + static_cast<int64_t>(last) + 1, edits.end(), is_change);
  }
  if (out.empty()) return out;
  return absl::StrCat("--- ", old_name, "\n+++ ", new_name, "\n", out);
}

}  // namespace attune::cli
