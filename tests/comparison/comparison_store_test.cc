#include "server/comparison/comparison_store.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "server/comparison/comparison_json.h"
#include "tests/testing/manual_clock.h"

namespace attune {
namespace {

class ComparisonStoreTest : public ::testing::Test {
 protected:
  static ComparisonSpec Spec(const std::string& id = "r8") {
    ComparisonSpec spec;
    spec.id = id;
    spec.base_model = "smollm2";
    spec.dataset = "r8";
    spec.contenders = {ContenderKind::kZeroShot, ContenderKind::kLora};
    spec.hyperparameters.epochs = 2;
    spec.seed = 7;
    return spec;
  }
  std::unique_ptr<Database> database_ = Database::Open(":memory:").value();
  ManualClock clock_;
  std::unique_ptr<ComparisonStore> store_ = ComparisonStore::Open(database_.get(), &clock_).value();
};

TEST_F(ComparisonStoreTest, EveryFieldSurvives) {
  Comparison all;
  all.spec = Spec();
  all.spec.hand_prompt = "{{a}} \"quoted\"\n";
  all.spec.data.prompt_template = "x";
  all.state = ComparisonState::kFailed;
  all.error = JobError{"REASON", "message"};
  all.metric = QualityMetric::kExactMatch;
  Trial trial;
  trial.settings = "rank 32";
  trial.rate_multiplier = 0.5;
  trial.validation = {"quality", 0.5, 0.4, 0.6, 10};
  all.contenders = {{.kind = ContenderKind::kPrefix, .state = Contender::State::kStopped, .note = "n", .trials = {trial},
                     .best_trial = 0, .model = "m", .prompt_template = "p", .measures = {trial.validation}, .rank = 2,
                     .p_value = 0.25, .ties_best = true}};
  all.choices = {"a", "b"};
  all.disagreements = {{"prompt", "a", {{"lora", "b"}}}};
  all.winner = 0;
  all.verdict = "v";
  all.create_time = absl::FromUnixSeconds(5);
  all.end_time = absl::FromUnixSeconds(9);
  all.version = 4;
  all.cancel_requested = true;
  absl::StatusOr<Comparison> back = ComparisonFromJson(ComparisonToJson(all));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, all);
  EXPECT_EQ(GetErrorDetails(ComparisonFromJson("[]").status()).reason, "CORRUPT_COMPARISON");
}

TEST_F(ComparisonStoreTest, CreatesOnceForARequest) {
  absl::StatusOr<Comparison> made = store_->Create(Spec(), "request");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->state, ComparisonState::kQueued);
  ASSERT_EQ(made->contenders.size(), 2u);
  EXPECT_EQ(made->contenders[1].kind, ContenderKind::kLora);
  EXPECT_EQ(*store_->Create(Spec(), "request"), *made);
  EXPECT_EQ(GetErrorDetails(store_->Create(Spec("other"), "request").status()).reason, "REQUEST_ID_REUSED");
  EXPECT_EQ(GetErrorDetails(store_->Create(Spec(), "").status()).reason, "COMPARISON_EXISTS");
  EXPECT_EQ(GetErrorDetails(store_->Get("none").status()).reason, "COMPARISON_NOT_FOUND");
  absl::StatusOr<Comparison> named = store_->Create(Spec(""), "");
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_FALSE(named->spec.id.empty());
  EXPECT_EQ(store_->List(10, INT64_MAX)->front().spec.id, named->spec.id) << "newest first";
}

TEST_F(ComparisonStoreTest, ChangesAreWholeOrNotAtAll) {
  ASSERT_TRUE(store_->Create(Spec(), "").ok());
  absl::StatusOr<Comparison> changed = store_->Update("r8", [](Comparison& c) {
    c.state = ComparisonState::kRunning;
    return absl::OkStatus();
  });
  ASSERT_TRUE(changed.ok());
  EXPECT_EQ(changed->version, 2);
  EXPECT_FALSE(store_->Update("r8", [](Comparison& c) {
                       c.state = ComparisonState::kFailed;
                       return absl::AbortedError("no");
                     }).ok());
  EXPECT_EQ(store_->Get("r8")->state, ComparisonState::kRunning);
  EXPECT_EQ(store_->Unfinished()->size(), 1u);
  EXPECT_EQ(GetErrorDetails(store_->Delete("r8")).reason, "COMPARISON_NOT_ENDED");
  ASSERT_TRUE(store_->PutNote("r8", "lora", "1").ok());
  ASSERT_TRUE(store_->PutNote("r8", "lora", "2").ok());
  EXPECT_EQ(*store_->GetNote("r8", "lora"), "2");
  ASSERT_TRUE(store_->Update("r8", [](Comparison& c) {
                      c.state = ComparisonState::kSucceeded;
                      return absl::OkStatus();
                    }).ok());
  EXPECT_TRUE(store_->Unfinished()->empty());
  EXPECT_TRUE(store_->Delete("r8").ok());
  EXPECT_EQ(*store_->GetNote("r8", "lora"), "");
}

}  // namespace
}  // namespace attune
