#ifndef ATTUNE_SERVER_DATA_EXAMPLE_H_
#define ATTUNE_SERVER_DATA_EXAMPLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/chat_encoder.h"
#include "server/data/dataset.h"
#include "server/data/template.h"
#include "server/data/text_encoder.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// What a teacher says of an answer: for each token that carries loss, in order, its k likeliest tokens there and their
// log-probabilities, nats.
struct TeacherTokens {
  int64_t k = 0;  // 0: no teacher
  std::vector<int32_t> ids;
  std::vector<float> log_probabilities;  // as many
};

// A row as the model reads it.
struct Example {
  int64_t row = 0;                 // index in the dataset, from 0
  std::vector<int32_t> tokens;     // begin token (if the model uses one), prompt, answer, end token
  std::vector<uint8_t> has_loss;   // one per token: 1 if predicting this token is trained
  int64_t prompt_tokens = 0;       // tokens before the (last) answer
  bool truncated = false;          // the prompt was cut
  std::string prompt, completion;  // rendered text, after cutting
  // Of a preference's answer, nats: what the reference gives it, set before training.
  double reference_log_probability = 0;
  TeacherTokens teacher;  // of distillation, set before training
};

// How rows become examples. Fields as in DataOptions of tuning_job.proto.
struct RenderOptions {
  DatasetKind kind = DatasetKind::kPromptCompletion;
  std::string prompt_template = "{{prompt}}";
  std::string completion_template = "{{completion}}";
  bool train_on_prompt = false;
  int64_t max_tokens = 2048;  // of the whole example
  bool split_long_texts = false;
};

// Renders rows: training, preview and evaluation all use it, so that they see the
// same tokens. Prompt and completion are tokenised apart, so that the prompt's tokens
// are the same when it comes alone in a request. The answer ends with the end token
// (eos; for chat whatever the chat template puts after the turn), which is trained too.
// kChat: the chat template is rendered turn by turn, and loss is on assistant turns
// (content and end of turn) only; what follows the last answer is left out. kText: loss
// on everything; longer texts are cut at the end, and then have no end token.
// Cutting: what does not fit max_tokens is taken off the prompt, never the answer. A
// template with text around its variables loses the end of its longest variable; a bare
// "{{prompt}}" loses its beginning; a chat loses its oldest turns after the system turn.
// Immutable: thread-safe. `tokenizer` and `chat` (needed for kChat only, else may be
// null) must outlive it.
class ExampleRenderer {
 public:
  // INVALID_ARGUMENT: (BAD_TEMPLATE), (NO_CHAT_TEMPLATE) for kChat without `chat`,
  // (PREFERENCE_DATA) for rows of preferences, which PreferenceRenderer is for,
  // (INVALID_FIELD) for an unspecified kind or max_tokens below 1.
  static absl::StatusOr<ExampleRenderer> Create(const Tokenizer* tokenizer, const ChatTemplate* chat,
                                                RenderOptions options);

  // OUT_OF_RANGE (ANSWER_TOO_LONG) if the answer alone does not fit; INVALID_ARGUMENT
  // (MISSING_COLUMN), (NO_MESSAGES) and ChatEncoder's errors.
  absl::StatusOr<Example> Render(const Row& row, int64_t index) const;
  // What training makes of the row: Render's example or, of a text that is longer and is to be split, its parts in order. The
  // end token is the last part's; each other part but the first begins with the token that ended the one before, which
  // carries no loss there.
  absl::StatusOr<std::vector<Example>> RenderAll(const Row& row, int64_t index) const;
  // The same in at most so many tokens. Not for kText.
  absl::StatusOr<Example> RenderAtMost(const Row& row, int64_t index, int64_t max_tokens) const;

  // The prompt of a request or an evaluation: as Render's, without the answer, with
  // room left for `answer_tokens`. `truncated` (may be null) tells whether it was cut.
  // For kText it is the column `text`. A chat is in a row's messages: the overload
  // with columns gives INVALID_ARGUMENT (NO_MESSAGES) for kChat.
  absl::StatusOr<std::vector<int32_t>> RenderPrompt(const Columns& columns, int64_t answer_tokens,
                                                    bool* truncated) const;
  // The same of a row. Of a chat: all before its last answer, or all if the last turn
  // is not the assistant's, as in a request.
  absl::StatusOr<std::vector<int32_t>> RenderPrompt(const Row& row, int64_t answer_tokens, bool* truncated) const;

  // The tokens of a row's answer by itself, end token included if `with_end`.
  absl::StatusOr<std::vector<int32_t>> RenderAnswer(const Columns& columns, bool with_end) const;
  // The same of a row; of a chat its last answer.
  absl::StatusOr<std::vector<int32_t>> RenderAnswer(const Row& row, bool with_end) const;

  const RenderOptions& options() const { return options_; }

 private:
  // A text and its tokens.
  struct Piece {
    std::string text;
    std::vector<int32_t> tokens;
    std::vector<uint8_t> has_loss;  // one per token
    bool truncated = false;
  };
  ExampleRenderer(const Tokenizer* tokenizer, const ChatTemplate* chat, RenderOptions options, PromptTemplate prompt,
                  PromptTemplate completion);
  absl::StatusOr<Piece> Prompt(const Row& row, int64_t room) const;
  absl::StatusOr<Piece> Answer(const Row& row) const;
  absl::StatusOr<Example> RenderText(const Row& row, int64_t index) const;
  absl::StatusOr<std::vector<Example>> SplitText(const Row& row, int64_t index) const;
  bool begins_with_bos() const;

  const Tokenizer* tokenizer_;
  TextEncoder encoder_;
  std::optional<ChatEncoder> chat_;
  RenderOptions options_;
  PromptTemplate prompt_, completion_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_EXAMPLE_H_
