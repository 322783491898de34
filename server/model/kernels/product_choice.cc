#include "server/model/kernels/product_choice.h"

#include <algorithm>
#include <iterator>

namespace attune {
namespace {

constexpr auto kForward = ProductKind::kForward;
constexpr auto kInputGradient = ProductKind::kInputGradient;
constexpr auto kWeightGradient = ProductKind::kWeightGradient;

// cublasLtMatmulTile_t and cublasLtClusterShape_t: rows x columns of C as cuBLAS sees it, that is of our C^T.
constexpr ProductKernel k128x160By2 = {29, 3}, k176x128By1x2 = {201, 5}, k176x256 = {203, 2}, k256x176By1x2 = {504, 5},
                        k256x96By1x2 = {495, 5}, k320x128By1x2 = {248, 5}, k144x128By1x2 = {184, 5};

struct Measured {
  ProductKind kind;
  int64_t outputs, inputs, tokens;  // as measured; it holds from half to twice the tokens
  ProductKernel kernel;
};

// Gains of 3% and more; tests/bench/results/2026-11-27-products-h100.md.
constexpr Measured kMeasured[] = {
    // hidden 2048, intermediate 5632: TinyLlama 1.1B
    {kForward, 2560, 2048, 16384, k128x160By2},
    {kForward, 11264, 2048, 16384, k176x128By1x2},
    {kInputGradient, 2048, 5632, 16384, k176x256},
    {kWeightGradient, 2048, 5632, 16384, k256x176By1x2},
    {kForward, 32000, 2048, 4096, k176x128By1x2},
    {kWeightGradient, 32000, 2048, 4096, k128x160By2},
    // hidden 2048, intermediate 8192: Llama 3.2 1B
    {kForward, 3072, 2048, 16384, k128x160By2},
    {kWeightGradient, 3072, 2048, 16384, k256x96By1x2},
    {kForward, 16384, 2048, 16384, k176x128By1x2},
    {kInputGradient, 2048, 8192, 16384, k128x160By2},
    // hidden 1536, intermediate 8960: Qwen 2.5 1.5B
    {kForward, 17920, 1536, 8192, k176x128By1x2},
    {kInputGradient, 1536, 8960, 8192, k128x160By2},
    // hidden 4096, intermediate 11008: Llama 2 7B
    {kInputGradient, 4096, 11008, 4096, k128x160By2},
    // hidden 4096, intermediate 14336: Llama 3 8B
    {kForward, 6144, 4096, 8192, k176x128By1x2},
    {kInputGradient, 4096, 14336, 8192, k320x128By1x2},
    // hidden 576, intermediate 1536: SmolLM2 135M
    {kForward, 960, 576, 32768, k144x128By1x2},
    {kForward, 3072, 576, 32768, k128x160By2},
    {kForward, 576, 1536, 32768, k144x128By1x2},
    {kInputGradient, 576, 1536, 32768, k128x160By2},
};

}  // namespace

std::optional<ProductKernel> MeasuredKernel(const ProductShape& shape) {
  const auto* found = std::ranges::find_if(kMeasured, [&](const Measured& m) {
    return m.kind == shape.kind && m.outputs == shape.outputs && m.inputs == shape.inputs &&
           2 * shape.tokens > m.tokens && shape.tokens < 2 * m.tokens;
  });
  if (found == std::end(kMeasured)) return std::nullopt;
  return found->kernel;
}

std::vector<std::pair<ProductShape, ProductKernel>> MeasuredKernels() {
  std::vector<std::pair<ProductShape, ProductKernel>> all;
  for (const Measured& m : kMeasured) all.push_back({{m.kind, m.outputs, m.inputs, m.tokens}, m.kernel});
  return all;
}

}  // namespace attune
