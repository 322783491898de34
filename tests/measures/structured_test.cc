#include "server/evaluation/measures/structured.h"

#include "gtest/gtest.h"
#include "server/evaluation/measures/number_match.h"

namespace attune {
namespace {

TEST(StructuredTest, KnowsJson) {
  for (const char* valid : {"{}", " [1, 2.5e3, null, \"\\u00e9\"]\n", "\"x\"", "-0", "true"})
    EXPECT_TRUE(IsValidJson(valid)) << valid;
  for (const char* wrong :
       {"", "{", "{'a': 1}", "[1,]", "{} x", "nan", "01", "\"\x01\"", "\"\xFF\"", "```json\n{}\n```"}) {
    EXPECT_FALSE(IsValidJson(wrong)) << wrong;
  }
}

TEST(StructuredTest, FindsKeys) {
  EXPECT_TRUE(IsJsonObjectWith(R"({"a": null, "b": 1})", {"b"}));
  EXPECT_TRUE(IsJsonObjectWith("{}", {}));
  EXPECT_FALSE(IsJsonObjectWith(R"({"a": {"b": 1}})", {"b"}));
  EXPECT_FALSE(IsJsonObjectWith(R"(["b"])", {"b"}));
  EXPECT_FALSE(IsJsonObjectWith(R"({"b": 1)", {"b"}));
}

TEST(StructuredTest, ComparesMeaning) {
  EXPECT_TRUE(JsonEquals(R"({"a": 1, "b": [2]})", R"( {"b":[2.0],"a":1e0} )"));
  EXPECT_FALSE(JsonEquals("[1, 2]", "[2, 1]"));
  EXPECT_FALSE(JsonEquals("\"1\"", "1"));
  EXPECT_FALSE(JsonEquals("x", "x"));
  EXPECT_FALSE(JsonEquals("null", "nul"));
}

TEST(StructuredTest, DeepNestingEnds) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(IsValidJson(nested(kMaxJsonDepth)));
  EXPECT_FALSE(IsValidJson(nested(kMaxJsonDepth + 1)));
  EXPECT_FALSE(JsonEquals(nested(1'000'000), nested(1'000'000)));
  EXPECT_TRUE(IsValidJson("\"" + std::string(1000, '[') + "\\\"" + std::string(1000, '{') + "\""));
}

TEST(NumberMatchTest, FindsTheLastNumber) {
  EXPECT_EQ(LastNumber("so 3 + 4 = 7."), 7);
  EXPECT_EQ(LastNumber("about $1,234,567.50"), 1234567.5);
  EXPECT_EQ(LastNumber("it is -12"), -12);
  EXPECT_EQ(LastNumber("pages 3-5"), 5);
  EXPECT_EQ(LastNumber("f(x)-5"), 5);
  EXPECT_EQ(LastNumber("6.02e23"), 6.02e23);
  EXPECT_EQ(LastNumber("1,2,3"), 3);
  EXPECT_EQ(LastNumber("1,2345"), 2345);
  EXPECT_EQ(LastNumber("12345,678"), 678);
  EXPECT_EQ(LastNumber("2e"), 2);
  EXPECT_EQ(LastNumber("none"), std::nullopt);
  EXPECT_EQ(LastNumber(""), std::nullopt);
}

TEST(NumberMatchTest, ComparesWithTolerance) {
  EXPECT_TRUE(NumbersMatch("The answer is 1,000.", "#### 1000"));
  EXPECT_TRUE(NumbersMatch("0.3333333", "0.33333333"));
  EXPECT_FALSE(NumbersMatch("0.333", "0.3333"));
  EXPECT_TRUE(NumbersMatch("0.333", "0.3333", 0.01));
  EXPECT_FALSE(NumbersMatch("5", "-5"));
  EXPECT_FALSE(NumbersMatch("none", "none"));
  EXPECT_TRUE(NumbersMatch("1e999", "2e999"));  // both beyond what is counted with
}

}  // namespace
}  // namespace attune
