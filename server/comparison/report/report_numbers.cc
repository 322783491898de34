#include "server/comparison/report/report_numbers.h"

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "server/comparison/measure_names.h"

namespace attune {
namespace {

constexpr char kNoNumber[] = "–";

// With a true minus sign, and no sign before what rounds to zero.
std::string Fixed(double number, int decimals) {
  std::string text = absl::StrFormat("%.*f", decimals, std::abs(number));
  const bool is_zero = text.find_first_not_of("0.") == std::string::npos;
  return number < 0 && !is_zero ? absl::StrCat("−", text) : text;
}

std::string ThreeDigits(double number) {
  const double size = std::abs(number);
  return Fixed(number, size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

bool IsDifferenceOfShares(absl::string_view name) {
  return name == kForgetting || name == kRetentionLoss || name == kOverfitting || name == kMemorized;
}

std::string HundredthsText(double share) { return Fixed(share * 100, 1); }

// What may follow both ends of an interval once, rather than each.
absl::string_view SharedUnit(absl::string_view text) {
  for (absl::string_view unit : {"%", " points", " MB", " GB", " ms", " s"}) {
    if (absl::EndsWith(text, unit)) return unit;
  }
  return "";
}

}  // namespace

std::string CountText(int64_t count) {
  std::string digits = absl::StrCat(count);
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(i, 1, ',');
  return digits;
}

std::string ShareText(double share) {
  return std::isfinite(share) ? absl::StrCat(HundredthsText(share), "%") : kNoNumber;
}

std::string PointsText(double difference) {
  return std::isfinite(difference) ? absl::StrCat(HundredthsText(difference), " points") : kNoNumber;
}

std::string SecondsText(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return kNoNumber;
  if (seconds == 0) return "none";
  if (seconds < 9.95) return absl::StrCat(Fixed(seconds, 1), " s");
  const double whole = std::round(seconds);
  if (whole < 60) return absl::StrFormat("%.0f s", whole);
  const double minutes = std::round(seconds / 60);
  if (whole < 600) return absl::StrFormat("%.0f min %02.0f s", std::floor(whole / 60), std::fmod(whole, 60));
  if (minutes < 60) return absl::StrFormat("%.0f min", minutes);
  return absl::StrFormat("%.0f h %02.0f min", std::floor(minutes / 60), std::fmod(minutes, 60));
}

std::string BytesText(double bytes) {
  if (!std::isfinite(bytes) || bytes < 0) return kNoNumber;
  if (bytes == 0) return "none";
  if (bytes < 1e3) return absl::StrFormat("%.0f B", bytes);
  if (bytes < 999.5e3) return absl::StrCat(ThreeDigits(bytes / 1e3), " kB");
  if (bytes < 999.5e6) return absl::StrCat(ThreeDigits(bytes / 1e6), " MB");
  return absl::StrCat(ThreeDigits(bytes / 1e9), " GB");
}

std::string MillisecondsText(double milliseconds) {
  if (!std::isfinite(milliseconds) || milliseconds < 0) return kNoNumber;
  if (milliseconds >= 9950) return SecondsText(milliseconds / 1000);
  return absl::StrCat(Fixed(milliseconds, milliseconds < 9.95 ? 1 : 0), " ms");
}

std::string PriceText(double price) {
  if (!std::isfinite(price)) return kNoNumber;
  if (price == 0) return "none";
  return price < 0.0995 ? absl::StrFormat("%.2g", price) : Fixed(price, 2);
}

std::string PlainText(double number) { return std::isfinite(number) ? ThreeDigits(number) : kNoNumber; }

std::string ValueText(const Measure& measure) {
  if (IsDifferenceOfShares(measure.name)) return PointsText(measure.value);
  if (measure.name == kTrainingSeconds || measure.name == kSearchSeconds) return SecondsText(measure.value);
  if (measure.name == kModelBytes || measure.name == kTrainingMemory) return BytesText(measure.value);
  if (measure.name == kRequestMilliseconds) return MillisecondsText(measure.value);
  if (measure.name == kPrice) return PriceText(measure.value);
  for (const MeasureInfo& info : MeasureInfos()) {
    if (info.name == measure.name && info.is_share) return ShareText(measure.value);
  }
  return PlainText(measure.value);
}

bool IsTellable(double number) { return std::abs(number) < 1e15; }

bool HasInterval(const Measure& measure) {
  return IsTellable(measure.lower) && IsTellable(measure.upper) && measure.upper > measure.lower;
}

std::string IntervalText(const Measure& measure) {
  if (!HasInterval(measure)) return "";
  Measure end = measure;
  end.value = measure.lower;
  const std::string lower = ValueText(end);
  end.value = measure.upper;
  const std::string upper = ValueText(end);
  const absl::string_view unit = SharedUnit(upper);
  // "to" where a dash before a minus sign would be hard to read.
  const absl::string_view between = measure.lower < 0 ? " to " : "–";
  return absl::StrCat(absl::StripSuffix(lower, unit), between, absl::StripSuffix(upper, " points"));
}

}  // namespace attune
