#ifndef ATTUNE_SERVER_RPC_CONVERT_TEXT_PROMPT_H_
#define ATTUNE_SERVER_RPC_CONVERT_TEXT_PROMPT_H_

#include "absl/status/statusor.h"
#include "attune/v1/model.pb.h"
#include "server/data/text_prompt.h"

namespace attune {

// Output-only fields are ignored. INVALID_ARGUMENT names fields below "text_prompt": sizes,
// templates and examples are checked.
absl::StatusOr<TextPrompt> ToTextPrompt(const v1::TextPrompt& prompt);

v1::TextPrompt ToProto(const TextPrompt& prompt);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_TEXT_PROMPT_H_
