#include "client/cli/chat_file.h"

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "common/error.h"
#include "nlohmann/json.hpp"

namespace attune::cli {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<Json> ListOf(absl::string_view text, const char* what) {
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) return UsageError(absl::StrCat(what, " must be a JSON list"));
  return json;
}

// A string as it is, anything else as JSON.
std::string TextOf(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

const Json& FunctionOf(const Json& json) { return json.contains("function") ? json["function"] : json; }

absl::Status AddCall(const Json& json, const std::string& place, v1::ChatMessage* message) {
  if (!json.is_object() || !FunctionOf(json).is_object())
    return UsageError(absl::StrCat(place, " has a tool call that is no object"));
  v1::ToolCall* const call = message->add_tool_calls();
  const Json& function = FunctionOf(json);
  if (json.contains("id")) call->set_id(TextOf(json["id"]));
  if (function.contains("name")) call->set_name(TextOf(function["name"]));
  if (function.contains("arguments")) call->set_arguments(TextOf(function["arguments"]));
  return absl::OkStatus();
}

absl::Status AddMessage(const Json& json, const std::string& place, v1::ChatPrompt* chat) {
  if (!json.is_object()) return UsageError(absl::StrCat(place, " is no object"));
  v1::ChatMessage* const message = chat->add_messages();
  for (const auto& [key, value] : json.items()) {
    if (value.is_null() || key == "weight") continue;
    if (key == "tool_calls" && value.is_array()) {
      for (const Json& call : value) ATTUNE_RETURN_IF_ERROR(AddCall(call, place, message));
      continue;
    }
    if (!value.is_string()) return UsageError(absl::StrCat(place, ": '", key, "' is no text"));
    const std::string text = value.get<std::string>();
    if (key == "role")
      message->set_role(text);
    else if (key == "content")
      message->set_content(text);
    else if (key == "tool_call_id")
      message->set_tool_call_id(text);
    else if (key == "name")
      message->set_name(text);
    else if (key == "reasoning_content")
      message->set_reasoning_content(text);
    else
      return UsageError(absl::StrCat(place, " has the key '", key, "', which requests have no place for"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AddMessages(absl::string_view text, v1::ChatPrompt* chat) {
  ATTUNE_ASSIGN_OR_RETURN(const Json list, ListOf(text, "messages"));
  for (const Json& json : list) {
    ATTUNE_RETURN_IF_ERROR(AddMessage(json, absl::StrCat("message ", chat->messages_size() + 1), chat));
  }
  return absl::OkStatus();
}

absl::Status AddTools(absl::string_view text, v1::ChatPrompt* chat) {
  ATTUNE_ASSIGN_OR_RETURN(const Json list, ListOf(text, "tools"));
  for (const Json& json : list) {
    const std::string place = absl::StrCat("tool ", chat->tools_size() + 1);
    if (!json.is_object() || !FunctionOf(json).is_object()) return UsageError(absl::StrCat(place, " is no object"));
    v1::Tool* const tool = chat->add_tools();
    for (const auto& [key, value] : FunctionOf(json).items()) {
      if (value.is_null() || key == "type") continue;
      if (key == "name")
        tool->set_name(TextOf(value));
      else if (key == "description")
        tool->set_description(TextOf(value));
      else if (key == "parameters")
        tool->set_parameters(TextOf(value));
      else
        return UsageError(absl::StrCat(place, " has the key '", key, "', which requests have no place for"));
    }
  }
  return absl::OkStatus();
}

}  // namespace attune::cli
