#ifndef ATTUNE_CLIENT_CLI_CHAT_FILE_H_
#define ATTUNE_CLIENT_CLI_CHAT_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "attune/v1/generation_service.pb.h"

// Conversations and tools as JSON, in the form that data sets of chats have.
namespace attune::cli {

// Adds a JSON list of messages, {"role", "content", ...}. INVALID_ARGUMENT names the message, and a key that has no
// place in a request.
absl::Status AddMessages(absl::string_view json, v1::ChatPrompt* chat);

// The same of a list of tools, {"type": "function", "function": {"name", ...}} or the inner objects alone.
absl::Status AddTools(absl::string_view json, v1::ChatPrompt* chat);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_CHAT_FILE_H_
