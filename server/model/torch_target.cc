#include "server/model/torch_target.h"

#include <ATen/DeviceAccelerator.h>

#include <new>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

absl::Status OutOfMemory() {
  return MakeError(absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY",
                   "The device ran out of memory; use a smaller micro_batch_tokens, batch, rank or model.");
}

}  // namespace

void Synchronize(const ComputeTarget& target) {
  if (target.device == ComputeTarget::Device::kCuda) at::accelerator::getCurrentStream(0).synchronize();
}

absl::Status CatchTorch(const std::function<absl::Status()>& body) {
  try {
    return body();
  } catch (const c10::OutOfMemoryError&) {
    return OutOfMemory();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  } catch (const c10::Error& error) {
    std::string message = error.what_without_backtrace();
    // The CPU allocator has no exception type of its own.
    if (absl::StrContains(message, "not enough memory") || absl::StrContains(message, "DefaultCPUAllocator")) {
      return OutOfMemory();
    }
    return MakeError(absl::StatusCode::kInternal, "COMPUTE_ERROR",
                     absl::StrCat("computing failed: ", message.substr(0, message.find('\n'))));
  } catch (const std::exception& error) {
    return MakeError(absl::StatusCode::kInternal, "COMPUTE_ERROR", absl::StrCat("computing failed: ", error.what()));
  }
}

}  // namespace attune
