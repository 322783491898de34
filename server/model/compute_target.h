#ifndef ATTUNE_SERVER_MODEL_COMPUTE_TARGET_H_
#define ATTUNE_SERVER_MODEL_COMPUTE_TARGET_H_

#include <string>

#include "absl/status/statusor.h"

namespace attune {

// Where and in which type the network computes.
struct ComputeTarget {
  enum class Device { kCpu, kCuda };
  enum class Type { kFloat32, kBfloat16 };
  Device device = Device::kCpu;
  Type type = Type::kFloat32;
  // In which blocks products with few rows, decoding that is, read weights. kAsLoaded: as dense matrices, exactly, but
  // for those that the model's file has in blocks, which a CPU reads as they are. Else those of the file, as far as
  // the device can (a GPU: Q4_0 and Q4_1 as int4, Q8_0 as int8, scales rounded to bf16), and others quantised so. A GPU
  // keeps them beside the dense ones, which training and products of many rows read. kFp8 is for GPUs.
  enum class DecodeWeights { kAsLoaded, kInt8, kFp8, kInt4 };
  DecodeWeights decode_weights = DecodeWeights::kAsLoaded;
  // On a GPU, steps of decoding in which no two rows share a LoRA read them in int8, made at load and kept beside the matrices.
  bool int8_loras = false;
  // Generation's numbers for a sequence do not depend on what else is in the batch.
  bool batch_invariant = false;
};
// Of "as-loaded", "int8", "fp8", "int4". REQUIRES: it is one of them.
ComputeTarget::DecodeWeights ParseDecodeWeights(const std::string& name);
const char* DecodeWeightsName(ComputeTarget::DecodeWeights weights);
// FAILED_PRECONDITION (NOT_ON_THIS_DEVICE) if the device cannot do what `decode_weights`, `int8_loras` and `batch_invariant` ask for.
absl::Status CheckServingOptions(const ComputeTarget& target);

// How a model's products keep their weights: in the target's type; or quantised, for
// training adapters over them in little memory (see kernels/quantized_matrix.h).
// kNone: there are none, of a model that is only described.
enum class WeightFormat { kDense, kInt8, kNf4, kNone };
// Of "none" (or ""), "int8", "nf4". REQUIRES: it is one of them.
WeightFormat ParseWeightFormat(const std::string& name);

// `device`: "auto", "cpu", "cuda"; `precision`: "auto", "float32", "bfloat16".
// Auto takes a GPU if there is one; bfloat16 on a GPU and on a CPU that multiplies it
// fast (avx512_bf16 or AMX), float32 else. FAILED_PRECONDITION (NO_GPU) if "cuda"
// was asked for and there is none.
absl::StatusOr<ComputeTarget> ChooseComputeTarget(const std::string& device, const std::string& precision);

// Once, before anything is computed. GPUs have kernels that add in any order: they are
// ruled out, but for attention's gradient of long sequences, where that costs much. With
// `deterministic` there, too: the same job gives the same bits each time on one device type.
void PrepareDevice(const ComputeTarget& target, bool deterministic);
// Whether it was asked for.
bool IsDeterministic();

// Ends the OpenMP threads that have computed for the calling thread; new ones are made when they
// are needed. For threads that compute once and live on: while more OpenMP threads live than there
// are cores, none of them waits actively for work any more, and decoding on a CPU, with its hundreds
// of small products a token, becomes half as fast.
void ReleaseThreads();

// Bytes on the device that programs may use: free GPU memory, or the machine's memory.
int64_t DeviceMemoryBytes(const ComputeTarget& target);

// "cpu float32, 2 threads" or "cuda bfloat16, NVIDIA H100".
std::string DescribeComputeTarget(const ComputeTarget& target);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_COMPUTE_TARGET_H_
