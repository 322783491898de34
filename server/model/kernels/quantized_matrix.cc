#include "server/model/kernels/quantized_matrix.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/element.h"

namespace attune {
namespace {

using at::Tensor;
using cuda::Codes;

template <typename T>
void DequantizeLoops(const QuantizedMatrix& matrix, T* out, int64_t begin, int64_t end) {
  const auto* data = static_cast<const uint8_t*>(matrix.data.const_data_ptr());
  for (int64_t block = begin; block < end; ++block) {
    const float scale = matrix.scales.const_data_ptr<float>()[block];
    for (int64_t i = block * QuantizedMatrix::kBlock; i < (block + 1) * QuantizedMatrix::kBlock; ++i) {
      if (matrix.codes == Codes::kInt8) {
        Store(static_cast<float>(static_cast<int8_t>(data[i])) * (scale / 127), out + i);
      } else {
        Store(cuda::kNf4Levels[i % 2 ? data[i / 2] & 15 : data[i / 2] >> 4] * scale, out + i);
      }
    }
  }
}

// The nearest level's number for values in [-1, 1].
Tensor Nf4Codes(const Tensor& values) {
  std::vector<float> middles;
  for (int i = 0; i + 1 < 16; ++i) middles.push_back((cuda::kNf4Levels[i] + cuda::kNf4Levels[i + 1]) / 2);
  const Tensor codes = at::bucketize(values, at::tensor(middles, at::kFloat).to(values.device()), /*out_int32=*/true);
  const Tensor pairs = codes.to(at::kByte).view({-1, 2});
  return pairs.select(1, 0).bitwise_left_shift(4).bitwise_or(pairs.select(1, 1));
}

// Where there are no kernels of our own.
Tensor AtenDequantize(const QuantizedMatrix& matrix) {
  const Tensor scales = matrix.scales.unsqueeze(1);
  if (matrix.codes == Codes::kInt8) {
    return matrix.data.to(at::kFloat).view({-1, QuantizedMatrix::kBlock}) * (scales / 127);
  }
  const Tensor levels = at::tensor(at::ArrayRef<float>(cuda::kNf4Levels, 16), at::kFloat).to(scales.device());
  const Tensor codes = at::stack({matrix.data.bitwise_right_shift(4), matrix.data.bitwise_and(15)}, 1);
  return levels.index_select(0, codes.flatten().to(at::kInt)).view({-1, QuantizedMatrix::kBlock}) * scales;
}

}  // namespace

int64_t QuantizedMatrix::BytesFor(Codes codes, int64_t count) {
  return (codes == Codes::kInt8 ? count : count / 2) + count / kBlock * static_cast<int64_t>(sizeof(float));
}

QuantizedMatrix Quantize(const Tensor& w_OI, Codes codes, at::Device device) {
  at::NoGradGuard no_grad;
  TORCH_CHECK(w_OI.numel() % QuantizedMatrix::kBlock == 0, "a quantised matrix has whole blocks");
  constexpr int64_t kPieceBlocks = int64_t{1} << 17;
  const Tensor all = w_OI.reshape({-1, QuantizedMatrix::kBlock});
  std::vector<Tensor> data, scales;
  for (int64_t begin = 0; begin < all.size(0); begin += kPieceBlocks) {
    const Tensor blocks =
        all.narrow(0, begin, std::min(kPieceBlocks, all.size(0) - begin)).to(device).to(at::kFloat);
    scales.push_back(blocks.abs().amax(1));
    const Tensor values = blocks / scales.back().clamp_min(1e-30).unsqueeze(1);
    data.push_back(codes == Codes::kInt8 ? (values * 127).round().to(at::kChar).flatten() : Nf4Codes(values));
  }
  return {codes, w_OI.size(0), w_OI.size(1), at::cat(data), at::cat(scales)};
}

Tensor Dequantize(const QuantizedMatrix& matrix, at::ScalarType type) {
  Tensor out = at::empty({matrix.rows, matrix.columns}, matrix.scales.options().dtype(type));
  if (UsesCudaKernels(out)) {
    cuda::Dequantize(matrix.codes, matrix.data.const_data_ptr(), matrix.scales.const_data_ptr<float>(),
                     CudaTypeOf(out), out.mutable_data_ptr(), out.numel(), CurrentCudaStream());
    return out;
  }
  if (!UsesCpuLoops(out)) return AtenDequantize(matrix).view(out.sizes()).to(type);
  WithElementOf(out, [&]<typename T>() {
    at::parallel_for(0, matrix.scales.numel(), 256, [&](int64_t begin, int64_t end) {
      DequantizeLoops(matrix, MutableElements<T>(out), begin, end);
    });
  });
  return out;
}

}  // namespace attune
