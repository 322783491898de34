#include "server/rpc/convert_chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"

namespace attune {
namespace {

using ::testing::HasSubstr;

v1::ChatMessage* Add(v1::ChatPrompt* chat, const std::string& role, const std::string& content) {
  v1::ChatMessage* const message = chat->add_messages();
  message->set_role(role);
  message->set_content(content);
  return message;
}

TEST(ConvertChatTest, TemplatesSeeWhatRowsOfDataHave) {
  v1::ChatPrompt chat;
  Add(&chat, "user", "u");
  v1::ChatMessage* const answer = Add(&chat, "assistant", "");
  v1::ToolCall* const call = answer->add_tool_calls();
  call->set_id("1");
  call->set_name("f");
  call->set_arguments(R"({"z": 1, "a": 2})");
  Add(&chat, "tool", "7")->set_tool_call_id("1");
  v1::Tool* const tool = chat.add_tools();
  tool->set_name("f");
  tool->set_description("d");
  chat.add_tools()->set_name("g");
  chat.mutable_tools(1)->set_parameters(R"({"type": "object", "properties": {"z": {}, "a": {}}})");

  const auto conversation = ConversationFrom(chat);
  ASSERT_TRUE(conversation.ok()) << conversation.status();
  ASSERT_EQ(conversation->turns.size(), 3u);
  EXPECT_EQ(conversation->turns[0].more, "");
  EXPECT_EQ(conversation->turns[1].more,
            R"({"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}}]})");
  EXPECT_EQ(conversation->turns[2].more, R"({"tool_call_id":"1"})");
  EXPECT_EQ(
      conversation->tools,
      R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{}}}},)"
      R"({"type":"function","function":{"name":"g","description":"","parameters":{"type":"object","properties":{"z":{},"a":{}}}}}])");
}

TEST(ConvertChatTest, ErrorsNameTheField) {
  const auto error = [](const v1::ChatPrompt& chat) { return std::string(ConversationFrom(chat).status().message()); };
  v1::ChatPrompt chat;
  EXPECT_THAT(error(chat), HasSubstr("prompt.chat.messages"));
  Add(&chat, "user", "u");
  Add(&chat, "judge", "u");
  EXPECT_THAT(error(chat), HasSubstr("prompt.chat.messages[1]"));
  chat.mutable_messages(1)->set_role("assistant");
  EXPECT_EQ(error(chat), "");
  v1::ToolCall* const call = chat.mutable_messages(1)->add_tool_calls();
  EXPECT_THAT(error(chat), HasSubstr("messages[1].tool_calls[0].name"));
  call->set_name("f");
  call->set_arguments("[1]");
  EXPECT_THAT(error(chat), HasSubstr("messages[1].tool_calls[0].arguments"));
  call->clear_arguments();
  chat.add_tools()->set_parameters("{}");
  EXPECT_THAT(error(chat), HasSubstr("tools[0].name"));
  chat.mutable_tools(0)->set_name("f");
  chat.mutable_tools(0)->set_parameters("{");
  EXPECT_THAT(error(chat), HasSubstr("tools[0].parameters"));
}

}  // namespace
}  // namespace attune
