#include "server/rpc/best_answers.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace attune {

bool BestAnswers::HandOut(std::vector<AnswerBuilder>* answers, const v1::Usage& usage, const PieceFunction& on_piece) {
  std::vector<int> order(answers->size());
  std::iota(order.begin(), order.end(), 0);
  // One without a token says nothing of how likely it is.
  const auto rank = [&](int i) {
    const AnswerBuilder& answer = (*answers)[i];
    return std::make_pair(answer.token_ids().empty(), -answer.mean_logprob());
  };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rank(a) < rank(b); });
  for (int i = 0; i < count_; ++i) {
    const v1::Usage* last = i + 1 == count_ ? &usage : nullptr;
    if (!on_piece(i, std::move(texts_[order[i]]), (*answers)[order[i]], last)) return false;
  }
  return true;
}

}  // namespace attune
