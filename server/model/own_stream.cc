#include "server/model/own_stream.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <array>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/model/torch_target.h"

namespace attune {

namespace {

// Streams that nobody holds. libtorch's own pool hands out the same few in turn; and a new
// stream each time would have cuBLAS keep a workspace for each, for ever.
absl::Mutex free_mutex(absl::kConstInit);
std::vector<cudaStream_t>& FreeStreams(OwnStream::Priority priority) ABSL_EXCLUSIVE_LOCKS_REQUIRED(free_mutex) {
  static std::array<std::vector<cudaStream_t>, 2> streams;
  return streams[static_cast<int>(priority)];
}

cudaStream_t TakeStream(OwnStream::Priority priority) {
  {
    absl::MutexLock lock(&free_mutex);
    std::vector<cudaStream_t>& free = FreeStreams(priority);
    if (!free.empty()) {
      const cudaStream_t stream = free.back();
      free.pop_back();
      return stream;
    }
  }
  int least = 0, greatest = 0;
  C10_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaStream_t stream = nullptr;
  C10_CUDA_CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                              priority == OwnStream::Priority::kHigh ? greatest : least));
  return stream;
}

}  // namespace

struct OwnStream::Stream {
  explicit Stream(Priority priority)
      : priority(priority), stream(c10::cuda::getStreamFromExternal(TakeStream(priority), 0)) {}
  ~Stream() {
    absl::MutexLock lock(&free_mutex);
    FreeStreams(priority).push_back(stream.stream());
  }
  const Priority priority;
  const c10::cuda::CUDAStream stream;
};

struct OwnStream::Scope::Guard {
  explicit Guard(c10::cuda::CUDAStream stream) : guard(stream) {}
  c10::cuda::CUDAStreamGuard guard;
};

OwnStream::OwnStream(const ComputeTarget& target, Priority priority) {
  if (target.device != ComputeTarget::Device::kCuda) return;
  Synchronize(target);
  stream_ = std::make_shared<Stream>(priority);
}

OwnStream::Scope::Scope(const OwnStream& stream) {
  if (stream.stream_) guard_ = std::make_unique<Guard>(stream.stream_->stream);
}

OwnStream::Scope::~Scope() = default;

}  // namespace attune
