#include "server/model/matrix_reader.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

constexpr int64_t kColumns = 96;

constexpr GgmlType kEveryType[] = {GgmlType::kF32,  GgmlType::kF16,  GgmlType::kBF16, GgmlType::kQ4_0,
                                   GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1, GgmlType::kQ8_0,
                                   GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K};

TensorSource::Entry EntryOf(GgmlType type, int64_t rows, const std::string& bytes, int64_t columns = kColumns) {
  TensorSource::Entry entry;
  entry.rows = rows;
  entry.columns = columns;
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

// Where a block has the upper bytes of its floating-point numbers.
std::vector<int64_t> UpperBytes(GgmlType type) {
  switch (type) {
    case GgmlType::kF32: return {3};
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_1:
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K: return {1, 3};
    case GgmlType::kQ6_K: return {209};
    default: return {1};
  }
}

// Blocks of any bits but that their floating-point numbers are below 2: of both signs, subnormal ones among them.
std::string AnyBlocks(GgmlType type, int64_t values, unsigned seed) {
  std::mt19937 random(seed);
  const int64_t block_bytes = GgmlBlockBytes(type);
  std::string bytes(values / GgmlBlockElements(type) * block_bytes, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() >> 8);
  for (int64_t at : UpperBytes(type)) {
    for (; at < static_cast<int64_t>(bytes.size()); at += block_bytes) bytes[at] &= static_cast<char>(0xbf);
  }
  return bytes;
}

ComputeTarget TargetOf(ComputeTarget::Device device, ComputeTarget::Type type) {
  ComputeTarget target;
  target.device = device;
  target.type = type;
  return target;
}

// Numbers as whole numbers of the same bits: -0 is not 0 then.
at::Tensor Bits(const at::Tensor& values) { return values.view(values.element_size() == 2 ? at::kShort : at::kInt); }

// Rows in GGUF's order, then few more, to which something is added.
struct TwoEntries {
  TwoEntries(GgmlType type, int64_t rows, int64_t columns)
      : first(AnyBlocks(type, rows * columns, 5)), second(AnyBlocks(type, 3 * columns, 6)) {
    entries = {EntryOf(type, rows, first, columns), EntryOf(type, 3, second, columns)};
    entries[0].interleaved_head_dim = 10;
    entries[1].offset = 1;
  }
  std::string first, second;
  std::vector<TensorSource::Entry> entries;
};

TEST(MatrixReaderTest, RowsAreTheSameBitsAsThroughFloat) {
  for (const auto type : {ComputeTarget::Type::kFloat32, ComputeTarget::Type::kBfloat16}) {
    ExpectSameBitsAsThroughFloat(TargetOf(ComputeTarget::Device::kCpu, type));
  }
}

TEST(MatrixReaderTest, EveryTypeIsTheSameBitsAsThroughFloat) {
  for (const GgmlType file_type : kEveryType) {
    const TwoEntries two(file_type, 170, 256);
    at::Tensor expected = at::empty({173, 256});
    two.entries[0].ReadRows(0, 170, expected.mutable_data_ptr<float>());
    two.entries[1].ReadRows(0, 3, expected.mutable_data_ptr<float>() + 170 * 256);
    for (const auto type : {ComputeTarget::Type::kFloat32, ComputeTarget::Type::kBfloat16}) {
      const ComputeTarget target = TargetOf(ComputeTarget::Device::kCpu, type);
      const at::Tensor read = ReadMatrix(two.entries, target);
      EXPECT_TRUE(at::equal(Bits(read), Bits(expected.to(TypeOf(target))))) << GgmlTypeName(file_type);
    }
  }
}

TEST(GpuMatrixReaderTest, RowsAreTheSameBitsAsThroughFloat) {
  if (!cuda::Available()) GTEST_SKIP() << "no GPU";
  for (const auto type : {ComputeTarget::Type::kFloat32, ComputeTarget::Type::kBfloat16}) {
    ExpectSameBitsAsThroughFloat(TargetOf(ComputeTarget::Device::kCuda, type));
  }
}

void ExpectSameBitsAsOnCpu(const std::vector<TensorSource::Entry>& entries) {
  for (const auto type : {ComputeTarget::Type::kFloat32, ComputeTarget::Type::kBfloat16}) {
    const ComputeTarget target = TargetOf(ComputeTarget::Device::kCuda, type);
    const at::Tensor read = ReadMatrix(entries, target);
    Synchronize(target);
    EXPECT_EQ(read.device(), DeviceOf(target));
    const at::Tensor expected = ReadMatrix(entries, TargetOf(ComputeTarget::Device::kCpu, type));
    EXPECT_TRUE(at::equal(Bits(read.cpu()), Bits(expected))) << GgmlTypeName(entries[0].type) << ", " << TypeOf(target);
  }
}

// In two pieces and a part of one of the kernel's blocks.
TEST(GpuMatrixReaderTest, EveryTypeIsTheSameBitsAsOnTheCpu) {
  if (!cuda::Available()) GTEST_SKIP() << "no GPU";
  for (const GgmlType type : kEveryType) {
    constexpr int64_t kWidth = 1280;
    const int64_t row_bytes = kWidth / GgmlBlockElements(type) * GgmlBlockBytes(type);
    const TwoEntries two(type, (20 << 20) / row_bytes / 10 * 10, kWidth);
    ExpectSameBitsAsOnCpu(two.entries);
  }
}

TEST(GpuMatrixReaderTest, MixedTypesAreTheSameBitsAsOnTheCpu) {
  if (!cuda::Available()) GTEST_SKIP() << "no GPU";
  std::vector<std::string> bytes;
  for (const GgmlType type : kEveryType) bytes.push_back(AnyBlocks(type, 30 * 256, static_cast<unsigned>(type)));
  std::vector<TensorSource::Entry> entries;
  for (const GgmlType type : kEveryType) entries.push_back(EntryOf(type, 30, bytes[entries.size()], 256));
  ExpectSameBitsAsOnCpu(entries);
}

// Rows of plain types need not be whole words.
TEST(GpuMatrixReaderTest, OddRowsAreTheSameBitsAsOnTheCpu) {
  if (!cuda::Available()) GTEST_SKIP() << "no GPU";
  for (const GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16}) {
    const TwoEntries two(type, 50, 7);
    ExpectSameBitsAsOnCpu(two.entries);
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

// The same of pieces that the GPU converts.
TEST(GpuMatrixReaderTest, ManyPiecesOfBlocksArrive) {
  if (!cuda::Available()) GTEST_SKIP() << "no GPU";
  const std::string bytes = AnyBlocks(GgmlType::kQ8_0, (1 << 20) * kColumns, 7);
  ExpectSameBitsAsOnCpu({EntryOf(GgmlType::kQ8_0, 1 << 20, bytes)});
}

}  // namespace
}  // namespace attune
