#include "server/model/kernels/cuda/launch.h"

namespace attune::cuda {
namespace {

__global__ void Probe() {}

}  // namespace

bool Available() {
  static const bool available = [] {
    cudaFuncAttributes attributes;
    const bool found = cudaFuncGetAttributes(&attributes, Probe) == cudaSuccess;
    cudaGetLastError();  // a refusal is an answer, not an error to be found later
    return found;
  }();
  return available;
}

}  // namespace attune::cuda
