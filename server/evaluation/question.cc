#include "server/evaluation/question.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/chat_encoder.h"
#include "server/data/text_encoder.h"

namespace attune {

absl::StatusOr<std::vector<int32_t>> QuestionTokens(const ServedModel& model, const std::string& question,
                                                    absl::string_view lead) {
  const Tokenizer& tokenizer = model.tokenizer();
  if (model.chat_template() != nullptr) {
    ATTUNE_ASSIGN_OR_RETURN(EncodedChat chat,
                            ChatEncoder(&tokenizer, model.chat_template()).Prompt({{ChatTurn{"user", question}}}));
    return std::move(chat.tokens);
  }
  std::vector<int32_t> tokens =
      TextEncoder(&tokenizer).Begin(absl::StrCat(question, "\n", lead), /*parse_special=*/false);
  if (tokenizer.add_bos() && tokenizer.bos_id() >= 0) tokens.insert(tokens.begin(), tokenizer.bos_id());
  return tokens;
}

}  // namespace attune
