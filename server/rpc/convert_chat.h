#ifndef ATTUNE_SERVER_RPC_CONVERT_CHAT_H_
#define ATTUNE_SERVER_RPC_CONVERT_CHAT_H_

#include "absl/status/statusor.h"
#include "attune/v1/generation_service.pb.h"
#include "server/tokenizer/chat_template.h"

namespace attune {

// As rows of chats are read (data/chat_message.h): what a template sees is the same in training and in serving.
// INVALID_ARGUMENT names the field of "prompt.chat".
absl::StatusOr<Conversation> ConversationFrom(const v1::ChatPrompt& chat);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_CHAT_H_
