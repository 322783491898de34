#include "server/adapters/perplexity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "server/adapters/packed_ops.h"
#include "server/model/kernels/packed_weight.h"
#include "server/model/kernels/tiled_weight.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

constexpr char kText[] =
    "The harbour of the small town lies open to the north, and so the winter storms come in without anything to stop "
    "them. For two hundred years the people there have built their houses with the door on the south side and the "
    "windows small. In the museum beside the church there is a map from 1804 on which every house can still be found; "
    "most of them belong to the same families today. Fishing is no longer what they live on. When the cold stores "
    "closed, some forty men and women lost their work within a month, and the council had to decide whether to sell "
    "the quay. It did not. Instead it let the empty halls to a firm that repairs sails, to a school for boat builders, "
    "and, in the end, to a woman from the capital who had read that sea salt could be made from sunlight and wind "
    "alone. Nobody believed that she would stay for more than one season. She had never seen the place in February. "
    "But the pans were dug, the pumps were set up, and in the second summer the first sacks were loaded on a lorry. "
    "\"We make about ninety tonnes a year,\" she says, \"if it does not rain too much, and if the geese leave us "
    "alone.\" "
    "She laughs, and looks up at the sky before she goes on. What she did not expect, she adds, was how many people "
    "would want to watch: more than 12,000 visitors came last year, twice as many as live in the whole valley.";

// Whole sequences through the blocks that decoding reads.
class DecodingOps final : public LayerOps {
 public:
  DecodingOps(const BaseModel& base, const PackedSequences& sequences)
      : base_(base), rope_(RopeTablesOf(base)), sequences_(sequences) {}

  at::Tensor Multiply(int64_t layer, Linear which, const at::Tensor& x) override {
    const LayerWeights& weights = base_.weights.layers[layer];
    const int i = static_cast<int>(which);
    const at::Tensor y = Product(x, weights.linear[i], weights.packed[i].get(), weights.tiled[i].get());
    return weights.bias[i].defined() ? y + weights.bias[i] : y;
  }
  at::Tensor Attend(int64_t layer, at::Tensor qkv_TE) override {
    return PackedAttention(qkv_TE, AttentionShapeOf(base_.config, layer), rope_.Of(base_.config, layer), sequences_);
  }
  static at::Tensor Product(const at::Tensor& x, const at::Tensor& w, const PackedWeight* packed,
                            const TiledWeight* tiled) {
    if (tiled) {
      const at::Tensor y = x.new_empty({x.size(0), w.size(0)});
      MultiplyTiled(x.contiguous(), *tiled, y);
      return y;
    }
    if (!packed) return at::linear(x, w);
    std::vector<at::Tensor> parts;
    for (const at::Tensor& part : x.to(at::kFloat).contiguous().split(PackedWeight::kMaxTokens)) {
      parts.push_back(packed->Multiply(part.contiguous()));
    }
    return at::cat(parts).to(x.scalar_type());
  }

 private:
  const BaseModel& base_;
  const RopeTables rope_;
  const PackedSequences& sequences_;
};

double PerplexityOf(const at::Tensor& logits, const std::vector<int32_t>& tokens) {
  const at::Tensor logprobs = logits.to(at::kFloat).log_softmax(-1);
  double sum = 0;
  for (size_t i = 1; i < tokens.size(); ++i) sum -= logprobs[i - 1][tokens[i]].item<float>();
  return std::exp(sum / static_cast<double>(tokens.size() - 1));
}

}  // namespace

PerplexityPair MeasurePerplexity(const BaseModel& base) {
  const at::NoGradGuard no_grad;
  std::vector<int32_t> tokens = base.tokenizer->Encode(kText, /*parse_special=*/false);
  tokens.resize(std::min<size_t>(tokens.size(), base.config.context));
  if (tokens.size() < 2) return {};
  const PackedSequences sequences = PackSequences({0, static_cast<int64_t>(tokens.size())}, DeviceOf(base.target));
  DecodingOps ops(base, sequences);
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  const at::Tensor x = EmbedTokens(base.config, base.weights.embedding_VD, {}, at::tensor(ids, at::kLong).to(DeviceOf(base.target)), TypeOf(base.target));
  const at::Tensor hidden = RunDecoder(base.config, base.weights, x, &ops);
  const at::Tensor logits = DecodingOps::Product(hidden, base.weights.head_VD, base.weights.packed_head.get(),
                                                  base.weights.tiled_head.get());
  return {PerplexityOf(AllLogits(base, nullptr, tokens), tokens),
          PerplexityOf(CapLogits(base.config, logits.to(at::kFloat)), tokens)};
}

}  // namespace attune
