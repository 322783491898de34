#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_COMMON_CUH_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_COMMON_CUH_

#include <cuda_bf16.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "server/model/kernels/cuda/launch.h"

namespace attune::cuda {

// 16 bytes at a time where the row length allows it.
template <typename T>
inline constexpr int kWide = 16 / sizeof(T);

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T>
__device__ inline T FromFloat(float x) {
  return static_cast<T>(x);
}

template <int N, typename T>
__device__ inline void Load(const T* from, float (&to)[N]) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = ToFloat(pack.v[i]);
}

template <int N, typename T>
__device__ inline void Store(T* to, const float (&from)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.v[i] = FromFloat<T>(from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

struct Sum {
  template <typename V>
  __device__ V operator()(V a, V b) const {
    return a + b;
  }
};

// The same combination of all threads' values on every thread, in a fixed order.
// `shared` holds 33 values and may be used again at once.
template <typename V, typename Combine>
__device__ inline V BlockReduce(V value, V identity, V* shared, Combine combine) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  if (warp == 0) {
    value = lane < warps ? shared[lane] : identity;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
    if (lane == 0) shared[32] = value;
  }
  __syncthreads();
  value = shared[32];
  __syncthreads();
  return value;
}

// Threads of a block that works on one row in steps of `width`: whole warps.
inline int RowThreads(int64_t columns, int width) {
  const int64_t threads = (columns / width + 31) / 32 * 32;
  return static_cast<int>(threads < 32 ? 32 : threads > 1024 ? 1024 : threads);
}

// A launch that failed says so only here; what fails later surfaces at the next wait.
inline void CheckLaunch() {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA kernel: ") + cudaGetErrorString(error));
}

// Programmatic dependent launch: in a kernel that was launched by LaunchAt(Start::kEarly), first let the next one begin
// likewise, then, before the first look at what the one before writes, wait for it; one block at least has to, for whoever comes next waits
// for this one alone. Nothing in another.
__device__ inline void LetNextBegin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void WaitForBefore() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Of the device that was current first; 0 if it cannot be asked.
template <cudaDeviceAttr kAttribute>
inline int DeviceAttribute() {
  static const int found = [] {
    int device = 0, value = 0;
    const bool is_known = cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&value, kAttribute, device) == cudaSuccess;
    return is_known ? value : 0;
  }();
  return found;
}
// Whether the device has what came with Hopper: clusters, and launches that begin early.
inline bool IsHopperOrLater() { return DeviceAttribute<cudaDevAttrComputeCapabilityMajor>() >= 9; }
inline int Processors() {
  const int found = DeviceAttribute<cudaDevAttrMultiProcessorCount>();
  return found > 0 ? found : 1;
}
// Shared memory that a block may ask for: 227 KiB from Hopper on, 99 KiB on others.
inline int MostSharedBytes() { return DeviceAttribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>(); }

template <typename... Parameters, typename... Arguments>
void LaunchAt(Start start, void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t shared_bytes, Stream stream,
              Arguments... arguments) {
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = start == Start::kEarly && IsHopperOrLater() ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Calls body, which launches, with the element type and the number of elements that rows
// of `columns` may be read at a time.
template <typename Body>
void Dispatch(Type type, int64_t columns, const Body& body) {
  auto with = [&]<typename T>(T element) {
    if (columns % kWide<T> == 0) {
      body.template operator()<T, kWide<T>>();
    } else {
      body.template operator()<T, 1>();
    }
  };
  if (type == Type::kFloat32) {
    with(0.0f);
  } else {
    with(__nv_bfloat16());
  }
  CheckLaunch();
}

}  // namespace attune::cuda

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_COMMON_CUH_
