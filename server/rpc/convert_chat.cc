#include "server/rpc/convert_chat.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/data/chat_message.h"

namespace attune {
namespace {

using Json = nlohmann::ordered_json;

// Of a JSON object's text, empty for an empty object.
absl::StatusOr<Json> ObjectOf(const std::string& text, const std::string& field) {
  if (text.empty()) return Json::object();
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return InvalidField(field, "must be the text of a JSON object");
  return json;
}

absl::StatusOr<Json> MessageFrom(const v1::ChatMessage& message, const std::string& field) {
  Json json = {{"role", message.role()}};
  if (!message.content().empty() || message.tool_calls().empty()) json["content"] = message.content();
  for (const v1::ToolCall& call : message.tool_calls()) {
    const std::string place = absl::StrCat(field, ".tool_calls[", json["tool_calls"].size(), "]");
    if (call.name().empty()) return InvalidField(place + ".name", "must not be empty");
    ATTUNE_ASSIGN_OR_RETURN(Json arguments, ObjectOf(call.arguments(), place + ".arguments"));
    Json made = Json::object();
    if (!call.id().empty()) made["id"] = call.id();
    made["type"] = "function";
    made["function"] = {{"name", call.name()}, {"arguments", std::move(arguments)}};
    json["tool_calls"].push_back(std::move(made));
  }
  if (!message.tool_call_id().empty()) json["tool_call_id"] = message.tool_call_id();
  if (!message.name().empty()) json["name"] = message.name();
  if (!message.reasoning_content().empty()) json["reasoning_content"] = message.reasoning_content();
  return json;
}

absl::StatusOr<std::string> ToolsFrom(const v1::ChatPrompt& chat) {
  Json tools = Json::array();
  for (const v1::Tool& tool : chat.tools()) {
    const std::string place = absl::StrCat("prompt.chat.tools[", tools.size(), "]");
    if (tool.name().empty()) return InvalidField(place + ".name", "must not be empty");
    Json function = {{"name", tool.name()}, {"description", tool.description()}};
    if (tool.parameters().empty()) {
      function["parameters"] = {{"type", "object"}, {"properties", Json::object()}};
    } else {
      ATTUNE_ASSIGN_OR_RETURN(function["parameters"], ObjectOf(tool.parameters(), place + ".parameters"));
    }
    tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return tools.empty() ? std::string() : tools.dump();
}

}  // namespace

absl::StatusOr<Conversation> ConversationFrom(const v1::ChatPrompt& chat) {
  if (chat.messages().empty()) return InvalidField("prompt.chat.messages", "must hold at least one message");
  Conversation conversation;
  for (const v1::ChatMessage& message : chat.messages()) {
    const std::string field = absl::StrCat("prompt.chat.messages[", conversation.turns.size(), "]");
    if (!IsRole(message.role())) {
      return InvalidField(field + ".role", "must be \"system\", \"user\", \"assistant\" or \"tool\"");
    }
    ATTUNE_ASSIGN_OR_RETURN(const Json json, MessageFrom(message, field));
    ChatTurn turn;
    const std::string problem = ReadMessage(json, &turn);
    if (!problem.empty()) return InvalidField(field, "has " + problem);
    conversation.turns.push_back(std::move(turn));
  }
  ATTUNE_ASSIGN_OR_RETURN(conversation.tools, ToolsFrom(chat));
  return conversation;
}

}  // namespace attune
