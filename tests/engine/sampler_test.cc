#include "server/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace attune {
namespace {

using ::testing::ElementsAre;

class SamplerTest : public ::testing::Test {
 protected:
  // The token at this position of an answer whose tokens so far are `answer`.
  int32_t Sample(const std::vector<int32_t>& answer = {}) const {
    std::vector<int32_t> seen = prompt_;
    seen.insert(seen.end(), answer.begin(), answer.end());
    return SampleToken({logits_.data(), static_cast<int64_t>(logits_.size()), seen.data(),
                        static_cast<int64_t>(seen.size()), static_cast<int64_t>(prompt_.size())},
                       params_);
  }
  // How often each token comes out over many seeds.
  std::map<int32_t, double> Shares() {
    std::map<int32_t, double> shares;
    for (params_.seed = 0; params_.seed < kDraws; ++params_.seed) shares[Sample()] += 1.0 / kDraws;
    return shares;
  }
  std::set<int32_t> Possible() {
    std::set<int32_t> tokens;
    for (const auto& [token, share] : Shares()) tokens.insert(token);
    return tokens;
  }

  static constexpr int kDraws = 4000;
  std::vector<float> logits_ = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  std::vector<int32_t> prompt_ = {-1, 0};  // a virtual token, and token 0
  SamplingParams params_;
};

TEST_F(SamplerTest, TemperatureZeroIsGreedyAndTakesTheLowestOfEquals) {
  EXPECT_EQ(Sample(), 1);
  logits_ = {1, 3, 3, 2};
  EXPECT_EQ(Sample(), 1);
}

TEST_F(SamplerTest, SharesAreTheProbabilities) {
  params_.temperature = 1;
  const auto shares = Shares();
  EXPECT_NEAR(shares.at(0), 0.1, 0.025);
  EXPECT_NEAR(shares.at(1), 0.4, 0.04);
  EXPECT_NEAR(shares.at(2), 0.2, 0.03);
  EXPECT_NEAR(shares.at(3), 0.3, 0.035);
}

TEST_F(SamplerTest, LowTemperatureSharpens) {
  params_.temperature = 0.5;  // squares the probabilities: 16 of 30
  EXPECT_NEAR(Shares().at(1), 16.0 / 30, 0.04);
}

TEST_F(SamplerTest, TopKKeepsTheLikeliest) {
  params_.temperature = 1;
  params_.top_k = 2;
  EXPECT_THAT(Possible(), ElementsAre(1, 3));
  params_.top_k = 100;
  EXPECT_THAT(Possible(), ElementsAre(0, 1, 2, 3));
}

TEST_F(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  params_.temperature = 1;
  params_.top_p = 0.69;
  EXPECT_THAT(Possible(), ElementsAre(1, 3));
  params_.top_p = 0.71;
  EXPECT_THAT(Possible(), ElementsAre(1, 2, 3));
  params_.top_p = 0;
  EXPECT_THAT(Possible(), ElementsAre(1));
}

TEST_F(SamplerTest, MinPIsRelativeToTheLikeliest) {
  params_.temperature = 1;
  params_.min_p = 0.6;
  EXPECT_THAT(Possible(), ElementsAre(1, 3));
}

TEST_F(SamplerTest, RepetitionPenaltyCountsPromptAndAnswer) {
  logits_ = {2.0f, 1.5f, -1.0f, -1.2f};
  params_.repetition_penalty = 2;
  EXPECT_EQ(Sample(), 1) << "token 0 is in the prompt: 2 / 2 < 1.5";
  EXPECT_EQ(Sample({1}), 0) << "1.5 / 2 < 2 / 2";
  logits_ = {-9, -1.0f, -1.2f, -9};
  EXPECT_EQ(Sample({1}), 2) << "below zero the penalty multiplies: -2 < -1.2";
}

TEST_F(SamplerTest, FrequencyAndPresencePenaltiesCountTheAnswerOnly) {
  logits_ = {2.0f, 1.5f, 0, 0};
  params_.frequency_penalty = 0.3;
  EXPECT_EQ(Sample(), 0) << "the prompt's token is not penalised";
  EXPECT_EQ(Sample({0}), 0) << "2 - 0.3 > 1.5";
  EXPECT_EQ(Sample({0, 0}), 1) << "2 - 0.6 < 1.5";
  params_.frequency_penalty = 0;
  params_.presence_penalty = 0.4;
  EXPECT_EQ(Sample({0, 0}), 0) << "once, however often";
  params_.presence_penalty = 0.6;
  EXPECT_EQ(Sample({0}), 1);
}

TEST_F(SamplerTest, SameSeedAndPositionGiveTheSameTokenAndPositionsDiffer) {
  params_.temperature = 1;
  params_.seed = 7;
  std::vector<int32_t> answer, again;
  for (int i = 0; i < 50; ++i) answer.push_back(Sample(answer));
  for (int i = 0; i < 50; ++i) again.push_back(Sample(again));
  EXPECT_EQ(answer, again);
  EXPECT_GT(std::set<int32_t>(answer.begin(), answer.end()).size(), 1u);
}

// The same tokens as when everything is sorted, weighed and walked through.
TEST(SampleTokenTest, GivesWhatSortingTheWholeVocabularyGives) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  for (const float spread : {0.1f, 2.0f, 8.0f}) {
    std::vector<float> logits(5000);
    for (float& logit : logits) logit = spread * normal(random);
    std::vector<int32_t> order(logits.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (SamplingParams p : {SamplingParams{1.0}, SamplingParams{0.3}, SamplingParams{5.0}, SamplingParams{1.0, 0.9},
                             SamplingParams{2.0, 0.999}, SamplingParams{1.0, 1.0, 0, 0.01},
                             SamplingParams{1.5, 0.8, 0, 0.001}, SamplingParams{1.0, 0.7, 50}}) {
      std::vector<double> weights;
      double sum = 0;
      const size_t most = p.top_k > 0 ? p.top_k : order.size();
      for (size_t i = 0; i < most; ++i) weights.push_back(std::exp((logits[order[i]] - logits[order[0]]) / p.temperature));
      for (double weight : weights) sum += weight;
      size_t kept = 0;
      for (double reached = 0; kept < most && (kept == 0 || reached < p.top_p * sum); ++kept) reached += weights[kept];
      while (kept > 1 && weights[kept - 1] < p.min_p * weights[0]) --kept;
      double kept_sum = 0;
      for (size_t i = 0; i < kept; ++i) kept_sum += weights[i];
      // How often each is drawn, over many positions, against how likely it is.
      std::vector<int> drawn(kept);
      constexpr int kDraws = 3000;
      std::vector<int32_t> seen(kDraws, 0);
      for (int position = 0; position < kDraws; ++position) {
        const int32_t token = SampleToken({logits.data(), 5000, seen.data(), position, 0}, p);
        const size_t rank = std::find(order.begin(), order.end(), token) - order.begin();
        ASSERT_LT(rank, kept) << "a token that the filters leave out";
        ++drawn[rank];
      }
      for (size_t i = 0; i < std::min<size_t>(kept, 3); ++i) {
        const double share = weights[i] / kept_sum, error = std::sqrt(share * (1 - share) / kDraws) + 1e-9;
        EXPECT_NEAR(static_cast<double>(drawn[i]) / kDraws, share, 5 * error) << "spread " << spread << ", rank " << i;
      }
      // The tail is drawn as often as it should be, too.
      double tail = 0;
      int tail_drawn = 0;
      for (size_t i = kept / 2; i < kept; ++i) tail += weights[i] / kept_sum, tail_drawn += drawn[i];
      EXPECT_NEAR(static_cast<double>(tail_drawn) / kDraws, tail, 5 * std::sqrt(tail * (1 - tail) / kDraws) + 1e-3);
    }
  }
}

TEST(LogprobTest, AreTheLogSoftmax) {
  const std::vector<float> logits = {1000, 1001, 999, 1001};
  const double sum = std::exp(-1.0) + 1 + std::exp(-2.0) + 1;
  EXPECT_NEAR(LogProbability(logits.data(), 4, 0), -1 - std::log(sum), 1e-5);
  const auto top = TopLogprobs(logits.data(), 4, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].first, 1);
  EXPECT_EQ(top[1].first, 3);
  EXPECT_EQ(top[2].first, 0);
  EXPECT_NEAR(top[0].second, -std::log(sum), 1e-5);
  EXPECT_EQ(TopLogprobs(logits.data(), 4, 9).size(), 4u);
  EXPECT_TRUE(TopLogprobs(logits.data(), 4, 0).empty());
}

