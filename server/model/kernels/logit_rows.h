#ifndef ATTUNE_SERVER_MODEL_KERNELS_LOGIT_ROWS_H_
#define ATTUNE_SERVER_MODEL_KERNELS_LOGIT_ROWS_H_

#include <cstdint>

namespace attune {

// Passes over one row of logits on the CPU, vectorised. Thread-safe.

struct LogitRow {
  int32_t argmax = 0;  // the likeliest token; the lowest among equals
  float top = 0;       // its logit
  double log_sum = 0;  // log of the sum of exp(logit): a token's log-probability is its logit less this
};
LogitRow SummariseLogits(const float* logits, int64_t vocab);

// The sum of exp((logit - top) * factor), to 1e-6.
double SumOfExp(const float* logits, int64_t vocab, float top, float factor);

// The likeliest token, the lowest among equals.
int32_t ArgmaxOf(const float* logits, int64_t vocab);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_LOGIT_ROWS_H_
