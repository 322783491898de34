#ifndef ATTUNE_SERVER_TOKENIZER_CHAT_TEMPLATE_H_
#define ATTUNE_SERVER_TOKENIZER_CHAT_TEMPLATE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace attune {

// One turn of a conversation. Roles: "system", "user", "assistant", "tool" (what a tool answered).
struct ChatTurn {
  std::string role;
  std::string content;
  // What templates see of the message beside these: the text of a JSON object such as {"tool_calls": [...]}, its keys
  // in the order in which templates may go through them; empty if there is nothing.
  std::string more;
  bool trains = true;  // an assistant's turn that carries loss
};

struct Conversation {
  std::vector<ChatTurn> turns;
  std::string tools;  // see ChatTemplate::Render
};

// Renders conversations with the Jinja subset that models' chat templates use.
// Immutable: thread-safe.
class ChatTemplate {
 public:
  // INVALID_ARGUMENT (UNSUPPORTED_CHAT_TEMPLATE) says which construct is not supported.
  // The token texts are what the template's bos_token and eos_token stand for.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(const std::string& source, const std::string& bos_token,
                                                             const std::string& eos_token);
  ~ChatTemplate();

  // The text that the model reads. With `add_generation_prompt` it ends where the
  // assistant's answer starts. INVALID_ARGUMENT (CHAT_TEMPLATE_ERROR) with the
  // template's own message if it refuses the conversation (raise_exception). `tools` is the text of a JSON list of the
  // tools that the assistant may call, as transformers passes them on; empty: none.
  absl::StatusOr<std::string> Render(const std::vector<ChatTurn>& turns, bool add_generation_prompt,
                                     const std::string& tools = "") const;
  absl::StatusOr<std::string> Render(const Conversation& chat, bool add_generation_prompt) const {
    return Render(chat.turns, add_generation_prompt, chat.tools);
  }

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_CHAT_TEMPLATE_H_
