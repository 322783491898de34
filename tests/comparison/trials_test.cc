#include "server/comparison/trials.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace attune {
namespace {

Trial Done(const TrialSettings& settings, double value) {
  Trial trial;
  trial.state = Trial::State::kDone;
  trial.rate_multiplier = settings.rate;
  trial.size_multiplier = settings.size;
  trial.validation = {"quality", value, value - 0.02, value + 0.02, 100};
  return trial;
}

// The settings that are tried where a setting's figure is what `quality` says.
std::vector<TrialSettings> Search(ContenderKind kind, int64_t most, bool rate_is_given,
                                  const std::function<double(const TrialSettings&)>& quality) {
  std::vector<Trial> done;
  std::vector<TrialSettings> tried;
  while (const std::optional<TrialSettings> next = NextTrial(kind, done, most, rate_is_given)) {
    tried.push_back(*next);
    done.push_back(Done(*next, quality(*next)));
  }
  return tried;
}

TEST(TrialsTest, GoesOnInTheDirectionThatHelps) {
  // Best at four times the rate.
  const auto high = [](const TrialSettings& s) { return 1 - std::abs(std::log2(s.rate) - 2) / 10; };
  EXPECT_EQ(Search(ContenderKind::kFull, 9, false, high), (std::vector<TrialSettings>{{1, 1}, {2, 1}, {4, 1}}));
  const auto low = [](const TrialSettings& s) { return 1 - std::abs(std::log2(s.rate) + 2) / 10; };
  EXPECT_EQ(Search(ContenderKind::kFull, 9, false, low),
            (std::vector<TrialSettings>{{1, 1}, {2, 1}, {0.5, 1}, {0.25, 1}}));
  const auto usual = [](const TrialSettings& s) { return 1 - std::abs(std::log2(s.rate)) / 10; };
  EXPECT_EQ(Search(ContenderKind::kLora, 9, false, usual),
            (std::vector<TrialSettings>{{1, 1}, {2, 1}, {0.5, 1}, {1, 2}, {1, 0.5}}));
}

TEST(TrialsTest, KeepsToItsLimitAndToWhatIsGiven) {
  const auto flat = [](const TrialSettings&) { return 0.5; };
  EXPECT_EQ(Search(ContenderKind::kLora, 2, false, flat).size(), 2u);
  EXPECT_EQ(Search(ContenderKind::kLora, 9, true, flat), (std::vector<TrialSettings>{{1, 1}, {1, 2}, {1, 0.5}}));
  EXPECT_EQ(Search(ContenderKind::kIa3, 9, true, flat).size(), 1u);
  EXPECT_EQ(Search(ContenderKind::kTextPrompt, 9, false, flat).size(), 1u);
  EXPECT_TRUE(Search(ContenderKind::kZeroShot, 9, false, flat).empty());
  Trial failed;
  failed.state = Trial::State::kFailed;
  EXPECT_FALSE(NextTrial(ContenderKind::kLora, {failed}, 9, false)) << "what fails with its defaults is left alone";
}

TEST(TrialsTest, HopelessIsWhatLiesBelowTheLeadersInterval) {
  const Measure leader{"quality", 0.9, 0.88, 0.92, 100};
  EXPECT_FALSE(IsHopeless({}, leader));
  EXPECT_FALSE(IsHopeless({Done({}, 0.87)}, leader));
  EXPECT_TRUE(IsHopeless({Done({}, 0.85)}, leader));
  EXPECT_FALSE(IsHopeless({Done({}, 0.5), Done({2, 1}, 0.89)}, leader));
  EXPECT_FALSE(IsHopeless({Done({}, 0.1)}, Measure())) << "nobody leads";
}

TEST(TrialsTest, SettingsBecomeMethods) {
  EXPECT_EQ(std::get<LoraSpec>(MethodFor(ContenderKind::kHybrid, {1, 2}, 30)).rank, 32);
  EXPECT_EQ(std::get<PrefixSpec>(MethodFor(ContenderKind::kPrefix, {3, 0.5}, 30)).num_virtual_tokens, 10);
  EXPECT_EQ(std::get<PartialSpec>(MethodFor(ContenderKind::kPartial, {}, 30)).last_layers, 7);
  EXPECT_EQ(std::get<PartialSpec>(MethodFor(ContenderKind::kPartial, {}, 2)).last_layers, 1);
  EXPECT_EQ(DescribeSettings(ContenderKind::kLora, {0.5, 2}), "learning rate x0.5, rank 32");
  EXPECT_EQ(DescribeSettings(ContenderKind::kFull, {}), "defaults");
}

}  // namespace
}  // namespace attune
