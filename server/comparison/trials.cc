#include "server/comparison/trials.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attune {
namespace {

constexpr int32_t kDefaultRank = 16, kDefaultVirtualTokens = 20;

// Prompts and prefixes are far more sensitive to their learning rate than weights.
double RateStep(ContenderKind kind) {
  return kind == ContenderKind::kSoftPrompt || kind == ContenderKind::kPrefix ? 3 : 2;
}

bool HasSize(ContenderKind kind) {
  return kind == ContenderKind::kLora || kind == ContenderKind::kHybrid || kind == ContenderKind::kSoftPrompt ||
         kind == ContenderKind::kPrefix;
}

TrialSettings SettingsOf(const Trial& trial) { return {trial.rate_multiplier, trial.size_multiplier}; }

// Of the size that the defaults have.
const Trial* FindRate(const std::vector<Trial>& done, double rate) {
  for (const Trial& trial : done) {
    if (SettingsOf(trial) == TrialSettings{rate, 1}) return &trial;
  }
  return nullptr;
}

bool Beats(const Trial* a, const Trial* b) {
  return a && b && a->state == Trial::State::kDone && (b->state != Trial::State::kDone || a->validation.value > b->validation.value);
}

// The next learning rate to try, with the default size.
std::optional<double> NextRate(const std::vector<Trial>& done, double step) {
  const Trial *usual = FindRate(done, 1), *higher = FindRate(done, step), *lower = FindRate(done, 1 / step);
  if (!higher) return step;
  if (Beats(higher, usual)) return FindRate(done, step * step) ? std::nullopt : std::optional<double>(step * step);
  if (!lower) return 1 / step;
  if (Beats(lower, usual)) return FindRate(done, 1 / (step * step)) ? std::nullopt : std::optional<double>(1 / (step * step));
  return std::nullopt;
}

bool WasTried(const std::vector<Trial>& done, const TrialSettings& settings) {
  return std::any_of(done.begin(), done.end(), [&](const Trial& trial) { return SettingsOf(trial) == settings; });
}

int32_t Sized(int32_t usual, double size) { return std::max<int32_t>(1, static_cast<int32_t>(std::lround(usual * size))); }

}  // namespace

std::optional<TrialSettings> NextTrial(ContenderKind kind, const std::vector<Trial>& done, int64_t most,
                                       bool rate_is_given) {
  if (!IsTuned(kind) || static_cast<int64_t>(done.size()) >= most) return std::nullopt;
  if (done.empty()) return TrialSettings();
  // A text prompt's search tries its own candidates.
  if (kind == ContenderKind::kTextPrompt || done[0].state != Trial::State::kDone) return std::nullopt;
  if (!rate_is_given) {
    if (const std::optional<double> rate = NextRate(done, RateStep(kind))) return TrialSettings{*rate, 1};
  }
  if (!HasSize(kind)) return std::nullopt;
  const double rate = done[BestTrial(done)].rate_multiplier;
  for (double size : {2.0, 0.5}) {
    if (!WasTried(done, {rate, size})) return TrialSettings{rate, size};
  }
  return std::nullopt;
}

int32_t BestTrial(const std::vector<Trial>& trials) {
  int32_t best = -1;
  for (size_t i = 0; i < trials.size(); ++i) {
    if (trials[i].state != Trial::State::kDone) continue;
    if (best < 0 || trials[i].validation.value > trials[best].validation.value) best = static_cast<int32_t>(i);
  }
  return best;
}

bool IsHopeless(const std::vector<Trial>& trials, const Measure& leader) {
  const int32_t best = BestTrial(trials);
  return best >= 0 && leader.count > 0 && trials[best].validation.upper < leader.lower;
}

MethodSpec MethodFor(ContenderKind kind, const TrialSettings& settings, int64_t layers) {
  switch (kind) {
    case ContenderKind::kSoftPrompt: {
      SoftPromptSpec spec;
      spec.num_virtual_tokens = Sized(kDefaultVirtualTokens, settings.size);
      return spec;
    }
    case ContenderKind::kPrefix: {
      PrefixSpec spec;
      spec.num_virtual_tokens = Sized(kDefaultVirtualTokens, settings.size);
      return spec;
    }
    case ContenderKind::kTextPrompt: return TextPromptSpec();
    case ContenderKind::kIa3: return Ia3Spec();
    case ContenderKind::kPartial: {
      PartialSpec spec;
      spec.last_layers = static_cast<int32_t>(std::max<int64_t>(1, layers / 4));
      return spec;
    }
    case ContenderKind::kFull: return FullSpec();
    default: {
      LoraSpec spec;
      spec.rank = Sized(kDefaultRank, settings.size);
      return spec;
    }
  }
}

std::string DescribeSettings(ContenderKind kind, const TrialSettings& settings) {
  std::vector<std::string> parts;
  if (settings.rate != 1) parts.push_back(absl::StrCat("learning rate x", settings.rate));
  if (settings.size != 1) {
    const bool is_prompt = kind == ContenderKind::kSoftPrompt || kind == ContenderKind::kPrefix;
    parts.push_back(is_prompt ? absl::StrCat(Sized(kDefaultVirtualTokens, settings.size), " virtual tokens")
                              : absl::StrCat("rank ", Sized(kDefaultRank, settings.size)));
  }
  return parts.empty() ? "defaults" : absl::StrJoin(parts, ", ");
}

}  // namespace attune
