#include "server/model/own_stream.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "server/model/torch_target.h"

namespace attune {

struct OwnStream::Stream {
  c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
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
