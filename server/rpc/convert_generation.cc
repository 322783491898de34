#include "server/rpc/convert_generation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/utf8.h"
#include "server/jobs/validate.h"
#include "server/rpc/check.h"

namespace attune {
namespace {

constexpr int kDefaultMaxTokens = 256;
constexpr int kMostStops = 16;
constexpr size_t kMostStopBytes = 256;
constexpr int kMostAnswers = 16;
constexpr int kMostDraftTokens = 16, kDraftTokens = 5;
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

// The engine makes them all, RunGeneration chooses.
absl::Status FillBestOf(const v1::GenerateRequest& request, GenerateParams* out) {
  if (request.best_of() == 0) return absl::OkStatus();
  ATTUNE_RETURN_IF_ERROR(CheckRange(int64_t{request.best_of()}, out->n, kMostAnswers, "best_of"));
  if (request.has_beam_search()) return InvalidField("best_of", "goes not with beam_search, which finds the n best");
  out->n = request.best_of();
  out->logprobs = true;
  return absl::OkStatus();
}

absl::Status FillBeamSearch(const v1::GenerateRequest& request, GenerateParams* out) {
  if (!request.has_beam_search()) return absl::OkStatus();
  const v1::BeamSearchOptions& in = request.beam_search();
  const v1::SamplingOptions& sampling = request.sampling();
  ATTUNE_RETURN_IF_ERROR(CheckRange(int64_t{in.beams()}, std::max(2, out->n), kMostAnswers, "beam_search.beams"));
  ATTUNE_RETURN_IF_ERROR(CheckRange(in.length_penalty(), -10.0, 10.0, "beam_search.length_penalty"));
  const std::pair<bool, const char*> unfit[] = {
      {sampling.temperature() > 0, "sampling.temperature"},
      {sampling.has_repetition_penalty() && sampling.repetition_penalty() != 1, "sampling.repetition_penalty"},
      {sampling.frequency_penalty() != 0, "sampling.frequency_penalty"},
      {sampling.presence_penalty() != 0, "sampling.presence_penalty"},
      {sampling.logit_bias_size() > 0, "sampling.logit_bias"},
      {request.has_speculative(), "speculative"},
      {request.top_logprobs() > 0, "top_logprobs"}};
  for (const auto& [is_set, field] : unfit) {
    if (is_set) return InvalidField(field, "goes not with beam_search");
  }
  // Whatever the model's defaults are.
  out->sampling.temperature = 0;
  out->sampling.repetition_penalty = 1;
  out->beams = in.beams();
  out->length_penalty = in.has_length_penalty() ? in.length_penalty() : 1;
  out->early_stopping = in.early_stopping();
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
  ATTUNE_RETURN_IF_ERROR(CheckRangeOrUnset(request.n(), 1, kMostAnswers, "n"));
  out.n = std::max(1, request.n());
  ATTUNE_RETURN_IF_ERROR(CheckRange(int64_t{request.top_logprobs()}, 0, 20, "top_logprobs"));
  out.top_logprobs = request.top_logprobs();
  out.logprobs = request.logprobs() || request.top_logprobs() > 0;
  out.ignore_eos = request.ignore_eos();
  const int64_t most = request.max_tokens() > 0 ? request.max_tokens() : kDefaultMaxTokens;
  ATTUNE_RETURN_IF_ERROR(CheckRange(int64_t{request.min_tokens()}, 0, most, "min_tokens"));
  out.min_tokens = request.min_tokens();
  out.stop_tokens.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  ATTUNE_RETURN_IF_ERROR(FillBestOf(request, &out));
  ATTUNE_RETURN_IF_ERROR(FillBeamSearch(request, &out));
  if (request.has_speculative()) {
    ATTUNE_RETURN_IF_ERROR(CheckRangeOrUnset(request.speculative().draft_tokens(), 1, kMostDraftTokens,
                                             "speculative.draft_tokens"));
    out.draft_tokens = request.speculative().draft_tokens() > 0 ? request.speculative().draft_tokens() : kDraftTokens;
  }
  ATTUNE_RETURN_IF_ERROR(CheckRange(int64_t{request.priority()}, -100, 100, "priority"));
  if (!IsTenant(request.tenant())) return InvalidField("tenant", "must be at most 63 of [a-z0-9-]");
  out.priority = request.priority();
  out.tenant = request.tenant().empty() ? "default" : request.tenant();
  return out;
}

absl::StatusOr<std::optional<AnswerForm>> ToAnswerForm(const v1::GenerateRequest& request) {
  if (!request.has_structured_output()) return std::nullopt;
  if (request.ignore_eos()) return InvalidField("ignore_eos", "goes not with structured_output, whose answers end by themselves");
  if (request.min_tokens() > 0) return InvalidField("min_tokens", "goes not with structured_output, whose answers end by themselves");
  if (request.has_beam_search()) return InvalidField("structured_output", "goes not with beam_search");
  const v1::StructuredOutput& in = request.structured_output();
  switch (in.form_case()) {
    case v1::StructuredOutput::kJsonObject:
      if (!in.json_object()) return InvalidField("structured_output.json_object", "must be true, or unset");
      return AnswerForm{AnswerForm::Kind::kJson, "", {}};
    case v1::StructuredOutput::kJsonSchema: return AnswerForm{AnswerForm::Kind::kJsonSchema, in.json_schema(), {}};
    case v1::StructuredOutput::kRegex: return AnswerForm{AnswerForm::Kind::kRegex, in.regex(), {}};
    case v1::StructuredOutput::kChoice:
      return AnswerForm{AnswerForm::Kind::kChoice, "", {in.choice().choices().begin(), in.choice().choices().end()}};
    case v1::StructuredOutput::kGrammar: return AnswerForm{AnswerForm::Kind::kGrammar, in.grammar(), {}};
    case v1::StructuredOutput::FORM_NOT_SET: break;
  }
  return InvalidField("structured_output", "must have a form");
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
  out.set_cached_prompt_tokens(timings.cached_tokens);
  out.set_draft_tokens(timings.drafted_tokens);
  out.set_accepted_draft_tokens(timings.accepted_tokens);
  return out;
}

}  // namespace attune
