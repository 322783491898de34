#include "server/model/matrix_reader.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

constexpr int64_t kColumns = 96;

TensorSource::Entry EntryOf(GgmlType type, int64_t rows, const std::string& bytes) {
  TensorSource::Entry entry;
  entry.rows = rows;
  entry.columns = kColumns;
  entry.type = type;
  entry.bytes = bytes;
  return entry;
}

std::string BytesOf(const at::Tensor& values) {
  const at::Tensor host = values.contiguous();
  return std::string(static_cast<const char*>(host.const_data_ptr()), host.nbytes());
}

// Blocks of Q8_0: a scale in fp16, 32 whole numbers.
std::string Q8Rows(int64_t rows) {
  std::string bytes;
  for (int64_t block = 0; block < rows * kColumns / 32; ++block) {
    const at::Half scale = 0.01f * static_cast<float>(block % 7 + 1);
    bytes.append(reinterpret_cast<const char*>(&scale), 2);
    for (int i = 0; i < 32; ++i) bytes.push_back(static_cast<char>((block * 31 + i * 5) % 255 - 127));
  }
  return bytes;
}

// All types one behind the other, more rows than a thread takes, and one matrix in GGUF's order of rows.
void ExpectSameBitsAsThroughFloat(const ComputeTarget& target) {
  at::manual_seed(3);
  const at::Tensor values = at::randn({300, kColumns});
  const std::string bf16 = BytesOf(values.to(at::kBFloat16)), fp16 = BytesOf(values.to(at::kHalf)), fp32 = BytesOf(values);
  const std::string q8 = Q8Rows(300);
  std::vector<TensorSource::Entry> entries = {EntryOf(GgmlType::kBF16, 300, bf16), EntryOf(GgmlType::kF16, 300, fp16),
                                              EntryOf(GgmlType::kF32, 300, fp32), EntryOf(GgmlType::kQ8_0, 300, q8),
                                              EntryOf(GgmlType::kBF16, 300, bf16)};
  entries.back().interleaved_head_dim = 10;
  at::Tensor expected = at::empty({1500, kColumns});
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].ReadRows(0, 300, expected.mutable_data_ptr<float>() + i * 300 * kColumns);
  }
  ASSERT_TRUE(at::equal(expected.narrow(0, 600, 300), values));
  const at::Tensor read = ReadMatrix(entries, target);
  Synchronize(target);
  EXPECT_EQ(read.device(), DeviceOf(target));
  EXPECT_EQ(read.scalar_type(), TypeOf(target));
  EXPECT_TRUE(at::equal(read.cpu(), expected.to(TypeOf(target))));
}

TEST(MatrixReaderTest, RowsAreTheSameBitsAsThroughFloat) {
  for (const auto type : {ComputeTarget::Type::kFloat32, ComputeTarget::Type::kBfloat16}) {
    ComputeTarget target;
    target.type = type;
    ExpectSameBitsAsThroughFloat(target);
  }
}

TEST(GpuMatrixReaderTest, RowsAreTheSameBitsAsThroughFloat) {
  if (!cuda::Available()) GTEST_SKIP() << "no GPU";
  for (const auto type : {ComputeTarget::Type::kFloat32, ComputeTarget::Type::kBfloat16}) {
    ComputeTarget target;
    target.device = ComputeTarget::Device::kCuda;
    target.type = type;
    ExpectSameBitsAsThroughFloat(target);
  }
}

// More pieces of pinned memory than one, of which each is handed out again while others are on their way.
TEST(GpuMatrixReaderTest, ManyPiecesArrive) {
  if (!cuda::Available()) GTEST_SKIP() << "no GPU";
  const at::Tensor values = at::randn({1 << 20, kColumns}).to(at::kBFloat16);
  const std::string bytes = BytesOf(values);
  ComputeTarget target;
  target.device = ComputeTarget::Device::kCuda;
  target.type = ComputeTarget::Type::kBfloat16;
  const std::vector<TensorSource::Entry> entries = {EntryOf(GgmlType::kBF16, values.size(0), bytes)};
  const at::Tensor read = ReadMatrix(entries, target);
  Synchronize(target);
  EXPECT_TRUE(at::equal(read.cpu(), values));
}

}  // namespace
}  // namespace attune
