#include "server/advice/ranking_needs.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/advice/finding.h"

namespace attune {
namespace {

constexpr double kCostOfDoubling = 0.005, kRequestDoubling = 0.01;
constexpr double kDays = 8, kMonth = 31, kLongLife = 180;
constexpr double kTrainingForDays = 0.10, kTrainingForAMonth = 0.05;
constexpr double kCopyATenant = 0.02;
constexpr int64_t kManyTenants = 10;

// Looks at one need after the other.
class Weighing {
 public:
  Weighing(const Evidence& evidence, const Needs& needs, Recommendation* recommendation)
      : cost_(evidence.costs.at(recommendation->kind)), evidence_(evidence), needs_(needs), r_(recommendation) {}

  NeedsEffect Weigh() {
    WeighFit();
    WeighSkills();
    WeighAccuracy();
    WeighDeadline();
    WeighBudget();
    WeighLatency();
    WeighTenants();
    WeighLifetime();
    WeighCost();
    WeighRequests();
    r_->meets_needs = effect_.broken == 0;
    return effect_;
  }

 private:
  void For(std::string text, std::vector<std::string> evidence) {
    r_->reasons.push_back({std::move(text), std::move(evidence), false});
  }
  void Against(std::string text, std::vector<std::string> evidence) {
    r_->reasons.push_back({std::move(text), std::move(evidence), true});
  }
  // Its own copy of the model's weights, and a share of them that may forget.
  bool OwnsWeights() const { return r_->kind == ContenderKind::kFull || r_->kind == ContenderKind::kPartial; }

  void WeighFit() {
    if (cost_.why_not.empty()) return;
    effect_.broken += kLast;
    Against(absl::StrCat("It cannot run here: ", cost_.why_not), {std::string(kDeviceSeconds)});
  }

  void WeighSkills() {
    if (!needs_.keep_skills) return;
    if (OwnsWeights()) {
      effect_.broken += kLast;
      Against("It trains the model's own weights, which may forget what else they could do; other skills must stay.",
              {"needs.keep_skills"});
    } else if (ChangesWeights(r_->kind)) {
      For("The model's own weights stay: without the adapter it does what it did.", {"needs.keep_skills"});
    } else {
      For("No weight changes: nothing can be forgotten.", {"needs.keep_skills"});
    }
  }

  void WeighAccuracy() {
    if (needs_.accuracy == 0) return;
    const std::string wanted = absl::StrFormat("%.3g", needs_.accuracy);
    if (r_->upper < needs_.accuracy) {
      ++effect_.broken;
      Against(absl::StrFormat("Even at the upper end of its range, %.2f, it stays below the %s that is wanted.",
                              r_->upper, wanted),
              {"needs.accuracy"});
    } else if (r_->lower >= needs_.accuracy) {
      For(absl::StrFormat(
              "Even at the lower end of its range, %.2f, it reaches the %s that is wanted; more would bring nothing.",
              r_->lower, wanted),
          {"needs.accuracy"});
    } else {
      For(absl::StrFormat("The %s that is wanted lies inside its range: it may reach it or not.", wanted),
          {"needs.accuracy"});
    }
  }

  void WeighDeadline() {
    if (needs_.deadline_seconds == 0 || !cost_.why_not.empty()) return;
    const std::vector<std::string> evidence = {"needs.deadline", std::string(kDeviceSeconds)};
    if (r_->device_seconds == 0) {
      For("Nothing has to be made: it is there at once.", {"needs.deadline"});
    } else if (r_->device_seconds > needs_.deadline_seconds) {
      ++effect_.broken;
      Against(absl::StrCat("It takes ", AboutTime(r_->device_seconds), ", longer than the ",
                           AboutTime(needs_.deadline_seconds), " that there are."),
              evidence);
    } else {
      For(absl::StrCat("It is done in ", AboutTime(r_->device_seconds), ", in time."), evidence);
    }
  }

