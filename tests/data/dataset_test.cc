#include "server/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/data/chat_message.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Result {
  absl::Status status;
  DatasetInfo info;
  std::vector<Row> rows;
};

Result Read(const std::string& bytes, DatasetInfo info = {}) {
  Result result;
  result.info = std::move(info);
  result.status = ReadRows(bytes, &result.info, [&](Row row) { result.rows.push_back(std::move(row)); });
  return result;
}

// The reason for which the only row of `line`, besides a good one, is refused.
std::string Problem(const std::string& line, DatasetInfo info = {}) {
  info.format = DatasetFormat::kJsonl;
  Result result = Read(line + "\n", info);
  EXPECT_EQ(GetErrorDetails(result.status).reason, "EMPTY_DATASET") << line;
  return result.info.row_errors.size() == 1 ? result.info.row_errors[0].reason : "";
}

TEST(DatasetTest, ReadsJsonl) {
  Result result = Read(
      "\xef\xbb\xbf{\"prompt\":\"p\",\"completion\":\"c\",\"n\":1.5,\"b\":true,\"z\":null,\"l\":[1]}\r\n\n"
      "{\"completion\":\"\\u00e9\",\"prompt\":\"\"}");
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.info.format, DatasetFormat::kJsonl);
  EXPECT_EQ(result.info.kind, DatasetKind::kPromptCompletion);
  EXPECT_EQ(result.info.row_count, 2);
  EXPECT_EQ(result.info.prompt_template, "{{prompt}}");
  EXPECT_THAT(result.info.columns, ElementsAre("b", "completion", "n", "prompt"));
  ASSERT_EQ(result.rows.size(), 2u);
  EXPECT_EQ(result.rows[0].columns, (Columns{{"prompt", "p"}, {"completion", "c"}, {"n", "1.5"}, {"b", "true"}}));
  EXPECT_EQ(result.rows[0].line, 1);
  EXPECT_EQ(result.rows[1].line, 3);
  EXPECT_EQ(result.rows[1].columns.at("completion"), "é");
}

TEST(DatasetTest, ReadsChats) {
  Result result = Read(R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"},)"
                       R"({"role":"assistant","content":"a"}]})");
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.info.kind, DatasetKind::kChat);
  EXPECT_THAT(result.info.columns, ElementsAre("messages"));
  ASSERT_EQ(result.rows[0].messages.size(), 3u);
  EXPECT_EQ(result.rows[0].messages[2].role, "assistant");
  EXPECT_EQ(result.rows[0].messages[2].content, "a");
}

TEST(DatasetTest, ReadsChatsThatCallTools) {
  Result result = Read(R"({"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"no","weight":0},)"
                       R"({"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":)"
                       R"({"name":"f","arguments":"{\"z\": 1, \"a\": 2}"}}]},)"
                       R"({"role":"tool","content":"7","tool_call_id":"1"}],"tools":[{"type":"function","b":1,"a":2}]})"
                       "\n"
                       R"({"messages":[{"role":"assistant","content":"a"}],"tools":"[{\"name\": \"f\"}]"})");
  ASSERT_TRUE(result.status.ok()) << result.status;
  ASSERT_EQ(result.rows.size(), 2u);
  const std::vector<ChatTurn>& messages = result.rows[0].messages;
  ASSERT_EQ(messages.size(), 4u);
  EXPECT_FALSE(messages[1].trains);
  EXPECT_TRUE(messages[2].trains);
  EXPECT_EQ(messages[2].content, "");
  // Arguments become the object that templates write, keys in their order.
  EXPECT_EQ(messages[2].more,
            R"({"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}}]})");
  EXPECT_EQ(messages[3].more, R"({"tool_call_id":"1"})");
  EXPECT_EQ(result.rows[0].tools, R"([{"type":"function","b":1,"a":2}])");
  EXPECT_EQ(result.rows[1].tools, R"([{"name":"f"}])");
}

