#include "common/status.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace attune {
namespace {

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

TEST(StatusTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).error_details().empty());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(StatusTest, EveryCodeMakesTheRoundTrip) {
  for (int code = 1; code <= 16; ++code) {
    absl::Status in(static_cast<absl::StatusCode>(code), "why");
    grpc::Status wire = ToGrpcStatus(in);
    EXPECT_EQ(wire.error_code(), code);
    EXPECT_EQ(wire.error_message(), "why");
    EXPECT_EQ(Details(wire).code(), code);
    absl::Status out = FromGrpcStatus(wire);
    EXPECT_EQ(out.code(), in.code());
    EXPECT_EQ(out.message(), "why");
  }
}

TEST(StatusTest, DetailsAreStandardMessages) {
  grpc::Status wire = ToGrpcStatus(InvalidField("tuning_job.lora.rank", "must be 1 to 512", "BAD_RANK"));
  google::rpc::Status details = Details(wire);
  EXPECT_EQ(details.message(), wire.error_message());
  ASSERT_EQ(details.details_size(), 2);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "BAD_RANK");
  EXPECT_EQ(info.domain(), "attune.dev");
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.details(1).UnpackTo(&bad));
  ASSERT_EQ(bad.field_violations_size(), 1);
  EXPECT_EQ(bad.field_violations(0).field(), "tuning_job.lora.rank");
  EXPECT_EQ(bad.field_violations(0).description(), "must be 1 to 512");
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
}

TEST(StatusTest, ErrorWithoutReasonGetsItsCodeName) {
  google::rpc::ErrorInfo info;
  google::rpc::Status details = Details(ToGrpcStatus(absl::DeadlineExceededError("late")));
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "DEADLINE_EXCEEDED");
}

TEST(StatusTest, DetailsMakeTheRoundTrip) {
  absl::Status in = MakeError(absl::StatusCode::kInvalidArgument, "BAD_ROWS", "2 bad rows",
                              {{"line", "17"}, {"count", "2"}}, {{"a", "b"}, {"c", "d"}});
  ErrorDetails out = GetErrorDetails(FromGrpcStatus(ToGrpcStatus(in)));
  EXPECT_EQ(out.reason, "BAD_ROWS");
  EXPECT_EQ(out.metadata, GetErrorDetails(in).metadata);
  ASSERT_EQ(out.violations.size(), 2);
  EXPECT_EQ(out.violations[1].field, "c");
  EXPECT_EQ(out.violations[1].description, "d");
}

TEST(StatusTest, ForeignErrorsKeepCodeAndMessage) {
  for (const char* details : {"", "\xff\xff no message"}) {
    absl::Status status = FromGrpcStatus(grpc::Status(grpc::StatusCode::UNAVAILABLE, "no connection", details));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(status.message(), "no connection");
    EXPECT_EQ(GetErrorDetails(status).reason, "");
  }
}

}  // namespace
}  // namespace attune
