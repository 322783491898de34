#include "server/data/batcher.h"

#include <algorithm>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Token t of example e is 100 e + t; the last `answer` tokens carry loss.
Example MakeExample(int index, int length, int answer = 1) {
  Example example;
  for (int t = 0; t < length; ++t) {
    example.tokens.push_back(100 * index + t);
    example.has_loss.push_back(t >= length - answer);
  }
  return example;
}

std::vector<Example> MakeExamples(const std::vector<int>& lengths) {
  std::vector<Example> examples;
  for (size_t i = 0; i < lengths.size(); ++i) examples.push_back(MakeExample(static_cast<int>(i + 1), lengths[i]));
  return examples;
}

// Which examples (from 1) are in it.
std::multiset<int64_t> ExamplesOf(const std::vector<MicroBatch>& batches) {
  std::multiset<int64_t> found;
  for (const MicroBatch& batch : batches) {
    for (size_t i = 0; i + 1 < batch.starts.size(); ++i) found.insert(batch.tokens[batch.starts[i + 1] - 1] / 100);
  }
  return found;
}

TEST(BatcherTest, PairsAreNeverDivided) {
  std::vector<Example> examples = MakeExamples({5, 3, 9, 2, 4, 4, 7, 6, 1, 2});
  for (size_t i = 0; i < examples.size(); ++i) examples[i].reference_log_probability = -static_cast<double>(i * i);
  const Batcher batcher(&examples, 2, 14, 0, 1, /*group_size=*/2);
  EXPECT_EQ(batcher.steps_per_epoch(), 3);
  std::multiset<int64_t> seen;
  for (int64_t step = 0; step < 3; ++step) {
    for (const MicroBatch& batch : batcher.Step(step)) {
      ASSERT_EQ(batch.examples.size(), 2 * batch.reference_margins.size());
      for (size_t p = 0; p < batch.reference_margins.size(); ++p) {
        const int64_t chosen = batch.examples[2 * p], rejected = batch.examples[2 * p + 1];
        EXPECT_EQ(chosen % 2, 0);
        EXPECT_EQ(rejected, chosen + 1);
        EXPECT_EQ(batch.reference_margins[p], static_cast<double>(rejected * rejected - chosen * chosen));
        seen.insert(chosen);
      }
    }
  }
  EXPECT_THAT(seen, ElementsAre(0, 2, 4, 6, 8));
  EXPECT_EQ(batcher.MaxTokens(), 14);
  EXPECT_EQ(Batcher(&examples, 1, 4, 0, 1, 2).MaxTokens(), 13) << "a pair that does not fit goes alone";
}

TEST(BatcherTest, WhatTheTeacherSaysGoesWithItsRow) {
  std::vector<Example> examples = {MakeExample(1, 3, 3), MakeExample(2, 2, 1)};
  examples[0].teacher = {2, {10, 11, 20, 21, 30, 31}, {-1, -2, -3, -4, -5, -6}};
  examples[1].teacher = {2, {40, 41}, {-7, -8}};
  const MicroBatch batch = Batcher(&examples, 2, 100, 0, 1).All()[0];
  EXPECT_THAT(batch.targets, ElementsAre(101, 102, 201));
  EXPECT_THAT(batch.teacher.ids, ElementsAre(20, 21, 30, 31, 40, 41)) << "the first token of all is not predicted";
  EXPECT_THAT(batch.teacher.log_probabilities, ElementsAre(-3, -4, -5, -6, -7, -8));
}

TEST(BatcherTest, PacksWithoutPaddingAndMarksTheRowsBeforeTrainedTokens) {
  const std::vector<Example> examples = {MakeExample(1, 3, 2), MakeExample(2, 2, 1)};
  const std::vector<MicroBatch> batches = Batcher(&examples, 2, 100, 0, 1).All();
  ASSERT_EQ(batches.size(), 1u);
  const MicroBatch& batch = batches[0];
  EXPECT_THAT(batch.tokens, ElementsAre(100, 101, 102, 200, 201));
  EXPECT_THAT(batch.starts, ElementsAre(0, 3, 5));
  EXPECT_THAT(batch.loss_rows, ElementsAre(0, 1, 3));
  EXPECT_THAT(batch.targets, ElementsAre(101, 102, 201));
}

