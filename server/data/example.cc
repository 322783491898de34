#include "server/data/example.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/prompt_cutter.h"

namespace attune {
namespace {

absl::Status AnswerTooLong(int64_t answer_tokens, int64_t max_tokens) {
  return MakeError(
      absl::StatusCode::kOutOfRange, "ANSWER_TOO_LONG",
      absl::StrCat("The answer takes ", answer_tokens, " tokens, and an example at most ", max_tokens, "."));
}

absl::Status NoMessages() {
  return MakeError(absl::StatusCode::kInvalidArgument, "NO_MESSAGES",
                   "A chat needs messages, and an answer a last message that is the assistant's.");
}

absl::StatusOr<std::string> TextColumn(const Columns& columns) {
  auto it = columns.find("text");
  if (it != columns.end()) return it->second;
  return MakeError(absl::StatusCode::kInvalidArgument, "MISSING_COLUMN", "The row lacks the column 'text'.",
                   {{"column", "text"}});
}

// The turns up to the last one of the assistant's that trains.
std::vector<ChatTurn> ThroughLastAnswer(std::vector<ChatTurn> turns) {
  while (!turns.empty() && !(turns.back().role == "assistant" && turns.back().trains)) turns.pop_back();
  return turns;
}

}  // namespace

absl::StatusOr<ExampleRenderer> ExampleRenderer::Create(const Tokenizer* tokenizer, const ChatTemplate* chat,
                                                        RenderOptions options) {
  if (options.kind == DatasetKind::kUnspecified) return InvalidField("kind", "must be known");
  if (options.kind == DatasetKind::kPreference || options.kind == DatasetKind::kChatPreference) {
    return MakeError(absl::StatusCode::kInvalidArgument, "PREFERENCE_DATA",
                     "The data are preferences, which are for direct preference optimisation (dpo) alone.");
  }
  if (options.max_tokens < 1) return InvalidField("max_sequence_tokens", "must be at least 1");
  if (options.kind == DatasetKind::kChat && chat == nullptr) {
    return MakeError(absl::StatusCode::kInvalidArgument, "NO_CHAT_TEMPLATE",
                     "The model has no chat template, which data of chats needs.");
  }
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate prompt, PromptTemplate::Parse(options.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(options.completion_template));
  return ExampleRenderer(tokenizer, chat, std::move(options), std::move(prompt), std::move(completion));
}

ExampleRenderer::ExampleRenderer(const Tokenizer* tokenizer, const ChatTemplate* chat, RenderOptions options,
                                 PromptTemplate prompt, PromptTemplate completion)
    : tokenizer_(tokenizer),
      encoder_(tokenizer),
      options_(std::move(options)),
      prompt_(std::move(prompt)),
      completion_(std::move(completion)) {
  if (chat != nullptr) chat_.emplace(tokenizer, chat);
}

// A chat template puts a begin token where it wants one.
bool ExampleRenderer::begins_with_bos() const {
  return options_.kind != DatasetKind::kChat && tokenizer_->add_bos() && tokenizer_->bos_id() >= 0;
}

absl::StatusOr<Example> ExampleRenderer::Render(const Row& row, int64_t index) const {
  if (options_.kind == DatasetKind::kText) return RenderText(row, index);
  return RenderAtMost(row, index, options_.max_tokens);
}

absl::StatusOr<Example> ExampleRenderer::RenderAtMost(const Row& row, int64_t index, int64_t max_tokens) const {
  Row trimmed;
  if (options_.kind == DatasetKind::kChat) {
    trimmed.messages = ThroughLastAnswer(row.messages);
    trimmed.tools = row.tools;
  }
  const Row& used = options_.kind == DatasetKind::kChat ? trimmed : row;

  ATTUNE_ASSIGN_OR_RETURN(Piece answer, Answer(used));
  int64_t answer_tokens = static_cast<int64_t>(answer.tokens.size());
  ATTUNE_ASSIGN_OR_RETURN(Piece prompt, Prompt(used, max_tokens - answer_tokens));
  Example example;
  example.row = index;
  example.prompt_tokens = static_cast<int64_t>(prompt.tokens.size());
  example.truncated = prompt.truncated;
  example.tokens = std::move(prompt.tokens);
  example.has_loss = std::move(prompt.has_loss);
  example.tokens.insert(example.tokens.end(), answer.tokens.begin(), answer.tokens.end());
  example.has_loss.insert(example.has_loss.end(), answer.has_loss.begin(), answer.has_loss.end());
  example.prompt = std::move(prompt.text);
  example.completion = std::move(answer.text);
  return example;
}

absl::StatusOr<std::vector<Example>> ExampleRenderer::RenderAll(const Row& row, int64_t index) const {
  if (options_.kind == DatasetKind::kText && options_.split_long_texts) return SplitText(row, index);
  ATTUNE_ASSIGN_OR_RETURN(Example example, Render(row, index));
  return std::vector<Example>{std::move(example)};
}

absl::StatusOr<std::vector<Example>> ExampleRenderer::SplitText(const Row& row, int64_t index) const {
  ATTUNE_ASSIGN_OR_RETURN(const std::string text, TextColumn(row.columns));
  std::vector<int32_t> tokens = encoder_.Begin(text, false);
  if (begins_with_bos()) tokens.insert(tokens.begin(), tokenizer_->bos_id());
  if (tokenizer_->eos_id() >= 0) tokens.push_back(tokenizer_->eos_id());
  const int64_t count = static_cast<int64_t>(tokens.size());
  // One token of each later part is the one before's; a part of one token alone would train nothing.
  const int64_t most = std::max<int64_t>(2, options_.max_tokens);
  std::vector<Example> parts;
  for (int64_t begin = 0; begin == 0 || begin + 1 < count; begin += most - 1) {
    Example& part = parts.emplace_back();
    part.row = index;
    part.tokens.assign(tokens.begin() + begin, tokens.begin() + std::min(count, begin + most));
    part.has_loss.assign(part.tokens.size(), 1);
    const bool has_context = begin > 0 || begins_with_bos();
    if (has_context) part.has_loss[0] = 0;
    part.prompt_tokens = has_context ? 1 : 0;
    part.completion = tokenizer_->Decode({part.tokens.begin() + part.prompt_tokens, part.tokens.end()}, true);
  }
  return parts;
}

absl::StatusOr<Example> ExampleRenderer::RenderText(const Row& row, int64_t index) const {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, TextColumn(row.columns));
  const int64_t begin = begins_with_bos() ? 1 : 0, end = tokenizer_->eos_id() >= 0 ? 1 : 0;
  CutPrompt whole = KeepBeginning(encoder_, text, std::max<int64_t>(0, options_.max_tokens - begin));
  // A text that fits only without its end token ends where it is cut as well.
  bool ends = !whole.truncated && static_cast<int64_t>(whole.tokens.size()) + begin + end <= options_.max_tokens;
  Example example;
  example.row = index;
  example.prompt_tokens = begin;
  example.truncated = !ends;
  if (begin) example.tokens.push_back(tokenizer_->bos_id());
  example.tokens.insert(example.tokens.end(), whole.tokens.begin(), whole.tokens.end());
  if (ends && end) example.tokens.push_back(tokenizer_->eos_id());
  example.has_loss.assign(example.tokens.size(), 1);
  if (begin) example.has_loss[0] = 0;
  example.completion = std::move(whole.text);
  return example;
}

