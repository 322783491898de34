#include "server/rpc/prompt.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/chat_encoder.h"
#include "server/data/example.h"
#include "server/data/text_encoder.h"
#include "server/evaluation/example_retrieval.h"
#include "server/rpc/convert_chat.h"

namespace attune {
namespace {

absl::StatusOr<std::vector<int32_t>> TextTokens(const std::string& text, const ServedModel& model) {
  const Tokenizer& tokenizer = model.tokenizer();
  std::vector<int32_t> tokens = TextEncoder(&tokenizer).Begin(text, /*parse_special=*/true);
  const bool has_bos = !tokens.empty() && tokens[0] == tokenizer.bos_id();
  if (tokenizer.add_bos() && tokenizer.bos_id() >= 0 && !has_bos) tokens.insert(tokens.begin(), tokenizer.bos_id());
  if (tokens.empty()) return InvalidField("prompt.text", "must not be empty");
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> ChatTokens(const v1::ChatPrompt& chat, const ServedModel& model) {
  ATTUNE_ASSIGN_OR_RETURN(const Conversation conversation, ConversationFrom(chat));
  if (model.chat_template() == nullptr) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, "NO_CHAT_TEMPLATE",
        absl::StrCat("The model 'models/", model.info.id, "' has no chat template; give the prompt as text instead."));
  }
  ATTUNE_ASSIGN_OR_RETURN(EncodedChat encoded,
                          ChatEncoder(&model.tokenizer(), model.chat_template()).Prompt(conversation));
  if (encoded.tokens.empty()) return InvalidField("prompt.chat", "renders to nothing");
  return std::move(encoded.tokens);
}

// With the examples that the row gets.
absl::StatusOr<ExampleRenderer> RetrievingRenderer(const Columns& columns, const ServedModel& model,
                                                   RenderOptions options, const EmbedFunction& embed) {
  const TextPrompt& prompt = *model.retrieving_prompt;
  ATTUNE_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, QueryTokens(model, prompt, columns));
  std::vector<float> query;
  if (!tokens.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(query, embed(std::move(tokens)));
  }
  return RendererFor(model, prompt, std::move(options), columns, query);
}

absl::StatusOr<std::vector<int32_t>> RenderRow(const Columns& columns, const ServedModel& model, RenderOptions options,
                                               int64_t answer_tokens, const EmbedFunction& embed) {
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer,
                          model.retrieving_prompt
                              ? RetrievingRenderer(columns, model, std::move(options), embed)
                              : ExampleRenderer::Create(&model.tokenizer(), model.chat_template(), std::move(options)));
  return renderer.RenderPrompt(columns, answer_tokens, nullptr);
}

absl::StatusOr<std::vector<int32_t>> TemplateTokens(const v1::TemplateInput& input, const ServedModel& model,
                                                    int64_t answer_tokens, const EmbedFunction& embed) {
  const ModelInfo& info = model.info;
  if (info.prompt_template.empty() || info.dataset_kind != DatasetKind::kPromptCompletion) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_PROMPT_TEMPLATE",
                     absl::StrCat("The model 'models/", info.id,
                                  "' was not tuned with a prompt template; give the "
                                  "prompt as text or chat instead."));
  }
  RenderOptions options;
  options.prompt_template = info.prompt_template;
  if (!info.completion_template.empty()) options.completion_template = info.completion_template;
  options.max_tokens = model.context_tokens();
  if (info.max_sequence_tokens > 0) options.max_tokens = std::min(options.max_tokens, info.max_sequence_tokens);
  const Columns columns(input.variables().begin(), input.variables().end());
  absl::StatusOr<std::vector<int32_t>> tokens = RenderRow(columns, model, std::move(options), answer_tokens, embed);
  if (GetErrorDetails(tokens.status()).reason == "MISSING_COLUMN") {
    return InvalidField("prompt.template_input.variables", tokens.status().message(), "MISSING_COLUMN");
  }
  if (tokens.ok() && tokens->empty()) return InvalidField("prompt.template_input.variables", "render to nothing");
  return tokens;
}

}  // namespace

absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids, const Tokenizer& tokenizer,
                           absl::string_view field) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < tokenizer.vocab_size()) continue;
    return InvalidField(absl::StrCat(field, "[", i, "]"), absl::StrCat("must be 0 to ", tokenizer.vocab_size() - 1,
                                                                       ", the model's vocabulary; is ", ids[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> PromptTokens(const v1::Prompt& prompt, const ServedModel& model,
                                                  int64_t answer_tokens, const EmbedFunction& embed) {
  switch (prompt.input_case()) {
    case v1::Prompt::kText:
      return TextTokens(prompt.text(), model);
    case v1::Prompt::kChat:
      return ChatTokens(prompt.chat(), model);
    case v1::Prompt::kTemplateInput:
      return TemplateTokens(prompt.template_input(), model, answer_tokens, embed);
    case v1::Prompt::kTokenIds: {
      const auto& ids = prompt.token_ids().ids();
      if (ids.empty()) return InvalidField("prompt.token_ids.ids", "must not be empty");
      ATTUNE_RETURN_IF_ERROR(CheckTokenIds(ids, model.tokenizer(), "prompt.token_ids.ids"));
      return std::vector<int32_t>(ids.begin(), ids.end());
    }
    case v1::Prompt::INPUT_NOT_SET:
      break;
  }
  return InvalidField("prompt", "must hold one of text, chat, template_input and token_ids");
}

absl::Status CheckFits(int64_t prompt_tokens, int64_t answer_tokens, const ServedModel& model) {
  const int64_t context = model.context_tokens();
  if (prompt_tokens + answer_tokens <= context) return absl::OkStatus();
  const std::string description = absl::StrCat("has ", prompt_tokens, " tokens and needs ", answer_tokens,
                                               " for the answer, but the model's context holds ", context);
  return MakeError(absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG", absl::StrCat("prompt: ", description),
                   {{"prompt_tokens", absl::StrCat(prompt_tokens)},
                    {"answer_tokens", absl::StrCat(answer_tokens)},
                    {"context_tokens", absl::StrCat(context)}},
                   {{"prompt", description}});
}

int64_t CountedPromptTokens(int64_t prompt_tokens, const ServedModel& model) {
  if (!HasVirtualTokens(model.info.kind)) return prompt_tokens;
  return prompt_tokens + std::max<int64_t>(0, model.info.architecture.context_tokens - model.context_tokens());
}

}  // namespace attune