TEST(DatasetTest, MessagesComeBackFromTheirJson) {
  for (const ChatTurn& turn : {ChatTurn{"user", "u", R"({"name":"n"})"}, ChatTurn{"assistant", "a", "", false},
                               ChatTurn{"assistant", "", R"({"tool_calls":[{"name":"f","arguments":{}}]})"}}) {
    ChatTurn read;
    EXPECT_EQ(ReadMessage(MessageToJson(turn), &read), "");
    EXPECT_EQ(read.role, turn.role);
    EXPECT_EQ(read.content, turn.content);
    EXPECT_EQ(read.more, turn.more);
    EXPECT_EQ(read.trains, turn.trains);
  }
}

TEST(DatasetTest, DetectsTextAndTemplates) {
  EXPECT_EQ(Read("{\"text\":\"t\"}").info.kind, DatasetKind::kText);
  DatasetInfo info;
  info.prompt_template = "Text: {{text}}\nLabel:";
  info.completion_template = " {{label}}";
  Result result = Read("text,label\nhello,earn\n", info);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.info.kind, DatasetKind::kPromptCompletion);
  EXPECT_EQ(result.info.format, DatasetFormat::kCsv);
}

TEST(DatasetTest, TheFirstGoodRowDecidesTheKind) {
  Result result = Read("{\"x\":1}\n{\"text\":\"t\"}\n{\"prompt\":\"p\",\"completion\":\"c\"}\n");
  EXPECT_EQ(result.info.kind, DatasetKind::kText);
  EXPECT_EQ(result.info.row_count, 1);
  EXPECT_EQ(result.info.skipped_row_count, 2);
  EXPECT_THAT(result.info.row_errors[0].reason, HasSubstr("neither"));
  EXPECT_THAT(result.info.row_errors[1].reason, HasSubstr("'text'"));
}

TEST(DatasetTest, MapsColumns) {
  DatasetInfo info;
  info.column_mapping = {{"question", "prompt"}, {"answer", "completion"}};
  Result json = Read("{\"question\":\"q\",\"prompt\":\"old\",\"answer\":\"a\"}", info);
  ASSERT_TRUE(json.status.ok()) << json.status;
  EXPECT_EQ(json.rows[0].columns, (Columns{{"prompt", "q"}, {"completion", "a"}}));
  Result csv = Read("question,answer\nq,a\n", info);
  ASSERT_TRUE(csv.status.ok()) << csv.status;
  EXPECT_EQ(csv.rows[0].columns, (Columns{{"prompt", "q"}, {"completion", "a"}}));
  EXPECT_EQ(GetErrorDetails(Read("question,prompt,answer\nq,p,a\n", info).status).reason, "BAD_FORMAT");
  DatasetInfo chat;
  chat.column_mapping = {{"turns", "messages"}};
  EXPECT_EQ(Read(R"({"turns":[{"role":"assistant","content":"a"}]})", chat).info.kind, DatasetKind::kChat);
}

TEST(DatasetTest, ReadsQuotedCsv) {
  Result result = Read("prompt,completion\r\n\"a, \"\"b\"\"\nc\",d\r\n\r\n\"\",\"e\"\r\nf \"g\",h");
  ASSERT_TRUE(result.status.ok()) << result.status;
  ASSERT_EQ(result.rows.size(), 3u);
  EXPECT_EQ(result.rows[0].columns.at("prompt"), "a, \"b\"\nc");
  EXPECT_EQ(result.rows[0].line, 2);
  EXPECT_EQ(result.rows[1].columns.at("prompt"), "");
  EXPECT_EQ(result.rows[1].line, 5);
  EXPECT_EQ(result.rows[2].columns.at("prompt"), "f \"g\"");
  EXPECT_EQ(result.rows[2].columns.at("completion"), "h");
}

