// Calls, retries, paging and streams of the client library.
#include "client/attune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "client/retry.h"
#include "common/error.h"
#include "tests/testing/fake_services.h"

namespace attune {
namespace {

using testing::FakeServer;
using testing::Unavailable;
using ::testing::ElementsAre;
using ::testing::SizeIs;

ClientOptions QuickOptions() {
  ClientOptions options;
  options.initial_backoff = absl::Milliseconds(2);
  options.max_backoff = absl::Milliseconds(20);
  return options;
}

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() : client_(Client::Connect(server_.target(), QuickOptions()).value()) {}

  void AddModel(const std::string& id) {
    server_.state().models["models/" + id].set_name("models/" + id);
  }
  absl::StatusOr<v1::Model> Get(const std::string& name) {
    v1::GetModelRequest request;
    request.set_name(name);
    return client_->GetModel(request);
  }

  FakeServer server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, EmptyTargetIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect("").status()));
}

TEST_F(ClientTest, ErrorsCarryTheServersReason) {
  auto model = Get("models/none");
  EXPECT_TRUE(absl::IsNotFound(model.status()));
  EXPECT_EQ(GetErrorDetails(model.status()).reason, "MODEL_NOT_FOUND");
  EXPECT_EQ(server_.state().Calls("GetModel"), 1);
}

TEST_F(ClientTest, ReadsAreRetriedWhileUnavailable) {
  AddModel("m");
  server_.state().FailNext("GetModel", 3, Unavailable());
  auto model = Get("models/m");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name(), "models/m");
  EXPECT_EQ(server_.state().Calls("GetModel"), 4);
}

TEST_F(ClientTest, RetriesEndAfterTheLimit) {
  server_.state().FailNext("GetModel", 100, Unavailable());
  EXPECT_TRUE(absl::IsUnavailable(Get("models/m").status()));
  EXPECT_EQ(server_.state().Calls("GetModel"), 1 + QuickOptions().max_retries);
}

TEST_F(ClientTest, OtherErrorsAreNotRetried) {
  server_.state().FailNext("GetModel", 1, grpc::Status(grpc::StatusCode::INTERNAL, "broken"));
  EXPECT_TRUE(absl::IsInternal(Get("models/m").status()));
  EXPECT_EQ(server_.state().Calls("GetModel"), 1);
}

TEST_F(ClientTest, CreationsRepeatOneRequestId) {
  server_.state().FailNext("CreateTuningJob", 2, Unavailable());
  v1::CreateTuningJobRequest request;
  request.set_tuning_job_id("j");
  ASSERT_TRUE(client_->CreateTuningJob(request).ok());
  auto sent = [&](int i) {
    return server_.state().RequestOf<v1::CreateTuningJobRequest>("CreateTuningJob", i).request_id();
  };
  EXPECT_THAT(sent(0), SizeIs(32));
  EXPECT_EQ(sent(1), sent(0));
  EXPECT_EQ(sent(2), sent(0));
  request.set_request_id("mine");
  ASSERT_TRUE(client_->CreateTuningJob(request).ok());
  EXPECT_EQ(sent(3), "mine");
}

TEST_F(ClientTest, CancelIsNotRetried) {
  server_.state().FailNext("CancelTuningJob", 1, Unavailable());
  v1::CancelTuningJobRequest request;
  request.set_name("tuningJobs/j");
  EXPECT_TRUE(absl::IsUnavailable(client_->CancelTuningJob(request).status()));
  EXPECT_EQ(server_.state().Calls("CancelTuningJob"), 1);
}

TEST_F(ClientTest, UpdateIsRetriedOnlyWithoutEtag) {
  AddModel("m");
  v1::UpdateModelRequest request;
  request.mutable_model()->set_name("models/m");
  server_.state().FailNext("UpdateModel", 1, Unavailable());
  EXPECT_TRUE(client_->UpdateModel(request).ok());
  request.mutable_model()->set_etag("e");
  server_.state().FailNext("UpdateModel", 1, Unavailable());
  EXPECT_TRUE(absl::IsUnavailable(client_->UpdateModel(request).status()));
}

TEST_F(ClientTest, DeletionWhoseAnswerWasLostSucceeds) {
  AddModel("m");
  server_.state().after_delete = Unavailable();
  v1::DeleteModelRequest request;
  request.set_name("models/m");
  EXPECT_TRUE(client_->DeleteModel(request).ok());
  EXPECT_EQ(server_.state().Calls("DeleteModel"), 2);
  EXPECT_TRUE(absl::IsNotFound(client_->DeleteModel(request)));
}

TEST_F(ClientTest, DeadlineHoldsOverAllRetries) {
  ClientOptions options = QuickOptions();
  options.deadline = absl::Milliseconds(50);
  options.initial_backoff = options.max_backoff = absl::Seconds(30);
  auto client = Client::Connect(server_.target(), options).value();
  server_.state().FailNext("ListModels", 1, Unavailable());
  absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsUnavailable(client->ListModels({}).status()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(15));
}

