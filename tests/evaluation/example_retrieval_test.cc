#include "server/evaluation/example_retrieval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/fake_tokenizer.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

bool GoOnAlways(int64_t, int64_t) { return true; }

// What the engine makes of a text is its length, so texts of like length are alike.
class ExampleRetrievalTest : public ::testing::Test {
 protected:
  ExampleRetrievalTest() {
    model_ = std::make_shared<ServedModel>();
    model_->info.id = "m";
    model_->tokenizer_view = &tokenizer_;
    model_->context = 400;
    prompt_.instruction = "Say.";
    prompt_.input_template = "Q:{{q}} A:";
    prompt_.output_template = "{{a}}";
    prompt_.retrieved = 2;
    std::vector<Columns> rows;
    for (int length : {1, 9, 3, 20, 4}) rows.push_back(Row(length));
    auto pool = MakePool(&engine_, model_, prompt_, rows, GoOnAlways);
    EXPECT_TRUE(pool.ok()) << pool.status();
    prompt_.pool = *pool;
  }

  static Columns Row(int length) { return {{"q", std::string(length, 'x')}, {"a", absl::StrCat(length)}}; }

  std::string Rendered(const Columns& row, int64_t left_out = -1, int64_t max_tokens = 400) {
    auto queries = EmbedQueries(&engine_, model_, prompt_, {&row}, GoOnAlways);
    EXPECT_TRUE(queries.ok()) << queries.status();
    RenderOptions options;
    options.max_tokens = max_tokens;
    auto renderer = RendererFor(*model_, prompt_, options, row, queries->at(0), left_out);
    EXPECT_TRUE(renderer.ok()) << renderer.status();
    return tokenizer_.Decode(renderer->RenderPrompt(row, 0, nullptr).value(), /*skip_special=*/true);
  }

  FakeTokenizer tokenizer_;
  FakeEngine engine_;
  std::shared_ptr<ServedModel> model_;
  TextPrompt prompt_;
};

TEST_F(ExampleRetrievalTest, ThePoolIsEmbeddedByItsInputsAlone) {
  ASSERT_EQ(prompt_.pool->embeddings.size(), 5);
  EXPECT_TRUE(CheckEmbeddings(*prompt_.pool, 2, "pool").ok());
  // Without instruction and answer; with the begin token.
  ASSERT_EQ(engine_.embedded().size(), 5);
  EXPECT_EQ(tokenizer_.Decode(engine_.embedded()[2], false), "<s>Q:xxx A:");
}

TEST_F(ExampleRetrievalTest, TheNearestRowsStandBeforeTheInputTheNearestLast) {
  EXPECT_EQ(Rendered({{"q", "abc"}}), "Say.\n\nQ:xxxx A:4\n\nQ:xxx A:3\n\nQ:abc A:");
  EXPECT_EQ(Rendered({{"q", "abcd"}}), "Say.\n\nQ:xxx A:3\n\nQ:xxxx A:4\n\nQ:abcd A:");
  EXPECT_EQ(Rendered({{"q", std::string(30, 'z')}}), absl::StrCat("Say.\n\nQ:xxxxxxxxx A:9\n\nQ:", std::string(20, 'x'),
                                                                  " A:20\n\nQ:", std::string(30, 'z'), " A:"));
  // Again the same, and fixed examples stay first.
  EXPECT_EQ(Rendered({{"q", "abc"}}), Rendered({{"q", "abc"}}));
  prompt_.examples = {Row(2)};
  prompt_.retrieved = 1;
  EXPECT_EQ(Rendered({{"q", "abc"}}), "Say.\n\nQ:xx A:2\n\nQ:xxx A:3\n\nQ:abc A:");
}

TEST_F(ExampleRetrievalTest, ARowIsNoExampleOfItself) {
  EXPECT_EQ(Rendered(Row(3), /*left_out=*/2), "Say.\n\nQ:x A:1\n\nQ:xxxx A:4\n\nQ:xxx A:");
}

