#include "server/tuning/joint_parameters.h"

#include <ATen/ATen.h>

#include <cstring>
#include <utility>

#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/torch_target.h"

namespace attune {

using at::Tensor;

// Sizes alone: what the products read are the flat buffers.
class JointParameters::JointMethod final : public Method {
 public:
  JointMethod(const BaseModel* base, const LoraAdapter& like, int64_t places) : base_(base) {
    adapter_.lora = std::make_unique<LoraAdapter>();
    LoraAdapter& lora = *adapter_.lora;
    lora.rank = like.rank * places;
    lora.dropout = like.dropout;
    lora.layers.resize(like.layers.size());
    for (size_t i = 0; i < like.layers.size(); ++i) AddLayer(like.layers[i], places, &lora.layers[i]);
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }
  DecoderWeights Weights() const override { return base_->weights; }
  const Adapter* adapter() const override { return &adapter_; }
  ModelKind kind() const override { return ModelKind::kLora; }
  absl::Status Save(const std::string&, const std::string&) const override {
    return absl::UnimplementedError("each job saves its own");
  }

 private:
  using Layer = std::array<LoraModule, kProjections>;

  // In the order of LoraMethod: the A's of a product are neighbours.
  void AddLayer(const Layer& like, int64_t places, Layer* layer) {
    std::vector<Parameter> pending;
    for (int p = 0; p < kProjections; ++p) {
      const bool begins = p == 0 || LinearOf(p) != LinearOf(p - 1);
      if (begins) Flush(&pending);
      if (!like[p].defined()) continue;
      const at::TensorOptions nowhere = at::TensorOptions(at::kFloat).device(at::kMeta);
      const int64_t rank = like[p].a_RI.size(0) * places;
      (*layer)[p] = {at::empty({rank, like[p].a_RI.size(1)}, nowhere),
                     at::empty({like[p].b_OR.size(0), rank}, nowhere), like[p].scale};
      parameters_.push_back({"", (*layer)[p].a_RI});
      pending.push_back({"", (*layer)[p].b_OR});
    }
    Flush(&pending);
  }
  void Flush(std::vector<Parameter>* pending) {
    parameters_.insert(parameters_.end(), pending->begin(), pending->end());
    pending->clear();
  }
  Linear LinearOf(int p) const { return SliceOf(base_->config, static_cast<Projection>(p)).linear; }

  const BaseModel* const base_;
  Adapter adapter_;
  std::vector<Parameter> parameters_;
};

// Where each module's parts are in a job's buffer and in the joint one.
struct JointParameters::Blocks {
  Blocks(const std::vector<Parameter>& parameters, const Method& method, int64_t places, at::Device device) {
    int64_t packed = 0, spread = 0;
    std::unordered_map<const at::TensorImpl*, bool> is_a;
    for (const auto& layer : method.lora()->layers) {
      for (const LoraModule& module : layer) {
        if (module.defined()) is_a[module.a_RI.unsafeGetTensorImpl()] = true;
      }
    }
    for (const Parameter& parameter : parameters) {
      const int64_t rows = parameter.leaf.size(0), columns = parameter.leaf.size(1);
      const bool a = is_a.contains(parameter.leaf.unsafeGetTensorImpl());
      cuda::BlockCopy block;
      block.packed = packed;
      block.spread = spread;
      block.rows = static_cast<int32_t>(a ? rows / places : rows);
      block.columns = static_cast<int32_t>(a ? columns : columns / places);
      block.stride = static_cast<int32_t>(columns);
      block.part = a ? block.rows * columns : block.columns;
      list.push_back(block);
      packed += rows * columns / places;
      spread += rows * columns;
    }
    if (!device.is_cuda()) return;
    const int64_t bytes = static_cast<int64_t>(list.size() * sizeof(cuda::BlockCopy));
    Tensor host = at::empty({bytes}, at::kByte);
    std::memcpy(host.mutable_data_ptr(), list.data(), bytes);
    on_device = host.to(device);
  }
  const cuda::BlockCopy* device_list() const {
    return static_cast<const cuda::BlockCopy*>(on_device.const_data_ptr());
  }

  std::vector<cuda::BlockCopy> list;
  Tensor on_device;
};

namespace {

// The same bytes as the kernels', for the CPU.
Tensor Packed(const Tensor& buffer, const cuda::BlockCopy& block) {
  return buffer.narrow(0, block.packed, int64_t{block.rows} * block.columns).view({block.rows, block.columns});
}
Tensor Spread(const Tensor& buffer, const cuda::BlockCopy& block, int64_t place) {
  return buffer.as_strided({block.rows, block.columns}, {block.stride, 1}, block.spread + place * block.part);
}

const Tensor& ComputedOf(const FlatParameters& own) { return own.copy().defined() ? own.copy() : own.values(); }

}  // namespace

JointParameters::JointParameters(const BaseModel* base, const LoraAdapter& like, int64_t places,
                                 at::ScalarType compute_type)
    : method_(std::make_unique<JointMethod>(base, like, places)),
      flat_(FlatParameters::WithoutMasters(method_->parameters(), compute_type, DeviceOf(base->target))),
      blocks_(std::make_unique<Blocks>(method_->parameters(), *method_, places, DeviceOf(base->target))) {}

JointParameters::~JointParameters() = default;

void JointParameters::Take(const FlatParameters& own, int64_t place) {
  const Tensor &from = ComputedOf(own), &to = flat_.copy();
  if (UsesCudaKernels(to)) {
    return cuda::SpreadBlocks(CudaTypeOf(to), from.const_data_ptr(), to.mutable_data_ptr(), blocks_->device_list(),
                              static_cast<int64_t>(blocks_->list.size()), place, CurrentCudaStream());
  }
  for (const cuda::BlockCopy& block : blocks_->list) Spread(to, block, place).copy_(Packed(from, block));
}

void JointParameters::Give(const FlatParameters& own, int64_t place, bool adds) const {
  const Tensor &from = flat_.gradients(), &to = own.gradients();
  if (UsesCudaKernels(to)) {
    return cuda::CollectBlocks(from.const_data_ptr<float>(), to.mutable_data_ptr<float>(), blocks_->device_list(),
                               static_cast<int64_t>(blocks_->list.size()), place, adds, CurrentCudaStream());
  }
  for (const cuda::BlockCopy& block : blocks_->list) {
    Tensor mine = Packed(to, block);
    adds ? mine.add_(Spread(from, block, place)) : mine.copy_(Spread(from, block, place));
  }
}

}  // namespace attune
