#include "server/rpc/convert_comparison.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "server/comparison/comparison_manager.h"

namespace attune {
namespace {

v1::Comparison Full() {
  v1::Comparison out;
  out.set_name("comparisons/c");
  out.set_display_name("Topics");
  out.set_base_model("models/m");
  out.set_dataset("datasets/d");
  out.set_validation_dataset("datasets/v");
  out.set_test_dataset("datasets/t");
  out.add_contenders(v1::Comparison::HAND_PROMPT);
  out.add_contenders(v1::Comparison::FULL);
  out.set_hand_prompt("{{text}}");
  out.set_metric(v1::Comparison::JUDGE);
  out.set_max_trials(3);
  out.set_max_train_examples(100);
  out.set_max_test_examples(50);
  out.set_test_fraction(0.25);
  out.mutable_hyperparameters()->set_epochs(2);
  out.mutable_data()->set_max_sequence_tokens(64);
  out.set_seed(0);
  out.set_skip_side_effects(true);
  out.set_keep_models(true);
  out.set_price_per_device_hour(2.5);
  out.set_tenant("team");
  out.set_pattern("[a-z]+");
  out.set_judge_model("models/j");
  out.set_judge_prompt("Is {{answer}} right?");
  out.set_max_answer_tokens(16);
  out.set_learning_curve(true);
  (*out.mutable_labels())["k"] = "v";
  return out;
}

void ExpectItComesBack(const v1::Comparison& asked) {
  const auto spec = ToComparisonSpec(asked, "c");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(ValidateComparisonSpec(*spec).ok()) << ValidateComparisonSpec(*spec);
  Comparison comparison;
  comparison.spec = *spec;
  v1::Comparison back = ToProto(comparison);
  back.clear_state();
  back.clear_create_time();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(back, asked)) << back.DebugString();
}

TEST(ConvertComparisonTest, WhatWasAskedForComesBack) {
  ExpectItComesBack(Full());
  v1::Comparison with_retention = Full();  // a side effect
  with_retention.set_skip_side_effects(false);
  with_retention.set_retention_dataset("datasets/r");
  ExpectItComesBack(with_retention);
}

TEST(ConvertComparisonTest, ResultsKeepTheirNames) {
  Comparison comparison;
  comparison.spec.id = "c";
  Trial trial;
  trial.state = Trial::State::kDone;
  trial.model = "cmp-c-full-1";
  trial.tuning_job = "cmp-c-full-1";
  trial.validation = {"quality", 0.5, 0.25, 0.75, 8};
  comparison.contenders = {{.kind = ContenderKind::kFull, .trials = {trial}, .best_trial = 0, .model = trial.model,
                            .measures = {trial.validation}, .rank = 1}};
  comparison.winner = 0;
  comparison.error = JobError{"REASON", "why"};
  const v1::Comparison out = ToProto(comparison);
  EXPECT_EQ(out.results(0).kind(), v1::Comparison::FULL);
  EXPECT_EQ(out.results(0).trials(0).model(), "models/cmp-c-full-1");
  EXPECT_EQ(out.results(0).trials(0).tuning_job(), "tuningJobs/cmp-c-full-1");
  EXPECT_EQ(out.results(0).trials(0).validation().upper(), 0.75);
  EXPECT_EQ(out.winner(), v1::Comparison::FULL);
  EXPECT_EQ(out.winner_model(), "models/cmp-c-full-1");
  EXPECT_EQ(out.error().reason(), "REASON");
}

TEST(ConvertComparisonTest, WrongFieldsAreNamed) {
  auto fields = [](const v1::Comparison& comparison) {
    absl::StatusOr<ComparisonSpec> spec = ToComparisonSpec(comparison, "");
    const absl::Status status = spec.ok() ? ValidateComparisonSpec(*spec) : spec.status();
    std::vector<std::string> names;
    for (const FieldViolation& violation : GetErrorDetails(status).violations) names.push_back(violation.field);
    return names;
  };
  EXPECT_TRUE(fields(Full()).empty());
  const auto expect = [&](const std::string& field, const std::function<void(v1::Comparison*)>& change) {
    v1::Comparison wrong = Full();
    change(&wrong);
    EXPECT_EQ(fields(wrong), std::vector<std::string>{field});
  };
  expect("comparison.base_model", [](auto* c) { c->set_base_model("datasets/d"); });
  expect("comparison.test_dataset", [](auto* c) { c->set_test_dataset("models/d"); });
  expect("comparison.contenders", [](auto* c) { c->add_contenders(v1::Comparison::FULL); });
  expect("comparison.contenders", [](auto* c) { c->mutable_contenders()->RemoveLast(); });
  expect("comparison.hand_prompt", [](auto* c) { c->clear_hand_prompt(); });
  expect("comparison.max_trials", [](auto* c) { c->set_max_trials(21); });
  expect("comparison.test_fraction", [](auto* c) { c->set_test_fraction(0.6); });
  expect("comparison.price_per_device_hour", [](auto* c) { c->set_price_per_device_hour(-1); });
}

}  // namespace
}  // namespace attune
