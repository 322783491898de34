// Compares with files that tests/interop/weights_reference.py wrote with the gguf and
// safetensors Python packages. ATTUNE_TEST_REFERENCES names their folder.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "common/file.h"
#include "server/model/weights/gguf.h"
#include "server/model/weights/safetensors.h"

namespace attune {
namespace {

class WeightsInteropTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("ATTUNE_TEST_REFERENCES");
    if (folder == nullptr) GTEST_SKIP() << "ATTUNE_TEST_REFERENCES is not set";
    folder_ = folder;
    if (!ReadFile(Path("torch.names")).ok()) GTEST_SKIP() << "no references of weights in " << folder_;
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }

  std::vector<float> Floats(const std::string& name) const {
    absl::StatusOr<std::string> bytes = ReadFile(Path(name));
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    std::vector<float> values(bytes.ok() ? bytes->size() / sizeof(float) : 0);
    if (!values.empty()) std::memcpy(values.data(), bytes->data(), values.size() * sizeof(float));
    return values;
  }

  std::string folder_;
};

TEST_F(WeightsInteropTest, EveryGgufTypeIsBitEqual) {
  for (GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ4_0, GgmlType::kQ4_1,
                        GgmlType::kQ5_0, GgmlType::kQ5_1, GgmlType::kQ8_0, GgmlType::kQ4_K, GgmlType::kQ5_K,
                        GgmlType::kQ6_K}) {
    const std::string name(GgmlTypeName(type));
    SCOPED_TRACE(name);
    auto file = GgufFile::Open(Path(name + ".gguf"));
    ASSERT_TRUE(file.ok()) << file.status();
    const GgufTensor* tensor = (*file)->Find("weight");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->type, type);
    EXPECT_THAT(tensor->shape, ::testing::ElementsAre((*file)->Int("reference.rows", 0).value(), 512));
    std::vector<float> expected = Floats(name + ".f32"), values(tensor->elements());
    ASSERT_EQ(values.size(), expected.size());
    ASSERT_TRUE(Dequantize(type, tensor->bytes, tensor->elements(), values.data()).ok());
    EXPECT_EQ(std::memcmp(values.data(), expected.data(), values.size() * sizeof(float)), 0);
  }
}

TEST_F(WeightsInteropTest, ReadsMetadataOfTheReferenceWriter) {
  auto file = GgufFile::Open(Path("Q4_1.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Text("general.architecture", "").value(), "llama");
  EXPECT_EQ((*file)->Real("reference.half", 0).value(), 0.5);
  EXPECT_THAT(*(*file)->Texts("reference.words"), ::testing::ElementsAre("one", "zwei", "三"));
}

// One value, for the types whose values a float holds.
double ValueAt(const SafetensorsTensor& tensor, int64_t index) {
  auto read = [&](auto zero) {
    std::memcpy(&zero, tensor.bytes.data() + index * sizeof zero, sizeof zero);
    return static_cast<double>(zero);
  };
  float out = 0;
  absl::string_view bytes = tensor.bytes.substr(index * SafetensorsElementBytes(tensor.type),
                                                SafetensorsElementBytes(tensor.type));
  switch (tensor.type) {
    case SafetensorsType::kF32: return read(float{});
    case SafetensorsType::kF64: return read(double{});
    case SafetensorsType::kI64: return read(int64_t{});
    case SafetensorsType::kI32: return read(int32_t{});
    case SafetensorsType::kU8: return read(uint8_t{});
    case SafetensorsType::kF16: EXPECT_TRUE(Dequantize(GgmlType::kF16, bytes, 1, &out).ok()); break;
    case SafetensorsType::kBF16: EXPECT_TRUE(Dequantize(GgmlType::kBF16, bytes, 1, &out).ok()); break;
  }
  return out;
}

TEST_F(WeightsInteropTest, EverySafetensorsTypeIsEqual) {
  auto file = SafetensorsFile::Open(Path("torch.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  std::vector<float> expected = Floats("torch.f32");
  std::vector<std::string> names = absl::StrSplit(ReadFile(Path("torch.names")).value(), '\n', absl::SkipEmpty());
  EXPECT_EQ(names.size(), (*file)->tensors().size());
  size_t at = 0;
  for (const std::string& name : names) {
    const SafetensorsTensor* tensor = (*file)->Find(name);
    ASSERT_NE(tensor, nullptr) << name;
    for (int64_t i = 0; i < tensor->elements(); ++i, ++at) {
      ASSERT_LT(at, expected.size());
      EXPECT_EQ(ValueAt(*tensor, i), expected[at]) << name << " " << i;
    }
  }
  EXPECT_EQ(at, expected.size());
}

}  // namespace
}  // namespace attune
