#include "server/model/kernels/tiled_weight.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "server/model/kernels/cuda_dispatch.h"

namespace attune {
namespace {

using at::Tensor;
using cuda::TileCodes;

constexpr int64_t kBlock = cuda::kTiledBlock;
constexpr float kFp8Most = 448;

Tensor Rounded(const Tensor& scales) { return scales.to(at::kBFloat16).to(at::kFloat); }

// O x I / 32 x 32
Tensor Blocks(const Tensor& w_OI) { return w_OI.to(at::kFloat).view({w_OI.size(0), -1, kBlock}); }

// A block of zeros has any scale.
Tensor ScalesFor(const Tensor& blocks, double most) {
  const Tensor scales = Rounded(blocks.abs().amax(-1) / most);
  return at::where(scales > 0, scales, at::ones_like(scales));
}

// O x I codes in the order of bytes.
Tensor TileBytes(const Tensor& codes_OI) {
  const int64_t rows = codes_OI.size(0), columns = codes_OI.size(1);
  // tile row, row / 8, g; chunk, half, t, four columns: quad, a, b
  const Tensor split = codes_OI.view({rows / 16, 2, 8, columns / 64, 2, 4, 2, 2, 2});
  return split.permute({0, 3, 1, 2, 5, 4, 6, 8, 7}).contiguous().view(-1);
}

Tensor TileNibbles(const Tensor& codes_OI) {
  const int64_t rows = codes_OI.size(0), columns = codes_OI.size(1);
  // tile row, row / 8, g; chunk, half, t, four pairs: two and two, column of the pair
  const Tensor split = codes_OI.view({rows / 16, 2, 8, columns / 64, 2, 4, 2, 2, 2});
  // A byte is two pairs' first columns, or their second ones.
  const Tensor nibbles = split.permute({0, 3, 2, 5, 1, 4, 8, 6, 7}).contiguous().view({-1, 2});
  return (nibbles.select(1, 0) + nibbles.select(1, 1) * 16).to(at::kByte);
}

// O x I / 32 (x what belongs together) in the order of scales.
Tensor TileScales(const Tensor& scales) {
  const int64_t rows = scales.size(0), blocks = scales.size(1), each = scales.dim() == 3 ? scales.size(2) : 1;
  return scales.view({rows / 16, 2, 8, blocks / 2, 2, each})
      .permute({0, 3, 2, 4, 1, 5})
      .to(at::kBFloat16)
      .contiguous()
      .view(-1);
}

TiledWeight MakeInt8(const Tensor& w_OI) {
  const Tensor blocks = Blocks(w_OI), scales = ScalesFor(blocks, 127);
  const Tensor codes = (blocks / scales.unsqueeze(-1)).round().clamp(-127, 127);
  const Tensor bytes = codes.abs() + (codes < 0).to(at::kFloat) * 128;
  return {TileCodes::kInt8, w_OI.size(0), w_OI.size(1), TileBytes(bytes.to(at::kByte).view(w_OI.sizes())), TileScales(scales)};
}

TiledWeight MakeFp8(const Tensor& w_OI) {
  const Tensor blocks = Blocks(w_OI), scales = ScalesFor(blocks, kFp8Most);
  const Tensor codes = (blocks / scales.unsqueeze(-1)).clamp(-kFp8Most, kFp8Most).to(at::kFloat8_e4m3fn).view(at::kByte);
  TORCH_CHECK(scales.max().item<float>() < 64, "values too large for FP8");
  return {TileCodes::kFp8, w_OI.size(0), w_OI.size(1), TileBytes(codes.view(w_OI.sizes())),
          TileScales(scales * std::ldexp(1.0f, 120))};
}

TiledWeight MakeInt4(const Tensor& w_OI) {
  const Tensor blocks = Blocks(w_OI), least = Rounded(blocks.amin(-1));
  const Tensor found = Rounded((blocks.amax(-1) - least) / 15);
  const Tensor scales = at::where(found > 0, found, at::ones_like(found));
  const Tensor codes = ((blocks - least.unsqueeze(-1)) / scales.unsqueeze(-1)).round().clamp(0, 15);
  return TileInt4(codes.to(at::kByte).view(w_OI.sizes()), scales, least);
}

void Multiply(const Tensor& x_TI, const cuda::TiledMatrix& w, const Tensor& y_TO, const TiledOptions& options) {
  cuda::TiledProduct(x_TI.const_data_ptr(), x_TI.stride(0), w, y_TO.mutable_data_ptr(), y_TO.stride(0), x_TI.size(0),
                     CurrentCudaStream(), options.start, options.split, options.next);
}

}  // namespace

int64_t TiledWeight::BytesFor(TileCodes codes, int64_t rows, int64_t columns) {
  const int64_t count = rows * columns, scale = static_cast<int64_t>(sizeof(at::BFloat16));
  return codes == TileCodes::kInt4 ? count / 2 + count / kBlock * 2 * scale : count + count / kBlock * scale;
}

namespace {

TiledWeight MakeStrip(const Tensor& w_OI, TileCodes codes) {
  switch (codes) {
    case TileCodes::kInt8: return MakeInt8(w_OI);
    case TileCodes::kFp8: return MakeFp8(w_OI);
    default: return MakeInt4(w_OI);
  }
}

// Rows that are quantised at a time, whose values in fp32 exist several times meanwhile.
constexpr int64_t kStripValues = int64_t{1} << 22;

}  // namespace

TiledWeight MakeTiledWeight(const Tensor& w_OI, TileCodes codes) {
  const int64_t rows = w_OI.size(0), columns = w_OI.size(1);
  const int64_t step = std::max<int64_t>(1, kStripValues / columns / cuda::kTiledRows) * cuda::kTiledRows;
  std::vector<Tensor> data, scales;  // tiles lie row by row: those of a strip are one piece
  for (int64_t row = 0; row < rows; row += step) {
    const TiledWeight strip = MakeStrip(w_OI.narrow(0, row, std::min(step, rows - row)), codes);
    data.push_back(strip.data);
    scales.push_back(strip.scales);
  }
  return {codes, rows, columns, at::cat(data), at::cat(scales)};
}

TiledWeight TileInt4(const Tensor& codes_OI, const Tensor& scales, const Tensor& least) {
  return {TileCodes::kInt4, codes_OI.size(0), codes_OI.size(1), TileNibbles(codes_OI), TileScales(at::stack({scales, least}, -1))};
}

// A block: scale in f16, least value if it has one, 16 bytes whose low halves are the first 16 values.
TiledWeight TileQ4Rows(const Tensor& rows_OB, bool is_q4_1) {
  const int64_t head = is_q4_1 ? 4 : 2, rows = rows_OB.size(0);
  const Tensor blocks = rows_OB.view({rows, -1, head + 16});
  auto half_at = [&](int64_t byte) {
    return blocks.narrow(2, byte, 2).contiguous().view(at::kHalf).squeeze(-1).to(at::kFloat);
  };
  const Tensor scales = half_at(0), bytes = blocks.narrow(2, head, 16);
  const Tensor codes = at::cat({bytes.bitwise_and(15), bytes.bitwise_right_shift(at::Scalar(4))}, 2);
  return TileInt4(codes.view({rows, -1}), scales, is_q4_1 ? half_at(2) : scales * -8);
}

void MultiplyTiled(const Tensor& x_TI, const TiledWeight& w, const Tensor& y_TO, const TiledOptions& options) {
  Multiply(x_TI, w.matrix(), y_TO, options);
}

void MultiplyFewRows(const Tensor& x_TI, const Tensor& w_OI, const Tensor& y_TO, const TiledOptions& options) {
  Multiply(x_TI, {TileCodes::kBf16, w_OI.size(0), w_OI.size(1), w_OI.const_data_ptr(), nullptr}, y_TO, options);
}

}  // namespace attune
