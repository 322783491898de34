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

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_PACKED_ROWS_H_
