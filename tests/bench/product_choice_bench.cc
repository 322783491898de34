// Times what cuBLAS offers for a training step's large products, and what the table has, each kernel for long enough that the card's power limit
// holds its clock as it does under a training job. What wins over cuBLAS's own choice in two runs by 3% or more goes to
// server/model/kernels/product_choice.cc.
//
//   product_choice_bench SECONDS TOKENS OUTPUTS INPUTS [TOKENS OUTPUTS INPUTS]...
//
// SECONDS for each kernel: 0.2 is enough. Prints a table: cuBLAS's own choice before and after the others.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/Exceptions.h>
#include <c10/core/GradMode.h>
#include <cublas_v2.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <vector>

#include "server/model/kernels/lt_product.h"

namespace attune {
namespace {

using at::Tensor;

struct Case {
  const char* name;
  ProductKind kind;
};
constexpr Case kCases[] = {{"forward", ProductKind::kForward},
                           {"input gradient", ProductKind::kInputGradient},
                           {"weight gradient", ProductKind::kWeightGradient}};

struct Operands {
  Tensor x_TI, y_TO, w_OI, dw_OI;
};

BlasCall CallOf(ProductKind kind, int64_t t, int64_t o, int64_t i) {
  switch (kind) {
    case ProductKind::kForward: return {CUBLAS_OP_T, CUBLAS_OP_N, o, t, i, i, i, o};
    case ProductKind::kInputGradient: return {CUBLAS_OP_N, CUBLAS_OP_N, i, t, o, i, o, i};
    case ProductKind::kWeightGradient: break;
  }
  return {CUBLAS_OP_N, CUBLAS_OP_T, i, o, t, i, o, i, CUDA_R_16BF, CUDA_R_32F};
}

BlasOperands OperandsOf(ProductKind kind, const Operands& m) {
  switch (kind) {
    case ProductKind::kForward: return {m.w_OI.data_ptr(), m.x_TI.data_ptr(), m.y_TO.data_ptr()};
    case ProductKind::kInputGradient: return {m.w_OI.data_ptr(), m.y_TO.data_ptr(), m.x_TI.data_ptr()};
    case ProductKind::kWeightGradient: break;
  }
  return {m.x_TI.data_ptr(), m.y_TO.data_ptr(), m.dw_OI.data_ptr()};
}

void CublasChoice(const BlasCall& c, const BlasOperands& x) {
  TORCH_CUDABLAS_CHECK(cublasGemmEx(
      at::cuda::getCurrentCUDABlasHandle(), c.first, c.second, static_cast<int>(c.m), static_cast<int>(c.n),
      static_cast<int>(c.k), &x.alpha, x.a, c.type, static_cast<int>(c.lda), x.b, c.type, static_cast<int>(c.ldb), &x.beta,
      x.c, c.c_type, static_cast<int>(c.ldc), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

double Milliseconds(int64_t count, const std::function<void()>& call) {
  at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
  begin.record();
  for (int64_t i = 0; i < count; ++i) call();
  end.record();
  end.synchronize();
  return begin.elapsed_time(end) / static_cast<double>(count);
}

// Half the time to come to the clock that the power limit allows, the rest counts.
double Sustained(double seconds, const std::function<void()>& call) {
  call();
  const int64_t count = std::max<int64_t>(4, static_cast<int64_t>(seconds * 1000 / Milliseconds(3, call)));
  Milliseconds(count / 2, call);
  return Milliseconds(count, call);
}

void Measure(double seconds, int64_t t, int64_t o, int64_t i) {
  const at::TensorOptions bf16 = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
  const Operands matrices = {at::randn({t, i}, bf16), at::randn({t, o}, bf16), at::randn({o, i}, bf16) * 0.02,
                             at::empty({o, i}, bf16.dtype(at::kFloat))};
  for (const Case& one : kCases) {
    const BlasCall call = CallOf(one.kind, t, o, i);
    const BlasOperands x = OperandsOf(one.kind, matrices);
    auto print = [&](const char* how, const ProductKernel& kernel, double milliseconds) {
      std::printf("| %s | %ld | %ld | %ld | %s", one.name, t, o, i, how);
      if (kernel.tile) std::printf(" %d, %d", kernel.tile, kernel.cluster);
      std::printf(" | %.4f | %.0f |\n", milliseconds, 2e-9 * t * o * i / milliseconds);
      std::fflush(stdout);
    };
    print("cuBLAS's choice", {}, Sustained(seconds, [&] { CublasChoice(call, x); }));
    std::vector<ProductKernel> kernels = OfferedKernels(call);
    const std::optional<ProductKernel> chosen = MeasuredKernel({one.kind, o, i, t});
    if (chosen && std::ranges::find(kernels, *chosen) == kernels.end()) kernels.push_back(*chosen);
    for (const ProductKernel& kernel : kernels) {
      if (!MultiplyBy(kernel, call, x)) continue;
      print("kernel", kernel, Sustained(seconds, [&] { MultiplyBy(kernel, call, x); }));
    }
    print("cuBLAS's choice", {}, Sustained(seconds, [&] { CublasChoice(call, x); }));
  }
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) {
  if (argc < 5 || argc % 3 != 2) {
    std::fprintf(stderr, "usage: product_choice_bench SECONDS TOKENS OUTPUTS INPUTS [TOKENS OUTPUTS INPUTS]...\n");
    return 2;
  }
  const c10::NoGradGuard no_grad;
  std::printf("| product | tokens | outputs | inputs | by (tile, cluster) | ms | TFLOP/s |\n|---|---|---|---|---|---|---|\n");
  for (int i = 2; i + 2 < argc; i += 3) {
    attune::Measure(std::atof(argv[1]), std::atol(argv[i]), std::atol(argv[i + 1]), std::atol(argv[i + 2]));
  }
  return 0;
}
