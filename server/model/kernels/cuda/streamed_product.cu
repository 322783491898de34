// Products of up to 32 rows by a dense weight: decoding of a batch. What they take is the time to read the weight, so nothing else
// may stand in the way of its bytes: one warp of a block does nothing but ask the tensor memory accelerator for pieces of the weight
// and of x, several of them ahead of the warps that multiply; it asks for the first pieces of the weight before the kernel before
// this one is over. A block has some rows of the weight over a part of the columns; blocks of a cluster have the same rows, and
// add up their sums, in a fixed order, through each other's shared memory.
#include <cooperative_groups.h>
#include <cudaTypedefs.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

namespace cg = cooperative_groups;

using Bf16 = __nv_bfloat16;

constexpr int kColumns = kStreamedColumns, kRowBytes = kColumns * 2;  // of a piece
constexpr int kMostWarps = 12;                   // that multiply
constexpr int kMostStagedBytes = 144 << 10;      // which leaves room for another kernel's blocks
constexpr int kMostStages = 16, kBarrierBytes = 1024;  // of both kinds of barriers, and up to where boxes may lie
constexpr int kMostSplit = 8;

// What a block does. Runs of `chunks` pieces of columns are shared out among the `split` blocks of a cluster.
struct Work {
  int rows, chunks, tokens, stages, split;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

constexpr int kUnitBytes = 16;  // eight of them are a row of a piece
// Stages that are asked for before x is there: more would stand in the way of the kernel that makes it.
constexpr int kMostEarlyStages = 5;

__device__ inline uint32_t SharedAddress(const void* at) { return static_cast<uint32_t>(__cvta_generic_to_shared(at)); }

// A barrier of shared memory that counts arrivals and bytes (PTX: mbarrier); its phases alternate.
__device__ inline void InitBarrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals));
}
__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
__device__ inline void ArriveAndExpect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes) : "memory");
}
__device__ inline void Wait(uint64_t* barrier, int phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(SharedAddress(barrier)),
      "r"(phase)
      : "memory");
}

// A box of the matrix, from that column and row on, to shared memory; zeros beyond the matrix.
__device__ inline void CopyBox(const CUtensorMap* map, int column, int row, void* to, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          SharedAddress(to)),
      "l"(map), "r"(column), "r"(row), "r"(SharedAddress(barrier))
      : "memory");
}

__device__ inline void LoadMatrices(uint32_t address, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

// sum (16 rows x 8 tokens) += w (16 x 16) x (16 x 8).
__device__ inline void MultiplyAdd(float (&sum)[4], const uint32_t (&w)[4], uint32_t x0, uint32_t x1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "r"(x0), "r"(x1));
}

// The stages of a block in shared memory: x's piece, then the weight's. Barriers lie before them.
struct Stages {
  char* data;
  uint64_t *full, *empty;
  int count, bytes, x_bytes;

  __device__ char* x(int stage) const { return data + stage * bytes; }
  __device__ char* w(int stage) const { return x(stage) + x_bytes; }
};

// Goes round the stages; the phase turns over with each round.
struct Turn {
  int stage = 0, phase = 0;
  __device__ void Next(int count) {
    if (++stage < count) return;
    stage = 0;
    phase ^= 1;
  }
};

// One thread: fetches the pieces [first, last).
__device__ inline void Fetch(const CUtensorMap* w_map, const CUtensorMap* x_map, int row, int first, int last, const Stages& stages,
                             Next next) {
  const int ahead = min(last - first, stages.count), early = min(ahead, kMostEarlyStages);
  for (int i = 0; i < early; ++i) {  // no kernel writes the weight
    ArriveAndExpect(&stages.full[i], stages.bytes);
    CopyBox(w_map, (first + i) * kColumns, row, stages.w(i), &stages.full[i]);
  }
  WaitForBefore();
  if (next == Next::kWithInput) LetNextBegin();
  for (int i = 0; i < early; ++i) CopyBox(x_map, (first + i) * kColumns, 0, stages.x(i), &stages.full[i]);
  auto fetch = [&](int chunk, int stage) {
    ArriveAndExpect(&stages.full[stage], stages.bytes);
    CopyBox(x_map, chunk * kColumns, 0, stages.x(stage), &stages.full[stage]);
    CopyBox(w_map, chunk * kColumns, row, stages.w(stage), &stages.full[stage]);
  };
  for (int i = early; i < ahead; ++i) fetch(first + i, i);
  Turn turn;
  for (int chunk = first + ahead; chunk < last; ++chunk, turn.Next(stages.count)) {
    Wait(&stages.empty[turn.stage], turn.phase);
    fetch(chunk, turn.stage);
  }
}

