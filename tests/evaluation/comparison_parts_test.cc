#include "server/comparison/parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<Row> Read(absl::string_view bytes, DatasetInfo* info) {
  std::vector<Row> rows;
  const absl::Status status = ReadRows(bytes, info, [&](Row row) { rows.push_back(std::move(row)); });
  EXPECT_TRUE(status.ok()) << status;
  return rows;
}

DatasetInfo Topics() {
  DatasetInfo info;
  info.prompt_template = "{{title}}: {{text}}\n";
  info.completion_template = " {{label}}.";
  return info;
}

TEST(ComparisonPartsTest, TheLabelIsTheAnswersOnlyVariable) {
  DatasetInfo info = Topics();
  const std::vector<Row> rows = Read("{\"title\":\"a\",\"text\":\"b\",\"label\":\"acq\"}\n"
                                     "{\"title\":\"a\",\"text\":\"b\",\"label\":\"earn\"}\n", &info);
  const auto described = DescribeRows(info, rows);
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ((*described)[0].label, "acq");
  EXPECT_EQ((*described)[0].text, (*described)[1].text) << "the answer is no part of the text";
  info.completion_template = "{{label}} of {{title}}";
  EXPECT_EQ(DescribeRows(info, rows)->front().label, "acq of a");
}

TEST(ComparisonPartsTest, TheInputIsTheLongestColumnOfThePromptThatIsNoAnswer) {
  DatasetInfo info = Topics();
  info.completion_template = " {{text2}} titled";  // holds other columns' names as text
  Row row;
  row.columns = {{"title", "long"}, {"text", "longer"}, {"text2", "the longest"}, {"unused", "longest of all four"}};
  EXPECT_EQ(*InputColumn(info, row), "text");
  info.prompt_template = "{{text2}}";
  EXPECT_EQ(*InputColumn(info, row), std::nullopt);
  info.completion_template = "{{";
  EXPECT_FALSE(InputColumn(info, row).ok());
}

TEST(ComparisonPartsTest, RowsReadBackAsTheyWere) {
  DatasetInfo info = Topics();
  const std::vector<Row> rows = Read("{\"title\":\"1\\n\\\"2\\\"\",\"text\":7,\"label\":\"x\\u00e9\"}\n", &info);
  DatasetInfo again = Topics();
  const std::vector<Row> back = Read(RowsToJsonl(info, rows), &again);
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].columns, rows[0].columns);

  DatasetInfo chat;
  const std::vector<Row> turns = Read(
      "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"glad\"}]}\n", &chat);
  ASSERT_EQ(chat.kind, DatasetKind::kChat);
  EXPECT_EQ(DescribeRows(chat, turns)->front().label, "glad");
  DatasetInfo chat_again;
  EXPECT_EQ(Read(RowsToJsonl(chat, turns), &chat_again)[0].messages[1].content, "glad");
}

TEST(ComparisonPartsTest, ChoicesAreFewAndRepeated) {
  std::vector<SplitRow> rows;
  for (int i = 0; i < 12; ++i) rows.push_back({i % 3 ? "b" : "a", absl::StrCat(i)});
  EXPECT_THAT(ChoicesOf(rows), ElementsAre("a", "b"));
  for (int i = 0; i < 12; ++i) rows[i].label = absl::StrCat("answer ", i);
  EXPECT_THAT(ChoicesOf(rows), IsEmpty()) << "as many answers as rows";
  for (int i = 0; i < 12; ++i) rows[i].label = i % 2 ? "a" : std::string(300, 'x');
  EXPECT_THAT(ChoicesOf(rows), IsEmpty()) << "no label is so long";
  for (int i = 0; i < 12; ++i) rows[i].label = "same";
  EXPECT_THAT(ChoicesOf(rows), IsEmpty());
}

}  // namespace
}  // namespace attune
