#include "server/model/kernels/packed_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

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

void PackedWeight::AppendRows(absl::string_view bytes) {
  bytes_.append(bytes.data(), bytes.size());
  rows_ = static_cast<int64_t>(bytes_.size()) / row_bytes_;
}

}  // namespace attune
