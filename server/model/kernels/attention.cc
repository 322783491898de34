#include "server/model/kernels/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cuda/CUDAContext.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "server/model/kernels/attention_loops.h"
#include "server/model/kernels/blocked_attention.h"
#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/cudnn_attention.h"
#include "server/model/kernels/element.h"

namespace attune {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// FlashAttention as libtorch has it knows windows, but no soft caps, and heads of up to 256.
constexpr int64_t kMostFlashHeadDim = 256;

bool UsesFlash(const Tensor& x, const AttentionShape& shape) {
  return UsesCudaKernels(x) && x.scalar_type() == at::kBFloat16 && shape.softcap == 0 &&
         shape.head_dim <= kMostFlashHeadDim;
}

// Nor does any other library's kernel for what is left.
bool UsesBlocks(const AttentionShape& shape) { return shape.window > 0 || shape.softcap > 0; }

// The window in FlashAttention's terms: tokens before and after the own one; none: all.
std::optional<int64_t> WindowBefore(const AttentionShape& shape) {
  return shape.window > 0 ? std::optional<int64_t>(shape.window - 1) : std::nullopt;
}
std::optional<int64_t> WindowAfter(const AttentionShape& shape) {
  return shape.window > 0 ? std::optional<int64_t>(0) : std::nullopt;
}

// cuDNN's kernels are the faster ones on Hopper. For long sequences only: there it pays to
// plan for each shape. Not where the order of sums is to be fixed, nor where sequences are so
// unequal that its workspace, in which all are as long as the longest, would be much memory.
bool UsesCudnn(const Tensor& x, const AttentionShape& shape, const PackedSequences& sequences) {
  constexpr int64_t kLong = 512, kMaxPadding = 3;
  return UsesFlash(x, shape) && shape.scale == 0 && cudnn::Available() && sequences.longest >= kLong &&
         cudnn::WorkspaceRows(sequences) <= kMaxPadding * x.size(0) &&
         (shape.head_dim == 64 || shape.head_dim == 128) && !at::globalContext().deterministicCuDNN() &&
         at::cuda::getCurrentDeviceProperties()->major == 9;
}

// Queries, keys and values as views, T x heads x head_dim each.
struct Heads {
  Tensor q, k, v;
};
Heads SplitHeads(const Tensor& qkv, const AttentionShape& shape) {
  const int64_t tokens = qkv.size(0), d = shape.head_dim;
  return {qkv.narrow(1, 0, shape.q_size()).view({tokens, shape.heads, d}),
          qkv.narrow(1, shape.q_size(), shape.kv_size()).view({tokens, shape.kv_heads, d}),
          qkv.narrow(1, shape.q_size() + shape.kv_size(), shape.kv_size()).view({tokens, shape.kv_heads, d})};
}

// cuDNN's offsets are the pass's: its layers without a window use them.
bool IsRagged(const PackedSequences& sequences, const AttentionShape& shape) {
  return sequences.ragged != nullptr && shape.window == 0;
}

// On the rotated columns in place.
Tensor FlashForward(const Tensor& qkv, const AttentionShape& shape, const RopeTable& rope,
                    const PackedSequences& sequences, AttentionState* state) {
  RopeInPlace(qkv, shape, rope, sequences.positions_T, /*inverse=*/false);
  state->qkv_TE = qkv;
  if (IsRagged(sequences, shape)) {
    return state->out_TQ = cudnn::AttentionForward(qkv, shape, sequences, *sequences.ragged, &state->log_sums);
  }
  const Heads heads = SplitHeads(qkv, shape);
  std::tie(state->out_TQ, state->log_sums, std::ignore, std::ignore, std::ignore) =
      at::_flash_attention_forward(heads.q, heads.k, heads.v, sequences.starts_int32, sequences.starts_int32,
                                   sequences.longest, sequences.longest, 0.0, /*is_causal=*/true,
                                   /*return_debug_mask=*/false, shape.score_scale(), WindowBefore(shape),
                                   WindowAfter(shape));
  state->out_TQ = state->out_TQ.view({qkv.size(0), shape.q_size()});
  return state->out_TQ;
}

// `dq`, `dk` and `dv` rotated back, as the gradient of the packed product.
Tensor PackGradients(Tensor dq, Tensor dk, Tensor dv, const Tensor& like, const AttentionShape& shape,
                     const RopeTable& rope, const PackedSequences& sequences) {
  Tensor dqkv = at::empty_like(like);
  dq = dq.contiguous(), dk = dk.contiguous(), dv = dv.contiguous();
  cuda::RopeBackwardPack(CudaTypeOf(dqkv), dq.const_data_ptr(), dk.const_data_ptr(), dv.const_data_ptr(),
                         rope.cos_PH.const_data_ptr<float>(), rope.sin_PH.const_data_ptr<float>(),
                         sequences.positions_T.const_data_ptr<int64_t>(), dqkv.size(0),
                         {shape.heads, shape.kv_heads, shape.head_dim}, dqkv.mutable_data_ptr(), CurrentCudaStream());
  return dqkv;
}

// FlashAttention adds up its gradient in any order if deterministic algorithms are only
// wished for (see PrepareDevice): while this lives they are demanded.
class FixedOrder {
 public:
  FixedOrder() : wished_(context_.deterministicAlgorithms() && context_.deterministicAlgorithmsWarnOnly()) {
    if (wished_) context_.setDeterministicAlgorithms(true, /*warn_only=*/false);
  }
  ~FixedOrder() {
    if (wished_) context_.setDeterministicAlgorithms(true, /*warn_only=*/true);
  }

