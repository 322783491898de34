#include "server/evaluation/measures/number_match.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace attune {
namespace {

bool IsDigit(absl::string_view text, size_t i) { return i < text.size() && absl::ascii_isdigit(text[i]); }

size_t SkipDigits(absl::string_view text, size_t i) {
  while (IsDigit(text, i)) ++i;
  return i;
}

// Whether a comma and just three digits stand at i.
bool IsThousands(absl::string_view text, size_t i) {
  return i < text.size() && text[i] == ',' && SkipDigits(text, i + 1) == i + 4;
}

// The end of the number that starts at digit i.
size_t NumberEnd(absl::string_view text, size_t i) {
  const size_t begin = i;
  i = SkipDigits(text, i);
  if (i - begin <= 3) {
    while (IsThousands(text, i)) i += 4;
  }
  if (i < text.size() && text[i] == '.' && IsDigit(text, i + 1)) i = SkipDigits(text, i + 1);
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    const size_t sign = i + 1 < text.size() && (text[i + 1] == '-' || text[i + 1] == '+') ? 1 : 0;
    if (IsDigit(text, i + 1 + sign)) i = SkipDigits(text, i + 1 + sign);
  }
  return i;
}

bool IsNegative(absl::string_view text, size_t digit) {
  if (digit == 0 || text[digit - 1] != '-') return false;
  return digit == 1 || !(absl::ascii_isalnum(text[digit - 2]) || text[digit - 2] == ')');
}

}  // namespace

std::optional<double> LastNumber(absl::string_view text) {
  std::optional<double> last;
  for (size_t i = 0; i < text.size();) {
    if (!IsDigit(text, i)) {
      ++i;
      continue;
    }
    const size_t end = NumberEnd(text, i);
    std::string digits(text.substr(i, end - i));
    digits.erase(std::remove(digits.begin(), digits.end(), ','), digits.end());
    double value = 0;
    if (absl::SimpleAtod(digits, &value)) last = IsNegative(text, i) ? -value : value;
    i = end;
  }
  return last;
}

bool NumbersMatch(absl::string_view answer, absl::string_view reference, double tolerance) {
  const std::optional<double> a = LastNumber(answer), b = LastNumber(reference);
  if (!a || !b) return false;
  return *a == *b || std::abs(*a - *b) <= tolerance * std::max(std::abs(*a), std::abs(*b));
}

}  // namespace attune
