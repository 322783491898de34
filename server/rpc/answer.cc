#include "server/rpc/answer.h"

#include <utility>

#include "server/rpc/convert_generation.h"

namespace attune {

std::string AnswerBuilder::Add(const GenerationUpdate& update) {
  std::string text;
  if (update.has_token) {
    token_ids_.push_back(update.token.id);
    sum_logprob_ += update.token.logprob;
    if (logprobs_) pending_logprobs_.push_back(ToProto(update.token, *tokenizer_));
    text = decoder_.Add(update.token.id);
  }
  if (decoder_.stopped()) {
    finish_ = FinishReason::kStop;
  } else if (update.finish != FinishReason::kNone) {
    finish_ = update.finish;
    score_ = update.score;
    text += decoder_.Finish();
    // A stop string that only the end of the text completes counts as one.
    if (decoder_.stopped()) finish_ = FinishReason::kStop;
  }
  return text;
}

std::vector<v1::TokenLogprob> AnswerBuilder::TakeLogprobs() { return std::exchange(pending_logprobs_, {}); }

}  // namespace attune
