// Watches: no event missed or doubled, whatever happens to the connection.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "client/attune.h"
#include "common/error.h"
#include "tests/testing/fake_services.h"

namespace attune {
namespace {

using testing::FakeServer;
using testing::JobLife;
using testing::Unavailable;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class WatchTest : public ::testing::Test {
 protected:
  WatchTest() {
    options_.initial_backoff = absl::Milliseconds(2);
    options_.max_backoff = absl::Milliseconds(20);
    options_.reconnect_window = absl::Seconds(60);
    request_.set_name("tuningJobs/j");
    SetJob(v1::TuningJob::SUCCEEDED);
    server_.state().events = JobLife(20, v1::TuningJob::SUCCEEDED);
  }

  void SetJob(v1::TuningJob::State state) { server_.state().jobs["tuningJobs/j"].set_state(state); }

  // Watches with `on_event` run before each is noted.
  absl::Status Watch(std::function<bool(const v1::JobEvent&)> on_event = nullptr, Cancellation* cancellation = nullptr) {
    auto client = Client::Connect(server_.target(), options_).value();
    return client->WatchTuningJob(
        request_,
        [&](const v1::JobEvent& event) {
          seen_.push_back(event.sequence());
          return on_event == nullptr || on_event(event);
        },
        cancellation);
  }

  static std::vector<int64_t> Numbers(int64_t from, int64_t to) {
    std::vector<int64_t> numbers(to - from + 1);
    std::iota(numbers.begin(), numbers.end(), from);
    return numbers;
  }

  FakeServer server_;
  ClientOptions options_;
  v1::WatchTuningJobRequest request_;
  std::vector<int64_t> seen_;
};

TEST_F(WatchTest, AComparisonsWatchOutlivesConnectionsToo) {
  for (int version = 1; version <= 9; ++version) {
    v1::Comparison& comparison = server_.state().versions.emplace_back();
    comparison.set_version(version);
    comparison.set_state(version < 9 ? v1::Comparison::RUNNING : v1::Comparison::SUCCEEDED);
  }
  server_.state().legs = {3, 0, 2};
  server_.state().leg_status = Unavailable();
  auto client = Client::Connect(server_.target(), options_).value();
  v1::WatchComparisonRequest request;
  request.set_name("comparisons/c");
  std::vector<int64_t> versions;
  const auto note = [&](const v1::Comparison& comparison) {
    versions.push_back(comparison.version());
    return true;
  };
  EXPECT_TRUE(client->WatchComparison(request, note).ok());
  EXPECT_EQ(versions, Numbers(1, 9));
  EXPECT_EQ(server_.state().Calls("WatchComparison"), 4);
  versions.clear();
  const auto stop = [&](const v1::Comparison& comparison) { return note(comparison) && comparison.version() < 2; };
  EXPECT_TRUE(absl::IsCancelled(client->WatchComparison(request, stop)));
  EXPECT_EQ(versions, Numbers(1, 2));
}

TEST_F(WatchTest, DeliversEverythingAndEnds) {
  EXPECT_TRUE(Watch().ok());
  EXPECT_EQ(seen_, Numbers(1, 23));
  EXPECT_EQ(server_.state().Calls("WatchTuningJob"), 1);
}

TEST_F(WatchTest, BrokenStreamsResumeWithoutGapOrDouble) {
  server_.state().legs = {3, 0, 7, 1, 0, 0, 5};
  EXPECT_TRUE(Watch().ok());
  EXPECT_EQ(seen_, Numbers(1, 23));
  auto resumed = server_.state().RequestOf<v1::WatchTuningJobRequest>("WatchTuningJob", 3);
  EXPECT_EQ(resumed.after_sequence(), 10);
}

TEST_F(WatchTest, TransportErrorsOfOtherCodesResumeToo) {
  server_.state().legs = {4};
  server_.state().leg_status = grpc::Status(grpc::StatusCode::INTERNAL, "Received RST_STREAM with error code 2");
  EXPECT_TRUE(Watch().ok());
  EXPECT_EQ(seen_, Numbers(1, 23));
}

TEST_F(WatchTest, ErrorsOfTheServerEndIt) {
  server_.state().legs = {4};
  server_.state().leg_status = ToGrpcStatus(MakeError(absl::StatusCode::kInternal, "DATABASE_ERROR", "disk gone"));
  absl::Status status = Watch();
  EXPECT_EQ(GetErrorDetails(status).reason, "DATABASE_ERROR");
  EXPECT_EQ(seen_, Numbers(1, 4));
}

TEST_F(WatchTest, UnknownJobEndsItAtOnce) {
  server_.state().FailNext("WatchTuningJob", 1, ToGrpcStatus(NotFound("tuningJobs/j")));
  EXPECT_TRUE(absl::IsNotFound(Watch()));
  EXPECT_THAT(seen_, IsEmpty());
}

TEST_F(WatchTest, OutlivesARestartOfTheServer) {
  server_.state().legs = {5};
  server_.state().hold_legs = true;
  EXPECT_TRUE(Watch([&](const v1::JobEvent& event) {
    if (event.sequence() == 5) {
      server_.Stop();
      server_.Start();
    }
    return true;
  }).ok());
  EXPECT_EQ(seen_, Numbers(1, 23));
}

TEST_F(WatchTest, QuietEndBeforeTheFinalStateIsNoEnd) {
  server_.state().legs = {6};
  server_.state().leg_status = grpc::Status::OK;
  SetJob(v1::TuningJob::RUNNING);
  EXPECT_TRUE(Watch().ok());
  EXPECT_EQ(seen_, Numbers(1, 23));
}

TEST_F(WatchTest, NothingAfterTheLastEventOfAnEndedJob) {
  request_.set_after_sequence(23);
  EXPECT_TRUE(Watch().ok());
  EXPECT_THAT(seen_, IsEmpty());
}

TEST_F(WatchTest, GivesUpAfterTheWindow) {
  options_.reconnect_window = absl::Milliseconds(30);
  server_.state().FailNext("WatchTuningJob", 1000, Unavailable());
  EXPECT_TRUE(absl::IsUnavailable(Watch()));
  EXPECT_GT(server_.state().Calls("WatchTuningJob"), 1);
}

TEST_F(WatchTest, CallbackEndsIt) {
  EXPECT_TRUE(absl::IsCancelled(Watch([](const v1::JobEvent& event) { return event.sequence() < 2; })));
  EXPECT_THAT(seen_, ElementsAre(1, 2));
}

TEST_F(WatchTest, CancellationEndsASilentWatch) {
  server_.state().legs = {2};
  server_.state().hold_legs = true;
  Cancellation cancellation;
  EXPECT_TRUE(absl::IsCancelled(Watch(
      [&](const v1::JobEvent& event) {
        if (event.sequence() == 2) cancellation.Cancel();
        return true;
      },
      &cancellation)));
  EXPECT_THAT(seen_, ElementsAre(1, 2));
}

}  // namespace
}  // namespace attune
