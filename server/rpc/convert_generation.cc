#include "server/rpc/convert_generation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/rpc/check.h"
#include "server/tokenizer/utf8.h"

namespace attune {
namespace {

constexpr int kDefaultMaxTokens = 256;
constexpr int kMostStops = 16;
constexpr size_t kMostStopBytes = 256;
constexpr int kMostStopTokens = 64, kMostBiases = 1024;

uint64_t RandomSeed() {
  thread_local absl::BitGen bits;
  return absl::Uniform<uint64_t>(bits);
}

// That tokens which a request names are in the vocabulary.
absl::Status CheckTokens(const v1::GenerateRequest& request, int64_t vocabulary) {
  if (request.stop_token_ids_size() > kMostStopTokens) {
    return InvalidField("stop_token_ids", absl::StrCat("must be at most ", kMostStopTokens));
  }
  for (int i = 0; i < request.stop_token_ids_size(); ++i) {
    ATTUNE_RETURN_IF_ERROR(CheckRange(int64_t{request.stop_token_ids(i)}, 0, vocabulary - 1,
                                      absl::StrCat("stop_token_ids[", i, "]")));
  }
  if (request.sampling().logit_bias_size() > kMostBiases) {
    return InvalidField("sampling.logit_bias", absl::StrCat("must be at most ", kMostBiases));
  }
  for (const auto& [token, bias] : request.sampling().logit_bias()) {
    ATTUNE_RETURN_IF_ERROR(
        CheckRange(int64_t{token}, 0, vocabulary - 1, absl::StrCat("sampling.logit_bias[", token, "]")));
  }
  return absl::OkStatus();
}

absl::StatusOr<SamplingParams> ToSamplingParams(const v1::SamplingOptions& in, const GenerationDefaults& defaults) {
  SamplingParams out;
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.temperature(), 0.0, 10.0, "sampling.temperature"));
  out.temperature = in.has_temperature() ? in.temperature() : defaults.temperature;
  out.top_p = defaults.top_p;
  if (in.has_top_p()) {
    if (!(in.top_p() > 0 && in.top_p() <= 1)) return InvalidField("sampling.top_p", "must be above 0 and at most 1");
    out.top_p = in.top_p();
  }
  ATTUNE_RETURN_IF_ERROR(
      CheckRange(int64_t{in.top_k()}, 0, std::numeric_limits<int32_t>::max(), "sampling.top_k"));
  out.top_k = in.has_top_k() ? in.top_k() : defaults.top_k;
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.min_p(), 0.0, 1.0, "sampling.min_p"));
  out.min_p = in.min_p();
  out.repetition_penalty = defaults.repetition_penalty;
  if (in.has_repetition_penalty()) {
    if (!(in.repetition_penalty() > 0) || std::isinf(in.repetition_penalty())) {
      return InvalidField("sampling.repetition_penalty", "must be above 0");
    }
    out.repetition_penalty = in.repetition_penalty();
  }
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.frequency_penalty(), -2.0, 2.0, "sampling.frequency_penalty"));
  out.frequency_penalty = in.frequency_penalty();
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.presence_penalty(), -2.0, 2.0, "sampling.presence_penalty"));
  out.presence_penalty = in.presence_penalty();
  out.seed = in.has_seed() ? static_cast<uint64_t>(in.seed()) : RandomSeed();
  for (const auto& [token, bias] : in.logit_bias()) {
    ATTUNE_RETURN_IF_ERROR(CheckRange(bias, -100.0, 100.0, absl::StrCat("sampling.logit_bias[", token, "]")));
    out.logit_bias.emplace_back(token, static_cast<float>(bias));
  }
  return out;
}

absl::Status CheckStops(const v1::GenerateRequest& request) {
  if (request.stop_size() > kMostStops) return InvalidField("stop", absl::StrCat("must be at most ", kMostStops));
  for (int i = 0; i < request.stop_size(); ++i) {
    if (request.stop(i).empty() || request.stop(i).size() > kMostStopBytes) {
      return InvalidField(absl::StrCat("stop[", i, "]"), absl::StrCat("must be 1 to ", kMostStopBytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerateParams> ToGenerateParams(const v1::GenerateRequest& request,
                                                const GenerationDefaults& defaults, int64_t vocabulary) {
  GenerateParams out;
  ATTUNE_RETURN_IF_ERROR(CheckTokens(request, vocabulary));
  ATTUNE_ASSIGN_OR_RETURN(out.sampling, ToSamplingParams(request.sampling(), defaults));
  if (request.max_tokens() < 0) return InvalidField("max_tokens", "must be at least 1, or unset");
  ATTUNE_RETURN_IF_ERROR(CheckStops(request));
  ATTUNE_RETURN_IF_ERROR(CheckRangeOrUnset(request.n(), 1, 16, "n"));
  out.n = std::max(1, request.n());
  ATTUNE_RETURN_IF_ERROR(CheckRange(int64_t{request.top_logprobs()}, 0, 20, "top_logprobs"));
  out.top_logprobs = request.top_logprobs();
  out.logprobs = request.logprobs() || request.top_logprobs() > 0;
  out.ignore_eos = request.ignore_eos();
  const int64_t most = request.max_tokens() > 0 ? request.max_tokens() : kDefaultMaxTokens;
  ATTUNE_RETURN_IF_ERROR(CheckRange(int64_t{request.min_tokens()}, 0, most, "min_tokens"));
  out.min_tokens = request.min_tokens();
  out.stop_tokens.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  return out;
}

absl::StatusOr<int> MaxTokens(const v1::GenerateRequest& request, int64_t prompt_tokens, int64_t context_tokens) {
  if (request.max_tokens() > context_tokens) {
    return InvalidField("max_tokens", absl::StrCat("must be at most the model's context, ", context_tokens,
                                                   " tokens; is ", request.max_tokens()));
  }
  const int64_t wanted = request.max_tokens() > 0 ? request.max_tokens() : kDefaultMaxTokens;
  return static_cast<int>(std::min(wanted, context_tokens - prompt_tokens));
}

v1::FinishReason ToProto(FinishReason reason) { return static_cast<v1::FinishReason>(reason); }

v1::TokenLogprob ToProto(const TokenInfo& token, const Tokenizer& tokenizer) {
  v1::TokenLogprob out;
  out.set_token_id(token.id);
  out.set_text(ReplaceBrokenUtf8(tokenizer.TokenBytes(token.id)));
  out.set_logprob(token.logprob);
  for (const auto& [id, logprob] : token.alternatives) {
    auto* alternative = out.add_alternatives();
    alternative->set_token_id(id);
    alternative->set_text(ReplaceBrokenUtf8(tokenizer.TokenBytes(id)));
    alternative->set_logprob(logprob);
  }
  return out;
}

v1::Usage ToUsage(int64_t prompt_tokens, int64_t completion_tokens, const RequestTimings& timings) {
  v1::Usage out;
  out.set_prompt_tokens(prompt_tokens);
  out.set_completion_tokens(completion_tokens);
  out.set_queue_seconds(timings.queue_seconds);
  out.set_time_to_first_token_seconds(timings.first_token_seconds);
  out.set_total_seconds(timings.total_seconds);
  return out;
}

}  // namespace attune
