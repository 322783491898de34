#include "server/rpc/advice_service.h"

#include <cmath>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "server/comparison/comparison_store.h"
#include "server/rpc/convert_advice.h"
#include "tests/advice/evidence_sample.h"
#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

using ::testing::HasSubstr;

class AdviceServiceTest : public RpcFixture {
 protected:
  AdviceServiceTest()
      : comparisons_(*ComparisonStore::Open(database_.get(), &clock_)),
        advisor_(Deps()),
        service_({&advisor_, &metrics_}),
        stub_(v1::AdviceService::NewStub(Serve(&service_))) {
    AddModel("base");
    AddServed("base", 512);
    std::string rows;
    for (int i = 0; i < 120; ++i)
      absl::StrAppend(&rows, "{\"prompt\":\"p", i, "\",\"completion\":\"", i % 2 ? "b" : "a", "\"}\n");
    AddDataset("data", rows);
    JobEstimate estimate;
    estimate.duration_seconds = 4;
    runner_.SetEstimate(estimate);
    request_.set_base_model("models/base");
    request_.set_dataset("datasets/data");
    request_.set_skip_curve(true);
  }

  AdvisorDeps Deps() {
    AdvisorDeps deps;
    deps.comparisons = comparisons_.get();
    deps.jobs = jobs_.get();
    deps.datasets = datasets_.get();
    deps.models = models_.get();
    deps.engine = &engine_;
    deps.acquire = [this](absl::string_view id) {
      // What a job of the curve "made" answers as the base model does.
      return Provider()(absl::StartsWith(id, "advice-") ? "base" : id, /*key=*/"");
    };
    deps.delete_model = [this](absl::string_view) {
      ++deleted_;
      return absl::OkStatus();
    };
    return deps;
  }

  grpc::Status Run(const v1::AdviseRequest& request, std::vector<v1::AdviseResponse>* messages) {
    grpc::ClientContext context;
    auto reader = stub_->Advise(&context, request);
    for (v1::AdviseResponse message; reader->Read(&message);) messages->push_back(message);
    return reader->Finish();
  }
  std::string FieldOf(const std::function<void(v1::AdviseRequest*)>& change) {
    v1::AdviseRequest request = request_;
    change(&request);
    std::vector<v1::AdviseResponse> messages;
    return Field(Run(request, &messages));
  }
  v1::Advice Advised() {
    std::vector<v1::AdviseResponse> messages;
    const grpc::Status status = Run(request_, &messages);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return messages.empty() ? v1::Advice() : messages.back().advice();
  }
  static const v1::Advice::Finding* Find(const v1::Advice& advice, const std::string& name) {
    for (const auto& finding : advice.findings()) {
      if (finding.name() == name) return &finding;
    }
    return nullptr;
  }

  // Puts an ended comparison into the store.
  void Store(const Comparison& outcome) {
    ASSERT_TRUE(comparisons_->Create(outcome.spec, "").ok());
    ASSERT_TRUE(comparisons_
                    ->Update(outcome.spec.id,
                             [&](Comparison& comparison) {
                               const int64_t version = comparison.version;
                               comparison = outcome;
                               comparison.version = version;
                               return absl::OkStatus();
                             })
                    .ok());
  }

  int deleted_ = 0;
  std::unique_ptr<ComparisonStore> comparisons_;
  Advisor advisor_;
  AdviceService service_;
  std::unique_ptr<v1::AdviceService::Stub> stub_;
  v1::AdviseRequest request_;
};

TEST_F(AdviceServiceTest, StreamsWhatItIsAtAndThenTheAdvice) {
  std::vector<v1::AdviseResponse> messages;
  const grpc::Status status = Run(request_, &messages);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_GE(messages.size(), 4u);
  for (size_t i = 0; i + 1 < messages.size(); ++i) {
    EXPECT_FALSE(messages[i].has_advice());
    EXPECT_NE(messages[i].progress(), messages[i + 1].progress()) << "each line once";
  }
  const v1::Advice& advice = messages.back().advice();
  EXPECT_EQ(Find(advice, "rows")->value(), 120);
  EXPECT_EQ(Find(advice, "labels")->value(), 2);
  EXPECT_EQ(Find(advice, "zero_shot")->count(), 36) << "three tenths are asked";
  EXPECT_NE(Find(advice, "few_shot"), nullptr);
  EXPECT_EQ(Find(advice, "learning_curve"), nullptr);
  EXPECT_EQ(Find(advice, "device_seconds")->value(), 4);
  EXPECT_EQ(advice.recommendations_size(), 9);
  EXPECT_NE(advice.verdict(), v1::Advice::VERDICT_UNSPECIFIED);
  EXPECT_FALSE(advice.text().empty());
  EXPECT_FALSE(advice.has_retrospective());
  EXPECT_EQ(advice.past_comparisons(), 0);
}