// A warp's sums over `count` pieces. Units of a row lie as the copy swizzles them: number u of row r at u ^ (r % 8).
template <int kTiles, int kTokenTiles>
__device__ inline void Multiply(const Stages& stages, int count, float (&sums)[kTiles][kTokenTiles][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, swizzle = lane % 8;
  const int w_row = warp * kTiles * 16 + lane % 16, w_unit = lane / 16;
  const int x_row = lane % 8 + lane / 16 * 8, x_unit = lane / 8 % 2;
  Turn turn;
  for (int i = 0; i < count; ++i, turn.Next(stages.count)) {
    Wait(&stages.full[turn.stage], turn.phase);
    const uint32_t w_from = SharedAddress(stages.w(turn.stage)) + w_row * kRowBytes;
    const uint32_t x_from = SharedAddress(stages.x(turn.stage)) + x_row * kRowBytes;
#pragma unroll
    for (int step = 0; step < kColumns / 16; ++step) {
      uint32_t x[kTokenTiles / 2][4];
#pragma unroll
      for (int n = 0; n < kTokenTiles / 2; ++n) {
        LoadMatrices(x_from + n * 16 * kRowBytes + ((2 * step + x_unit) ^ swizzle) * kUnitBytes, x[n]);
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        uint32_t w[4];
        LoadMatrices(w_from + t * 16 * kRowBytes + ((2 * step + w_unit) ^ swizzle) * kUnitBytes, w);
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) MultiplyAdd(sums[t][n], w, x[n / 2][n % 2 * 2], x[n / 2][n % 2 * 2 + 1]);
      }
    }
    __syncwarp();
    if (lane == 0) Arrive(&stages.empty[turn.stage]);
  }
}

// A warp's sums to part_TO, whose rows are `stride` values.
template <int kTiles, int kTokenTiles>
__device__ inline void Keep(const float (&sums)[kTiles][kTokenTiles][4], float* part_TO, int stride) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = n * 8 + lane % 4 * 2 + i % 2, row = (warp * kTiles + t) * 16 + lane / 4 + i / 2 * 8;
        part_TO[token * stride + row] = sums[t][n][i];
      }
    }
  }
}

// y = the sum of the cluster's parts, of which each block makes some rows.
__device__ inline void AddUp(float* part_TO, int stride, int block_rows, int first_row, const Work& work, Bf16* y_TO,
                             int64_t y_stride) {
  const int rank = work.split > 1 ? static_cast<int>(cg::this_cluster().block_rank()) : 0;
  const int pairs = block_rows / 2, begin = pairs * rank / work.split, width = pairs * (rank + 1) / work.split - begin;
  for (int i = threadIdx.x; i < work.tokens * width; i += blockDim.x) {
    const int token = i / width, row = 2 * (begin + i % width);
    float2 parts[kMostSplit];
#pragma unroll
    for (int k = 0; k < kMostSplit; ++k) {  // their loads are on their way together
      if (k >= work.split) break;
      const float* of = work.split > 1 ? cg::this_cluster().map_shared_rank(part_TO, k) : part_TO;
      parts[k] = *reinterpret_cast<const float2*>(of + token * stride + row);
    }
    float2 sum = parts[0];
#pragma unroll
    for (int k = 1; k < kMostSplit; ++k) {
      if (k >= work.split) break;
      sum.x += parts[k].x;
      sum.y += parts[k].y;
    }
    if (first_row + row < work.rows) {
      *reinterpret_cast<__nv_bfloat162*>(y_TO + token * y_stride + first_row + row) = __floats2bfloat162_rn(sum.x, sum.y);
    }
  }
}

#endif

extern __shared__ __align__(1024) char shared_bytes[];