// Everything before the answer, in at most `room` tokens.
absl::StatusOr<ExampleRenderer::Piece> ExampleRenderer::Prompt(const Row& row, int64_t room) const {
  if (options_.kind == DatasetKind::kChat) {
    Conversation conversation{row.messages, row.tools};
    if (!row.messages.empty() && row.messages.back().role == "assistant") conversation.turns.pop_back();
    if (row.messages.empty()) return NoMessages();
    ATTUNE_ASSIGN_OR_RETURN(EncodedChat chat, chat_->PromptWithin(std::move(conversation), room));
    if (options_.train_on_prompt) chat.has_loss.assign(chat.tokens.size(), 1);
    return Piece{std::move(chat.text), std::move(chat.tokens), std::move(chat.has_loss), chat.truncated};
  }
  const int64_t begin = begins_with_bos() ? 1 : 0;
  if (room < begin) return AnswerTooLong(options_.max_tokens - room, options_.max_tokens - begin);
  CutPrompt cut;
  if (options_.kind == DatasetKind::kText) {
    ATTUNE_ASSIGN_OR_RETURN(PromptTemplate bare, PromptTemplate::Parse("{{text}}"));
    ATTUNE_ASSIGN_OR_RETURN(cut, RenderWithin(encoder_, bare, row.columns, room - begin));
  } else {
    ATTUNE_ASSIGN_OR_RETURN(cut, RenderWithin(encoder_, prompt_, row.columns, room - begin));
  }
  Piece piece{std::move(cut.text), {}, {}, cut.truncated};
  if (begin) piece.tokens.push_back(tokenizer_->bos_id());
  piece.tokens.insert(piece.tokens.end(), cut.tokens.begin(), cut.tokens.end());
  piece.has_loss.assign(piece.tokens.size(), options_.train_on_prompt ? 1 : 0);
  if (begin) piece.has_loss[0] = 0;
  return piece;
}

