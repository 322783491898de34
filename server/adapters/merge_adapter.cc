#include "server/adapters/merge_adapter.h"

#include <ATen/ATen.h>

#include "server/adapters/vocabulary.h"

namespace attune {
namespace {

at::Tensor OnCpu(const at::Tensor& x) { return x.to(at::kCPU, at::kFloat); }

// The rows of a projection, fp32 on the CPU, as the adapter makes them.
at::Tensor Merged(const at::Tensor& rows, const LoraModule& module) {
  const at::Tensor merged = rows.add(at::matmul(OnCpu(module.b_OR), OnCpu(module.a_RI)).mul_(module.scale));
  if (!module.magnitude_O.defined()) return merged;
  return merged * (OnCpu(module.magnitude_O) / at::linalg_vector_norm(merged, 2, {1})).unsqueeze(1);
}

at::Tensor Merged(at::Tensor rows, const Ia3Adapter::Layer& scales, Projection projection) {
  const at::Tensor& output = scales.output[static_cast<int>(projection)];
  if (output.defined()) rows = rows * OnCpu(output).unsqueeze(1);
  if (projection == Projection::kDown && scales.inner_I.defined()) rows = rows * OnCpu(scales.inner_I);
  return rows;
}

// IA3 scales what a projection gives, its bias with it.
void ScaleBias(const Ia3Adapter::Layer& scales, Projection projection, const ProjectionSlice& slice,
               const at::Tensor& original, at::Tensor* bias) {
  const at::Tensor& output = scales.output[static_cast<int>(projection)];
  if (!output.defined() || !original.defined()) return;
  if (bias->is_same(original)) *bias = bias->to(at::kCPU, bias->scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  const at::Tensor part = bias->narrow(0, slice.row, slice.rows);
  part.copy_(part.to(at::kFloat) * OnCpu(output));
}

// A tied head stays what it is where the embedding alone changes, and one table where both come to be the same.
void MergeVocabulary(const ModelConfig& config, const DecoderWeights& weights, const LoraAdapter& lora,
                     DecoderWeights* merged) {
  const at::ScalarType type = weights.embedding_VD.scalar_type();
  if (lora.changes_embedding()) merged->embedding_VD = MergedEmbedding(weights.embedding_VD, lora).to(type);
  if (lora.changes_head()) merged->head_VD = MergedHead(weights.head_VD, lora).to(weights.head_VD.scalar_type());
  if (config.tied_head && at::equal(merged->head_VD.cpu(), merged->embedding_VD.cpu())) {
    merged->head_VD = merged->embedding_VD;
  }
}

bool Changes(const Adapter& adapter, int64_t layer, Projection projection) {
  if (adapter.lora) return adapter.lora->layers[layer][static_cast<int>(projection)].defined();
  const Ia3Adapter::Layer& scales = adapter.ia3->layers[layer];
  return scales.output[static_cast<int>(projection)].defined() ||
         (projection == Projection::kDown && scales.inner_I.defined());
}

}  // namespace

DecoderWeights MergeAdapter(const ModelConfig& config, const DecoderWeights& weights, const Adapter& adapter) {
  TORCH_CHECK(adapter.lora || adapter.ia3, "an adapter that changes no weights");
  DecoderWeights merged = weights;
  if (adapter.changes_vocabulary()) MergeVocabulary(config, weights, *adapter.lora, &merged);
  for (int64_t i = 0; i < config.layers; ++i) {
    for (int p = 0; p < kProjections; ++p) {
      const Projection projection = static_cast<Projection>(p);
      if (!Changes(adapter, i, projection)) continue;
      const ProjectionSlice slice = SliceOf(config, projection);
      at::Tensor& linear = merged.layers[i].linear[static_cast<int>(slice.linear)];
      const bool shared = linear.is_same(weights.layers[i].linear[static_cast<int>(slice.linear)]);
      if (shared) linear = linear.to(at::kCPU, linear.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
      at::Tensor rows = linear.narrow(0, slice.row, slice.rows);
      rows.copy_(adapter.lora ? Merged(rows.to(at::kFloat), adapter.lora->layers[i][p])
                              : Merged(rows.to(at::kFloat), adapter.ia3->layers[i], projection));
      if (!adapter.ia3) continue;
      const int linear_index = static_cast<int>(slice.linear);
      ScaleBias(adapter.ia3->layers[i], projection, slice, weights.layers[i].bias[linear_index],
                &merged.layers[i].bias[linear_index]);
    }
  }
  return merged;
}

ModelConfig ConfigOf(const ModelConfig& config, const DecoderWeights& merged) {
  ModelConfig own = config;
  own.tied_head = config.tied_head && merged.head_VD.is_same(merged.embedding_VD);
  return own;
}

}  // namespace attune
