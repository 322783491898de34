#include "server/tuning/flat_parameters.h"

#include <ATen/ATen.h>

namespace attune {

void FlatParameters::Place(const std::vector<Parameter>& parameters) {
  for (const Parameter& parameter : parameters) {
    offsets_[parameter.leaf.unsafeGetTensorImpl()] = placed_;
    placed_ += parameter.leaf.numel();
  }
}

FlatParameters FlatParameters::WithoutMasters(const std::vector<Parameter>& parameters, at::ScalarType compute_type,
                                              at::Device device) {
  FlatParameters flat;
  flat.Place(parameters);
  flat.gradients_ = at::zeros({flat.placed_}, at::TensorOptions(at::kFloat).device(device));
  flat.copy_ = at::zeros({flat.placed_}, at::TensorOptions(compute_type).device(device));
  return flat;
}

FlatParameters::FlatParameters(const std::vector<Parameter>& parameters, at::ScalarType compute_type) {
  at::NoGradGuard no_grad;
  Place(parameters);
  const int64_t count = placed_;
  const at::TensorOptions options = parameters.at(0).leaf.options().requires_grad(false);
  values_ = at::empty({count}, options);
  gradients_ = at::zeros({count}, options);
  std::vector<at::Tensor> before;  // lives until the copies are done: its memory may be another stream's
  for (const Parameter& parameter : parameters) {
    at::Tensor leaf = parameter.leaf;
    before.push_back(leaf.detach());
    at::Tensor home = View(values_, leaf);
    home.copy_(leaf);
    leaf.set_data(home);
  }
  if (count > 0) values_.narrow(0, count - 1, 1).item<float>();
  if (compute_type != at::kFloat) copy_ = values_.to(compute_type);
}

int64_t FlatParameters::Offset(const at::Tensor& leaf) const { return offsets_.at(leaf.unsafeGetTensorImpl()); }

at::Tensor FlatParameters::View(const at::Tensor& buffer, const at::Tensor& leaf) const {
  return buffer.narrow(0, Offset(leaf), leaf.numel()).view(leaf.sizes());
}

void FlatParameters::Refresh() {
  if (copy_.defined()) copy_.copy_(values_);
}

}  // namespace attune
