#ifndef ATTUNE_SERVER_MODEL_KERNELS_CROSS_ENTROPY_H_
#define ATTUNE_SERVER_MODEL_KERNELS_CROSS_ENTROPY_H_

#include <ATen/core/Tensor.h>

#include <functional>

namespace attune {

// Rows of logits that exist at a time: on the CPU those that stay in its cache, on a GPU
// enough to keep the product efficient, in a quarter of a gigabyte.
int64_t CrossEntropyRows(bool on_gpu, int64_t vocabulary);

struct CrossEntropy {
  at::Tensor loss_sum;  // fp32 scalar, part of autograd
  int64_t correct;      // rows whose likeliest token is the target
};

// Sum over rows of -log softmax(h W^T)[target]. The head's product runs in chunks of
// rows and the gradient is made in the same pass, so that logits of the whole batch
// never exist. h_ND the last hidden states at the positions that carry loss, w_VD the
// head, targets_N int64. w gets a gradient only if it requires one. With a soft cap c, logits z become
// c tanh(z / c) before the softmax (Gemma Team 2024).
CrossEntropy LinearCrossEntropy(const at::Tensor& h_ND, const at::Tensor& w_VD, const at::Tensor& targets_N,
                                double softcap = 0);

// What makes logits of hidden states, for passes that are differentiated by hand.
struct HeadWeights {
  at::Tensor w_VD;
  at::Tensor dw_VD;    // fp32, to which w's gradient is added; undefined where it is frozen
  double softcap = 0;  // as above
  // LoRA's term, if u is defined: logits have scale * u B^T more, before the cap. u and du are of the rows of h; du, in u's
  // type, becomes u's gradient, and B's is added to db, fp32. Without a gradient du and db may be undefined.
  at::Tensor u_NR, b_VR, du_NR, db_VR;
  double scale = 0;
};
// Logits of n rows of h from `first` on, without the cap.
at::Tensor HeadLogits(const HeadWeights& head, const at::Tensor& h_ND, int64_t first, int64_t n);
// From the gradient of these logits: puts that of h's rows into dh, and adds those of what trains.
void HeadBackward(const HeadWeights& head, const at::Tensor& dlogits_NV, const at::Tensor& h_ND, int64_t first,
                  const at::Tensor& dh_ND);

// As LinearCrossEntropy: sums and gradient in one pass.
struct CrossEntropySums {
  at::Tensor loss_sum;  // double scalar
  at::Tensor correct;   // int64 scalar
  at::Tensor dh_ND;     // the gradient of scale * loss_sum, if asked for
  at::Tensor losses_N;  // fp32, if there is a scale for each row
};
// A negative target's row counts for nothing. `scale`, fp32 on the device, is a scalar or
// has a value for each row. The head's gradients are added only if one is needed. `after_chunk` is called after each chunk
// of rows.
CrossEntropySums LinearCrossEntropySums(const at::Tensor& h_ND, const HeadWeights& head, const at::Tensor& targets_N,
                                        const at::Tensor& scale, bool needs_gradient,
                                        const std::function<void()>& after_chunk = {});

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CROSS_ENTROPY_H_
