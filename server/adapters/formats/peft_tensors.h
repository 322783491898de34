#ifndef ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_TENSORS_H_
#define ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_TENSORS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/model/compute_target.h"
#include "server/model/own_stream.h"
#include "server/model/weights/safetensors.h"

namespace attune {

// A table beneath a LoRA on embeddings.
inline constexpr char kBaseLayer[] = ".base_layer.weight";

// Takes tensors out of the file, checked, and knows in the end which were not taken. All of them lie in
// one block of memory, but whole embeddings and heads, which may be let go alone. All go to a GPU in one copy, on a stream beside those that compute. `file` must
// outlive it. Throws what libtorch throws. Not thread-safe.
class TensorReader {
 public:
  TensorReader(const SafetensorsFile& file, const ComputeTarget& target);

  bool Has(const std::string& name) const { return file_.Find(name) != nullptr; }
  // Its values are there once Finish has been called.
  absl::StatusOr<at::Tensor> Take(const std::string& name, const std::vector<int64_t>& shape);
  // Of all that was taken; refuses a file of which something was not.
  absl::Status Finish();
  int64_t bytes() const { return bytes_; }

 private:
  struct Alone {
    at::Tensor host, values;  // the same where there is no GPU
  };

  // Each tensor begins where kernels may read 16 bytes at a time.
  static constexpr int64_t kAlignment = 64;
  static int64_t RoomFor(int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

  const SafetensorsFile& file_;
  const ComputeTarget target_;
  OwnStream stream_;
  std::vector<Alone> alone_;
  at::Tensor host_, values_;  // the same where there is no GPU
  int64_t used_ = 0, bytes_ = 0;
  std::set<std::string> taken_;
};

// The tensors of a file; owns their bytes until it is written.
class TensorWriter {
 public:
  // In bf16 if the tensor is, else in fp32.
  void Add(const std::string& name, const at::Tensor& tensor);
  absl::Status Write(const std::string& path) const;

 private:
  std::vector<at::Tensor> alive_;
  std::vector<SafetensorsTensor> tensors_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_TENSORS_H_
