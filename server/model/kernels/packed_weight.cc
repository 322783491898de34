#include "server/model/kernels/packed_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "server/model/kernels/packed_rows.h"

namespace attune {

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

bool PackedWeight::Supports(GgmlType type, int64_t columns) {
  return columns % 32 == 0 && (type == GgmlType::kQ4_0 || type == GgmlType::kQ4_1 || type == GgmlType::kQ8_0);
}

at::Tensor PackedWeight::Multiply(const at::Tensor& x_TI) const {
  static const bool has_avx512 = HasAvx512();
  const int64_t tokens = x_TI.size(0);
  at::Tensor y = at::empty({tokens, rows_}, x_TI.options());
  const PackedProduct product{type_, reinterpret_cast<const uint8_t*>(bytes_.data()), row_bytes_, rows_, columns_,
                              x_TI.const_data_ptr<float>(), tokens, y.mutable_data_ptr<float>()};
  at::parallel_for(0, rows_, 32, [&](int64_t first, int64_t last) {
    has_avx512 ? MultiplyPackedRowsAvx512(product, first, last) : MultiplyPackedRowsAvx2(product, first, last);
  });
  return y;
}

at::Tensor PackedWeight::MultiplyBf16(const at::Tensor& x_TI) const {
  const int64_t tokens = x_TI.size(0);
  if (tokens <= kMaxExactTokens || !HasAvx512Bf16()) return Multiply(x_TI);
  at::Tensor y = at::empty({tokens, rows_}, x_TI.options());
  const at::Tensor packed = at::empty({tokens, columns_}, x_TI.options().dtype(at::kBFloat16));
  auto* x = reinterpret_cast<uint16_t*>(packed.data_ptr());
  PackBf16Tokens(x_TI.const_data_ptr<float>(), tokens * columns_, x);
  const PackedProduct product{type_, reinterpret_cast<const uint8_t*>(bytes_.data()), row_bytes_, rows_, columns_,
                              nullptr, tokens, y.mutable_data_ptr<float>()};
  at::parallel_for(0, rows_, 32,
                   [&](int64_t first, int64_t last) { MultiplyPackedRowsBf16(product, x, first, last); });
  return y;
}

#else

at::Tensor PackedWeight::MultiplyBf16(const at::Tensor& x_TI) const { return Multiply(x_TI); }

bool PackedWeight::Supports(GgmlType, int64_t) { return false; }

at::Tensor PackedWeight::Multiply(const at::Tensor&) const {
  TORCH_CHECK(false, "packed products need AVX2");
}

#endif

int64_t PackedWeight::MaxBf16Tokens() {
  static const int64_t most = HasAvx512Bf16() ? 32 : kMaxExactTokens;
  return most;
}

PackedWeight::PackedWeight(GgmlType type, int64_t columns)
    : type_(type), columns_(columns), row_bytes_(columns / GgmlBlockElements(type) * GgmlBlockBytes(type)) {}

namespace {

void PutHalf(float value, uint8_t* out) {
  const c10::Half half(value);
  std::memcpy(out, &half.x, 2);
}

// As ggml has the formats. What is rounded to half precision is what values are divided by.
void QuantizeQ8(const float* x, uint8_t* out) {
  float most = 0;
  for (int i = 0; i < 32; ++i) most = std::max(most, std::abs(x[i]));
  PutHalf(most / 127, out);
  c10::Half half;
  std::memcpy(&half.x, out, 2);
  const float d = half, inverse = d > 0 ? 1 / d : 0;
  for (int i = 0; i < 32; ++i) {
    out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(std::nearbyint(x[i] * inverse), -127.0f, 127.0f)));
  }
}

void QuantizeQ4(const float* x, uint8_t* out) {
  const auto [least, most] = std::minmax_element(x, x + 32);
  PutHalf((*most - *least) / 15, out);
  PutHalf(*least, out + 2);
  c10::Half scale, offset;
  std::memcpy(&scale.x, out, 2);
  std::memcpy(&offset.x, out + 2, 2);
  const float d = scale, m = offset, inverse = d > 0 ? 1 / d : 0;
  const auto code = [&](float value) {
    return static_cast<uint8_t>(std::clamp(std::nearbyint((value - m) * inverse), 0.0f, 15.0f));
  };
  for (int i = 0; i < 16; ++i) out[4 + i] = static_cast<uint8_t>(code(x[i]) | code(x[i + 16]) << 4);
}

}  // namespace

std::shared_ptr<const PackedWeight> PackedWeight::Quantize(const at::Tensor& w_OI, GgmlType type) {
  auto packed = std::make_shared<PackedWeight>(type, w_OI.size(1));
  packed->rows_ = w_OI.size(0);
  packed->bytes_.resize(packed->rows_ * packed->row_bytes_);
  const float* w = w_OI.const_data_ptr<float>();
  auto* out = reinterpret_cast<uint8_t*>(packed->bytes_.data());
  const int64_t block_bytes = GgmlBlockBytes(type);
  at::parallel_for(0, w_OI.numel() / 32, 1024, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      type == GgmlType::kQ8_0 ? QuantizeQ8(w + 32 * i, out + block_bytes * i)
                              : QuantizeQ4(w + 32 * i, out + block_bytes * i);
    }
  });
  return packed;
}

void PackedWeight::AppendRows(absl::string_view bytes) {
  bytes_.append(bytes.data(), bytes.size());
  rows_ = static_cast<int64_t>(bytes_.size()) / row_bytes_;
}

}  // namespace attune
