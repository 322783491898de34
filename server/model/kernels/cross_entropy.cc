#include "server/model/kernels/cross_entropy.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/element.h"
#include "server/model/kernels/fast_math.h"
#include "server/model/kernels/matmul.h"

namespace attune {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// One row of logits, which become (softmax - onehot(target)) * scale; `scratch` has a row's size.
template <typename T>
void SoftmaxLossRow(T* row, int64_t vocab, int64_t target, float scale, float* scratch, float* loss,
                    uint8_t* correct) {
  for (int64_t j = 0; j < vocab; ++j) scratch[j] = ToFloat(row[j]);
  const float at_target = scratch[target];
  float top = scratch[0], sum = 0;
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < vocab; ++j) top = std::max(top, scratch[j]);
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < vocab; ++j) sum += (scratch[j] = FastExp(scratch[j] - top));
  const float factor = scale / sum;
  const float probability = scratch[target] / sum;
  for (int64_t j = 0; j < vocab; ++j) Store(scratch[j] * factor, row + j);
  Store((probability - 1.0f) * scale, row + target);
  *loss = std::log(sum) + top - at_target;
  *correct = at_target >= top;
}

// The same for all rows; a negative target leaves zeros.
template <typename T>
void SoftmaxLossRows(T* logits, const int64_t* targets, int64_t rows, int64_t vocab, const Tensor& scale,
                     float* losses, uint8_t* correct) {
  const float* scales = scale.defined() ? scale.const_data_ptr<float>() : nullptr;
  const int64_t stride = scale.defined() && scale.dim() == 1 ? 1 : 0;
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(vocab);
    for (int64_t r = begin; r < end; ++r) {
      T* row = logits + r * vocab;
      if (targets[r] >= 0) {
        SoftmaxLossRow(row, vocab, targets[r], scales ? scales[r * stride] : 1.0f, scratch.data(), losses + r,
                       correct + r);
        continue;
      }
      std::fill(row, row + vocab, T{});
      losses[r] = 0;
      correct[r] = 0;
    }
  });
}

struct ChunkResult {
  Tensor loss_sum;
  Tensor correct;
  Tensor losses;  // fp32, one a row
};

// Leaves d(scale * loss)/d(logits) in `logits`, in its own type; `scale` may be undefined.
ChunkResult SoftmaxLossChunk(Tensor& logits, const Tensor& targets, const Tensor& scale) {
  const bool loops = UsesCpuLoops(logits);
  if (loops || UsesCudaKernels(logits)) {
    const int64_t rows = logits.size(0);
    Tensor losses = at::empty({rows}, logits.options().dtype(at::kFloat));
    Tensor correct = at::empty({rows}, logits.options().dtype(at::kByte));
    if (loops) {
      WithElementOf(logits, [&]<typename T>() {
        SoftmaxLossRows(MutableElements<T>(logits), targets.const_data_ptr<int64_t>(), rows, logits.size(1), scale,
                        losses.mutable_data_ptr<float>(), correct.mutable_data_ptr<uint8_t>());
      });
    } else {
      cuda::SoftmaxLoss(CudaTypeOf(logits), logits.mutable_data_ptr(), targets.const_data_ptr<int64_t>(),
                        scale.defined() ? scale.const_data_ptr<float>() : nullptr,
                        scale.defined() && scale.dim() == 1 ? 1 : 0, losses.mutable_data_ptr<float>(),
                        correct.mutable_data_ptr<uint8_t>(), rows, logits.size(1), CurrentCudaStream());
    }
    return {losses.sum(at::kDouble), correct.sum(), losses};
  }
  Tensor log_probabilities = at::log_softmax(logits, -1, at::kFloat);
  Tensor counts = targets.ge(0), index = targets.clamp_min(0).unsqueeze(1);
  Tensor at_target = log_probabilities.gather(1, index).squeeze(1);
  Tensor correct = at_target.ge(log_probabilities.amax(1)).logical_and(counts).sum();
  Tensor losses = -at_target.masked_fill(counts.logical_not(), 0);
  Tensor gradient = log_probabilities.exp_();
  gradient.scatter_add_(1, index, at::full_like(index, -1, gradient.options()));
  gradient.mul_(counts.unsqueeze(1));
  if (scale.defined()) gradient.mul_(scale.dim() == 1 ? scale.unsqueeze(1) : scale);
  logits = gradient.to(logits.scalar_type());
  return {losses.sum(at::kDouble), correct, losses};
}

// Puts logits under the soft cap; what their gradient is to be multiplied by, undefined where it stays.
Tensor CapLogits(double softcap, Tensor* logits) {
  if (softcap <= 0) return {};
  const Tensor t = logits->div_(softcap).tanh_();
  *logits = t * softcap;
  return 1 - t * t;
}

