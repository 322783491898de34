#include "server/engine/beam_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>

namespace attune {
namespace {

using Tokens = std::vector<int32_t>;

// A language of `vocab` tokens whose next token depends on all before it.
class Language {
 public:
  Language(uint32_t seed, int vocab) : seed_(seed), vocab_(vocab) {}
  std::vector<double> After(const Tokens& tokens) const {
    uint32_t key = seed_;
    for (int32_t token : tokens) key = key * 31 + token + 1;
    std::mt19937 random(key);
    std::vector<double> logprobs(vocab_);
    double sum = 0;
    for (double& p : logprobs) sum += p = 0.05 + static_cast<double>(random() % 1000) / 1000;
    for (double& p : logprobs) p = std::log(p / sum);
    return logprobs;
  }
  std::vector<BeamSearch::Candidate> Likeliest(const Tokens& tokens, int64_t count) const {
    const std::vector<double> logprobs = After(tokens);
    std::vector<BeamSearch::Candidate> out;
    for (int32_t token = 0; token < vocab_; ++token) out.push_back({token, logprobs[token]});
    std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.logprob > b.logprob; });
    out.resize(std::min<int64_t>(count, vocab_));
    return out;
  }
  int vocab() const { return vocab_; }

 private:
  uint32_t seed_;
  int vocab_;
};

std::vector<BeamSearch::Answer> Search(const Language& language, const BeamSearch::Options& options, int count,
                                       int64_t* steps = nullptr) {
  BeamSearch search(options);
  std::vector<Tokens> running(1);
  while (!running.empty()) {
    std::vector<std::vector<BeamSearch::Candidate>> candidates;
    for (const Tokens& tokens : running) candidates.push_back(language.Likeliest(tokens, search.CandidatesPerBeam()));
    std::vector<Tokens> next;
    for (const BeamSearch::Step& step : search.Advance(candidates)) {
      next.push_back(running[step.parent]);
      next.back().push_back(step.token);
    }
    running = std::move(next);
    if (steps) ++*steps;
  }
  return search.Best(count);
}

// The best of all answers of up to `most` tokens.
BeamSearch::Answer BestOfAll(const Language& language, const BeamSearch::Options& options) {
  BeamSearch::Answer best;
  best.score = -1e9;
  std::function<void(const Tokens&, double)> look = [&](const Tokens& tokens, double sum) {
    const std::vector<double> logprobs = language.After(tokens);
    const double length = static_cast<double>(tokens.size()) + 1;
    for (int32_t token = 0; token < language.vocab(); ++token) {
      const bool is_end = std::find(options.ends.begin(), options.ends.end(), token) != options.ends.end();
      const double total = sum + logprobs[token];
      Tokens longer = tokens;
      if (!is_end) longer.push_back(token);
      if (is_end || length == static_cast<double>(options.most_tokens)) {
        const double score = total / std::pow(length, options.length_penalty);
        if (score > best.score) best = {longer, {}, score, is_end};
      } else {
        look(longer, total);
      }
    }
  };
  look({}, 0);
  return best;
}

TEST(BeamSearchTest, WithBeamsForAllItFindsTheBestAnswer) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const Language language(seed, 4);
    BeamSearch::Options options{.beams = 100, .most_tokens = 4, .length_penalty = 0.5 + seed % 3 * 0.5, .ends = {0}};
    if (seed % 4 == 1) options.ends = {0, 2};
    const auto found = Search(language, options, 1);
    const auto best = BestOfAll(language, options);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].tokens, best.tokens) << "seed " << seed;
    EXPECT_NEAR(found[0].score, best.score, 1e-9);
    EXPECT_EQ(found[0].ended, best.ended);
  }
}

TEST(BeamSearchTest, AnswersComeBestFirstWithTheirLogprobs) {
  const Language language(7, 6);
  const BeamSearch::Options options{.beams = 5, .most_tokens = 6, .length_penalty = 1, .ends = {0}};
  const auto found = Search(language, options, 5);
  ASSERT_EQ(found.size(), 5u);
  for (size_t i = 0; i < found.size(); ++i) {
    if (i > 0) {
      EXPECT_LE(found[i].score, found[i - 1].score);
      EXPECT_NE(found[i].tokens, found[i - 1].tokens);
    }
    Tokens before;
    double sum = 0;
    for (size_t t = 0; t < found[i].tokens.size(); ++t) {
      EXPECT_EQ(found[i].logprobs[t], language.After(before)[found[i].tokens[t]]);
      sum += found[i].logprobs[t];
      before.push_back(found[i].tokens[t]);
    }
    if (found[i].ended) sum += language.After(before)[0];
    EXPECT_NEAR(found[i].score, sum / static_cast<double>(before.size() + found[i].ended), 1e-9);
  }
  EXPECT_EQ(Search(language, options, 2).size(), 2u);
}

TEST(BeamSearchTest, OneBeamIsGreedyUntilTheEnd) {
  const Language language(11, 8);
  const auto found = Search(language, {.beams = 1, .most_tokens = 12, .ends = {}}, 1);
  Tokens greedy;
  for (int i = 0; i < 12; ++i) greedy.push_back(language.Likeliest(greedy, 1)[0].token);
  EXPECT_EQ(found[0].tokens, greedy);
  EXPECT_FALSE(found[0].ended);
}

TEST(BeamSearchTest, StoppingEarlyEndsOnceAllHaveEnded) {
  int64_t earlier = 0;
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const Language language(seed, 5);
    int64_t patient = 0, early = 0;
    Search(language, {.beams = 3, .most_tokens = 30, .length_penalty = 2, .stops_early = false, .ends = {0}}, 1, &patient);
    Search(language, {.beams = 3, .most_tokens = 30, .length_penalty = 2, .stops_early = true, .ends = {0}}, 1, &early);
    EXPECT_LE(early, patient);
    earlier += early < patient;
  }
  EXPECT_GT(earlier, 5);
}

}  // namespace
}  // namespace attune