TEST_F(ClientTest, ListsGoOverEveryPage) {
  for (const char* id : {"a", "b", "c", "d", "e"}) AddModel(id);
  std::vector<std::string> names;
  ASSERT_TRUE(client_->ForEachModel({}, [&](const v1::Model& model) {
    names.push_back(model.name());
    return true;
  }).ok());
  EXPECT_THAT(names, ElementsAre("models/a", "models/b", "models/c", "models/d", "models/e"));
  EXPECT_EQ(server_.state().Calls("ListModels"), 3);
}

TEST_F(ClientTest, ListsStopWhenAsked) {
  for (const char* id : {"a", "b", "c", "d", "e"}) AddModel(id);
  int seen = 0;
  ASSERT_TRUE(client_->ForEachModel({}, [&](const v1::Model&) { return ++seen < 2; }).ok());
  EXPECT_EQ(seen, 2);
  EXPECT_EQ(server_.state().Calls("ListModels"), 1);
}

TEST_F(ClientTest, StreamGivesEveryPiece) {
  std::string text;
  ASSERT_TRUE(client_->StreamGenerate({}, [&](const v1::StreamGenerateResponse& piece) {
    text += piece.text();
    return true;
  }).ok());
  EXPECT_EQ(text, "Hello, world");
}

TEST_F(ClientTest, StreamIsRetriedBeforeItsFirstMessage) {
  server_.state().FailNext("StreamGenerate", 2, Unavailable());
  std::string text;
  ASSERT_TRUE(client_->StreamGenerate({}, [&](const v1::StreamGenerateResponse& piece) {
    text += piece.text();
    return true;
  }).ok());
  EXPECT_EQ(text, "Hello, world");
  EXPECT_EQ(server_.state().Calls("StreamGenerate"), 3);
}

TEST_F(ClientTest, CallbackCancelsTheStreamOnTheServer) {
  absl::Notification cancelled;
  server_.state().endless = true;
  server_.state().generation_cancelled = &cancelled;
  absl::Status status = client_->StreamGenerate({}, [](const v1::StreamGenerateResponse&) { return false; });
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_TRUE(cancelled.WaitForNotificationWithTimeout(absl::Seconds(20)));
}

TEST_F(ClientTest, AnotherThreadCancelsTheStream) {
  server_.state().endless = true;
  Cancellation cancellation;
  absl::Notification first;
  std::thread canceller([&] {
    first.WaitForNotification();
    cancellation.Cancel();
  });
  absl::Status status = client_->StreamGenerate(
      {},
      [&](const v1::StreamGenerateResponse&) {
        if (!first.HasBeenNotified()) first.Notify();
        return true;
      },
      &cancellation);
  canceller.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST_F(ClientTest, CancelledBeforehandEndsAtOnce) {
  server_.state().endless = true;
  Cancellation cancellation;
  cancellation.Cancel();
  auto ignore = [](const v1::StreamGenerateResponse&) { return true; };
  EXPECT_TRUE(absl::IsCancelled(client_->StreamGenerate({}, ignore, &cancellation)));
}

TEST_F(ClientTest, EvaluationReportsProgressAndResult) {
  std::vector<int64_t> done;
  auto result = client_->Evaluate({}, [&](const v1::EvaluateResponse& message) {
    done.push_back(message.done());
    return true;
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_DOUBLE_EQ(result->label_accuracy().value(), 0.912);
  EXPECT_THAT(done, ElementsAre(250, 500));
}

TEST_F(ClientTest, EvaluationWithoutResultIsAnError) {
  server_.state().evaluation_without_result = true;
  EXPECT_TRUE(absl::IsInternal(client_->Evaluate({}).status()));
}

TEST_F(ClientTest, WaitForReadySaysWhetherTheServerIsThere) {
  EXPECT_TRUE(client_->WaitForReady(absl::Seconds(20)).ok());
  // Nothing listens on port 1. (A stopped server's address will not do: clients
  // of one address share connections, which may not have noticed yet.)
  auto other = Client::Connect("127.0.0.1:1", QuickOptions()).value();
  EXPECT_TRUE(absl::IsUnavailable(other->WaitForReady(absl::Milliseconds(50))));
}

TEST(BackoffTest, GrowsWithJitterUpToTheLimit) {
  ClientOptions options;
  options.initial_backoff = absl::Milliseconds(100);
  options.max_backoff = absl::Milliseconds(400);
  Backoff backoff(options);
  for (absl::Duration step : {absl::Milliseconds(100), absl::Milliseconds(200), absl::Milliseconds(400),
                              absl::Milliseconds(400)}) {
    absl::Duration pause = backoff.Next();
    EXPECT_GE(pause, step / 2);
    EXPECT_LE(pause, step);
  }
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Milliseconds(100));
}

}  // namespace
}  // namespace attune