class LinearCrossEntropyFunction : public torch::autograd::Function<LinearCrossEntropyFunction> {
 public:
  static variable_list forward(AutogradContext* context, const Tensor& h, const Tensor& w, const Tensor& targets,
                               double softcap) {
    const bool needs_h = h.requires_grad(), needs_w = w.requires_grad();
    const int64_t rows = h.size(0);
    const Tensor weight = w.to(h.scalar_type());
    Tensor loss = at::zeros({}, h.options().dtype(at::kDouble));
    Tensor correct = at::zeros({}, h.options().dtype(at::kLong));
    Tensor dh = needs_h ? at::empty_like(h) : Tensor();
    Tensor dw = needs_w ? at::zeros(w.sizes(), w.options().dtype(at::kFloat)) : Tensor();
    const int64_t chunk = CrossEntropyRows(h.is_cuda(), w.size(0));
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      const int64_t n = std::min(chunk, rows - begin);
      Tensor part = h.narrow(0, begin, n);
      Tensor logits = at::mm(part, weight.t());
      const Tensor slopes = CapLogits(softcap, &logits);
      ChunkResult result = SoftmaxLossChunk(logits, targets.narrow(0, begin, n), Tensor());
      if (slopes.defined()) logits.mul_(slopes);
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
    return {dh, dw, Tensor(), Tensor()};
  }
};

}  // namespace

int64_t CrossEntropyRows(bool on_gpu, int64_t vocabulary) {
  constexpr int64_t kCpuRows = 256, kGpuElements = int64_t{1} << 27, kWholeTiles = 256;
  if (!on_gpu) return kCpuRows;
  return std::clamp<int64_t>(kGpuElements / vocabulary / kWholeTiles * kWholeTiles, kCpuRows, 8192);
}

CrossEntropy LinearCrossEntropy(const Tensor& h_ND, const Tensor& w_VD, const Tensor& targets_N, double softcap) {
  variable_list result = LinearCrossEntropyFunction::apply(h_ND, w_VD, targets_N, softcap);
  return {result[0], result[1].item<int64_t>()};
}

Tensor HeadLogits(const HeadWeights& head, const Tensor& h, int64_t first, int64_t n) {
  const Tensor logits = MatMul(h.narrow(0, first, n), As::kIs, head.w_VD, As::kTransposed);
  if (head.u_NR.defined()) {
    MatMul(head.u_NR.narrow(0, first, n), As::kIs, head.b_VR, As::kTransposed, head.scale, 1, logits);
  }
  return logits;
}

void HeadBackward(const HeadWeights& head, const Tensor& dlogits, const Tensor& h, int64_t first, const Tensor& dh) {
  const int64_t n = dlogits.size(0);
  MatMul(dlogits, As::kIs, head.w_VD, As::kIs, 1, 0, dh.narrow(0, first, n));
  if (head.dw_VD.defined()) MatMul(dlogits, As::kTransposed, h.narrow(0, first, n), As::kIs, 1, 1, head.dw_VD);
  if (!head.u_NR.defined()) return;
  MatMul(dlogits, As::kIs, head.b_VR, As::kIs, head.scale, 0, head.du_NR.narrow(0, first, n));
  MatMul(dlogits, As::kTransposed, head.u_NR.narrow(0, first, n), As::kIs, head.scale, 1, head.db_VR);
}

CrossEntropySums LinearCrossEntropySums(const Tensor& h_ND, const HeadWeights& head, const Tensor& targets_N,
                                        const Tensor& scale, bool needs_gradient,
                                        const std::function<void()>& after_chunk) {
  const int64_t rows = h_ND.size(0), chunk = CrossEntropyRows(h_ND.is_cuda(), head.w_VD.size(0));
  CrossEntropySums sums;
  sums.loss_sum = at::zeros({}, h_ND.options().dtype(at::kDouble));
  sums.correct = at::zeros({}, h_ND.options().dtype(at::kLong));
  if (needs_gradient) sums.dh_ND = at::empty_like(h_ND);
  const bool by_row = scale.defined() && scale.dim() == 1;
  if (by_row) sums.losses_N = at::empty({rows}, h_ND.options().dtype(at::kFloat));
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t n = std::min(chunk, rows - begin);
    Tensor logits = HeadLogits(head, h_ND, begin, n);
    const Tensor slopes = CapLogits(head.softcap, &logits);
    ChunkResult result = SoftmaxLossChunk(logits, targets_N.narrow(0, begin, n), by_row ? scale.narrow(0, begin, n) : scale);
    if (slopes.defined()) logits.mul_(slopes);
    if (by_row) sums.losses_N.narrow(0, begin, n).copy_(result.losses);
    sums.loss_sum += result.loss_sum;
    sums.correct += result.correct;
    if (needs_gradient) HeadBackward(head, logits, h_ND, begin, sums.dh_ND);
    if (after_chunk) after_chunk();
  }
  return sums;
}

}  // namespace attune
