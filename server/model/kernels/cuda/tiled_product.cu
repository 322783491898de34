// Products of few rows: decoding. What they take is the time to read the weight, so it is read once, in 8 or 4 bits a
// value if it comes so, expanded in registers, and multiplied on the tensor cores as the left operand: its rows are
// the instruction's 16 rows, the tokens its 8 columns. A block has one or a few tiles of rows; its warps share out the columns,
// each with its part of x on the way to shared memory, and add their sums up in a fixed order. That order depends on the matrix alone,
// never on how many tokens there are.
#include <mutex>

#include "server/model/kernels/cuda/common.cuh"

namespace attune::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kWarps = 8, kTileRows = kTiledRows, kTileColumns = kTiledColumns, kTokens = 8;

// Two rows' 16 values of a lane in the tile: of row lane / 4 and the eighth row after it, eight of each half of the tile's columns,
// from 8 * (lane % 4) on. The products of a tile are over its columns in any order, so that each lane may have neighbours.
struct Values {
  uint32_t of_row[2][8];  // bf16 pairs
};

__device__ inline uint32_t Fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

__device__ inline uint32_t Twice(uint32_t low_half) { return __byte_perm(low_half, 0, 0x1010); }

constexpr uint32_t k128 = 0x43004300, kMinus128 = 0xc300c300, kMinusZero = 0x80008000;

__device__ inline uint4 LoadOnce(const void* from) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(from));
  return v;
}

// How each format is read (Raw) and made into bf16. A tile's place is tile * chunks + chunk.
template <TileCodes kCodes>
struct Format;

template <>
struct Format<TileCodes::kBf16> {
  struct Raw {
    uint4 v[2][2];
  };
  static __device__ void Read(const TiledMatrix& w, int64_t tile, int chunk, int lane, Raw* raw) {
    const Bf16* from = static_cast<const Bf16*>(w.data) + (tile * kTileRows + lane / 4) * w.columns +
                       chunk * kTileColumns + 8 * (lane % 4);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int half = 0; half < 2; ++half) raw->v[row][half] = LoadOnce(from + row * 8 * w.columns + half * 32);
    }
  }
  static __device__ void Expand(const Raw& raw, Values* values) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4& v = raw.v[row][half];
        uint32_t* to = values->of_row[row] + 4 * half;
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
      }
    }
  }
};

// Bytes: four neighbouring columns c are a word of c, c + 2, c + 1, c + 3.
struct ByteRaw {
  uint4 v[2];
  uint2 scales;  // of each half: the two rows'
};

__device__ inline void ReadBytes(const TiledMatrix& w, int64_t tile, int chunk, int lane, ByteRaw* raw) {
  const int64_t at = tile * (w.columns / kTileColumns) + chunk;
  const char* from = static_cast<const char*>(w.data) + at * (kTileRows * kTileColumns) + lane * 16;
  raw->v[0] = LoadOnce(from);
  raw->v[1] = LoadOnce(from + 512);
  raw->scales = __ldg(static_cast<const uint2*>(w.scales) + at * 8 + lane / 4);
}

template <typename Word>
__device__ inline void ExpandBytes(const ByteRaw& raw, Values* values, const Word& expand) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const uint32_t words[4] = {raw.v[row].x, raw.v[row].y, raw.v[row].z, raw.v[row].w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t both = half ? raw.scales.y : raw.scales.x, scale = Twice(row ? both >> 16 : both);
#pragma unroll
      for (int i = 0; i < 2; ++i) expand(words[2 * half + i], scale, values->of_row[row] + 4 * half + 2 * i);
    }
  }
}

template <>
struct Format<TileCodes::kInt8> {
  using Raw = ByteRaw;
  static __device__ void Read(const TiledMatrix& w, int64_t tile, int chunk, int lane, Raw* raw) {
    ReadBytes(w, tile, chunk, lane, raw);
  }
  // A magnitude m in the low bits of bf16's 128 makes 128 + m, of which 128 * scale is taken off, exactly.
  static __device__ void Expand(const Raw& raw, Values* values) {
    ExpandBytes(raw, values, [](uint32_t word, uint32_t scale, uint32_t* to) {
      const uint32_t offset = Fma(scale, kMinus128, kMinusZero);
      to[0] = Fma((word & 0x007f007f) | k128, scale, offset) ^ ((word << 8) & 0x80008000);
      to[1] = Fma(((word >> 8) & 0x007f007f) | k128, scale, offset) ^ (word & 0x80008000);
    });
  }
};

