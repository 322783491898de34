#include "server/model/kernels/logit_rows.h"

#include <algorithm>
#include <cmath>

#include "server/model/kernels/fast_math.h"

namespace attune {

double SumOfExp(const float* logits, int64_t vocab, float top, float factor) {
  double sum = 0;
  for (int64_t begin = 0; begin < vocab; begin += 512) {
    const int64_t end = std::min<int64_t>(begin + 512, vocab);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t i = begin; i < end; ++i) part += FastExp((logits[i] - top) * factor);
    sum += part;
  }
  return sum;
}

int32_t ArgmaxOf(const float* logits, int64_t vocab) {
  float top = logits[0];
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < vocab; ++i) top = std::max(top, logits[i]);
  const float* found = std::find(logits, logits + vocab, top);
  return static_cast<int32_t>(found == logits + vocab ? 0 : found - logits);  // 0 where there are no numbers
}

LogitRow SummariseLogits(const float* logits, int64_t vocab) {
  LogitRow row;
  row.argmax = ArgmaxOf(logits, vocab);
  row.top = logits[row.argmax];
  row.log_sum = row.top + std::log(SumOfExp(logits, vocab, row.top, 1));
  return row;
}

}  // namespace attune
