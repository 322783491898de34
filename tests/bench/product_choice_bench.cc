// Times what cuBLAS offers for a training step's large products, and what the table has, each kernel for long enough that the card's power limit
// holds its clock as it does under a training job. What wins over cuBLAS's own choice in two runs by 3% or more goes to
// server/model/kernels/product_choice.cc.
//
//   product_choice_bench SECONDS TOKENS OUTPUTS INPUTS [TOKENS OUTPUTS INPUTS]...
//
// SECONDS for each kernel: 0.2 is enough. Prints a table: cuBLAS's own choice before and after the others.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <vector>

#include "server/model/kernels/blas_product.h"
#include "server/model/kernels/lt_product.h"

namespace attune {
namespace {

struct Case {
  const char* name;
  ProductKind kind;
};
constexpr Case kCases[] = {{"forward", ProductKind::kForward},
                           {"input gradient", ProductKind::kInputGradient},
                           {"weight gradient", ProductKind::kWeightGradient}};

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
  const WeightOperands matrices = {at::randn({t, i}, bf16), at::randn({t, o}, bf16), at::randn({o, i}, bf16) * 0.02,
                                   at::empty({o, i}, bf16.dtype(at::kFloat))};
  for (const Case& one : kCases) {
    const BlasProduct product = BlasProductOf(one.kind, matrices);
    auto print = [&](const char* how, const ProductKernel& kernel, double milliseconds) {
      std::printf("| %s | %ld | %ld | %ld | %s", one.name, t, o, i, how);
      if (kernel.tile) std::printf(" %d, %d", kernel.tile, kernel.cluster);
      std::printf(" | %.4f | %.0f |\n", milliseconds, 2e-9 * t * o * i / milliseconds);
      std::fflush(stdout);
    };
    print("cuBLAS's choice", {}, Sustained(seconds, [&] { MultiplyByCublas(product); }));
    std::vector<ProductKernel> kernels = OfferedKernels(product.call);
    const std::optional<ProductKernel> chosen = MeasuredKernel({one.kind, o, i, t});
    if (chosen && std::ranges::find(kernels, *chosen) == kernels.end()) kernels.push_back(*chosen);
    for (const ProductKernel& kernel : kernels) {
      if (!MultiplyBy(kernel, product)) continue;
      print("kernel", kernel, Sustained(seconds, [&] { MultiplyBy(kernel, product); }));
    }
    print("cuBLAS's choice", {}, Sustained(seconds, [&] { MultiplyByCublas(product); }));
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
