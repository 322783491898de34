#ifndef ATTUNE_SERVER_RPC_BEST_ANSWERS_H_
#define ATTUNE_SERVER_RPC_BEST_ANSWERS_H_

#include <functional>
#include <string>
#include <vector>

#include "attune/v1/generation_service.pb.h"
#include "server/rpc/answer.h"

namespace attune {

// New text of an answer. `usage` is set with the last piece of the request only.
// Returns false if nobody wants more.
using PieceFunction =
    std::function<bool(int index, std::string text, AnswerBuilder& answer, const v1::Usage* usage)>;

// Of the answers that were made, the `count` whose tokens were the likeliest on average. Not thread-safe.
class BestAnswers {
 public:
  // `count` 0: nothing is to be chosen.
  BestAnswers(int count, int made) : count_(count), texts_(made) {}
  bool chooses() const { return count_ > 0; }
  void Add(int index, std::string text) { texts_[index] += text; }
  // Hands the best out, best first, as answers 0 to count - 1. REQUIRES: all are finished.
  bool HandOut(std::vector<AnswerBuilder>* answers, const v1::Usage& usage, const PieceFunction& on_piece);

 private:
  const int count_;
  std::vector<std::string> texts_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_RPC_BEST_ANSWERS_H_
