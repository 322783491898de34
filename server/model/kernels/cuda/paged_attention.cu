// FlashInfer (Ye et al. 2025) over the engine's paged cache. Its headers are for this file only.
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/variants.cuh>
#include <stdexcept>

#include "server/model/kernels/cuda/common.cuh"
#include "server/model/kernels/cuda/decode_attention.cuh"

namespace attune::cuda {
namespace {

using Bf16 = __nv_bfloat16;
using Params = flashinfer::BatchPrefillPagedParams<Bf16, Bf16, Bf16, int32_t>;
// No mask of its own, soft cap or slopes; a window or none.
template <bool kHasWindow>
using Variant = flashinfer::DefaultAttention<false, kHasWindow, false, false>;

template <bool kHasWindow, uint32_t kHeadDim, uint32_t kTileRows>
void Run(const Params& params, Bf16* partial_out, float* partial_sums, Stream stream) {
  const cudaError_t error =
      flashinfer::BatchPrefillWithPagedKVCacheDispatched<kTileRows, kHeadDim, kHeadDim,
                                                         flashinfer::PosEncodingMode::kNone, false,
                                                         flashinfer::MaskMode::kCausal, Variant<kHasWindow>>(
          params, partial_out, partial_sums, /*enable_pdl=*/IsHopperOrLater(), stream);
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

int32_t* Mutable(const int32_t* p) { return const_cast<int32_t*>(p); }

Params ParamsOf(const PagedAttentionCall& call) {
  const PagedAttentionPlan& plan = call.plan;
  auto cached = [](const void* p) { return static_cast<Bf16*>(const_cast<void*>(p)); };
  flashinfer::paged_kv_t<Bf16, int32_t> cache(
      static_cast<uint32_t>(call.shape.kv_heads), static_cast<uint32_t>(call.page_tokens),
      static_cast<uint32_t>(call.shape.head_dim), static_cast<uint32_t>(plan.segments), flashinfer::QKVLayout::kNHD,
      cached(call.keys), cached(call.values), Mutable(plan.pages), Mutable(plan.page_starts),
      Mutable(plan.last_page_tokens));
  Params params(cached(call.q), cache, nullptr, Mutable(plan.query_starts), nullptr, nullptr,
                static_cast<Bf16*>(call.out), nullptr, nullptr, static_cast<uint32_t>(call.shape.heads),
                static_cast<int32_t>(call.row_stride), static_cast<int32_t>(call.shape.head_dim), call.window_before,
                /*logits_soft_cap=*/0.0f, call.scale, /*rope_scale=*/1.0f, /*rope_theta=*/1e4f);
  params.request_indices = Mutable(plan.tile_segments);
  params.qo_tile_indices = Mutable(plan.tile_queries);
  params.kv_tile_indices = Mutable(plan.tile_chunks);
  params.merge_indptr = Mutable(plan.row_parts);
  params.o_indptr = Mutable(plan.out_starts);
  params.kv_chunk_size_ptr = Mutable(plan.chunk_tokens);
  params.block_valid_mask = reinterpret_cast<bool*>(const_cast<uint8_t*>(plan.tile_used));
  params.max_total_num_rows = static_cast<uint32_t>(plan.rows);
  params.total_num_rows = reinterpret_cast<uint32_t*>(Mutable(plan.rows_used));
  params.padded_batch_size = static_cast<uint32_t>(plan.tiles);
  return params;
}

}  // namespace

bool PagedAttentionTakes(RopeShape shape) {
  return (shape.head_dim == 64 || shape.head_dim == 128) && shape.heads % shape.kv_heads == 0;
}

void PagedAttention(const PagedAttentionCall& call, Stream stream) {
  if (call.plan.tiles == 0) return;
  if (call.window_before >= 0 && call.partial_out != nullptr) throw std::runtime_error("keys under a window may not be cut");
  if (DecodeAttentionTakes(call)) return DecodeAttention(call, stream);
  const Params params = ParamsOf(call);
  auto* parts = static_cast<Bf16*>(call.partial_out);
  auto run = [&]<bool kHasWindow, uint32_t kHeadDim>() {
    switch (call.plan.tile_rows) {
      case 16: return Run<kHasWindow, kHeadDim, 16>(params, parts, call.partial_sums, stream);
      case 64: return Run<kHasWindow, kHeadDim, 64>(params, parts, call.partial_sums, stream);
      case 128: return Run<kHasWindow, kHeadDim, 128>(params, parts, call.partial_sums, stream);
      default: throw std::runtime_error("no attention kernel for such tiles");
    }
  };
  auto run_of = [&]<bool kHasWindow>() {
    call.shape.head_dim == 64 ? run.template operator()<kHasWindow, 64>() : run.template operator()<kHasWindow, 128>();
  };
  call.window_before >= 0 ? run_of.template operator()<true>() : run_of.template operator()<false>();
}

}  // namespace attune::cuda