 private:
  at::Context& context_ = at::globalContext();
  const bool wished_;
};

Tensor FlashBackward(const Tensor& dout, const AttentionState& state, const AttentionShape& shape, const RopeTable& rope,
                     const PackedSequences& sequences) {
  if (IsRagged(sequences, shape)) {
    const cudnn::AttentionGradients d = cudnn::AttentionBackward(dout, state.qkv_TE, state.out_TQ, state.log_sums, shape,
                                                                 sequences, *sequences.ragged);
    return PackGradients(d.dq_TQ, d.dk_TK, d.dv_TK, state.qkv_TE, shape, rope, sequences);
  }
  const Heads heads = SplitHeads(state.qkv_TE, shape);
  const std::vector<int64_t> sizes = heads.q.sizes().vec();
  const Tensor& starts = sequences.starts_int32;
  // Without dropout nothing is drawn, and nobody reads these.
  const Tensor none = at::empty({2}, starts.options().dtype(at::kLong));
  const FixedOrder fixed;
  auto [dq, dk, dv] = at::_flash_attention_backward(
      dout.view(sizes), heads.q, heads.k, heads.v, state.out_TQ.view(sizes), state.log_sums, starts, starts,
      sequences.longest, sequences.longest, 0.0, /*is_causal=*/true, none, none, shape.score_scale(),
      WindowBefore(shape), WindowAfter(shape));
  return PackGradients(dq, dk, dv, state.qkv_TE, shape, rope, sequences);
}

// x of shape T x heads x head_dim, cos and sin of shape T x 1 x head_dim / 2.
Tensor Rotate(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  Tensor x32 = x.to(at::kFloat);
  Tensor a = x32.narrow(-1, 0, half), b = x32.narrow(-1, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, -1).to(x.scalar_type());
}

Tensor PerSequenceAttention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                            const PackedSequences& sequences) {
  std::vector<Tensor> outputs;
  for (size_t i = 0; i + 1 < sequences.starts.size(); ++i) {
    const int64_t begin = sequences.starts[i], length = sequences.starts[i + 1] - begin;
    if (length == 0) continue;
    auto take = [&](const Tensor& x) { return x.narrow(0, begin, length).transpose(0, 1).unsqueeze(0); };
    Tensor y = at::scaled_dot_product_attention(take(q), take(k), take(v), {}, 0.0, /*is_causal=*/true,
                                                shape.score_scale(), /*enable_gqa=*/true);
    outputs.push_back(y.squeeze(0).transpose(0, 1));
  }
  return at::cat(outputs, 0);
}

