#include "server/model/kernels/lt_product.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/Exceptions.h>
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>

#include "absl/base/const_init.h"
#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace attune {
namespace {

// More than cuBLAS has been seen to offer.
constexpr int kMostOffers = 32;
// Of a workspace: more is for kernels that split the inner dimension.
constexpr size_t kWorkspaceBytes = 1024;
// Operands are parts of larger buffers.
constexpr uint32_t kAlignment = 16;
constexpr cublasLtMatmulPreferenceAttributes_t kAlignments[] = {
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};

template <auto destroy>
struct Destroy {
  template <typename T>
  void operator()(T* handle) const {
    destroy(handle);
  }
};
template <typename Handle, auto destroy>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<destroy>>;

using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;

Layout MakeLayout(cudaDataType_t type, bool is_transposed, int64_t rows, int64_t columns, int64_t ld) {
  cublasLtMatrixLayout_t made = nullptr;
  TORCH_CUDABLAS_CHECK(cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(is_transposed ? columns : rows),
                                                 static_cast<uint64_t>(is_transposed ? rows : columns), ld));
  return Layout(made);
}

// A call in the library's words.
struct Description {
  Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> product;
  Layout a, b, c;

  explicit Description(const BlasCall& x)
      : a(MakeLayout(x.type, x.first == CUBLAS_OP_T, x.m, x.k, x.lda)),
        b(MakeLayout(x.type, x.second == CUBLAS_OP_T, x.k, x.n, x.ldb)),
        c(MakeLayout(x.c_type, false, x.m, x.n, x.ldc)) {
    cublasLtMatmulDesc_t made = nullptr;
    TORCH_CUDABLAS_CHECK(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    product.reset(made);
    TORCH_CUDABLAS_CHECK(cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSA, &x.first, sizeof(x.first)));
    TORCH_CUDABLAS_CHECK(cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSB, &x.second, sizeof(x.second)));
  }
};

template <typename T>
T ConfigOf(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t which) {
  T value{};
  size_t written = 0;
  TORCH_CUDABLAS_CHECK(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, which, &value, sizeof(value), &written));
  return value;
}

ProductKernel KernelOf(const cublasLtMatmulAlgo_t& algorithm) {
  return {static_cast<int>(ConfigOf<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID)),
          static_cast<int>(ConfigOf<uint16_t>(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID))};
}

std::vector<cublasLtMatmulAlgo_t> Offers(const Description& description) {
  cublasLtMatmulPreference_t made = nullptr;
  TORCH_CUDABLAS_CHECK(cublasLtMatmulPreferenceCreate(&made));
  const Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference(made);
  TORCH_CUDABLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                            &kWorkspaceBytes, sizeof(kWorkspaceBytes)));
  for (const auto which : kAlignments) {
    TORCH_CUDABLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(made, which, &kAlignment, sizeof(kAlignment)));
  }
  std::array<cublasLtMatmulHeuristicResult_t, kMostOffers> found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      at::cuda::getCurrentCUDABlasLtHandle(), description.product.get(), description.a.get(), description.b.get(),
      description.c.get(), description.c.get(), made, kMostOffers, found.data(), &count);
  std::vector<cublasLtMatmulAlgo_t> offers;
  if (status != CUBLAS_STATUS_SUCCESS) return offers;
  for (int i = 0; i < count; ++i) {
    if (ConfigOf<int32_t>(found[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) <= 1) offers.push_back(found[i].algo);
  }
  return offers;
}

// The favourite with another tile and cluster, if there is such a kernel.
std::optional<cublasLtMatmulAlgo_t> Changed(cublasLtMatmulAlgo_t algorithm, const ProductKernel& kernel,
                                            const Description& d) {
  const auto tile = static_cast<uint32_t>(kernel.tile);
  const auto cluster = static_cast<uint16_t>(kernel.cluster);
  const auto set = [&](cublasLtMatmulAlgoConfigAttributes_t which, const auto& value) {
    return cublasLtMatmulAlgoConfigSetAttribute(&algorithm, which, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
  };
  if (!set(CUBLASLT_ALGO_CONFIG_TILE_ID, tile) || !set(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, cluster)) return std::nullopt;
  cublasLtMatmulHeuristicResult_t needs{};
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(at::cuda::getCurrentCUDABlasLtHandle(), d.product.get(), d.a.get(),
                                                        d.b.get(), d.c.get(), d.c.get(), &algorithm, &needs);
  if (status != CUBLAS_STATUS_SUCCESS || needs.workspaceSize > kWorkspaceBytes) return std::nullopt;
  return algorithm;
}

// A kernel for a call; without an algorithm where cuBLAS has none.
struct Plan {
  Description description;
  std::optional<cublasLtMatmulAlgo_t> algorithm;

  Plan(const ProductKernel& kernel, const BlasCall& call) : description(call) {
    if (at::cuda::getCurrentDeviceProperties()->major != 9) return;
    const std::vector<cublasLtMatmulAlgo_t> offers = Offers(description);
    const auto found = std::ranges::find_if(offers, [&](const auto& offer) { return KernelOf(offer) == kernel; });
    if (found != offers.end()) {
      algorithm = *found;
    } else if (!offers.empty()) {
      algorithm = Changed(offers.front(), kernel, description);
    }
  }
};

class Plans {
 public:
  const Plan& For(const ProductKernel& kernel, const BlasCall& call) {
    const absl::MutexLock lock(&mutex_);
    std::unique_ptr<const Plan>& plan = plans_[{at::cuda::current_device(), kernel.tile, kernel.cluster, call}];
    if (!plan) plan = std::make_unique<const Plan>(kernel, call);
    return *plan;
  }

 private:
  using Key = std::tuple<int, int, int, BlasCall>;
  absl::Mutex mutex_;
  std::map<Key, std::unique_ptr<const Plan>> plans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::vector<ProductKernel> OfferedKernels(const BlasCall& call) {
  std::vector<ProductKernel> kernels;
  for (const cublasLtMatmulAlgo_t& offer : Offers(Description(call))) kernels.push_back(KernelOf(offer));
  return kernels;
}

bool MultiplyBy(const ProductKernel& kernel, const BlasProduct& product) {
  const auto& [call, x] = product;
  for (const void* operand : {x.a, x.b, static_cast<const void*>(x.c)}) {
    if (reinterpret_cast<uintptr_t>(operand) % kAlignment != 0) return false;
  }
  static Plans& plans = *new Plans;  // never destroyed: the library may be gone before
  const Plan& plan = plans.For(kernel, call);
  if (!plan.algorithm) return false;
  const Description& d = plan.description;
  // torch's handle and its workspace for the stream, as for products that cuBLAS chooses for.
  TORCH_CUDABLAS_CHECK(cublasLtMatmul(at::cuda::getCurrentCUDABlasLtHandle(), d.product.get(), &x.alpha, x.a, d.a.get(),
                                      x.b, d.b.get(), &x.beta, x.c, d.c.get(), x.c, d.c.get(), &*plan.algorithm,
                                      at::cuda::getCUDABlasLtWorkspace(), kWorkspaceBytes,
                                      at::cuda::getCurrentCUDAStream()));
  return true;
}

}  // namespace attune
