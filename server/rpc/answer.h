#ifndef ATTUNE_SERVER_RPC_ANSWER_H_
#define ATTUNE_SERVER_RPC_ANSWER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "attune/v1/generation_service.pb.h"
#include "server/engine/engine.h"
#include "server/tokenizer/stream_decoder.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// Puts one answer together out of the engine's updates. Not thread-safe.
class AnswerBuilder {
 public:
  // `tokenizer` must outlive this. `logprobs`: keep each token's log-probability.
  AnswerBuilder(const Tokenizer* tokenizer, std::vector<std::string> stop, bool logprobs)
      : tokenizer_(tokenizer), decoder_(tokenizer, std::move(stop)), logprobs_(logprobs) {}

  // Takes an update and returns the text that can be shown now. After that, if
  // stop_found(), the engine must be told to end the answer. REQUIRES: !finished().
  std::string Add(const GenerationUpdate& update);

  bool stop_found() const { return decoder_.stopped(); }
  bool finished() const { return finish_ != FinishReason::kNone; }
  FinishReason finish() const { return finish_; }
  const std::vector<int32_t>& token_ids() const { return token_ids_; }
  // The engine's, of a beam search.
  double score() const { return score_; }
  // 0 without tokens.
  double mean_logprob() const { return token_ids_.empty() ? 0 : sum_logprob_ / static_cast<double>(token_ids_.size()); }
  // Those of the tokens since the last call.
  std::vector<v1::TokenLogprob> TakeLogprobs();

 private:
  const Tokenizer* const tokenizer_;
  StreamDecoder decoder_;
  const bool logprobs_;
  FinishReason finish_ = FinishReason::kNone;
  double score_ = 0, sum_logprob_ = 0;
  std::vector<int32_t> token_ids_;
  std::vector<v1::TokenLogprob> pending_logprobs_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_ANSWER_H_
