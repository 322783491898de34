#include "common/page_token.h"

#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "common/error.h"

namespace attune {
namespace {

TEST(PageTokenTest, PositionsMakeTheRoundTrip) {
  for (int64_t position : {int64_t{0}, int64_t{1}, int64_t{123456789}, std::numeric_limits<int64_t>::max()}) {
    EXPECT_EQ(*DecodePageToken("models", EncodePageToken("models", position)), position);
  }
}

TEST(PageTokenTest, EmptyTokenStartsAtTheNewest) {
  EXPECT_EQ(*DecodePageToken("models", ""), std::numeric_limits<int64_t>::max());
}

TEST(PageTokenTest, TokensDoNotChangeBetweenVersions) {
  // A client may hold a token while the server is updated.
  std::string text;
  ASSERT_TRUE(absl::WebSafeBase64Unescape(EncodePageToken("models", 7), &text));
  EXPECT_EQ(text, "bb021c3315a8cc0b:7");
}

TEST(PageTokenTest, RefusesForeignTokens) {
  const std::string good = EncodePageToken("tuningJobs|tenant=a", 7);
  for (const std::string& token : {std::string("garbage"), std::string("%%%"), good.substr(0, good.size() - 4),
                                   EncodePageToken("tuningJobs|tenant=b", 7), EncodePageToken("models", 7)}) {
    absl::StatusOr<int64_t> position = DecodePageToken("tuningJobs|tenant=a", token);
    ASSERT_FALSE(position.ok()) << token;
    EXPECT_EQ(position.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(GetErrorDetails(position.status()).reason, "INVALID_PAGE_TOKEN");
  }
}

TEST(PageTokenTest, PageSizeHasDefaultAndCap) {
  EXPECT_EQ(*PageSize(0), 100);
  EXPECT_EQ(*PageSize(1), 1);
  EXPECT_EQ(*PageSize(1000), 1000);
  EXPECT_EQ(*PageSize(1001), 1000);
  EXPECT_EQ(*PageSize(std::numeric_limits<int>::max()), 1000);
  EXPECT_EQ(PageSize(-1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace attune
