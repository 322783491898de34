#ifndef ATTUNE_SERVER_MODEL_TORCH_TARGET_H_
#define ATTUNE_SERVER_MODEL_TORCH_TARGET_H_

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <exception>
#include <functional>

#include "absl/status/status.h"
#include "server/model/compute_target.h"

namespace attune {

inline at::Device DeviceOf(const ComputeTarget& target) {
  return target.device == ComputeTarget::Device::kCuda ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
}
inline at::ScalarType TypeOf(const ComputeTarget& target) {
  return target.type == ComputeTarget::Type::kBfloat16 ? at::kBFloat16 : at::kFloat;
}
// What generation computes in and caches keys and values in: on the CPU fp32 whatever the
// weights are in, for attention and products of few rows have their kernels in fp32 there.
inline at::ScalarType ServingTypeOf(const ComputeTarget& target) {
  return target.device == ComputeTarget::Device::kCpu ? at::kFloat : TypeOf(target);
}

// Waits until the device has done what this thread's stream was asked for; nothing to
// wait for on the CPU. Not for the whole device: that would break a capture elsewhere.
void Synchronize(const ComputeTarget& target);

// The one boundary where libtorch's exceptions become statuses: out of memory is
// RESOURCE_EXHAUSTED (OUT_OF_MEMORY), anything else INTERNAL (COMPUTE_ERROR) with
// the first line of its message.
absl::Status CatchTorch(const std::function<absl::Status()>& body);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_TORCH_TARGET_H_
