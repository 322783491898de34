#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "common/error.h"
#include "server/adapters/formats/peft.h"
#include "server/adapters/packed_ops.h"
#include "server/model/decoder.h"
#include "server/model/rope.h"
#include "server/model/torch_target.h"
#include "server/tuning/methods/method.h"

namespace attune {
namespace {

// Prefix tuning (Li and Liang 2021): only the keys and values before the input train. They are
// trained as they are, without the network of the paper: a start from real tokens makes it needless.
class PrefixMethod final : public Method {
 public:
  PrefixMethod(at::Tensor start_LNE, std::shared_ptr<const BaseModel> base)
      : base_(std::move(base)) {
    adapter_.prefix = std::make_unique<Prefix>();
    adapter_.prefix->keys_values_LNE = start_LNE.set_requires_grad(true);
    parameters_.push_back({"prefix_keys_values", adapter_.prefix->keys_values_LNE});
  }

  const std::vector<Parameter>& parameters() const override { return parameters_; }
  DecoderWeights Weights() const override { return base_->weights; }
  const Adapter* adapter() const override { return &adapter_; }
  ModelKind kind() const override { return ModelKind::kPrefix; }
  absl::Status Save(const std::string& directory, const std::string& base_model_name) const override {
    return SavePeft(directory, adapter_, base_->config, base_model_name, RopeTablesOf(*base_));
  }

 private:
  const std::shared_ptr<const BaseModel> base_;
  Adapter adapter_;
  std::vector<Parameter> parameters_;
};

// Keeps what each layer's attention is given.
class KeysValuesOps final : public LayerOps {
 public:
  KeysValuesOps(const BaseModel& base, const PackedSequences& sequences)
      : shape_(AttentionShapeOf(base.config)),
        rope_(RopeTablesOf(base)),
        ops_(base.config, base.weights, rope_, sequences, {}, nullptr, 0, 0) {}

  at::Tensor Multiply(int64_t layer, Linear which, const at::Tensor& x) override {
    return ops_.Multiply(layer, which, x);
  }
  at::Tensor Attend(int64_t layer, at::Tensor qkv_TE) override {
    kept_.push_back(qkv_TE.narrow(1, shape_.q_size(), 2 * shape_.kv_size()).to(at::kFloat, false, /*copy=*/true));
    return ops_.Attend(layer, std::move(qkv_TE));
  }
  at::Tensor keys_values_LNE() const { return at::stack(kept_); }

 private:
  const AttentionShape shape_;
  const RopeTables rope_;
  PackedOps ops_;
  std::vector<at::Tensor> kept_;
};

// The keys and values that the base model has for these tokens, fp32.
at::Tensor KeysValuesOf(const BaseModel& base, const std::vector<int64_t>& ids) {
  at::NoGradGuard no_grad;
  const at::Device device = DeviceOf(base.target);
  const PackedSequences packed = PackSequences({0, static_cast<int64_t>(ids.size())}, device);
  KeysValuesOps ops(base, packed);
  const at::Tensor x = EmbedTokens(base.config, base.weights.embedding_VD, {}, at::tensor(ids, at::kLong).to(device),
                                   TypeOf(base.target));
  RunDecoder(base.config, base.weights, x, &ops);
  return ops.keys_values_LNE();
}

// Normal noise with each layer's deviations of keys and of values.
at::Tensor NoiseLike(const at::Tensor& keys_values_LNE, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const int64_t layers = keys_values_LNE.size(0);
  const at::Tensor deviation = keys_values_LNE.unflatten(2, {2, -1}).std({1, 3}).view({layers, 1, 2, 1});
  const at::Tensor noise = at::empty(keys_values_LNE.sizes(), at::kFloat).normal_(0, 1, generator);
  return (noise.to(keys_values_LNE.device()).unflatten(2, {2, -1}) * deviation).flatten(2, 3);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Method>> MakePrefix(const PrefixSpec& spec, std::shared_ptr<const BaseModel> base,
                                                   uint64_t seed) {
  const int64_t count = VirtualTokens(spec);
  ATTUNE_ASSIGN_OR_RETURN(std::vector<int64_t> ids, StartIds(spec.init, spec.init_text, count, *base->tokenizer, seed,
                                                             kPrefixStart));
  at::Tensor start = KeysValuesOf(*base, ids);
  if (spec.init == SoftPromptSpec::Init::kRandom) start = NoiseLike(start, seed);
  return std::make_unique<PrefixMethod>(std::move(start), std::move(base));
}

}  // namespace attune
