#ifndef ATTUNE_SERVER_DATA_PREFERENCE_H_
#define ATTUNE_SERVER_DATA_PREFERENCE_H_

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/data/example.h"

namespace attune {

// Rows of preferences: one prompt, a better and a worse answer.
inline bool IsPreference(DatasetKind kind) {
  return kind == DatasetKind::kPreference || kind == DatasetKind::kChatPreference;
}
// What such rows' answers are, each by itself: prompts with completions, or chats.
DatasetKind AnswerKind(DatasetKind preference);

// Both answers behind the same tokens; loss on the answers alone.
struct PreferenceExamples {
  Example chosen, rejected;
};

// Renders rows of preferences as ExampleRenderer does two rows that differ in their answer: completion templates see it
// as
// {{completion}}, chats as their last turn. What does not fit max_tokens behind the longer answer is taken off
// both prompts. Immutable: thread-safe; the tokenizer and the chat template must outlive it.
class PreferenceRenderer {
 public:
  // `options.kind` is that of the rows. Errors of ExampleRenderer::Create.
  static absl::StatusOr<PreferenceRenderer> Create(const Tokenizer* tokenizer, const ChatTemplate* chat,
                                                   RenderOptions options);
  // Errors of ExampleRenderer::Render; INVALID_ARGUMENT (NO_PREFERENCES) for a row without both answers.
  absl::StatusOr<PreferenceExamples> Render(const Row& row, int64_t index) const;

  // Of the answers, each by itself.
  const RenderOptions& options() const { return renderer_.options(); }

 private:
  explicit PreferenceRenderer(ExampleRenderer renderer) : renderer_(std::move(renderer)) {}

  ExampleRenderer renderer_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_PREFERENCE_H_
