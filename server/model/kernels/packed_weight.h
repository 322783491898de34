#ifndef ATTUNE_SERVER_MODEL_KERNELS_PACKED_WEIGHT_H_
#define ATTUNE_SERVER_MODEL_KERNELS_PACKED_WEIGHT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "server/model/weights/gguf.h"

namespace attune {

// A weight matrix kept in a GGUF block format, for products with few rows: there the
// time goes into reading the weight, and 4-bit blocks are an eighth of fp32. Blocks
// are expanded in registers, so results differ from the dequantised product
// by summation order only. Immutable: thread-safe.
class PackedWeight {
 public:
  // Whether products with this format are implemented on this CPU.
  static bool Supports(GgmlType type, int64_t columns);

  // An empty matrix of `columns` columns; rows are appended in their final order.
  // REQUIRES: Supports(type, columns).
  PackedWeight(GgmlType type, int64_t columns);
  // `bytes` holds whole rows.
  void AppendRows(absl::string_view bytes);

  // A dense matrix, fp32 on the CPU, rounded into blocks: Q8_0, by the block's largest value, or Q4_1, by
  // its least and largest. REQUIRES: Supports(type, columns).
  static std::shared_ptr<const PackedWeight> Quantize(const at::Tensor& w_OI, GgmlType type);

  // y = x W^T for contiguous fp32 x_TI on the CPU; returns T x O. Worth it up to
  // about kMaxTokens rows; beyond, a dense product is faster.
  at::Tensor Multiply(const at::Tensor& x_TI) const;
  static constexpr int64_t kMaxTokens = 16;

  // The same where the dense product is in bf16: up to kMaxExactTokens rows as above, more of them
  // with weights and x rounded to bf16, as the dense product has them. Worth it up to
  // MaxBf16Tokens() rows on this CPU.
  at::Tensor MultiplyBf16(const at::Tensor& x_TI) const;
  static constexpr int64_t kMaxExactTokens = 4;
  static int64_t MaxBf16Tokens();

  GgmlType type() const { return type_; }
  // The rows' blocks, one row behind the other.
  absl::string_view bytes() const { return bytes_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

 private:
  const GgmlType type_;
  const int64_t columns_;
  const int64_t row_bytes_;
  int64_t rows_ = 0;
  std::string bytes_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_PACKED_WEIGHT_H_
