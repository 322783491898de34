#include "server/model/kernels/cross_entropy.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "server/model/kernels/fast_math.h"

namespace attune {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kChunkRows = 256;

// Per row of fp32 logits: loss and whether the target is the likeliest; the logits
// become softmax - onehot(target).
void SoftmaxLossRows(Tensor logits, const Tensor& targets, float* losses, uint8_t* correct) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  float* data = logits.mutable_data_ptr<float>();
  const int64_t* target = targets.const_data_ptr<int64_t>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = data + r * vocab;
      const float at_target = row[target[r]];
      float top = row[0];
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < vocab; ++j) top = std::max(top, row[j]);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < vocab; ++j) sum += (row[j] = FastExp(row[j] - top));
      const float inverse = 1.0f / sum;
      for (int64_t j = 0; j < vocab; ++j) row[j] *= inverse;
      row[target[r]] -= 1.0f;
      losses[r] = std::log(sum) + top - at_target;
      correct[r] = at_target >= top;
    }
  });
}

struct ChunkResult {
  Tensor loss_sum;
  Tensor correct;
};

// Leaves d(loss)/d(logits) in `logits`, in its own type.
ChunkResult SoftmaxLossChunk(Tensor& logits, const Tensor& targets) {
  if (logits.is_cpu() && logits.scalar_type() == at::kFloat) {
    const int64_t rows = logits.size(0);
    Tensor losses = at::empty({rows}, logits.options()), correct = at::empty({rows}, logits.options().dtype(at::kByte));
    SoftmaxLossRows(logits, targets, losses.mutable_data_ptr<float>(), correct.mutable_data_ptr<uint8_t>());
    return {losses.sum(at::kDouble), correct.sum()};
  }
  Tensor log_probabilities = at::log_softmax(logits, -1, at::kFloat);
  Tensor index = targets.unsqueeze(1);
  Tensor at_target = log_probabilities.gather(1, index).squeeze(1);
  Tensor correct = at_target.ge(log_probabilities.amax(1)).sum();
  Tensor loss = -at_target.sum(at::kDouble);
  Tensor gradient = log_probabilities.exp_();
  gradient.scatter_add_(1, index, at::full_like(index, -1, gradient.options()));
  logits = gradient.to(logits.scalar_type());
  return {loss, correct};
}

class LinearCrossEntropyFunction : public torch::autograd::Function<LinearCrossEntropyFunction> {
 public:
  static variable_list forward(AutogradContext* context, const Tensor& h, const Tensor& w, const Tensor& targets) {
    const bool needs_h = h.requires_grad(), needs_w = w.requires_grad();
    const int64_t rows = h.size(0);
    const Tensor weight = w.to(h.scalar_type());
    Tensor loss = at::zeros({}, h.options().dtype(at::kDouble));
    Tensor correct = at::zeros({}, h.options().dtype(at::kLong));
    Tensor dh = needs_h ? at::empty_like(h) : Tensor();
    Tensor dw = needs_w ? at::zeros(w.sizes(), w.options().dtype(at::kFloat)) : Tensor();
    for (int64_t begin = 0; begin < rows; begin += kChunkRows) {
      const int64_t n = std::min(kChunkRows, rows - begin);
      Tensor part = h.narrow(0, begin, n);
      Tensor logits = at::mm(part, weight.t());
      ChunkResult result = SoftmaxLossChunk(logits, targets.narrow(0, begin, n));
      loss += result.loss_sum;
      correct += result.correct;
      if (needs_h) dh.narrow(0, begin, n).copy_(at::mm(logits, weight));
      if (needs_w) dw.add_(at::mm(logits.t(), part));
    }
    context->save_for_backward({dh, dw});
    context->mark_non_differentiable({correct});
    return {loss.to(at::kFloat), correct};
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list saved = context->get_saved_variables();
    Tensor dh = saved[0].defined() ? saved[0] * grads[0].to(saved[0].scalar_type()) : Tensor();
    Tensor dw = saved[1].defined() ? saved[1] * grads[0] : Tensor();
    return {dh, dw, Tensor()};
  }
};

}  // namespace

CrossEntropy LinearCrossEntropy(const Tensor& h_ND, const Tensor& w_VD, const Tensor& targets_N) {
  variable_list result = LinearCrossEntropyFunction::apply(h_ND, w_VD, targets_N);
  return {result[0], result[1].item<int64_t>()};
}

}  // namespace attune