TEST(DatasetTest, ReadsTsvWithoutQuoting) {
  DatasetInfo info;
  info.format = DatasetFormat::kTsv;
  Result result = Read("prompt\tcompletion\n\"a\tb,\"\r\n", info);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.rows[0].columns, (Columns{{"prompt", "\"a"}, {"completion", "b,\""}}));
}

TEST(DatasetTest, BadCsvRowsHaveLinesAndReasons) {
  Result result = Read("prompt,completion\na\na,b,c\n\"x\ny\"z,b\na,\xff\ngood,row\n\"open,b\n");
  EXPECT_EQ(result.info.row_count, 1);
  ASSERT_EQ(result.info.row_errors.size(), 5u);
  EXPECT_EQ(result.info.row_errors[0].line, 2);
  EXPECT_THAT(result.info.row_errors[0].reason, HasSubstr("has 1 fields where the header has 2"));
  EXPECT_THAT(result.info.row_errors[1].reason, HasSubstr("has 3 fields"));
  EXPECT_EQ(result.info.row_errors[2].line, 4);
  EXPECT_THAT(result.info.row_errors[2].reason, HasSubstr("after a closing quote"));
  EXPECT_EQ(result.info.row_errors[3].line, 6);
  EXPECT_THAT(result.info.row_errors[3].reason, HasSubstr("UTF-8"));
  EXPECT_EQ(result.info.row_errors[4].line, 8);
  EXPECT_THAT(result.info.row_errors[4].reason, HasSubstr("never closed"));
}

TEST(DatasetTest, BadHeadersAreRefused) {
  for (const char* header : {"a,a\n1,2\n", "\"a,b\n1,2\n", "\xff,b\n1,2\n", "\"a\"b,c\n1,2\n"}) {
    EXPECT_EQ(GetErrorDetails(Read(header).status).reason, "BAD_FORMAT") << header;
  }
  EXPECT_TRUE(Read(",prompt,completion\n0,p,c\n").status.ok());  // an index column
}