template <>
struct Format<TileCodes::kFp8> {
  using Raw = ByteRaw;
  static __device__ void Read(const TiledMatrix& w, int64_t tile, int chunk, int lane, Raw* raw) {
    ReadBytes(w, tile, chunk, lane, raw);
  }
  // e4m3's bits are bf16's at another bias: the scales hold the 2^120 that lie between.
  static __device__ void Expand(const Raw& raw, Values* values) {
    ExpandBytes(raw, values, [](uint32_t word, uint32_t scale, uint32_t* to) {
      to[0] = Fma(((word << 4) & 0x07f007f0) | ((word << 8) & 0x80008000), scale, kMinusZero);
      to[1] = Fma(((word >> 4) & 0x07f007f0) | (word & 0x80008000), scale, kMinusZero);
    });
  }
};

template <>
struct Format<TileCodes::kInt4> {
  struct Raw {
    uint4 v;       // of each row: a word of each half
    uint4 scales;  // of each half: each row's scale and least value
  };
  static __device__ void Read(const TiledMatrix& w, int64_t tile, int chunk, int lane, Raw* raw) {
    const int64_t at = tile * (w.columns / kTileColumns) + chunk;
    raw->v = LoadOnce(static_cast<const char*>(w.data) + at * (kTileRows * kTileColumns / 2) + lane * 16);
    raw->scales = __ldg(static_cast<const uint4*>(w.scales) + at * 8 + lane / 4);
  }
  static __device__ void Expand(const Raw& raw, Values* values) {
    const uint32_t words[2][2] = {{raw.v.x, raw.v.y}, {raw.v.z, raw.v.w}};
    const uint32_t scales[2][2] = {{raw.scales.x, raw.scales.z}, {raw.scales.y, raw.scales.w}};
#pragma unroll
    for (int row = 0; row < 2; ++row) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t scale = Twice(scales[row][half]), least = Twice(scales[row][half] >> 16);
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          const uint32_t code = Fma(((words[row][half] >> (4 * pair)) & 0x000f000f) | k128, 0x3f803f80, kMinus128);
          values->of_row[row][4 * half + pair] = Fma(code, scale, least);
        }
      }
    }
  }
};

__device__ inline void MultiplyAdd(float (&sums)[4], const Values& w, int step, uint32_t x0, uint32_t x1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(w.of_row[0][2 * step]), "r"(w.of_row[1][2 * step]), "r"(w.of_row[0][2 * step + 1]),
        "r"(w.of_row[1][2 * step + 1]), "r"(x0), "r"(x1));
}

// A warp's tokens of one chunk of columns in shared memory: a token's 128 bytes are eight units, which are stored so
// that two tokens' halves never meet in a bank.
__device__ inline int UnitPlace(int token, int unit) { return token * 8 + (unit ^ ((token & 1) << 2 | (token >> 1 & 3))); }

__device__ inline void CopyLater(uint4* to, const void* from) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from));
}
__device__ inline void EndCopies() { asm volatile("cp.async.commit_group;"); }
template <int kMostUnderWay>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kMostUnderWay));
}

// How a block's warps share out its work: all of them the columns of the same rows, which gives small matrices enough warps; or in pairs,
// each pair rows of its own, all over the same x.
template <TiledSplit kSplit>
inline constexpr int kColumnWarps = kSplit == TiledSplit::kColumns ? 8 : 2;

template <int kTokenTiles, int kRowTiles, TiledSplit kSplit>
struct Sizes {
  static constexpr int kRowWarps = kWarps / kColumnWarps<kSplit>;
  // Chunks on their way at a time; more would leave a processor one block.
  static constexpr int kAhead = kTokenTiles <= (kSplit == TiledSplit::kColumns ? 2 : 4) ? 4 : 2;
  static constexpr int kUnits = kTokenTiles * kTokens * 8;             // of 16 bytes: x of a chunk
  static constexpr int kSums = kRowTiles * kTokenTiles * 4;            // of a lane
  // Warps that share x read the next while some of them are still at the last.
  static constexpr int kStages = kRowWarps == 1 ? kAhead : kAhead + 1;
  static constexpr int kStagedBytes = kStages * kColumnWarps<kSplit> * kUnits * 16;
  static constexpr int kSumBytes = kWarps / 2 * kSums * 32 * 4;
  static constexpr int kSharedBytes = kStagedBytes > kSumBytes ? kStagedBytes : kSumBytes;
};

// Warps that share their columns, by barrier 1 + their number; barrier 0 is the block's.
template <int kCount>
__device__ inline void SyncWarps(int group) {
  if constexpr (kCount == 1) {
    __syncwarp();
  } else {
    asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(kCount * 32) : "memory");
  }
}

