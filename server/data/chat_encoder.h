#ifndef ATTUNE_SERVER_DATA_CHAT_ENCODER_H_
#define ATTUNE_SERVER_DATA_CHAT_ENCODER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/text_encoder.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// A piece of a conversation as the model reads it.
struct EncodedChat {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<uint8_t> has_loss;  // one per token: 1 inside the assistant's turns that train
  bool truncated = false;
};

// Conversations to tokens. A text is split where an assistant's turn begins and
// where it ends, so that an answer's tokens are those that the model would generate
// after the prompt's; the rest is tokenised as one text, as the model's publishers do.
// Texts of control tokens in what people wrote stay text. Errors:
//   INVALID_ARGUMENT (CHAT_TEMPLATE_NOT_PREFIX_STABLE) if the template renders a
//     turn otherwise once another follows, so that no split exists;
//   INVALID_ARGUMENT (UNSAFE_CHAT_CONTENT) if a turn holds a control token's text
//     and the template changes turns in a way that hides where it ended up, or a
//     call of a tool, or a tool, holds one;
//   those of ChatTemplate::Render.
// Immutable: thread-safe. `tokenizer` and `chat` must outlive it.
class ChatEncoder {
 public:
  ChatEncoder(const Tokenizer* tokenizer, const ChatTemplate* chat) : encoder_(tokenizer), chat_(chat) {}

  // All that comes before the assistant's next answer.
  absl::StatusOr<EncodedChat> Prompt(const Conversation& chat) const;

  // The same in at most `room` tokens. The oldest turns go first, but for the system's
  // and the last one; then the ends of the longest turns. OUT_OF_RANGE (ANSWER_TOO_LONG)
  // if the bare template does not fit.
  absl::StatusOr<EncodedChat> PromptWithin(Conversation chat, int64_t room) const;

  // The last turn, the assistant's, through the token that ends it; what the template
  // puts after that is left out. REQUIRES: turns end with the assistant's.
  absl::StatusOr<EncodedChat> Answer(const Conversation& chat) const;

 private:
  // A part of a rendered text.
  struct Span {
    size_t begin, end;
  };
  // The turn at `index` in the rendering of the turns through it.
  struct RenderedAnswer {
    std::string text;  // of the turns through this one
    size_t begin;      // where the answer starts in it
  };
  absl::StatusOr<RenderedAnswer> RenderAnswer(const Conversation& chat, size_t index) const;
  absl::StatusOr<std::vector<Span>> UnsafeSpans(const Conversation& chat, bool add_generation_prompt,
                                                const std::string& text) const;
  std::vector<int32_t> Encode(const std::string& text, Span part, const std::vector<Span>& unsafe) const;
  size_t AnswerTokens(const std::vector<int32_t>& tokens) const;
  absl::StatusOr<EncodedChat> CutContents(Conversation chat, EncodedChat encoded, int64_t room) const;

  TextEncoder encoder_;
  const ChatTemplate* chat_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_CHAT_ENCODER_H_
