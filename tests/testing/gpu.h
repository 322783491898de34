#ifndef ATTUNE_TESTS_TESTING_GPU_H_
#define ATTUNE_TESTS_TESTING_GPU_H_

#include <optional>

#include "server/model/compute_target.h"

namespace attune {

// The GPU, ready to compute with; nothing where there is none. Tests that need it have
// "Gpu" in their names, and are skipped elsewhere.
inline std::optional<ComputeTarget> FindGpu(ComputeTarget::Type type = ComputeTarget::Type::kFloat32) {
  const char* precision = type == ComputeTarget::Type::kFloat32 ? "float32" : "bfloat16";
  const absl::StatusOr<ComputeTarget> target = ChooseComputeTarget("cuda", precision);
  if (!target.ok()) return std::nullopt;
  PrepareDevice(*target, /*deterministic=*/false);
  return *target;
}

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_GPU_H_
