#include "client/cli/alias_targets.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "client/cli/context.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

constexpr double kWhole = 1'000'000;  // the greatest weight, so that shares have four decimals of a percent

v1::Alias::Target MakeTarget(absl::string_view model, int64_t weight) {
  v1::Alias::Target target;
  target.set_model(FullName(kModels, model));
  target.set_weight(static_cast<int32_t>(weight));
  return target;
}

// 900000 and 100000 become 9 and 1.
AliasTargets Reduced(AliasTargets targets) {
  int32_t divisor = 0;
  for (const auto& target : targets) divisor = std::gcd(divisor, target.weight());
  for (auto& target : targets) target.set_weight(target.weight() / std::max(divisor, 1));
  return targets;
}

absl::StatusOr<int64_t> ParseWeight(absl::string_view item, absl::string_view text, bool is_share) {
  double share = 0;
  int64_t weight = 0;
  if (is_share && absl::SimpleAtod(text, &share) && share > 0 && share <= 100)
    weight = std::llround(share / 100 * kWhole);
  if (!is_share && !absl::SimpleAtoi(text, &weight)) weight = 0;
  if (weight >= 1 && weight <= kWhole) return weight;
  return UsageError(absl::StrCat("'", item,
                                 "' is no MODEL=WEIGHT with a weight of 1 to 1000000, nor MODEL=SHARE% with a ",
                                 "share above 0% and up to 100%"));
}

}  // namespace

absl::StatusOr<AliasTargets> ParseTargets(const std::vector<std::string>& items) {
  if (items.size() == 1 && items[0].find('=') == std::string::npos) return AliasTargets{MakeTarget(items[0], 1)};
  AliasTargets targets;
  size_t shares = 0;
  int64_t sum = 0;
  for (absl::string_view item : items) {
    const size_t equals = item.find('=');
    if (equals == 0 || equals == absl::string_view::npos) {
      return UsageError(
          absl::StrCat("'", item, "' has no weight: several models need MODEL=WEIGHT or MODEL=SHARE% each"));
    }
    absl::string_view text = item.substr(equals + 1);
    const bool is_share = absl::ConsumeSuffix(&text, "%");
    ATTUNE_ASSIGN_OR_RETURN(const int64_t weight, ParseWeight(item, text, is_share));
    shares += is_share;
    sum += weight;
    targets.push_back(MakeTarget(item.substr(0, equals), weight));
  }
  if (shares == 0) return targets;
  if (shares < items.size()) return UsageError("give all models a weight, or all a share in percent");
  if (sum != static_cast<int64_t>(kWhole)) {
    return UsageError(absl::StrCat("the shares sum to ", static_cast<double>(sum) / kWhole * 100, "%, not to 100%"));
  }
  return Reduced(std::move(targets));
}

AliasTargets WithShare(const AliasTargets& present, const std::string& model, double percent) {
  double others = 0;
  for (const auto& target : present) {
    if (target.model() != model) others += target.weight();
  }
  if (others == 0) return {MakeTarget(model, 1)};
  const double rest = kWhole * (1 - percent / 100);
  AliasTargets targets;
  for (const auto& target : present) {
    if (target.model() == model) continue;
    targets.push_back(MakeTarget(target.model(), std::max<int64_t>(1, std::llround(target.weight() / others * rest))));
  }
  targets.push_back(MakeTarget(model, std::max<int64_t>(1, std::llround(kWhole - rest))));
  return Reduced(std::move(targets));
}

std::string FormatTargets(const google::protobuf::RepeatedPtrField<v1::Alias::Target>& targets) {
  double sum = 0;
  for (const auto& target : targets) sum += target.weight();
  std::string out;
  for (const auto& target : targets) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", BareName(target.model()));
    if (targets.size() > 1) absl::StrAppendFormat(&out, " %.3g%%", 100 * target.weight() / sum);
  }
  return out;
}

}  // namespace attune::cli
