#include "server/model/own_stream.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/model/torch_target.h"

namespace attune {

namespace {

// Streams that nobody holds. libtorch's own pool hands out the same few in turn; and a new
// stream each time would have cuBLAS keep a workspace for each, for ever.
absl::Mutex free_mutex(absl::kConstInit);
std::vector<cudaStream_t>& FreeStreams() ABSL_EXCLUSIVE_LOCKS_REQUIRED(free_mutex) {
  static std::vector<cudaStream_t> streams;
  return streams;
}

cudaStream_t TakeStream() {
  {
    absl::MutexLock lock(&free_mutex);
    if (!FreeStreams().empty()) {
      const cudaStream_t stream = FreeStreams().back();
      FreeStreams().pop_back();
      return stream;
    }
  }
  cudaStream_t stream = nullptr;
  C10_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

}  // namespace

struct OwnStream::Stream {
  ~Stream() {
    absl::MutexLock lock(&free_mutex);
    FreeStreams().push_back(stream.stream());
  }
  c10::cuda::CUDAStream stream = c10::cuda::getStreamFromExternal(TakeStream(), 0);
};

struct OwnStream::Scope::Guard {
  explicit Guard(c10::cuda::CUDAStream stream) : guard(stream) {}
  c10::cuda::CUDAStreamGuard guard;
};

OwnStream::OwnStream(const ComputeTarget& target) {
  if (target.device != ComputeTarget::Device::kCuda) return;
  Synchronize(target);
  stream_ = std::make_shared<Stream>();
}

OwnStream::Scope::Scope(const OwnStream& stream) {
  if (stream.stream_) guard_ = std::make_unique<Guard>(stream.stream_->stream);
}

OwnStream::Scope::~Scope() = default;

}  // namespace attune
