#ifndef ATTUNE_SERVER_TUNING_FLAT_PARAMETERS_H_
#define ATTUNE_SERVER_TUNING_FLAT_PARAMETERS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "server/tuning/methods/method.h"

namespace attune {

// A method's parameters one behind the other in single buffers, so that an optimizer
// step is one kernel: masters and gradients in fp32, and a copy of the masters in the
// type that products compute in. Neighbours in the method's list are neighbours here:
// the A's of a product's LoRA terms are one matrix. Not thread-safe.
class FlatParameters {
 public:
  // Moves the leaves' values into the buffer; the leaves become views of it.
  FlatParameters(const std::vector<Parameter>& parameters, at::ScalarType compute_type);
  // Compute copy and gradients alone, zeros, of the leaves' sizes; the leaves stay as they
  // are and may be of no device (meta).
  static FlatParameters WithoutMasters(const std::vector<Parameter>& parameters, at::ScalarType compute_type,
                                       at::Device device);

  int64_t count() const { return gradients_.numel(); }
  const at::Tensor& values() const { return values_; }
  const at::Tensor& gradients() const { return gradients_; }
  // The compute copy; undefined where that is fp32, and the masters serve.
  const at::Tensor& copy() const { return copy_; }

  // Views of one leaf's part, in its shape. REQUIRES: `leaf` is one of the parameters.
  at::Tensor Gradient(const at::Tensor& leaf) const { return View(gradients_, leaf); }
  at::Tensor Computed(const at::Tensor& leaf) const { return View(copy_.defined() ? copy_ : values_, leaf); }
  // Where a leaf begins.
  int64_t Offset(const at::Tensor& leaf) const;

  // Rewrites the compute copy after the values changed from outside; an optimizer's step
  // has done so itself.
  void Refresh();

 private:
  FlatParameters() = default;
  void Place(const std::vector<Parameter>& parameters);
  at::Tensor View(const at::Tensor& buffer, const at::Tensor& leaf) const;

  int64_t placed_ = 0;  // values so far
  at::Tensor values_, gradients_, copy_;
  std::unordered_map<const at::TensorImpl*, int64_t> offsets_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_FLAT_PARAMETERS_H_