TEST(BatcherTest, VirtualTokensComeFirstAndPredictTheFirstToken) {
  const std::vector<Example> examples = {MakeExample(1, 2, 2)};
  const MicroBatch batch = Batcher(&examples, 1, 100, 2, 1).All()[0];
  EXPECT_THAT(batch.tokens, ElementsAre(-1, -2, 100, 101));
  EXPECT_THAT(batch.starts, ElementsAre(0, 4));
  EXPECT_THAT(batch.loss_rows, ElementsAre(1, 2));
}

TEST(BatcherTest, NothingPredictsTheVeryFirstToken) {
  const std::vector<Example> examples = {MakeExample(1, 1, 1)};
  EXPECT_THAT(Batcher(&examples, 1, 100, 0, 1).All()[0].targets, IsEmpty());
}

TEST(BatcherTest, EveryEpochVisitsEveryExampleOnceInAnOrderOfItsOwn) {
  const std::vector<Example> examples = MakeExamples({2, 3, 4, 5, 6, 7, 8});
  const Batcher batcher(&examples, 3, 100, 0, 9);
  EXPECT_EQ(batcher.steps_per_epoch(), 3);
  std::vector<std::vector<std::multiset<int64_t>>> epochs(2);
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::multiset<int64_t> seen;
    for (int64_t step = 3 * epoch; step < 3 * epoch + 3; ++step) {
      epochs[epoch].push_back(ExamplesOf(batcher.Step(step)));
      EXPECT_EQ(epochs[epoch].back().size(), step % 3 == 2 ? 1u : 3u);
      seen.insert(epochs[epoch].back().begin(), epochs[epoch].back().end());
    }
    EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4, 5, 6, 7));
  }
  EXPECT_NE(epochs[0], epochs[1]);
}

TEST(BatcherTest, AStepDependsOnSeedAndNumberAlone) {
  const std::vector<Example> examples = MakeExamples({2, 3, 4, 5, 6, 7, 8, 9});
  const Batcher one(&examples, 2, 100, 0, 5), same(&examples, 2, 100, 0, 5), other(&examples, 2, 100, 0, 6);
  bool differs = false;
  for (int64_t step = 7; step >= 0; --step) {
    EXPECT_EQ(one.Step(step)[0].tokens, same.Step(step)[0].tokens);
    differs = differs || one.Step(step)[0].tokens != other.Step(step)[0].tokens;
  }
  EXPECT_TRUE(differs);
}

TEST(BatcherTest, BatchesKeepToTheLimitUnlessOneExampleExceedsIt) {
  const std::vector<Example> examples = MakeExamples({30, 5, 12, 8, 20, 3, 7, 50});
  const std::vector<MicroBatch> batches = Batcher(&examples, 8, 32, 0, 1).All();
  EXPECT_THAT(ExamplesOf(batches), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  for (const MicroBatch& batch : batches) {
    EXPECT_FALSE(batch.tokens.empty());
    EXPECT_TRUE(batch.tokens.size() <= 32 || batch.starts.size() == 2) << batch.tokens.size();
  }
}

// By first fit, longest first: 50 | 30 | 20 12 | 8 7 5 3 for a limit of 32.
TEST(BatcherTest, FirstFitLeavesFewBatches) {
  const std::vector<Example> examples = MakeExamples({30, 5, 12, 8, 20, 3, 7, 50});
  std::vector<size_t> sizes;
  for (const MicroBatch& batch : Batcher(&examples, 8, 32, 0, 1).All()) sizes.push_back(batch.tokens.size());
  EXPECT_THAT(sizes, ElementsAre(50, 30, 32, 23));
}

TEST(BatcherTest, MaxTokensBoundsEveryStep) {
  const std::vector<Example> examples = MakeExamples({30, 5, 12, 8, 20, 3, 7, 50});
  for (int64_t limit : {10, 32, 64, 1000}) {
    const Batcher batcher(&examples, 3, limit, 2, 1);
    for (int64_t step = 0; step < 12; ++step) {
      for (const MicroBatch& batch : batcher.Step(step)) {
        EXPECT_LE(static_cast<int64_t>(batch.tokens.size()), batcher.MaxTokens());
      }
    }
  }
}

}  // namespace
}  // namespace attune
