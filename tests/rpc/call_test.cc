#include "server/rpc/call.h"

#include <stdexcept>

#include "attune/v1/tuning_service.grpc.pb.h"
#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

// A service whose one method does what the test wants.
class ScriptedService final : public v1::TuningService::Service {
 public:
  explicit ScriptedService(Metrics* metrics) : metrics_(metrics) {}
  grpc::Status GetTuningJob(grpc::ServerContext* context, const v1::GetTuningJobRequest*,
                            v1::TuningJob* response) override {
    return ServeCall(context, metrics_, "TuningService", "GetTuningJob", [&](Call& call) {
      response->set_name(call.request_id());
      return body(call);
    });
  }
  std::function<absl::Status(Call&)> body;

 private:
  Metrics* const metrics_;
};

class CallTest : public RpcFixture {
 protected:
  CallTest() : service_(&metrics_), stub_(v1::TuningService::NewStub(Serve(&service_))) {
    service_.body = [](Call&) { return absl::OkStatus(); };
  }
  // The request id that the handler saw.
  std::string RequestId(const std::string& given, grpc::ClientContext* context) {
    if (!given.empty()) context->AddMetadata("x-request-id", given);
    v1::TuningJob response;
    EXPECT_TRUE(stub_->GetTuningJob(context, v1::GetTuningJobRequest(), &response).ok());
    return response.name();
  }
  grpc::Status Get() {
    grpc::ClientContext context;
    v1::TuningJob response;
    return stub_->GetTuningJob(&context, v1::GetTuningJobRequest(), &response);
  }

  ScriptedService service_;
  std::unique_ptr<v1::TuningService::Stub> stub_;
};

TEST_F(CallTest, TakesTheCallersRequestIdAndSendsItBack) {
  grpc::ClientContext context;
  EXPECT_EQ(RequestId("abc-123", &context), "abc-123");
  auto sent = context.GetServerInitialMetadata().find("x-request-id");
  ASSERT_NE(sent, context.GetServerInitialMetadata().end());
  EXPECT_EQ(std::string(sent->second.data(), sent->second.size()), "abc-123");
}

TEST_F(CallTest, MakesARequestIdUpWhereNoneIsUsable) {
  grpc::ClientContext none, spaces, lengthy;
  EXPECT_TRUE(RequestId("", &none).rfind("request-", 0) == 0);
  EXPECT_TRUE(RequestId("a b", &spaces).rfind("request-", 0) == 0);
  EXPECT_TRUE(RequestId(std::string(129, 'x'), &lengthy).rfind("request-", 0) == 0);
}

TEST_F(CallTest, WhatThrowsCostsOneCallOnly) {
  service_.body = [](Call&) -> absl::Status { throw std::runtime_error("broken"); };
  grpc::Status status = Get();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "broken");
  service_.body = [](Call&) -> absl::Status { throw std::bad_alloc(); };
  EXPECT_EQ(Reason(Get()), "OUT_OF_MEMORY");
  service_.body = [](Call&) { return absl::OkStatus(); };
  EXPECT_TRUE(Get().ok());
}

TEST_F(CallTest, KnowsTheDeadline) {
  absl::Time with = absl::InfinitePast(), without = absl::InfinitePast();
  service_.body = [&](Call& call) {
    without = call.deadline();
    return absl::OkStatus();
  };
  ASSERT_TRUE(Get().ok());
  EXPECT_EQ(without, absl::InfiniteFuture());
  service_.body = [&](Call& call) {
    with = call.deadline();
    return absl::OkStatus();
  };
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::TuningJob response;
  ASSERT_TRUE(stub_->GetTuningJob(&context, v1::GetTuningJobRequest(), &response).ok());
  EXPECT_GT(with, absl::Now() + absl::Seconds(30));
  EXPECT_LT(with, absl::Now() + absl::Seconds(61));
}

}  // namespace
}  // namespace attune
