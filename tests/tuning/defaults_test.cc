#include "server/tuning/defaults.h"

#include <gtest/gtest.h>

namespace attune {
namespace {

AutoInputs Inputs() {
  AutoInputs inputs;
  inputs.parameters = 135'000'000;
  inputs.train_examples = 1000;
  inputs.train_tokens = 60'000;
  inputs.validation_tokens = 6'000;
  return inputs;
}

TEST(DefaultsTest, EveryMethodGetsItsOwnLearningRate) {
  auto rate = [](const MethodSpec& method) { return ResolveHyperparameters(method, {}, Inputs()).learning_rate; };
  EXPECT_EQ(rate(LoraSpec{}), 5e-4);
  EXPECT_EQ(rate(SoftPromptSpec{}), 3e-2);
  EXPECT_EQ(rate(FullSpec{}), 5e-5);
  EXPECT_EQ(rate(PartialSpec{}), 1e-4);
}

TEST(DefaultsTest, LargeModelsLearnMoreSlowly) {
  AutoInputs inputs = Inputs();
  inputs.parameters = 7'000'000'000;
  EXPECT_EQ(ResolveHyperparameters(LoraSpec{}, {}, inputs).learning_rate, 2e-4);
  EXPECT_EQ(ResolveHyperparameters(FullSpec{}, {}, inputs).learning_rate, 1e-5);
}

TEST(DefaultsTest, StepsFollowFromEpochsAndTheReverse) {
  Hyperparameters given;
  given.batch_size = 16;
  given.epochs = 1.5;
  EXPECT_EQ(ResolveHyperparameters(LoraSpec{}, given, Inputs()).max_steps, 95) << "63 a pass";
  given.epochs = 0;
  given.max_steps = 126;
  EXPECT_EQ(ResolveHyperparameters(LoraSpec{}, given, Inputs()).epochs, 2);
}

TEST(DefaultsTest, FewExamplesGetMorePassesAndSmallerBatches) {
  AutoInputs few = Inputs();
  few.train_examples = 50;
  EXPECT_EQ(ResolveHyperparameters(LoraSpec{}, {}, few).epochs, 10);
  EXPECT_EQ(ResolveHyperparameters(LoraSpec{}, {}, few).batch_size, 8);
  EXPECT_EQ(ResolveHyperparameters(SoftPromptSpec{}, {}, few).epochs, 20);
}

TEST(DefaultsTest, WhatIsGivenStays) {
  Hyperparameters given;
  given.learning_rate = 0.5;
  given.learning_rate_multiplier = 3;
  given.weight_decay = 0.25;
  given.warmup_ratio = 0;
  given.keep_best = false;
  given.seed = 0;
  given.precision = "float32";
  given.schedule = LearningRateSchedule::kConstant;
  const Hyperparameters h = ResolveHyperparameters(FullSpec{}, given, Inputs());
  EXPECT_EQ(h.learning_rate, 0.5);
  EXPECT_EQ(*h.weight_decay, 0.25);
  EXPECT_EQ(*h.warmup_ratio, 0);
  EXPECT_FALSE(*h.keep_best);
  EXPECT_EQ(*h.seed, 0);
  EXPECT_EQ(h.schedule, LearningRateSchedule::kConstant);
}

TEST(DefaultsTest, TheMultiplierScalesTheAutomaticRate) {
  Hyperparameters given;
  given.learning_rate_multiplier = 2;
  EXPECT_EQ(ResolveHyperparameters(LoraSpec{}, given, Inputs()).learning_rate, 1e-3);
}

TEST(DefaultsTest, WithoutValidationNothingIsEvaluatedButCheckpointsAreKept) {
  AutoInputs inputs = Inputs();
  inputs.validation_tokens = 0;
  const Hyperparameters h = ResolveHyperparameters(LoraSpec{}, {}, inputs);
  EXPECT_LT(h.evaluation_steps, 0);
  EXPECT_FALSE(*h.keep_best);
  EXPECT_GT(h.checkpoint_steps, 0);
  EXPECT_LE(h.checkpoint_steps, h.max_steps);
}

}  // namespace
}  // namespace attune