// w_map's boxes are the block's rows x kColumns, x_map's kTokenTiles * 8 x kColumns. The last warp fetches, the others multiply.
template <int kTiles, int kTokenTiles>
__global__ void __launch_bounds__((kMostWarps + 1) * 32)
    Product(const __grid_constant__ CUtensorMap w_map, const __grid_constant__ CUtensorMap x_map, const Work work, Bf16* y_TO,
                    int64_t y_stride, Next next) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const int warps = blockDim.x / 32 - 1, warp = threadIdx.x / 32, block_rows = warps * kTiles * 16;
  constexpr int kXBytes = kTokenTiles * 8 * kRowBytes;
  // Boxes lie on 1024 bytes, as their swizzle asks.
  const Stages stages{shared_bytes + kBarrierBytes, reinterpret_cast<uint64_t*>(shared_bytes),
                      reinterpret_cast<uint64_t*>(shared_bytes) + kMostStages, work.stages, kXBytes + block_rows * kRowBytes, kXBytes};
  const int rank = blockIdx.x % work.split, first_row = blockIdx.x / work.split * block_rows;
  const int first = work.chunks * rank / work.split, last = work.chunks * (rank + 1) / work.split;
  if (next == Next::kAtOnce) LetNextBegin();
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages.count; ++i) {
      InitBarrier(&stages.full[i], 1);
      InitBarrier(&stages.empty[i], warps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  float sums[kTiles][kTokenTiles][4] = {};
  if (warp < warps) {
    Multiply(stages, last - first, sums);
  } else if (threadIdx.x % 32 == 0) {
    Fetch(&w_map, &x_map, first_row, first, last, stages, next);
  }
  __syncthreads();  // nobody reads the stages any more
  float* const part_TO = reinterpret_cast<float*>(stages.data);
  const int stride = block_rows + 4;
  if (warp < warps) Keep(sums, part_TO, stride);
  if (work.split > 1) {
    cg::this_cluster().sync();
  } else {
    __syncthreads();
  }
  AddUp(part_TO, stride, block_rows, first_row, work, y_TO, y_stride);
  if (work.split > 1) cg::this_cluster().sync();  // nobody leaves while another reads from it
#endif
}

using Kernel = void (*)(CUtensorMap, CUtensorMap, Work, Bf16*, int64_t, Next);
Kernel KernelFor(int tiles, int64_t tokens) {
  if (tokens <= 16) return tiles == 1 ? Product<1, 2> : Product<2, 2>;
  return tiles == 1 ? Product<1, 4> : Product<2, 4>;
}

void Check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA kernel: ") + cudaGetErrorString(error));
}

// A matrix of `rows` x `columns` in bf16, read in boxes of box_rows x kColumns.
CUtensorMap MapOf(const void* data, int64_t rows, int64_t columns, int64_t stride, int box_rows) {
  static const auto encode = [] {
    void* found = nullptr;  // by name, so that the driver's library is not linked
    cudaDriverEntryPointQueryResult result;
    Check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result));
    if (!found) throw std::runtime_error("CUDA kernel: the driver has no tensor maps");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(stride) * sizeof(Bf16)};
  const cuuint32_t box[] = {kColumns, static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) throw std::runtime_error("CUDA kernel: no tensor map of a matrix, error " + std::to_string(result));
  return map;
}

// One or two tiles of rows a warp; the fewer sums a thread has, the more room is left beside it.
int TilesFor(int row_tiles) { return row_tiles <= kMostWarps ? 1 : 2; }

struct Launch {
  Kernel kernel;
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config = {};
};

bool IsCut(const StreamedCut& cut, int64_t chunks) {
  const bool is_split = cut.split == 1 || cut.split == 2 || cut.split == 4 || cut.split == kMostSplit;
  return is_split && cut.split <= chunks && cut.row_tiles >= 2 && cut.row_tiles <= 16 && cut.row_tiles % TilesFor(cut.row_tiles) == 0;
}

// Fills in all but the stream.
void Prepare(const StreamedCut& cut, int64_t rows, int64_t tokens, int stages, int stage_bytes, Start start, Launch* launch) {
  const int tiles = TilesFor(cut.row_tiles);
  launch->kernel = KernelFor(tiles, tokens);
  const int sums = (tokens <= 16 ? 16 : 32) * (cut.row_tiles * 16 + 4) * 4;
  launch->attributes[0].id = cudaLaunchAttributeClusterDimension;
  launch->attributes[0].val.clusterDim = {static_cast<unsigned>(cut.split), 1, 1};
  launch->attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  launch->attributes[1].val.programmaticStreamSerializationAllowed = 1;
  launch->config.gridDim = dim3(static_cast<unsigned>((rows + cut.row_tiles * 16 - 1) / (cut.row_tiles * 16) * cut.split));
  launch->config.blockDim = dim3((cut.row_tiles / tiles + 1) * 32);
  launch->config.dynamicSmemBytes = kBarrierBytes + std::max(stages * stage_bytes, sums);
  launch->config.attrs = launch->attributes;
  launch->config.numAttrs = start == Start::kEarly ? 2 : 1;
}

void PrepareKernels() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const int tiles : {1, 2}) {
      for (const int tokens : {16, 32}) {
        const Kernel kernel = KernelFor(tiles, tokens);
        Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBarrierBytes + kMostStagedBytes));
        // Blocks of one product find room beside those of the last only if a processor is all for shared memory.
        Check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
      }
    }
  });
}

int StageBytes(int row_tiles, int64_t tokens) { return (row_tiles * 16 + (tokens <= 16 ? 16 : 32)) * kRowBytes; }

int StagesFor(const StreamedCut& cut, int64_t chunks, int64_t tokens) {
  const int64_t most = std::min(kMostStages, kMostStagedBytes / StageBytes(cut.row_tiles, tokens));
  return static_cast<int>(std::min(most, (chunks + cut.split - 1) / cut.split));
}

