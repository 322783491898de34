#include "common/resource_name.h"

#include <set>

#include <gtest/gtest.h>

#include "common/error.h"

namespace attune {
namespace {

TEST(ResourceNameTest, ChecksIds) {
  const std::string longest = "a" + std::string(61, '-') + "z";
  for (const std::string& id : {std::string("a"), std::string("r8-train"), std::string("a0"), longest}) {
    EXPECT_TRUE(CheckId(id, "f").ok()) << id;
  }
  for (const std::string& id : {std::string(), std::string("A"), std::string("0a"), std::string("-a"), std::string("a-"),
                                std::string("a_b"), std::string("a b"), std::string("a/b"), std::string("a."),
                                std::string("\xc3\xa4"), std::string("a\0b", 3), std::string("..")
                                , longest + "z"}) {
    absl::Status status = CheckId(id, "dataset_id");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << id;
    EXPECT_EQ(GetErrorDetails(status).reason, "INVALID_ID");
    ASSERT_EQ(GetErrorDetails(status).violations.size(), 1);
    EXPECT_EQ(GetErrorDetails(status).violations[0].field, "dataset_id");
  }
}

TEST(ResourceNameTest, ParsesNames) {
  EXPECT_EQ(*ParseName(kModels, "models/smollm2", "name"), "smollm2");
  EXPECT_EQ(*ParseName(kTuningJobs, "tuningJobs/a-1", "name"), "a-1");
}

TEST(ResourceNameTest, RefusesOtherNames) {
  for (const char* name : {"", "models", "models/", "smollm2", "datasets/a", "Models/a", "/models/a", "models//a",
                           "models/a/b", "models/../a", "models/A"}) {
    absl::StatusOr<std::string> id = ParseName(kModels, name, "model");
    ASSERT_FALSE(id.ok()) << name;
    EXPECT_EQ(id.status().code(), absl::StatusCode::kInvalidArgument);
    ASSERT_EQ(GetErrorDetails(id.status()).violations.size(), 1);
    EXPECT_EQ(GetErrorDetails(id.status()).violations[0].field, "model");
  }
}

TEST(ResourceNameTest, RandomIdsAreValidAndDiffer) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    std::string id = RandomId("job");
    EXPECT_TRUE(CheckId(id, "f").ok()) << id;
    EXPECT_EQ(id.size(), 12);
    EXPECT_EQ(id.substr(0, 4), "job-");
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 1000);
}

TEST(ResourceNameTest, MakesIdsFromAnyText) {
  const std::pair<std::string, std::string> cases[] = {
      {"smollm2", "smollm2"},
      {"SmolLM2-135M-Instruct.Q4_1", "smollm2-135m-instruct-q4-1"},
      {"  My  model! ", "my-model"},
      {"7b-chat", "b-chat"},
      {"", "x"},
      {"123", "x"},
      {"---", "x"},
      {"\xe6\xa8\xa1\xe5\x9e\x8b", "x"},
      {std::string(100, 'a'), std::string(48, 'a')},
      {std::string(47, 'a') + "-b", std::string(47, 'a')},
  };
  for (const auto& [text, id] : cases) {
    EXPECT_EQ(MakeId(text), id) << text;
    EXPECT_TRUE(CheckId(MakeId(text), "f").ok()) << text;
  }
}

}  // namespace
}  // namespace attune
