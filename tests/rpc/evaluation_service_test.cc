#include "server/rpc/evaluation_service.h"

#include "absl/time/clock.h"
#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

constexpr char kRows[] = "{\"prompt\":\"p1\",\"completion\":\"a\"}\n{\"prompt\":\"p2\",\"completion\":\"b\"}\n";

class EvaluationServiceTest : public RpcFixture {
 protected:
  EvaluationServiceTest()
      : service_({Provider(), datasets_.get(), &engine_, &metrics_}),
        stub_(v1::EvaluationService::NewStub(Serve(&service_))) {
    AddServed("base");
    AddDataset("data", kRows);
    request_.set_model("models/base");
    request_.set_dataset("datasets/data");
  }

  grpc::Status Run(const v1::EvaluateRequest& request, std::vector<v1::EvaluateResponse>* messages) {
    grpc::ClientContext context;
    auto reader = stub_->Evaluate(&context, request);
    for (v1::EvaluateResponse message; reader->Read(&message);) messages->push_back(message);
    return reader->Finish();
  }
  std::string FieldOf(const v1::EvaluateRequest& request) {
    std::vector<v1::EvaluateResponse> messages;
    return Field(Run(request, &messages));
  }

  EvaluationService service_;
  std::unique_ptr<v1::EvaluationService::Stub> stub_;
  v1::EvaluateRequest request_;
};

TEST_F(EvaluationServiceTest, StreamsProgressAndThenTheResult) {
  // "a" is always the likelier.
  engine_.SetScorer([](const ScoreParams&, const std::vector<int32_t>& tokens) {
    return FakeEngine::Uniform(tokens, tokens[0] == 'a' ? -0.5 : -1.5, tokens[0] == 'a');
  });
  std::vector<v1::EvaluateResponse> messages;
  grpc::Status status = Run(request_, &messages);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_FALSE(messages.empty());
  for (size_t i = 0; i + 1 < messages.size(); ++i) EXPECT_FALSE(messages[i].has_result());
  const v1::EvaluateResponse& last = messages.back();
  EXPECT_EQ(last.done(), 2);
  EXPECT_EQ(last.total(), 2);
  const v1::EvaluationResult& result = last.result();
  EXPECT_EQ(result.model(), "models/base");
  EXPECT_EQ(result.dataset(), "datasets/data");
  EXPECT_EQ(result.examples(), 2);
  EXPECT_DOUBLE_EQ(result.label_accuracy().value(), 0.5);
  EXPECT_EQ(result.label_accuracy().count(), 2);
  EXPECT_FALSE(result.has_exact_match());
  EXPECT_NEAR(result.loss(), 1.0, 1e-6);
  EXPECT_NEAR(result.perplexity(), std::exp(1.0), 1e-5);
  EXPECT_DOUBLE_EQ(result.token_accuracy(), 0.5);
  ASSERT_EQ(result.labels_size(), 2);
  EXPECT_EQ(result.labels(0).label(), "a");
  EXPECT_EQ(result.labels(0).predicted(), 2);
  EXPECT_EQ(result.labels(0).correct(), 1);
}

TEST_F(EvaluationServiceTest, NamesTheWrongField) {
  v1::EvaluateRequest request = request_;
  request.set_model("x");
  EXPECT_EQ(FieldOf(request), "model");
  request = request_;
  request.set_dataset("datasets/none");
  EXPECT_EQ(FieldOf(request), "reason DATASET_NOT_FOUND");
  request = request_;
  request.set_max_examples(-1);
  EXPECT_EQ(FieldOf(request), "max_examples");
  request = request_;
  request.add_choices("a");
  EXPECT_EQ(FieldOf(request), "choices");
  request.add_choices("a");
  EXPECT_EQ(FieldOf(request), "choices[1]");
  request = request_;
  request.set_max_tokens(-1);
  EXPECT_EQ(FieldOf(request), "max_tokens");
  request = request_;
  request.mutable_data()->set_prompt_template("{{");
  EXPECT_EQ(FieldOf(request), "data.prompt_template");
}

TEST_F(EvaluationServiceTest, EndsSoonWhenTheCallerLeaves) {
  engine_.HoldScores();
  grpc::ClientContext context;
  auto reader = stub_->Evaluate(&context, request_);
  v1::EvaluateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.done(), 0);
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  const absl::Time start = absl::Now();
  server_->Shutdown();  // waits for the handler
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

}  // namespace
}  // namespace attune