// The same through ATen: for GPUs, and for other types on the CPU. Layers without window and soft cap.
Tensor AtenAttention(const Tensor& qkv, const AttentionShape& shape, const RopeTable& rope,
                     const PackedSequences& sequences) {
  const int64_t tokens = qkv.size(0);
  Tensor cos = rope.cos_PH.index_select(0, sequences.positions_T).unsqueeze(1);
  Tensor sin = rope.sin_PH.index_select(0, sequences.positions_T).unsqueeze(1);
  const Heads heads = SplitHeads(qkv, shape);
  Tensor q = Rotate(heads.q, cos, sin), k = Rotate(heads.k, cos, sin), v = heads.v;
  Tensor y;
  if (qkv.is_cuda() && qkv.scalar_type() != at::kFloat && shape.head_dim <= kMostFlashHeadDim) {
    y = std::get<0>(at::_flash_attention_forward(q, k, v.contiguous(), sequences.starts_int32, sequences.starts_int32,
                                                 sequences.longest, sequences.longest, 0.0, /*is_causal=*/true,
                                                 /*return_debug_mask=*/false, shape.score_scale()));
  } else {
    y = PerSequenceAttention(q, k, v, shape, sequences);
  }
  return y.reshape({tokens, shape.q_size()});
}

class PackedAttentionFunction : public torch::autograd::Function<PackedAttentionFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& qkv, const AttentionShape& shape,
                        const RopeTable& rope, PackedSequences sequences) {
    PrepareAttention(qkv, shape, &sequences);
    AttentionState state;
    // FlashForward rotates in place, and qkv is the caller's.
    Tensor out = PackedAttentionForward(UsesFlash(qkv, shape) ? qkv.clone() : qkv, shape, rope, sequences, &state);
    context->save_for_backward({state.qkv_TE, state.out_TQ, state.log_sums, rope.cos_PH, rope.sin_PH,
                                sequences.positions_T, sequences.starts_int32});
    context->saved_data["shape"] = std::vector<int64_t>{shape.heads, shape.kv_heads, shape.head_dim, shape.window};
    context->saved_data["scores"] = std::vector<double>{shape.scale, shape.softcap};
    context->saved_data["starts"] = sequences.starts;
    context->saved_data["longest"] = sequences.longest;
    context->saved_data["ragged"] = sequences.ragged != nullptr;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list saved = context->get_saved_variables();
    const std::vector<int64_t> sizes = context->saved_data["shape"].toIntVector();
    const std::vector<double> scores = context->saved_data["scores"].toDoubleVector();
    const AttentionShape shape{sizes[0], sizes[1], sizes[2], sizes[3], scores[0], scores[1]};
    PackedSequences sequences;
    sequences.starts = context->saved_data["starts"].toIntVector();
    sequences.positions_T = saved[5];
    sequences.starts_int32 = saved[6];
    sequences.longest = context->saved_data["longest"].toInt();
    if (context->saved_data["ragged"].toBool()) {
      PrepareAttention(saved[0], shape, &sequences);
    }
    return {PackedAttentionBackward(grads[0].contiguous(), {saved[0], saved[1], saved[2]}, shape,
                                    RopeTable{saved[3], saved[4]}, sequences),
            Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

double AttentionShape::score_scale() const { return scale > 0 ? scale : 1 / std::sqrt(static_cast<double>(head_dim)); }

PackedSequences PackSequences(std::vector<int64_t> starts, at::Device device) {
  PackedSequences packed;
  std::vector<int64_t> positions;
  positions.reserve(starts.back());
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    packed.longest = std::max(packed.longest, starts[i + 1] - starts[i]);
    for (int64_t t = starts[i]; t < starts[i + 1]; ++t) positions.push_back(t - starts[i]);
  }
  packed.positions_T = at::tensor(positions, at::kLong).to(device);
  packed.starts_int32 = at::tensor(starts, at::kLong).to(at::kInt).to(device);
  packed.starts = std::move(starts);
  return packed;
}

void RopeInPlace(Tensor qkv_TE, const AttentionShape& shape, const RopeTable& rope, const Tensor& positions_T,
                 bool inverse) {
  const int64_t tokens = qkv_TE.size(0), d = shape.head_dim, half = d / 2, rotated = shape.heads + shape.kv_heads;
  if (UsesCudaKernels(qkv_TE)) {
    cuda::RopeInPlace(CudaTypeOf(qkv_TE), qkv_TE.mutable_data_ptr(), qkv_TE.stride(0),
                      rope.cos_PH.const_data_ptr<float>(), rope.sin_PH.const_data_ptr<float>(),
                      positions_T.const_data_ptr<int64_t>(), tokens, {shape.heads, shape.kv_heads, d}, inverse,
                      CurrentCudaStream());
    return;
  }
  if (!(qkv_TE.is_cpu() && qkv_TE.scalar_type() == at::kFloat)) {
    Tensor cos = rope.cos_PH.index_select(0, positions_T).unsqueeze(1);
    Tensor sin = rope.sin_PH.index_select(0, positions_T).unsqueeze(1);
    Tensor view = qkv_TE.narrow(1, 0, rotated * d).view({tokens, rotated, d});
    view.copy_(Rotate(view, cos, inverse ? -sin : sin));
    return;
  }
  float* data = qkv_TE.mutable_data_ptr<float>();
  const int64_t stride = qkv_TE.stride(0);
  const int64_t* positions = positions_T.const_data_ptr<int64_t>();
  const float *cos = rope.cos_PH.const_data_ptr<float>(), *sin = rope.sin_PH.const_data_ptr<float>();
  const float sign = inverse ? -1.0f : 1.0f;
  at::parallel_for(0, tokens, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float *c = cos + positions[t] * half, *s = sin + positions[t] * half;
      for (int64_t h = 0; h < rotated; ++h) {
        float* x = data + t * stride + h * d;
        for (int64_t i = 0; i < half; ++i) {
          const float a = x[i], b = x[i + half], si = sign * s[i];
          x[i] = a * c[i] - b * si;
          x[i + half] = b * c[i] + a * si;
        }
      }
    }
  });
}

