#ifndef ATTUNE_TESTS_TESTING_REFERENCE_TENSORS_H_
#define ATTUNE_TESTS_TESTING_REFERENCE_TENSORS_H_

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "server/model/weights/safetensors.h"

namespace attune {

// A tensor of fp32 or int64 out of a reference file; a failure of the test, and one zero, if it is not there.
inline at::Tensor Values(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsTensor* tensor = file.Find(name);
  EXPECT_NE(tensor, nullptr) << name;
  if (tensor == nullptr) return at::zeros({1});
  at::Tensor values = at::empty(tensor->shape, tensor->type == SafetensorsType::kI64 ? at::kLong : at::kFloat);
  std::memcpy(values.mutable_data_ptr(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

// Of int64 ids on the CPU.
inline std::vector<int32_t> Ids(const at::Tensor& tokens) {
  const int64_t* data = tokens.const_data_ptr<int64_t>();
  return std::vector<int32_t>(data, data + tokens.numel());
}

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_REFERENCE_TENSORS_H_