TEST(DatasetTest, BadJsonRowsHaveReasons) {
  EXPECT_THAT(Problem("{\"prompt\":"), HasSubstr("not valid JSON"));
  EXPECT_THAT(Problem("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(Problem("{\"prompt\":\"\xff\"}"), HasSubstr("not UTF-8"));
  EXPECT_THAT(Problem("{\"prompt\":\"\\ud800\"}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(Problem(std::string(200000, '[')), HasSubstr("not valid JSON"));
  EXPECT_THAT(Problem("{\"prompt\":\"p\",\"completion\":\" \\n\"}"), HasSubstr("empty completion"));
  EXPECT_THAT(Problem("{\"text\":\"\"}"), HasSubstr("empty text"));
  DatasetInfo info;
  info.kind = DatasetKind::kPromptCompletion;
  EXPECT_THAT(Problem("{\"prompt\":\"p\",\"completion\":{}}", info), HasSubstr("'completion'"));
  info.kind = DatasetKind::kChat;
  EXPECT_THAT(Problem("{\"text\":\"t\"}", info), HasSubstr("'messages'"));
  info.kind = DatasetKind::kText;
  EXPECT_THAT(Problem("{\"prompt\":\"p\"}", info), HasSubstr("'text'"));
}

TEST(DatasetTest, BadMessagesHaveReasons) {
  auto problem = [](const std::string& messages) { return Problem("{\"messages\":" + messages + "}"); };
  EXPECT_THAT(problem("5"), HasSubstr("no list"));
  EXPECT_THAT(problem("[]"), HasSubstr("no list"));
  EXPECT_THAT(problem("[1]"), HasSubstr("no object in message 1"));
  EXPECT_THAT(problem(R"([{"content":"c"}])"), HasSubstr("no role in message 1"));
  EXPECT_THAT(problem(R"([{"role":"user","content":"u"},{"role":"assistant","content":null}])"),
              HasSubstr("no text as content in message 2"));
  EXPECT_THAT(problem(R"([{"role":"judge","content":"c"}])"),
              HasSubstr("unknown role; use system, user, assistant or tool in message 1"));
  EXPECT_THAT(problem(R"([{"role":"tool","content":"c"}])"), HasSubstr("no message of the assistant"));
  const auto answer = [&](const std::string& keys) { return problem(R"([{"role":"assistant",)" + keys + "}]"); };
  EXPECT_THAT(answer(R"("tool_calls":5)"), HasSubstr("tool_calls that are no list"));
  EXPECT_THAT(answer(R"("tool_calls":[{"function":{}}])"), HasSubstr("without the function's name"));
  EXPECT_THAT(answer(R"("tool_calls":[{"function":{"name":"f","arguments":"[1"}}])"),
              HasSubstr("arguments are no JSON object"));
  EXPECT_THAT(answer(R"("content":"a","weight":0.5)"), HasSubstr("neither 0 nor 1"));
  EXPECT_THAT(answer(R"("content":"a","weight":0)"), HasSubstr("no message of the assistant with a weight above 0"));
  EXPECT_THAT(problem(R"([{"role":"user","content":"a","tool_calls":[]},{"role":"assistant","content":"a"}])"),
              HasSubstr("not the assistant's"));
  EXPECT_THAT(Problem(R"({"messages":[{"role":"assistant","content":"a"}],"tools":"x"})"),
              HasSubstr("tools that are no list"));
  EXPECT_THAT(Problem(R"({"messages":[{"role":"assistant","content":"a"}],"tools":[1]})"),
              HasSubstr("a tool that is no object"));
  EXPECT_THAT(problem(R"([{"role":"user","content":"c"}])"), HasSubstr("no message of the assistant"));
  EXPECT_THAT(problem(R"([{"role":"assistant","content":" "}])"), HasSubstr("empty answer in message 1"));
}

TEST(DatasetTest, ReadsPreferences) {
  Result result = Read(R"({"prompt":"p","chosen":"good","rejected":"bad"})");
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.info.kind, DatasetKind::kPreference);
  EXPECT_EQ(result.rows[0].columns.at("rejected"), "bad");
  // A template that takes one of the answers makes them prompts with completions.
  DatasetInfo info;
  info.completion_template = "{{chosen}}";
  EXPECT_EQ(Read(R"({"prompt":"p","chosen":"good","rejected":"bad"})", info).info.kind, DatasetKind::kPromptCompletion);
  // One around either answer does not.
  info.completion_template = " {{completion}}.";
  EXPECT_EQ(Read(R"({"prompt":"p","chosen":"good","rejected":"bad"})", info).info.kind, DatasetKind::kPreference);
  EXPECT_EQ(Read("prompt,chosen,rejected\np,a,b\n").info.kind, DatasetKind::kPreference);
}

TEST(DatasetTest, ReadsPreferencesOfChats) {
  const std::string user = R"({"role":"user","content":"u"})", good = R"({"role":"assistant","content":"good"})",
                    bad = R"({"role":"assistant","content":"bad"})";
  for (const std::string& line :
       {R"({"chosen":[)" + user + "," + good + R"(],"rejected":[)" + user + "," + bad + "]}",
        R"({"prompt":[)" + user + R"(],"chosen":[)" + good + R"(],"rejected":[)" + bad + "]}",
        R"({"messages":[)" + user + R"(],"chosen":"good","rejected":"bad"})"}) {
    const Result result = Read(line);
    ASSERT_TRUE(result.status.ok()) << line << result.status;
    EXPECT_EQ(result.info.kind, DatasetKind::kChatPreference);
    const Row& row = result.rows[0];
    ASSERT_EQ(row.chosen.size(), 2u) << line;
    ASSERT_EQ(row.rejected.size(), 2u) << line;
    EXPECT_EQ(row.chosen[0].content, "u");
    EXPECT_EQ(row.chosen[1].content, "good");
    EXPECT_EQ(row.rejected[1].content, "bad");
  }
}

TEST(DatasetTest, BadPreferencesHaveReasons) {
  DatasetInfo text, chat;
  text.kind = DatasetKind::kPreference;
  chat.kind = DatasetKind::kChatPreference;
  EXPECT_THAT(Problem(R"({"prompt":"p","chosen":"a"})", text), HasSubstr("lacks the column 'rejected'"));
  EXPECT_THAT(Problem(R"({"prompt":"p","chosen":"a","rejected":" "})", text), HasSubstr("an empty 'rejected'"));
  EXPECT_THAT(Problem(R"({"prompt":"p","chosen":"a","rejected":"a"})", text), HasSubstr("the same answer"));
  EXPECT_THAT(Problem(R"({"chosen":"a","rejected":"b"})", text), HasSubstr("lacks the column 'prompt'"));
  const std::string user = R"({"role":"user","content":"u"})", answer = R"({"role":"assistant","content":"a"})";
  auto problem = [&](const std::string& chosen, const std::string& rejected) {
    return Problem("{\"chosen\":[" + chosen + "],\"rejected\":[" + rejected + "]}", chat);
  };
  EXPECT_THAT(problem(user + "," + answer, user + "," + answer), HasSubstr("the same answer"));
  EXPECT_THAT(problem(user, user + "," + answer), HasSubstr("'chosen' that does not end with the assistant"));
  EXPECT_THAT(problem(user + "," + answer, R"({"role":"user","content":"other"},{"role":"assistant","content":"b"})"),
              HasSubstr("differ before the last answer"));
  EXPECT_THAT(problem(answer, R"({"role":"assistant","content":"b"})"), HasSubstr("no message before the answers"));
  EXPECT_THAT(problem(user + "," + answer, "5"), HasSubstr("no object in message 1 of 'rejected'"));
  EXPECT_THAT(Problem(R"({"messages":[)" + user + R"(],"chosen":"a"})", chat), HasSubstr("lacks 'rejected'"));
}

TEST(DatasetTest, EmptyUploadsAreRefused) {
  for (const char* bytes : {"", "\n\n", "prompt,completion\n", "\xef\xbb\xbf"}) {
    Result result = Read(bytes);
    EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(GetErrorDetails(result.status).reason, "EMPTY_DATASET") << bytes;
  }
}

TEST(DatasetTest, BadTemplatesAreRefused) {
  DatasetInfo info;
  info.prompt_template = "{{";
  EXPECT_EQ(GetErrorDetails(Read("{\"text\":\"t\"}", info).status).reason, "BAD_TEMPLATE");
}

TEST(DatasetTest, KeepsTwentyRowErrorsAndCountsAll) {
  std::string bytes;
  for (int i = 0; i < 50; ++i) bytes += "{}\n";
  Result result = Read(bytes + "{\"text\":\"t\"}\n");
  EXPECT_EQ(result.info.skipped_row_count, 50);
  EXPECT_EQ(result.info.row_errors.size(), 20u);
}

// Whatever the fields hold, quoting them and reading them back gives them again.
TEST(DatasetTest, RandomFieldsSurviveCsv) {
  std::mt19937 random(3);
  const std::string alphabet[] = {",", "\"", "\n", "\r\n", "a", " ", "é", "\t"};
  std::string bytes = "prompt,completion\n";
  std::vector<std::string> prompts;
  for (int row = 0; row < 500; ++row) {
    std::string value;
    for (uint32_t i = random() % 12; i > 0; --i) value += alphabet[random() % std::size(alphabet)];
    prompts.push_back(value);
    absl::StrAppend(&bytes, "\"", absl::StrReplaceAll(value, {{"\"", "\"\""}}), "\",c\n");
  }
  Result result = Read(bytes);
  ASSERT_EQ(result.rows.size(), prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(result.rows[i].columns.at("prompt"), prompts[i]) << i;
}

}  // namespace
}  // namespace attune
