#include "common/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/statusor.h"

namespace attune {
namespace {

using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

TEST(ErrorTest, KeepsReasonMetadataAndViolations) {
  absl::Status status = MakeError(absl::StatusCode::kFailedPrecondition, "MODEL_IN_USE", "A job needs it.",
                                  {{"job", "tuningJobs/a"}, {"state", ""}}, {{"name", "is in use"}, {"etag", "is old"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "A job needs it.");
  ErrorDetails details = GetErrorDetails(status);
  EXPECT_EQ(details.reason, "MODEL_IN_USE");
  EXPECT_THAT(details.metadata, UnorderedElementsAre(Pair("job", "tuningJobs/a"), Pair("state", "")));
  ASSERT_EQ(details.violations.size(), 2);
  EXPECT_EQ(details.violations[0].field, "name");
  EXPECT_EQ(details.violations[0].description, "is in use");
  EXPECT_EQ(details.violations[1].field, "etag");
  EXPECT_EQ(details.violations[1].description, "is old");
}

TEST(ErrorTest, OtherStatusesHaveNoDetails) {
  for (const absl::Status& status : {absl::OkStatus(), absl::InternalError("x")}) {
    ErrorDetails details = GetErrorDetails(status);
    EXPECT_EQ(details.reason, "");
    EXPECT_TRUE(details.metadata.empty());
    EXPECT_TRUE(details.violations.empty());
  }
}

TEST(ErrorTest, DetailsMayHoldPunctuationAndNewlines) {
  const std::string odd = "a: \"b\"\n\tc|d;e=f,\xe2\x82\xac";
  absl::Status status = MakeError(absl::StatusCode::kInvalidArgument, "R", "m", {{"k", odd}}, {{"f[0].g", odd}});
  EXPECT_EQ(GetErrorDetails(status).metadata["k"], odd);
  ASSERT_EQ(GetErrorDetails(status).violations.size(), 1);
  EXPECT_EQ(GetErrorDetails(status).violations[0].field, "f[0].g");
  EXPECT_EQ(GetErrorDetails(status).violations[0].description, odd);
}

TEST(ErrorTest, InvalidFieldNamesTheField) {
  absl::Status status = InvalidField("tuning_job.lora.rank", "must be 1 to 512");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tuning_job.lora.rank: must be 1 to 512"));
  ErrorDetails details = GetErrorDetails(status);
  EXPECT_EQ(details.reason, "INVALID_FIELD");
  ASSERT_EQ(details.violations.size(), 1);
  EXPECT_EQ(details.violations[0].field, "tuning_job.lora.rank");
  EXPECT_EQ(GetErrorDetails(InvalidField("f", "d", "OTHER_REASON")).reason, "OTHER_REASON");
}

TEST(ErrorTest, NotFoundDerivesItsReasonFromTheCollection) {
  const std::pair<const char*, const char*> cases[] = {{"models/a", "MODEL_NOT_FOUND"},
                                                       {"datasets/b", "DATASET_NOT_FOUND"},
                                                       {"tuningJobs/c", "TUNING_JOB_NOT_FOUND"},
                                                       {"aliases/d", "ALIAS_NOT_FOUND"}};
  for (const auto& [name, reason] : cases) {
    absl::Status status = NotFound(name);
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(GetErrorDetails(status).reason, reason);
    EXPECT_EQ(GetErrorDetails(status).metadata["name"], name);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

absl::Status PassesOn(const absl::Status& status, bool* went_on) {
  ATTUNE_RETURN_IF_ERROR(status);
  *went_on = true;
  return absl::OkStatus();
}

absl::StatusOr<int> Doubles(absl::StatusOr<int> value) {
  ATTUNE_ASSIGN_OR_RETURN(int a, value);
  ATTUNE_ASSIGN_OR_RETURN(int b, value);
  return a + b;
}

TEST(ErrorTest, MacrosReturnTheErrorUnchanged) {
  bool went_on = false;
  absl::Status error = MakeError(absl::StatusCode::kAborted, "STALE", "stale");
  EXPECT_EQ(PassesOn(error, &went_on), error);
  EXPECT_FALSE(went_on);
  EXPECT_TRUE(PassesOn(absl::OkStatus(), &went_on).ok());
  EXPECT_TRUE(went_on);
  EXPECT_EQ(*Doubles(21), 42);
  EXPECT_EQ(GetErrorDetails(Doubles(error).status()).reason, "STALE");
}

}  // namespace
}  // namespace attune
