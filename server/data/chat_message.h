#ifndef ATTUNE_SERVER_DATA_CHAT_MESSAGE_H_
#define ATTUNE_SERVER_DATA_CHAT_MESSAGE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"
#include "server/tokenizer/chat_template.h"

// Messages of chats as JSON, in the form that OpenAI's files and transformers have.
namespace attune {

// "system", "user", "assistant" or "tool".
bool IsRole(absl::string_view role);

// {"role", "content", ...}: an assistant's content may be absent or null where it has "tool_calls"; its "weight" may be
// 0, which keeps it from being trained on, or 1. Arguments of calls may be an object or its JSON text: templates see
// the object. All other keys are for the template. Returns what is wrong, to be read after "has", or an empty text.
std::string ReadMessage(const nlohmann::ordered_json& json, ChatTurn* turn);

// A list of objects, as its text, which is empty for none; or what is wrong, as above.
std::string ReadTools(const nlohmann::ordered_json& json, std::string* tools);

// What ReadMessage reads as the same turn.
nlohmann::ordered_json MessageToJson(const ChatTurn& turn);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_CHAT_MESSAGE_H_