void PrepareAttention(const Tensor& like, const AttentionShape& shape, PackedSequences* sequences) {
  if (sequences->ragged || !UsesCudnn(like, shape, *sequences)) return;
  sequences->ragged = std::make_shared<cudnn::RaggedOffsets>(cudnn::OffsetsOf(*sequences, shape));
}

Tensor PackedAttentionForward(const Tensor& qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                              const PackedSequences& sequences, AttentionState* state) {
  if (UsesFlash(qkv_TE, shape)) return FlashForward(qkv_TE, shape, rope, sequences, state);
  state->qkv_TE = qkv_TE;
  if (!UsesCpuLoops(qkv_TE) && UsesBlocks(shape)) {
    state->log_sums = at::empty({qkv_TE.size(0), shape.heads}, qkv_TE.options().dtype(SumTypeOf(qkv_TE)));
    return state->out_TQ = BlockedAttentionForward(qkv_TE, shape, rope, sequences, state->log_sums);
  }
  if (!UsesCpuLoops(qkv_TE)) return state->out_TQ = AtenAttention(qkv_TE, shape, rope, sequences);
  state->out_TQ = at::empty({qkv_TE.size(0), shape.q_size()}, qkv_TE.options());
  state->log_sums = at::empty({qkv_TE.size(0), shape.heads}, qkv_TE.options().dtype(at::kFloat));
  AttentionForwardLoops(qkv_TE, shape, rope, sequences, state->out_TQ, state->log_sums);
  return state->out_TQ;
}

Tensor PackedAttentionBackward(const Tensor& dout_TQ, const AttentionState& state, const AttentionShape& shape,
                               const RopeTable& rope, const PackedSequences& sequences) {
  if (UsesFlash(state.qkv_TE, shape)) return FlashBackward(dout_TQ, state, shape, rope, sequences);
  if (!UsesCpuLoops(state.qkv_TE) && UsesBlocks(shape)) {
    return BlockedAttentionBackward(state, dout_TQ, shape, rope, sequences);
  }
  if (!UsesCpuLoops(state.qkv_TE)) {
    // No kernel of its own: once more, recorded.
    at::AutoGradMode record(true);
    const Tensor qkv = state.qkv_TE.detach().requires_grad_();
    return torch::autograd::grad({AtenAttention(qkv, shape, rope, sequences)}, {qkv}, {dout_TQ})[0];
  }
  Tensor dqkv = at::empty_like(state.qkv_TE);
  AttentionBackwardLoops(state, dout_TQ, shape, rope, sequences, dqkv);
  return dqkv;
}

Tensor PackedAttention(const Tensor& qkv_TE, const AttentionShape& shape, const RopeTable& rope,
                       const PackedSequences& sequences) {
  if (!UsesCpuLoops(qkv_TE) && !UsesFlash(qkv_TE, shape) && !UsesBlocks(shape)) return AtenAttention(qkv_TE, shape, rope, sequences);
  return PackedAttentionFunction::apply(qkv_TE.contiguous(), shape, rope, sequences);
}

}  // namespace attune
