#ifndef ATTUNE_SERVER_MODEL_KERNELS_PACKED_ROWS_H_
#define ATTUNE_SERVER_MODEL_KERNELS_PACKED_ROWS_H_

#include <cstdint>

#include "server/model/weights/gguf.h"

namespace attune {

// The inner loops of PackedWeight::Multiply, once for each kind of CPU; no torch here. Every
// block of 32 weights is expanded to fp32 in registers once for all tokens.

// A product y = x W^T with W in a block format.
struct PackedProduct {
  GgmlType type;
  const uint8_t* weight;  // rows of row_bytes
  int64_t row_bytes, rows, columns;
  const float* x;  // tokens x columns
  int64_t tokens;
  float* y;  // tokens x rows
};

// Computes y's columns first .. last - 1. REQUIRES: the format is Q4_0, Q4_1 or Q8_0, and the CPU
// has AVX2, FMA and F16C.
void MultiplyPackedRowsAvx2(const PackedProduct& product, int64_t first, int64_t last);
// The same. REQUIRES: HasAvx512().
void MultiplyPackedRowsAvx512(const PackedProduct& product, int64_t first, int64_t last);
// Whether this CPU, and this build, has AVX-512 (F, BW, DQ, VL).
bool HasAvx512();

// The same with weights and x rounded to bf16, as the dense product in bf16 has them; sums are in
// fp32. `x` is the product's x as PackBf16Tokens made it. REQUIRES: HasAvx512Bf16().
void MultiplyPackedRowsBf16(const PackedProduct& product, const uint16_t* x, int64_t first, int64_t last);
// Rounds `count` numbers, whole blocks of 32, and puts those of a block's halves side by side.
void PackBf16Tokens(const float* x, int64_t count, uint16_t* out);
bool HasAvx512Bf16();

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_PACKED_ROWS_H_