TEST(AllowedTokensTest, OnlyTheseAreChosen) {
  const int64_t vocab = 100;
  std::vector<float> logits(vocab);
  for (int64_t i = 0; i < vocab; ++i) logits[i] = static_cast<float>(i);
  for (const std::vector<int32_t>& tokens :
       std::vector<std::vector<int32_t>>{{0}, {31, 32}, {5, 63, 64}, {95, 96, 99}}) {
    std::vector<uint32_t> allowed(4);
    for (int32_t token : tokens) allowed[token / 32] |= 1u << (token % 32);
    SamplingParams params;
    EXPECT_EQ(SampleToken({.logits = logits.data(), .vocab = vocab, .allowed = &allowed}, params), tokens.back());
    params.temperature = 100;
    for (params.seed = 0; params.seed < 50; ++params.seed) {
      const int32_t token = SampleToken({.logits = logits.data(), .vocab = vocab, .allowed = &allowed}, params);
      EXPECT_EQ(std::count(tokens.begin(), tokens.end(), token), 1) << token;
    }
  }
  // What lies behind the mask is not allowed, and a word of ones allows all of its tokens.
  std::vector<uint32_t> shorter = {~0u, ~0u};
  EXPECT_EQ(SampleToken({.logits = logits.data(), .vocab = vocab, .allowed = &shorter}, SamplingParams()), 63);
}

}  // namespace
}  // namespace attune
