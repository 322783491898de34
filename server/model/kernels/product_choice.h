#ifndef ATTUNE_SERVER_MODEL_KERNELS_PRODUCT_CHOICE_H_
#define ATTUNE_SERVER_MODEL_KERNELS_PRODUCT_CHOICE_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace attune {

// A product of T tokens' rows with a weight W_OI, by what comes of it.
enum class ProductKind {
  kForward,         // y_TO = x_TI W^T, bf16
  kInputGradient,   // dx_TI = dy_TO W, bf16
  kWeightGradient,  // dW_OI = dy_TO^T x_TI, fp32 from bf16
};

struct ProductShape {
  ProductKind kind = ProductKind::kForward;
  int64_t outputs = 0, inputs = 0, tokens = 0;  // O, I, T
};

// One of cuBLAS's kernels, by the names of cublasLt.h: cublasLtMatmulTile_t and
// cublasLtClusterShape_t. Kernels that split the inner dimension are never meant.
struct ProductKernel {
  int tile = 0, cluster = 0;
  bool operator==(const ProductKernel&) const = default;
};

// The kernel that was measured to be the fastest of a large product of an NVIDIA H100 or
// H200 (compute capability 9.0) that computes for seconds on end, where it is not the one
// that cuBLAS chooses. cuBLAS chooses for a card at its full clock; under a training job
// the power limit holds that down by a third, and what moves less data wins. Measured by
// tests/bench/product_choice_bench; unlisted shapes are cuBLAS's own matter. The same
// shape gives the same kernel in every process, so that a job that resumes computes what
// it would have. Pure.
std::optional<ProductKernel> MeasuredKernel(const ProductShape& shape);

// The whole table, with the tokens that were measured.
std::vector<std::pair<ProductShape, ProductKernel>> MeasuredKernels();

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_KERNELS_PRODUCT_CHOICE_H_
