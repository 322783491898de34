// Any text as the JSON of a chat's row, {"messages": [...], "tools": [...]}: what is taken must be written as JSON that
// reads as the same, and be rendered by a template that looks at all of it.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/data/chat_message.h"

namespace {

constexpr char kTemplate[] =
    "{{ tools | tojson }}{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    "{% for message in messages %}{{ message.role + message.content }}{% for key, value in message.items() %}{{ key }}={{ value }}"
    "{% endfor %}{% for call in message.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% for k, v in "
    "(call.function.arguments or {}) | dictsort %}{{ k }}{{ v }}{% endfor %}{% endfor %}{% endfor %}";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  using Json = nlohmann::ordered_json;
  const Json json = Json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("messages") || !json["messages"].is_array()) return 0;
  std::vector<ChatTurn> turns;
  for (const Json& message : json["messages"]) {
    ChatTurn turn, again;
    if (!ReadMessage(message, &turn).empty()) continue;
    if (!ReadMessage(MessageToJson(turn), &again).empty()) std::abort();
    if (again.role != turn.role || again.content != turn.content || again.more != turn.more || again.trains != turn.trains) std::abort();
    turns.push_back(turn);
  }
  std::string tools;
  if (json.contains("tools") && !ReadTools(json["tools"], &tools).empty()) return 0;
  static const auto* const chat = ChatTemplate::Parse(kTemplate, "<s>", "</s>").value().release();
  chat->Render(turns, true, tools).status().IgnoreError();
  return 0;
}
