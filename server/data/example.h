#ifndef ATTUNE_SERVER_DATA_EXAMPLE_H_
#define ATTUNE_SERVER_DATA_EXAMPLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/data/template.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// A row as the model reads it.
struct Example {
  int64_t row = 0;                 // index in the dataset, from 0
  std::vector<int32_t> tokens;     // begin token (if the model uses one), prompt, answer, end token
  std::vector<uint8_t> has_loss;   // one per token: 1 if predicting this token is trained
  int64_t prompt_tokens = 0;       // tokens before the (last) answer
  bool truncated = false;          // the prompt was cut
  std::string prompt, completion;  // rendered text, after cutting
};

// How rows become examples. Fields as in DataOptions of tuning_job.proto.
struct RenderOptions {
  DatasetKind kind = DatasetKind::kPromptCompletion;
  std::string prompt_template = "{{prompt}}";
  std::string completion_template = "{{completion}}";
  bool train_on_prompt = false;
  int64_t max_tokens = 2048;  // of the whole example
};

// Renders rows: training, preview and evaluation all use it, so that they see the
// same tokens. Prompt and completion are tokenised apart, so that the prompt's tokens
// are the same when it comes alone in a request. The answer ends with the end token
// (eos; for chat whatever the chat template puts after the turn), which is trained too.
// kChat: the chat template is rendered turn by turn, and loss is on assistant turns
// (content and end of turn) only. kText: loss on everything; longer texts are cut at the end.
// Cutting: what does not fit max_tokens is taken off the prompt, never the answer. A
// template with text around its variables loses the end of its longest variable; a bare
// "{{prompt}}" loses its beginning; a chat loses its oldest turns after the system turn.
// Immutable: thread-safe. `tokenizer` and `chat` (needed for kChat only, else may be
// null) must outlive it.
class ExampleRenderer {
 public:
  static absl::StatusOr<ExampleRenderer> Create(const Tokenizer* tokenizer, const ChatTemplate* chat,
                                                RenderOptions options);

  // OUT_OF_RANGE (ANSWER_TOO_LONG) if the answer alone does not fit.
  absl::StatusOr<Example> Render(const Row& row, int64_t index) const;

  // The prompt of a request or an evaluation: as Render's, without the answer, with
  // room left for `answer_tokens`. `truncated` (may be null) tells whether it was cut.
  absl::StatusOr<std::vector<int32_t>> RenderPrompt(const Columns& columns, int64_t answer_tokens,
                                                    bool* truncated) const;

  // The tokens of a row's answer by itself, end token included if `with_end`.
  absl::StatusOr<std::vector<int32_t>> RenderAnswer(const Columns& columns, bool with_end) const;

  const RenderOptions& options() const { return options_; }

 private:
  ExampleRenderer(const Tokenizer* tokenizer, const ChatTemplate* chat, RenderOptions options, PromptTemplate prompt,
                  PromptTemplate completion);
  const Tokenizer* tokenizer_;
  const ChatTemplate* chat_;
  RenderOptions options_;
  PromptTemplate prompt_, completion_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_EXAMPLE_H_