TEST_F(AdviceServiceTest, ACurveRunsJobsAndLeavesNothingBehind) {
  request_.set_skip_curve(false);
  const v1::Advice advice = Advised();
  ASSERT_NE(Find(advice, "learning_curve"), nullptr);
  EXPECT_THAT(Find(advice, "learning_curve")->text(), HasSubstr("with 84 rows"));
  EXPECT_EQ(runner_.started().size(), 3u);
  EXPECT_EQ(deleted_, 3);
  EXPECT_TRUE(jobs_->List(10, INT64_MAX, {})->empty());
  EXPECT_EQ(datasets_->List(10, INT64_MAX)->size(), 1u) << "the task's own";
}

TEST_F(AdviceServiceTest, WithoutTimeForACurveItSaysWhatOneNeeds) {
  request_.set_skip_curve(false);
  request_.set_curve_seconds(5);
  const v1::Advice advice = Advised();
  ASSERT_NE(Find(advice, "learning_curve"), nullptr);
  EXPECT_THAT(Find(advice, "learning_curve")->text(), HasSubstr("No learning curve"));
  EXPECT_TRUE(runner_.started().empty());
}

TEST_F(AdviceServiceTest, JobsThatFailGiveNoCurveAndLeaveNothing) {
  request_.set_skip_curve(false);
  runner_.SetDefault([](const Job&, JobControl&) -> absl::StatusOr<JobOutcome> { return absl::InternalError("no"); });
  const v1::Advice advice = Advised();
  ASSERT_NE(Find(advice, "learning_curve"), nullptr);
  EXPECT_THAT(Find(advice, "learning_curve")->text(), HasSubstr("a short LoRA job is FAILED: no"));
  EXPECT_TRUE(jobs_->List(10, INT64_MAX, {})->empty());
  EXPECT_EQ(datasets_->List(10, INT64_MAX)->size(), 1u);
}

TEST_F(AdviceServiceTest, LooksBackAtTheNewestComparisonOfTheSameTask) {
  Comparison outcome = SampleOutcome("old", {{ContenderKind::kZeroShot, 0.5}, {ContenderKind::kLora, 0.95}});
  outcome.spec.base_model = "base";
  outcome.spec.dataset = "data";
  Store(outcome);
  Comparison other = SampleOutcome("other", {{ContenderKind::kZeroShot, 0.5}, {ContenderKind::kLora, 0.6}});
  Store(other);
  const v1::Advice advice = Advised();
  EXPECT_EQ(advice.past_comparisons(), 2);
  ASSERT_TRUE(advice.has_retrospective());
  EXPECT_EQ(advice.retrospective().comparison(), "comparisons/old");
  EXPECT_EQ(advice.retrospective().named(), v1::Comparison::LORA);
  EXPECT_TRUE(advice.retrospective().right());

  grpc::ClientContext context;
  v1::RetrospectRequest request;
  request.set_comparison("comparisons/other");
  v1::Retrospective found;
  ASSERT_TRUE(stub_->Retrospect(&context, request, &found).ok());
  EXPECT_DOUBLE_EQ(found.named_quality(), 0.6);
  EXPECT_THAT(found.text(), HasSubstr("Before comparison other"));
  grpc::ClientContext none;
  request.set_comparison("comparisons/none");
  EXPECT_EQ(Reason(stub_->Retrospect(&none, request, &found)), "COMPARISON_NOT_FOUND");
}

