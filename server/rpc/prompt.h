#ifndef ATTUNE_SERVER_RPC_PROMPT_H_
#define ATTUNE_SERVER_RPC_PROMPT_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "attune/v1/generation_service.pb.h"
#include "server/adapters/residency.h"

namespace attune {

// Has the model embed an input, and waits for it.
using EmbedFunction = std::function<absl::StatusOr<std::vector<float>>(std::vector<int32_t> tokens)>;

// The tokens that the model reads, at least one. Errors name fields below "prompt":
// FAILED_PRECONDITION (NO_CHAT_TEMPLATE, NO_PROMPT_TEMPLATE), INVALID_ARGUMENT.
// A template's prompt that is too long for the length the model was tuned with is cut
// as in training, with room left for `answer_tokens` (at least 0); the other forms are
// never cut: see CheckFits. `embed` is called for a template of a text prompt that retrieves examples
// (evaluation/example_retrieval.h), and its errors are returned.
absl::StatusOr<std::vector<int32_t>> PromptTokens(const v1::Prompt& prompt, const ServedModel& model,
                                                  int64_t answer_tokens, const EmbedFunction& embed);

// INVALID_ARGUMENT (PROMPT_TOO_LONG), with the numbers, unless a prompt of so many
// tokens leaves `answer_tokens` of the model's context.
absl::Status CheckFits(int64_t prompt_tokens, int64_t answer_tokens, const ServedModel& model);

// What a request's prompt costs: soft prompt tokens count too.
int64_t CountedPromptTokens(int64_t prompt_tokens, const ServedModel& model);

// INVALID_ARGUMENT unless each id is in the vocabulary.
absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, const Tokenizer& tokenizer,
                           absl::string_view field);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_PROMPT_H_