// About how many nanoseconds a product takes, by measurements on an H100 (product_bench --dense): the memory gives 3 TB/s in all, a
// processor takes 40 bytes a nanosecond, and what is joined costs the more the more parts there are. Clusters leave some
// processors of a device without work, which is why the blocks that run at once are asked for.
int64_t CostOf(const StreamedCut& cut, int64_t rows, int64_t chunks, int64_t tokens) {
  const int stage_bytes = StageBytes(cut.row_tiles, tokens);
  Launch launch;
  Prepare(cut, rows, tokens, StagesFor(cut, chunks, tokens), stage_bytes, Start::kAfter, &launch);
  int clusters = 0;
  Check(cudaOccupancyMaxActiveClusters(&clusters, launch.kernel, &launch.config));
  if (clusters == 0) return INT64_MAX;
  const int64_t blocks = launch.config.gridDim.x, at_once = static_cast<int64_t>(clusters) * cut.split;
  const int64_t rounds = (blocks + at_once - 1) / at_once, most = std::max(rounds, (blocks + Processors() - 1) / Processors());
  const int64_t memory = rows * chunks * kRowBytes / 3000, busiest = most * ((chunks + cut.split - 1) / cut.split) * stage_bytes / 40;
  const int64_t joining = cut.split == 1 ? 0 : cut.split == 2 ? 1200 : cut.split == 4 ? 1600 : 2600;
  return std::max(memory, busiest) + busiest * 15 / 100 + joining + (rounds - 1) * 1500;
}

StreamedCut FindCut(int64_t rows, int64_t chunks, int64_t tokens) {
  StreamedCut best;
  int64_t least = INT64_MAX;
  for (int split = 1; split <= kMostSplit && split <= chunks; split *= 2) {
    for (int row_tiles = 2; row_tiles <= 16; ++row_tiles) {
      if (!IsCut({row_tiles, split}, chunks)) continue;
      const int64_t cost = CostOf({row_tiles, split}, rows, chunks, tokens);
      if (cost < least) least = cost, best = {row_tiles, split};
    }
  }
  if (least == INT64_MAX) throw std::runtime_error("CUDA kernel: no way to cut a streamed product finds room on the device");
  return best;
}

// Found once for each size.
StreamedCut CutFor(int64_t rows, int64_t chunks, int64_t tokens) {
  static std::mutex mutex;
  static std::map<std::array<int64_t, 3>, StreamedCut> found;
  const std::array<int64_t, 3> key = {rows, chunks, tokens <= 16 ? 16 : 32};
  const std::lock_guard lock(mutex);
  const auto at = found.find(key);
  if (at != found.end()) return at->second;
  return found[key] = FindCut(rows, chunks, tokens);
}

}  // namespace

bool StreamedProductTakes(int64_t rows, int64_t columns) {
  return IsHopperOrLater() && MostSharedBytes() >= kBarrierBytes + kMostStagedBytes && rows % 2 == 0 && columns % kColumns == 0 &&
         rows < (1 << 30) && columns < (1 << 30);
}

void StreamedProduct(const void* x_TI, int64_t x_stride, const void* w_OI, int64_t rows, int64_t columns, void* y_TO,
                     int64_t y_stride, int64_t tokens, Stream stream, Start start, Next next, StreamedCut cut) {
  if (tokens == 0) return;
  PrepareKernels();
  const int64_t chunks = columns / kColumns;
  if (cut.row_tiles == 0) cut = CutFor(rows, chunks, tokens);
  const bool is_written = reinterpret_cast<uintptr_t>(y_TO) % 4 == 0 && y_stride % 2 == 0;
  if (tokens > kStreamedTokens || !IsCut(cut, chunks) || !is_written) throw std::runtime_error("CUDA kernel: not for StreamedProduct");
  const int stages = StagesFor(cut, chunks, tokens);
  const Work work{static_cast<int>(rows), static_cast<int>(chunks), static_cast<int>(tokens), stages, cut.split};
  Launch launch;
  Prepare(cut, rows, tokens, stages, StageBytes(cut.row_tiles, tokens), start, &launch);
  launch.config.stream = stream;
  const CUtensorMap w_map = MapOf(w_OI, rows, columns, columns, cut.row_tiles * 16);
  const CUtensorMap x_map = MapOf(x_TI, tokens, columns, x_stride, tokens <= 16 ? 16 : 32);
  cudaLaunchKernelEx(&launch.config, launch.kernel, w_map, x_map, work, static_cast<Bf16*>(y_TO), y_stride, next);
  CheckLaunch();
}

}  // namespace attune::cuda