TEST_F(AdviceServiceTest, NamesTheWrongField) {
  EXPECT_EQ(FieldOf([](auto* r) { r->set_base_model("x"); }), "base_model");
  EXPECT_EQ(FieldOf([](auto* r) { r->set_dataset("models/x"); }), "dataset");
  EXPECT_EQ(FieldOf([](auto* r) { r->set_test_dataset("models/x"); }), "test_dataset");
  EXPECT_EQ(FieldOf([](auto* r) { r->mutable_needs()->set_accuracy(1.5); }), "needs.accuracy");
  EXPECT_EQ(FieldOf([](auto* r) { r->mutable_needs()->set_deadline_seconds(-1); }), "needs.deadline_seconds");
  EXPECT_EQ(FieldOf([](auto* r) { r->mutable_needs()->set_budget(5); }), "needs.price_per_device_hour");
  EXPECT_EQ(FieldOf([](auto* r) { r->mutable_needs()->set_lifetime_days(std::nan("")); }), "needs.lifetime_days");
  EXPECT_EQ(FieldOf([](auto* r) { r->mutable_needs()->set_tenants(-1); }), "needs.tenants");
  EXPECT_EQ(FieldOf([](auto* r) { r->set_curve_seconds(0.5); }), "curve_seconds");
  EXPECT_EQ(FieldOf([](auto* r) { r->mutable_data()->set_prompt_template("{{"); }), "data.prompt_template");
  EXPECT_EQ(FieldOf([](auto* r) { r->set_dataset("datasets/none"); }), "reason DATASET_NOT_FOUND");
  EXPECT_EQ(FieldOf([](auto* r) { r->set_base_model("models/none"); }), "reason MODEL_NOT_FOUND");
  AddModel("adapter", ModelKind::kLora, "base");
  EXPECT_EQ(FieldOf([](auto* r) { r->set_base_model("models/adapter"); }), "reason BASE_IS_ADAPTER");
}

TEST_F(AdviceServiceTest, EndsSoonWhenTheCallerLeaves) {
  engine_.HoldScores();
  grpc::ClientContext context;
  auto reader = stub_->Advise(&context, request_);
  v1::AdviseResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  const absl::Time start = absl::Now();
  server_->Shutdown();  // waits for the handler
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST(ConvertAdviceTest, NeedsAndOptionsArrive) {
  v1::AdviseRequest in;
  in.set_base_model("models/m");
  in.set_dataset("datasets/d");
  in.set_test_dataset("datasets/t");
  in.mutable_data()->set_max_sequence_tokens(64);
  v1::Needs& needs = *in.mutable_needs();
  needs.set_accuracy(0.9);
  needs.set_deadline_seconds(60);
  needs.set_budget(5);
  needs.set_price_per_device_hour(2);
  needs.set_keep_skills(true);
  needs.set_lifetime_days(7);
  needs.set_tenants(3);
  needs.set_request_milliseconds(50);
  auto out = ToAdviceRequest(in);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->test_dataset, "t");
  EXPECT_EQ(out->data.max_sequence_tokens, 64);
  EXPECT_EQ(out->needs, (Needs{0.9, 60, 5, 2, true, 7, 3, 50}));
  EXPECT_EQ(out->curve_seconds, 60);
  EXPECT_EQ(out->seed, 42u);
  in.set_curve_seconds(10);
  EXPECT_EQ(ToAdviceRequest(in)->curve_seconds, 10);
  in.set_skip_curve(true);
  EXPECT_EQ(ToAdviceRequest(in)->curve_seconds, 0);
}

TEST(ConvertAdviceTest, AllOfAnAdviceIsTold) {
  Advice advice;
  advice.findings = {{"rows", 40, 40, 40, 0, "few", Finding::Severity::kWarning}};
  advice.ranking = Rank(PriorRules(), SampleEvidence(), Needs{.price_per_device_hour = 3600});
  advice.past_comparisons = 2;
  const v1::Advice out = ToProto(advice);
  EXPECT_EQ(out.findings(0).severity(), v1::Advice::Finding::WARNING);
  ASSERT_EQ(out.recommendations_size(), static_cast<int>(advice.ranking.recommendations.size()));
  const Recommendation& first = advice.ranking.recommendations[0];
  EXPECT_EQ(out.recommendations(0).kind(), v1::Comparison::LORA);
  EXPECT_EQ(out.recommendations(0).quality(), first.quality);
  EXPECT_EQ(out.recommendations(0).price(), first.device_seconds);
  EXPECT_EQ(out.recommendations(0).reasons_size(), static_cast<int>(first.reasons.size()));
  EXPECT_EQ(out.recommendations(0).reasons(0).evidence(0), "zero_shot");
  EXPECT_EQ(out.verdict(), v1::Advice::TIED);
  EXPECT_EQ(out.settlement().rows(), 300);
  EXPECT_EQ(out.settlement().contenders(0), v1::Comparison::LORA);
}

}  // namespace
}  // namespace attune