TEST_F(ExampleRetrievalTest, TheLeastSimilarMakeWayForTheInput) {
  const Columns row = {{"q", "abc"}};
  const std::string both = "Say.\n\nQ:xxxx A:4\n\nQ:xxx A:3\n\nQ:abc A:", one = "Say.\n\nQ:xxx A:3\n\nQ:abc A:";
  EXPECT_EQ(Rendered(row, -1, 60), both);
  EXPECT_EQ(Rendered(row, -1, 44), both);
  EXPECT_EQ(Rendered(row, -1, 40), one);
  EXPECT_EQ(Rendered(row, -1, 30), one);
  EXPECT_EQ(Rendered(row, -1, 20), "Say.\n\nQ:abc A:");
  // A long input is cut; examples may have half.
  EXPECT_THAT(Rendered({{"q", std::string(90, 'z')}}, -1, 80), testing::StartsWith("Say.\n\nQ:" + std::string(20, 'x') + " A:20\n\nQ:zzz"));
}

TEST_F(ExampleRetrievalTest, ARowOfThePoolIsFound) {
  EXPECT_EQ(ExampleOf(*prompt_.pool, Row(3)), 2);
  EXPECT_EQ(ExampleOf(*prompt_.pool, {{"q", "xxx"}, {"a", "other"}}), -1);
  EXPECT_EQ(ExampleOf(*prompt_.pool, {{"q", "xxx"}}), -1);
}

TEST_F(ExampleRetrievalTest, LongInputsAreCutAndEmptyOnesAreLikeAllAlike) {
  model_->context = 20;
  EXPECT_EQ(QueryTokens(*model_, prompt_, {{"q", std::string(99, 'y')}})->size(), 20);
  EXPECT_EQ(GetErrorDetails(QueryTokens(*model_, prompt_, {}).status()).reason, "MISSING_COLUMN");
  prompt_.input_template = "{{q}}";
  model_->context = 400;
  const size_t before = engine_.embedded().size();
  EXPECT_EQ(Rendered({{"q", ""}}), absl::StrCat("Say.\n\n", std::string(9, 'x'), "9\n\nx1\n\n"));
  EXPECT_EQ(engine_.embedded().size(), before);  // there is nothing to embed
  EXPECT_EQ(GetErrorDetails(MakePool(&engine_, model_, prompt_, {{{"q", ""}, {"a", ""}}}, GoOnAlways).status()).reason,
            "INVALID_FIELD");
}

TEST_F(ExampleRetrievalTest, ManyQueriesComeInOrderAFewAtATime) {
  std::vector<Columns> rows;
  std::vector<const Columns*> views;
  for (int i = 0; i < 40; ++i) rows.push_back(Row(i));
  for (const Columns& row : rows) views.push_back(&row);
  engine_.RefuseNext(2);  // a full queue is waited for
  const auto queries = EmbedQueries(&engine_, model_, prompt_, views, GoOnAlways);
  ASSERT_TRUE(queries.ok()) << queries.status();
  ASSERT_EQ(queries->size(), 40);
  for (int i = 0; i < 40; ++i) EXPECT_EQ((*queries)[i][0], i + 6);  // "<s>Q: A:"
  EXPECT_EQ(engine_.last_embed().inputs.size(), 8);
}

TEST_F(ExampleRetrievalTest, WhoGivesUpGetsNoAnswer) {
  engine_.HoldEmbeddings();
  const Columns row = Row(3);
  const auto queries = EmbedQueries(&engine_, model_, prompt_, {&row}, [](int64_t, int64_t) { return false; });
  EXPECT_TRUE(absl::IsCancelled(queries.status()));
}

TEST_F(ExampleRetrievalTest, APoolOfAnotherModelIsAnError) {
  EXPECT_TRUE(absl::IsInternal(RendererFor(*model_, prompt_, RenderOptions(), {}, {1, 0, 0}).status()));
}

}  // namespace
}  // namespace attune