// The answer with its end token; loss on all of it.
absl::StatusOr<ExampleRenderer::Piece> ExampleRenderer::Answer(const Row& row) const {
  Piece piece;
  if (options_.kind == DatasetKind::kChat) {
    if (row.messages.empty() || row.messages.back().role != "assistant") return NoMessages();
    ATTUNE_ASSIGN_OR_RETURN(EncodedChat chat, chat_->Answer({row.messages, row.tools}));
    piece.text = std::move(chat.text);
    piece.tokens = std::move(chat.tokens);
  } else if (options_.kind == DatasetKind::kText) {
    ATTUNE_ASSIGN_OR_RETURN(piece.text, TextColumn(row.columns));
    piece.tokens = encoder_.Begin(piece.text, false);
  } else {
    ATTUNE_ASSIGN_OR_RETURN(piece.text, completion_.Render(row.columns));
    piece.tokens = encoder_.Continue(piece.text, false);
  }
  if (options_.kind != DatasetKind::kChat && tokenizer_->eos_id() >= 0) piece.tokens.push_back(tokenizer_->eos_id());
  piece.has_loss.assign(piece.tokens.size(), 1);
  return piece;
}

absl::StatusOr<std::vector<int32_t>> ExampleRenderer::RenderPrompt(const Columns& columns, int64_t answer_tokens,
                                                                   bool* truncated) const {
  Row row;
  row.columns = columns;
  return RenderPrompt(row, answer_tokens, truncated);
}

absl::StatusOr<std::vector<int32_t>> ExampleRenderer::RenderPrompt(const Row& row, int64_t answer_tokens,
                                                                   bool* truncated) const {
  ATTUNE_ASSIGN_OR_RETURN(Piece prompt, Prompt(row, options_.max_tokens - answer_tokens));
  if (truncated != nullptr) *truncated = prompt.truncated;
  return std::move(prompt.tokens);
}

absl::StatusOr<std::vector<int32_t>> ExampleRenderer::RenderAnswer(const Columns& columns, bool with_end) const {
  Row row;
  row.columns = columns;
  return RenderAnswer(row, with_end);
}

absl::StatusOr<std::vector<int32_t>> ExampleRenderer::RenderAnswer(const Row& row, bool with_end) const {
  ATTUNE_ASSIGN_OR_RETURN(Piece answer, Answer(row));
  bool ended = !answer.tokens.empty() && tokenizer_->IsSpecial(answer.tokens.back());
  if (!with_end && ended) answer.tokens.pop_back();
  return std::move(answer.tokens);
}

}  // namespace attune
