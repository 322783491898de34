#ifndef ATTUNE_SERVER_MODEL_KERNELS_TILED_WEIGHT_H_
#define ATTUNE_SERVER_MODEL_KERNELS_TILED_WEIGHT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "server/model/kernels/cuda/launch.h"

namespace attune {

// A weight matrix in 8 or 4 bits for decoding on a GPU, where products of few rows take the time that reading the weight
// takes. Blocks of 32 columns of a row share a scale in bf16. INT8: sign and magnitude, value = code * scale, the largest
// magnitude being 127. FP8: e4m3 (Micikevicius et al. 2022), likewise, the largest being 448. INT4: value =
// code * scale + least, as GGUF's Q4_1. What products see is that value, rounded to bf16.
//
// Stored in tiles of 16 rows and 64 columns, a row of tiles after the other, so that each lane of a warp reads 16
// bytes beside its neighbour's: lane 4g + t has columns 8t to 8t + 7 of each half, which is a block, of rows g and g + 8. Bytes:
// [tile][row / 8 % 2][lane][half][8], where of four neighbouring columns the middle two are swapped. 4 bits:
// [tile][lane][row / 8 % 2][half], a word of eight columns, whose nibble p is its column 2p, nibble p + 4 column 2p + 1.
// Scales: [tile][g][block][row / 8 % 2]; of 4 bits each is followed by the least value. Immutable: thread-safe.
struct TiledWeight {
  cuda::TileCodes codes;
  int64_t rows, columns;
  at::Tensor data;    // uint8, flat
  at::Tensor scales;  // bf16, flat; FP8's times 2^120, by which e4m3's bits are moved to bf16's

  int64_t bytes() const { return static_cast<int64_t>(data.nbytes() + scales.nbytes()); }
  cuda::TiledMatrix matrix() const { return {codes, rows, columns, data.const_data_ptr(), scales.const_data_ptr()}; }

  // Rows of x up to which a product is faster by blocks than by the dense matrix.
  static constexpr int64_t kMostRows = 32;
  static bool Takes(int64_t rows, int64_t columns) {
    return rows % cuda::kTiledRows == 0 && columns % cuda::kTiledColumns == 0;
  }
  // What such a matrix takes.
  static int64_t BytesFor(cuda::TileCodes codes, int64_t rows, int64_t columns);
};

// The nearest representable matrix, where w_OI is (any device). REQUIRES: Takes(rows, columns); fp32 or bf16; `codes`
// are not bf16. Throws c10::Error for FP8 of values beyond 28,672.
TiledWeight MakeTiledWeight(const at::Tensor& w_OI, cuda::TileCodes codes);
// Of 4-bit codes as they are: codes_OI uint8, 0 to 15; scales and least values O x I / 32, fp32, rounded to bf16.
TiledWeight TileInt4(const at::Tensor& codes_OI, const at::Tensor& scales, const at::Tensor& least);

// GGUF rows of Q4_0 or Q4_1 as they are: rows_OB uint8.
TiledWeight TileQ4Rows(const at::Tensor& rows_OB, bool is_q4_1);

// How a product is made. With `split` other than kBest a row's result does not depend on what rows there are.
struct TiledOptions {
  cuda::Start start = cuda::Start::kAfter;
  cuda::TiledSplit split = cuda::TiledSplit::kBest;
  cuda::Next next = cuda::Next::kAtOnce;
};
// y_TO = x_TI W^T on the calling thread's stream, not waited for; all bf16 on a GPU with kernels, rows contiguous.
void MultiplyTiled(const at::Tensor& x_TI, const TiledWeight& w, const at::Tensor& y_TO, const TiledOptions& options = {});
// The same by a dense weight, by the same kernel. REQUIRES: TiledWeight::Takes its sizes.
void MultiplyFewRows(const at::Tensor& x_TI, const at::Tensor& w_OI, const at::Tensor& y_TO, const TiledOptions& options = {});

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_TILED_WEIGHT_H_