  void WeighBudget() {
    if (needs_.budget == 0 || needs_.price_per_device_hour == 0 || r_->price == 0) return;
    const std::vector<std::string> evidence = {"needs.budget", std::string(kDeviceSeconds)};
    if (r_->price > needs_.budget) {
      ++effect_.broken;
      Against(absl::StrFormat("It costs about %.2f, more than the %.2f that there are.", r_->price, needs_.budget),
              evidence);
    } else {
      For(absl::StrFormat("It costs about %.2f of the %.2f that there are.", r_->price, needs_.budget), evidence);
    }
  }

  void WeighLatency() {
    if (needs_.request_milliseconds == 0 || cost_.request_milliseconds == 0) return;
    const bool is_slow = cost_.request_milliseconds > needs_.request_milliseconds;
    std::string text =
        absl::StrFormat("A request alone takes about %.0f ms, %s the %.0f ms that are wanted.",
                        cost_.request_milliseconds, is_slow ? "above" : "within", needs_.request_milliseconds);
    effect_.broken += is_slow;
    is_slow ? Against(std::move(text), {"needs.latency"}) : For(std::move(text), {"needs.latency"});
  }

  void WeighTenants() {
    if (needs_.tenants < 2) return;
    if (!OwnsWeights()) {
      For(absl::StrCat("One base model in memory serves all ", needs_.tenants, " tenants."), {"needs.tenants"});
      return;
    }
    effect_.penalty += kCopyATenant;
    if (needs_.tenants >= kManyTenants) ++effect_.broken;
    Against(absl::StrCat("Each of ", needs_.tenants, " tenants would need a whole copy of the model in memory."),
            {"needs.tenants"});
  }

  void WeighLifetime() {
    if (needs_.lifetime_days == 0) return;
    const std::string days = absl::StrFormat("%.3g days", needs_.lifetime_days);
    const bool is_prompt = !ChangesWeights(r_->kind);
    if (needs_.lifetime_days >= kLongLife) {
      if (!is_prompt) For(absl::StrCat("Over ", days, " the cost of training is soon earned."), {"needs.lifetime"});
      return;
    }
    if (needs_.lifetime_days >= kMonth) return;
    if (is_prompt) {
      For(absl::StrCat("It lives only ", days, ": text is changed in minutes, and nothing has to be trained again."),
          {"needs.lifetime"});
      return;
    }
    const bool is_days = needs_.lifetime_days < kDays;
    effect_.penalty += is_days ? kTrainingForDays : kTrainingForAMonth;
    Against(absl::StrCat("Training for only ", days, " has to bring ", is_days ? 10 : 5,
                         " points more than a prompt to be worth it."),
            {"needs.lifetime"});
  }

  void WeighCost() {
    double doubling = kCostOfDoubling;
    if (needs_.lifetime_days > 0 && needs_.lifetime_days < kMonth) doubling *= 2;
    if (needs_.lifetime_days >= kLongLife) doubling /= 2;
    effect_.penalty += doubling * std::log2(1 + r_->device_seconds / 60);
  }

  // Every request pays for a longer prompt.
  void WeighRequests() {
    const auto plain = evidence_.costs.find(ContenderKind::kZeroShot);
    if (plain == evidence_.costs.end() || plain->second.request_milliseconds == 0) return;
    const double times = cost_.request_milliseconds / plain->second.request_milliseconds;
    if (times <= 1) return;
    effect_.penalty += kRequestDoubling * std::log2(times);
    if (times < 1.25) return;
    Against(absl::StrFormat("Its longer prompt makes each request take %.1f times as long.", times),
            {std::string(kRequestTime)});
  }

  const MethodCost& cost_;
  const Evidence& evidence_;
  const Needs& needs_;
  Recommendation* const r_;
  NeedsEffect effect_;
};

}  // namespace

NeedsEffect WeighNeeds(const Evidence& evidence, const Needs& needs, Recommendation* recommendation) {
  return Weighing(evidence, needs, recommendation).Weigh();
}

}  // namespace attune
