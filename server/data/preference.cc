#include "server/data/preference.h"

#include <algorithm>
#include <string>
#include <utility>

#include "common/error.h"

namespace attune {
namespace {

absl::Status NoPreferences() {
  return MakeError(
      absl::StatusCode::kInvalidArgument, "NO_PREFERENCES",
      "The row has no chosen and rejected answer; direct preference optimisation needs rows of preferences.");
}

// The row with one of its answers alone.
absl::StatusOr<Row> WithAnswer(const Row& row, bool is_chat, bool is_chosen) {
  Row one{.line = row.line};
  one.tools = row.tools;
  if (is_chat) {
    one.messages = is_chosen ? row.chosen : row.rejected;
    if (one.messages.empty()) return NoPreferences();
    return one;
  }
  const auto answer = row.columns.find(is_chosen ? "chosen" : "rejected");
  if (answer == row.columns.end()) return NoPreferences();
  one.columns = row.columns;
  one.columns["completion"] = answer->second;
  return one;
}

int64_t AnswerTokens(const Example& example) {
  return static_cast<int64_t>(example.tokens.size()) - example.prompt_tokens;
}

}  // namespace

DatasetKind AnswerKind(DatasetKind preference) {
  return preference == DatasetKind::kChatPreference ? DatasetKind::kChat : DatasetKind::kPromptCompletion;
}

absl::StatusOr<PreferenceRenderer> PreferenceRenderer::Create(const Tokenizer* tokenizer, const ChatTemplate* chat,
                                                              RenderOptions options) {
  options.kind = AnswerKind(options.kind);
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer, ExampleRenderer::Create(tokenizer, chat, std::move(options)));
  return PreferenceRenderer(std::move(renderer));
}

absl::StatusOr<PreferenceExamples> PreferenceRenderer::Render(const Row& row, int64_t index) const {
  const bool is_chat = options().kind == DatasetKind::kChat;
  PreferenceExamples pair;
  Row rows[2];
  Example* const examples[2] = {&pair.chosen, &pair.rejected};
  for (int i = 0; i < 2; ++i) {
    ATTUNE_ASSIGN_OR_RETURN(rows[i], WithAnswer(row, is_chat, i == 0));
    ATTUNE_ASSIGN_OR_RETURN(*examples[i], renderer_.Render(rows[i], index));
  }
  const int64_t longest = std::max(AnswerTokens(pair.chosen), AnswerTokens(pair.rejected));
  for (int i = 0; i < 2; ++i) {
    const int64_t answer = AnswerTokens(*examples[i]);
    if (answer < longest) {
      ATTUNE_ASSIGN_OR_RETURN(*examples[i],
                              renderer_.RenderAtMost(rows[i], index, options().max_tokens - longest + answer));
    }
    std::fill_n(examples[i]->has_loss.begin(), examples[i]->prompt_tokens, 0);
  }
  return pair;
}

}  // namespace attune
