#include "server/model/generation_config.h"

#include <gtest/gtest.h>

#include <fstream>

#include "common/error.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

class GenerationConfigTest : public ::testing::Test {
 protected:
  absl::StatusOr<GenerationDefaults> Load(const std::string& json) {
    std::ofstream(temp_.File("generation_config.json")) << json;
    return LoadGenerationDefaults(temp_.path());
  }
  void ExpectBad(const std::string& json) {
    EXPECT_EQ(GetErrorDetails(Load(json).status()).reason, "BAD_MODEL") << json;
  }
  TempFolder temp_;
};

TEST_F(GenerationConfigTest, WithoutAFileItIsGreedy) {
  const auto defaults = LoadGenerationDefaults(temp_.path());
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->temperature, 0);
  EXPECT_EQ(defaults->top_p, 1);
  EXPECT_EQ(defaults->repetition_penalty, 1);
}

TEST_F(GenerationConfigTest, ReadsWhatSamplingNeeds) {
  const auto defaults = Load(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20,
                                 "repetition_penalty": 1.1, "eos_token_id": [1, 2], "min_p": null})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->temperature, 0.6);
  EXPECT_EQ(defaults->top_p, 0.9);
  EXPECT_EQ(defaults->top_k, 20);
  EXPECT_EQ(defaults->repetition_penalty, 1.1);
}

TEST_F(GenerationConfigTest, SamplingHasATemperatureOfOneUnlessGiven) {
  EXPECT_EQ(Load(R"({"do_sample": true})")->temperature, 1);
}

TEST_F(GenerationConfigTest, WithoutDoSampleItStaysGreedy) {
  const auto defaults = Load(R"({"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.3})");
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->temperature, 0);
  EXPECT_EQ(defaults->top_p, 1);
  EXPECT_EQ(defaults->top_k, 0);
  EXPECT_EQ(defaults->repetition_penalty, 1.3);
}

TEST_F(GenerationConfigTest, RefusesValuesOutOfRange) {
  ExpectBad(R"({"do_sample": true, "temperature": -1})");
  ExpectBad(R"({"do_sample": true, "temperature": "hot"})");
  ExpectBad(R"({"do_sample": true, "top_p": 0})");
  ExpectBad(R"({"do_sample": true, "top_k": -5})");
  ExpectBad(R"({"repetition_penalty": 0})");
}

}  // namespace
}  // namespace attune
