#include "server/data/chat_message.h"

#include "absl/strings/ascii.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kToolCalls[] = "tool_calls";

const Json* Find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// Calls stand in {"function": {...}}, or as they are.
std::string ReadCalls(Json* calls) {
  if (!calls->is_array()) return "tool_calls that are no list";
  for (Json& call : *calls) {
    if (!call.is_object()) return "a tool call that is no object";
    Json& function = call.contains("function") ? call["function"] : call;
    if (!function.is_object() || Find(function, "name") == nullptr || !function["name"].is_string()) {
      return "a tool call without the function's name";
    }
    const Json* const arguments = Find(function, "arguments");
    if (arguments == nullptr || arguments->is_object()) continue;
    const Json parsed = arguments->is_string()
                            ? Json::parse(arguments->get<std::string>(), nullptr, /*allow_exceptions=*/false)
                            : Json();
    if (!parsed.is_object()) return "a tool call whose arguments are no JSON object";
    function["arguments"] = parsed;
  }
  return "";
}

std::string ReadWeight(const Json& json, ChatTurn* turn) {
  const Json* const weight = Find(json, "weight");
  if (weight == nullptr) return "";
  if (turn->role != "assistant") return "a weight that is not the assistant's";
  if (!weight->is_number() || (*weight != 0 && *weight != 1)) return "a weight that is neither 0 nor 1";
  turn->trains = *weight == 1;
  return "";
}

}  // namespace

bool IsRole(absl::string_view role) {
  return role == "system" || role == "user" || role == "assistant" || role == "tool";
}

std::string ReadMessage(const Json& json, ChatTurn* turn) {
  if (!json.is_object()) return "no object";
  const Json *role = Find(json, "role"), *content = Find(json, "content");
  if (role == nullptr || !role->is_string()) return "no role";
  *turn = ChatTurn{role->get<std::string>(), ""};
  if (!IsRole(turn->role)) return "an unknown role; use system, user, assistant or tool";
  Json more = Json::object();
  for (const auto& [key, value] : json.items()) {
    if (key != "role" && key != "content" && key != "weight" && !value.is_null()) more[key] = value;
  }
  const bool calls = more.contains(kToolCalls);
  if (calls && turn->role != "assistant") return "tool_calls that are not the assistant's";
  if (calls) {
    if (std::string problem = ReadCalls(&more[kToolCalls]); !problem.empty()) return problem;
  }
  if (content != nullptr ? !content->is_string() : !calls) return "no text as content";
  if (content != nullptr) turn->content = content->get<std::string>();
  if (turn->role == "assistant" && !calls && absl::StripAsciiWhitespace(turn->content).empty())
    return "an empty answer";
  if (!more.empty()) turn->more = more.dump();
  return ReadWeight(json, turn);
}

std::string ReadTools(const Json& json, std::string* tools) {
  if (!json.is_array()) return "tools that are no list";
  for (const Json& tool : json) {
    if (!tool.is_object()) return "a tool that is no object";
  }
  *tools = json.empty() ? "" : json.dump();
  return "";
}

Json MessageToJson(const ChatTurn& turn) {
  Json json = {{"role", turn.role}, {"content", turn.content}};
  if (!turn.more.empty()) json.update(Json::parse(turn.more));
  if (!turn.trains) json["weight"] = 0;
  return json;
}

}  // namespace attune
