#include <mutex>

#include "server/model/kernels/cuda/common.cuh"
#include "server/model/kernels/cuda/lora_codes.cuh"
#include "server/model/kernels/cuda/lora_row.cuh"
#include "server/model/kernels/cuda/lora_rows.cuh"

// Low-rank terms of a batch whose rows have adapters of their own (after Chen et al. 2024, Punica). Bound by reading the
// adapters, and by the waits for what is read.
namespace attune::cuda {
namespace {

using lora::Bf16, lora::kThreads, lora::kMostRanks, lora::Share;

__device__ inline void Clear(Bf16* out, int64_t stride, int rows, Share share) {
  const int width = share.last - share.first;
  out += share.first;
  if (width % 8 == 0 && stride % 8 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
    for (int i = threadIdx.x; i < rows * (width / 8); i += kThreads) {
      *reinterpret_cast<uint4*>(out + i / (width / 8) * stride + i % (width / 8) * 8) = uint4{};
    }
    return;
  }
  for (int i = threadIdx.x; i < rows * width; i += kThreads) out[i / width * stride + i % width] = FromFloat<Bf16>(0);
}

// What a kernel is for: tiles of any rows; of single rows, where no tile of an adapter has several; and these by their codes.
enum class For { kTiles, kRows, kCodes };

template <bool kAligned, For kFor>
__device__ inline void TileDelta(const Bf16* x, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot,
                                 const LoraTile& tile, const LoraTarget& target, Bf16* delta, int64_t delta_stride,
                                 int inputs, int room) {
  if (tile.rows == 0) return;  // for all blocks of the cluster alike, here and below
  const int p = blockIdx.y;
  // Without an index, which would bring them into memory.
  const auto of = [p](const int32_t (&each)[3]) { return p == 0 ? each[0] : p == 1 ? each[1] : each[2]; };
  const Share share = lora::ShareOf(of(target.columns));
  Bf16* out = delta + tile.first_row * delta_stride + of(target.first_column);
  LoraEntry entry{};
  if (tile.slot >= 0) entry = entries[tile.slot * entries_per_slot + of(target.entry)];
  if (entry.rank == 0) {
    return Clear(out, delta_stride, tile.rows, share);
  }
  x += tile.first_row * x_stride;
  if constexpr (kFor == For::kCodes) {
    lora::CodesDelta(x, entry, inputs, share, out, room);
  } else if (kFor != For::kTiles || tile.rows == 1) {
    lora::RowDelta<kAligned>(x, entry, inputs, share, out, room);
  } else {
    lora::RowsDelta<kAligned>(x, x_stride, tile.rows, entry, inputs, share, out, delta_stride);
  }
}

// Behind a product (LoraStart::kBesideTiled, kBesideStreamed) it begins when that one's input, which is its own, is there. Over is it
// only when the product is, for one block waits for that: whoever waits for it has both.
// kBlocks: that should find room on a processor. room: bytes of shared memory for B.
template <bool kAligned, For kFor, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    Delta(const Bf16* x, int64_t x_stride, const LoraEntry* entries, int64_t entries_per_slot, const LoraTile* tiles,
          LoraTarget target, Bf16* delta, int64_t delta_stride, int inputs, int room) {
  LetNextBegin();
  TileDelta<kAligned, kFor>(x, x_stride, entries, entries_per_slot, tiles[blockIdx.x / lora::BlocksOfTile()], target, delta,
                      delta_stride, inputs, room);
  if (blockIdx.x == 0 && blockIdx.y == 0) WaitForBefore();
}

using Kernel = decltype(&Delta<true, For::kTiles, 2>);

// How a launch is cut.
struct Cut {
  unsigned blocks = 1;  // of a cluster
  Kernel kernel = Delta<false, For::kTiles, 2>;
  int room = 0;
};
// What a StreamedProduct leaves of a processor's shared memory, for one block or for each of two.
constexpr int kRoomOfOne = 64 << 10, kRoomOfTwo = 32 << 10;

// By measurements on an H100. Few tiles are over sooner if many blocks share them, and many fill the device anyway.
Cut CutFor(const LoraBatch& batch, int projections, bool aligned, LoraStart start) {
  Cut cut;
  if (aligned) cut.kernel = Delta<true, For::kTiles, 2>;
  if (!IsHopperOrLater()) return cut;
  const bool are_few = batch.tile_count <= 16;
  cut.blocks = batch.sharing == LoraSharing::kAlike ? 2 : batch.sharing == LoraSharing::kMost && batch.tile_count <= 40 ? 8 : are_few ? 4 : 2;
  if (batch.sharing != LoraSharing::kNone || !aligned || (start == LoraStart::kBesideTiled && !batch.reads_codes)) return cut;
  // Single rows alone need fewer registers, so that more blocks find room beside the product's.
  cut.kernel = are_few ? Delta<true, For::kRows, 2> : Delta<true, For::kRows, 4>;
  if (batch.reads_codes) cut.kernel = are_few ? Delta<true, For::kCodes, 2> : Delta<true, For::kCodes, 4>;
  if (projections == 1) cut.blocks = 4;
  // cuBLAS's kernels leave nothing.
  if (start == LoraStart::kBesideStreamed) cut.room = batch.tile_count * cut.blocks * projections <= Processors() ? kRoomOfOne : kRoomOfTwo;
  return cut;
}

// Blocks may ask for more than 48 KiB only where that was said before.
void PrepareKernels() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const Kernel kernel : {Delta<true, For::kRows, 2>, Delta<true, For::kRows, 4>, Delta<true, For::kCodes, 2>, Delta<true, For::kCodes, 4>}) {
      if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kRoomOfOne) != cudaSuccess) {
        throw std::runtime_error("CUDA kernel: no room for GroupedLora in shared memory");
      }
    }
  });
}

}  // namespace

int MostGroupedRanks() { return kMostRanks; }

bool ReadsLoraCodes() { return IsHopperOrLater(); }

void GroupedLora(const void* x_TI, int64_t x_stride, const LoraBatch& batch, LoraTarget target, void* delta_TO,
                 int64_t delta_stride, int64_t inputs, Stream stream, LoraStart start) {
  const bool aligned = inputs % 8 == 0 && x_stride % 8 == 0;
  const Cut cut = CutFor(batch, target.count, aligned, start);
  if (cut.room > 0) PrepareKernels();
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {cut.blocks, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(batch.tile_count) * cut.blocks, target.count);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = cut.room;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = !IsHopperOrLater() ? 0 : start != LoraStart::kAfter ? 2 : 1;
  cudaLaunchKernelEx(&config, cut.kernel, static_cast<const Bf16*>(x_TI), x_stride,
                     batch.entries, batch.entries_per_slot, batch.tiles, target, static_cast<Bf16*>(delta_TO),
                     delta_stride, static_cast<int>(inputs), cut.room);
  CheckLaunch();
}

}  // namespace attune::cuda
