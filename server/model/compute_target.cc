#include "server/model/compute_target.h"

#include <omp.h>

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/kernels/cuda_dispatch.h"

namespace attune {
namespace {

bool CpuHasFastBfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace

ComputeTarget::DecodeWeights ParseDecodeWeights(const std::string& name) {
  using DecodeWeights = ComputeTarget::DecodeWeights;
  return name == "int8"   ? DecodeWeights::kInt8
         : name == "fp8"  ? DecodeWeights::kFp8
         : name == "int4" ? DecodeWeights::kInt4
                          : DecodeWeights::kAsLoaded;
}

const char* DecodeWeightsName(ComputeTarget::DecodeWeights weights) {
  using DecodeWeights = ComputeTarget::DecodeWeights;
  switch (weights) {
    case DecodeWeights::kInt8: return "int8";
    case DecodeWeights::kFp8: return "fp8";
    case DecodeWeights::kInt4: return "int4";
    case DecodeWeights::kAsLoaded: break;
  }
  return "as-loaded";
}

absl::Status CheckServingOptions(const ComputeTarget& target) {
  auto refuse = [](absl::string_view why) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_ON_THIS_DEVICE", why);
  };
  const bool asks_blocks = target.decode_weights != ComputeTarget::DecodeWeights::kAsLoaded;
  if (target.device == ComputeTarget::Device::kCpu) {
    const bool is_fp8 = target.decode_weights == ComputeTarget::DecodeWeights::kFp8;
    if (target.int8_loras) return refuse("--decode-loras int8 is for GPUs.");
    return is_fp8 ? refuse("--decode-weights fp8 is for GPUs; a CPU takes int8 or int4.") : absl::OkStatus();
  }
  if (target.int8_loras && target.batch_invariant) {
    return refuse("--decode-loras int8 depends on which rows share a LoRA, which --batch-invariant rules out.");
  }
  if (!asks_blocks && !target.batch_invariant && !target.int8_loras) return absl::OkStatus();
  if (target.type != ComputeTarget::Type::kBfloat16 || !cuda::Available()) {
    return refuse("--decode-weights, --decode-loras and --batch-invariant need, on a GPU, --precision bfloat16 and a GPU that this build has "
                  "kernels for.");
  }
  if (target.int8_loras && !cuda::ReadsLoraCodes()) {
    return refuse("--decode-loras int8 needs a GPU of compute capability 9.0 or more.");
  }
  return absl::OkStatus();
}

WeightFormat ParseWeightFormat(const std::string& name) {
  return name == "int8" ? WeightFormat::kInt8 : name == "nf4" ? WeightFormat::kNf4 : WeightFormat::kDense;
}

absl::StatusOr<ComputeTarget> ChooseComputeTarget(const std::string& device, const std::string& precision) {
  ComputeTarget target;
  const bool has_gpu = at::globalContext().hasCUDA() && at::detail::getCUDAHooks().getNumGPUs() > 0;
  if (device == "cuda" && !has_gpu) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NO_GPU",
                     "There is no CUDA device; use --device cpu, or install NVIDIA's driver.");
  }
  if (device != "auto" && device != "cpu" && device != "cuda") {
    return InvalidField("device", absl::StrCat("'", device, "' is none of auto, cpu, cuda"));
  }
  target.device = device == "cuda" || (device == "auto" && has_gpu) ? ComputeTarget::Device::kCuda
                                                                     : ComputeTarget::Device::kCpu;
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "CPU_TOO_OLD", "Attune needs a CPU with AVX2 and FMA.");
  }
#endif
  if (precision == "bfloat16") {
    target.type = ComputeTarget::Type::kBfloat16;
  } else if (precision == "float32") {
    target.type = ComputeTarget::Type::kFloat32;
  } else if (precision == "auto" || precision.empty()) {
    const bool fast = target.device == ComputeTarget::Device::kCuda || CpuHasFastBfloat16();
    target.type = fast ? ComputeTarget::Type::kBfloat16 : ComputeTarget::Type::kFloat32;
  } else {
    return InvalidField("precision", absl::StrCat("'", precision, "' is none of auto, float32, bfloat16"));
  }
  return target;
}

void PrepareDevice(const ComputeTarget& target, bool deterministic) {
  if (target.device != ComputeTarget::Device::kCuda) return;
  // cuBLAS asks for this before its first call.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  // Warn rather than fail where there is only one kernel: none of those is in a training step.
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  at::globalContext().setDeterministicCuDNN(deterministic);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // a debugging aid that costs time
}

bool IsDeterministic() { return at::globalContext().deterministicCuDNN(); }

int64_t DeviceMemoryBytes(const ComputeTarget& target) {
  if (target.device == ComputeTarget::Device::kCuda) {
    at::accelerator::emptyCache();  // what torch keeps for later is free, too
    return static_cast<int64_t>(at::accelerator::getMemoryInfo(0).first);
  }
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

std::string DescribeComputeTarget(const ComputeTarget& target) {
  const char* type = target.type == ComputeTarget::Type::kBfloat16 ? "bfloat16" : "float32";
  if (target.device == ComputeTarget::Device::kCuda) return absl::StrCat("cuda ", type);
  return absl::StrCat("cpu ", type, ", ", at::get_num_threads(), " threads");
}

void ReleaseThreads() { omp_pause_resource_all(omp_pause_soft); }

}  // namespace attune