template <TileCodes kCodes, int kTokenTiles, int kRowTiles, TiledSplit kSplit>
__global__ void __launch_bounds__(kWarps * 32)
    Product(const Bf16* x_TI, int64_t x_stride, const TiledMatrix w, Bf16* y_TO, int64_t y_stride, int tokens, Next next) {
  using F = Format<kCodes>;
  using S = Sizes<kTokenTiles, kRowTiles, kSplit>;
  constexpr int kAhead = S::kAhead, kStages = S::kStages, kUnits = S::kUnits, kSums = S::kSums, kRowWarps = S::kRowWarps;
  constexpr int kEach = kColumnWarps<kSplit>;
  extern __shared__ uint4 shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp % kEach, row_warp = warp / kEach;
  uint4* const staged = shared + group * kStages * kUnits;
  const int64_t tiles = w.rows / kTileRows;
  const int chunks = static_cast<int>(w.columns / kTileColumns);
  const int first_token = blockIdx.y * kTokenTiles * kTokens;
  const int64_t first_tile = (static_cast<int64_t>(blockIdx.x) * kRowWarps + row_warp) * kRowTiles;
  typename F::Raw raw[kAhead][kRowTiles];
  auto read_weight = [&](int chunk, typename F::Raw(&to)[kRowTiles]) {
    if (chunk >= chunks) return;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      // Beyond the last, that again, which is not stored.
      F::Read(w, first_tile + r < tiles ? first_tile + r : tiles - 1, chunk, lane, &to[r]);
    }
  };
  // Tokens that are not there are left as they are: each token's sums are its own.
  auto read_x = [&](int index) {
    const int chunk = group + index * kEach;
    uint4* const to = staged + index % kStages * kUnits;
#pragma unroll
    for (int i = 0; i < (kUnits + kRowWarps * 32 - 1) / (kRowWarps * 32); ++i) {
      const int unit = row_warp * 32 + lane + i * kRowWarps * 32, local = unit / 8, token = first_token + local;
      if (chunk < chunks && unit < kUnits && token < tokens) {
        CopyLater(to + UnitPlace(local, unit % 8), x_TI + token * x_stride + chunk * kTileColumns + unit % 8 * 8);
      }
    }
    EndCopies();
  };
  float sums[kRowTiles][kTokenTiles][4] = {};
  if (next == Next::kAtOnce) LetNextBegin();
  // No kernel writes the weight.
#pragma unroll
  for (int i = 0; i < kAhead; ++i) read_weight(group + i * kEach, raw[i]);
  WaitForBefore();
  if (next == Next::kWithInput) LetNextBegin();
#pragma unroll
  for (int i = 0; i < kAhead; ++i) read_x(i);
  for (int from = 0; group + from * kEach < chunks; from += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int index = from + i, chunk = group + index * kEach;
      if (chunk >= chunks) break;
      WaitForCopies<kAhead - 1>();
      SyncWarps<kRowWarps>(group);  // the chunk is there, and nobody reads the one before any more
      if constexpr (kStages > kAhead) read_x(index + kAhead);
      const uint4* const x = staged + index % kStages * kUnits;
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        Values values;
        F::Expand(raw[i][r], &values);
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          const int token = n * kTokens + lane / 4;
          const uint4 a = x[UnitPlace(token, lane % 4)], b = x[UnitPlace(token, 4 + lane % 4)];
          MultiplyAdd(sums[r][n], values, 0, a.x, a.y);
          MultiplyAdd(sums[r][n], values, 1, a.z, a.w);
          MultiplyAdd(sums[r][n], values, 2, b.x, b.y);
          MultiplyAdd(sums[r][n], values, 3, b.z, b.w);
        }
      }
      read_weight(chunk + kAhead * kEach, raw[i]);
      if constexpr (kStages == kAhead) {
        __syncwarp();
        read_x(index + kAhead);
      }
    }
  }
  WaitForCopies<0>();
  __syncthreads();
  // Halves the warps that have sums of the same rows until one is left.
  float* const part = reinterpret_cast<float*>(shared) + row_warp * (kEach / 2) * kSums * 32;
