#ifndef ATTUNE_SERVER_RPC_CONVERT_GENERATION_H_
#define ATTUNE_SERVER_RPC_CONVERT_GENERATION_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attune/v1/generation_service.pb.h"
#include "server/engine/engine.h"
#include "server/tokenizer/tokenizer.h"

// Generation requests: protobuf to the engine's types and back.
namespace attune {

// Everything of the request but model, draft model, prompt, max_tokens, form and deadline, with
// every range checked. `n` is best_of's, where that is set. What the request leaves open is the model's default; an unset seed
// becomes a random one.
absl::StatusOr<GenerateParams> ToGenerateParams(const v1::GenerateRequest& request, const GenerationDefaults& defaults,
                                                int64_t vocabulary);

// The form that the answers are to have; nothing if any.
absl::StatusOr<std::optional<AnswerForm>> ToAnswerForm(const v1::GenerateRequest& request);

// How many tokens to make for a prompt of so many: the request's number or 256, cut to
// what is left of the context. REQUIRES: less than the context is used.
absl::StatusOr<int> MaxTokens(const v1::GenerateRequest& request, int64_t prompt_tokens, int64_t context_tokens);

v1::FinishReason ToProto(FinishReason reason);
v1::TokenLogprob ToProto(const TokenInfo& token, const Tokenizer& tokenizer);
v1::Usage ToUsage(int64_t prompt_tokens, int64_t completion_tokens, const RequestTimings& timings);

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_CONVERT_GENERATION_H_
