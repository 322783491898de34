#include "server/model/kernels/cuda_dispatch.h"

#include <c10/cuda/CUDAStream.h>

namespace attune {

cuda::Stream CurrentCudaStream() { return c10::cuda::getCurrentCUDAStream().stream(); }

}  // namespace attune