#pragma unroll
  for (int half = kEach / 2; half > 0; half /= 2) {
    const bool gives = group >= half && group < 2 * half;
#pragma unroll
    for (int i = 0; gives && i < kSums; ++i) {
      part[((group - half) * kSums + i) * 32 + lane] = sums[i / (kTokenTiles * 4)][i / 4 % kTokenTiles][i % 4];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; group < half && i < kSums; ++i) {
      sums[i / (kTokenTiles * 4)][i / 4 % kTokenTiles][i % 4] += part[(group * kSums + i) * 32 + lane];
    }
    __syncthreads();
  }
  if (group != 0) return;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    if (first_tile + r >= tiles) return;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = first_token + n * kTokens + 2 * (lane % 4) + i % 2;
        const int64_t row = (first_tile + r) * kTileRows + lane / 4 + 8 * (i / 2);
        if (token < tokens) y_TO[token * y_stride + row] = __float2bfloat16(sums[r][n][i]);
      }
    }
  }
}

struct Call {
  const Bf16* x_TI;
  int64_t x_stride;
  TiledMatrix w;
  Bf16* y_TO;
  int64_t y_stride, tokens;
  Stream stream;
  Start start;
  Next next;
};

template <TileCodes kCodes, int kTokenTiles, int kRowTiles, TiledSplit kSplit>
void Launch(const Call& call) {
  using S = Sizes<kTokenTiles, kRowTiles, kSplit>;
  static std::once_flag once;  // more than 48 KiB have to be asked for
  std::call_once(once, [] {
    const cudaError_t error = cudaFuncSetAttribute(Product<kCodes, kTokenTiles, kRowTiles, kSplit>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA kernel: ") + cudaGetErrorString(error));
  });
  const int64_t tiles = call.w.rows / kTileRows, tokens_each = kTokenTiles * kTokens, tiles_each = S::kRowWarps * kRowTiles;
  const dim3 grid(static_cast<unsigned>((tiles + tiles_each - 1) / tiles_each),
                  static_cast<unsigned>((call.tokens + tokens_each - 1) / tokens_each));
  LaunchAt(call.start, Product<kCodes, kTokenTiles, kRowTiles, kSplit>, grid, kWarps * 32, S::kSharedBytes, call.stream,
           call.x_TI, call.x_stride, call.w, call.y_TO, call.y_stride, static_cast<int>(call.tokens), call.next);
}

template <TileCodes kCodes>
void LaunchFor(const Call& call, TiledSplit split) {
  if (split == TiledSplit::kColumns) {
    if (call.tokens <= 8) return Launch<kCodes, 1, 1, TiledSplit::kColumns>(call);
    if (call.tokens <= 16) return Launch<kCodes, 2, 1, TiledSplit::kColumns>(call);
    if (call.tokens <= 32) return Launch<kCodes, 4, 1, TiledSplit::kColumns>(call);
    // As many as there are, with the same sums, where a block has no room for 64.
    if (Sizes<8, 2, TiledSplit::kColumns>::kSharedBytes > MostSharedBytes()) {
      return Launch<kCodes, 4, 1, TiledSplit::kColumns>(call);
    }
    return Launch<kCodes, 8, 2, TiledSplit::kColumns>(call);
  }
  if (call.tokens <= 8) return Launch<kCodes, 1, 1, TiledSplit::kRows>(call);
  if (call.tokens <= 16) return Launch<kCodes, 2, 1, TiledSplit::kRows>(call);
  if (call.tokens <= 32) return Launch<kCodes, 4, 1, TiledSplit::kRows>(call);
  Launch<kCodes, 8, 2, TiledSplit::kRows>(call);
}

// Matrices of many rows have enough blocks by pairs, which read x less often; dense ones take as long either way.
TiledSplit SplitFor(const Call& call) {
  const bool is_for_pairs = call.w.codes == TileCodes::kBf16 ? call.tokens > 16 : true;
  return is_for_pairs && call.w.rows / kTileRows >= 640 ? TiledSplit::kRows : TiledSplit::kColumns;
}

}  // namespace

void TiledProduct(const void* x_TI, int64_t x_stride, const TiledMatrix& w_OI, void* y_TO, int64_t y_stride,
                  int64_t tokens, Stream stream, Start start, TiledSplit split, Next next) {
  if (tokens == 0) return;
  const Call call{static_cast<const Bf16*>(x_TI), x_stride, w_OI, static_cast<Bf16*>(y_TO), y_stride, tokens,
                  stream,                         start,    next};
  if (split == TiledSplit::kBest) split = SplitFor(call);
  switch (w_OI.codes) {
    case TileCodes::kBf16: LaunchFor<TileCodes::kBf16>(call, split); break;
    case TileCodes::kInt8: LaunchFor<TileCodes::kInt8>(call, split); break;
    case TileCodes::kFp8: LaunchFor<TileCodes::kFp8>(call, split); break;
    case TileCodes::kInt4: LaunchFor<TileCodes::kInt4>(call, split); break;
  }
  CheckLaunch();
}

}  // namespace attune::cuda
