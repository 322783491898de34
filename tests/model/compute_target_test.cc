#include "server/model/compute_target.h"

#include <gtest/gtest.h>

#include "common/error.h"

namespace attune {
namespace {

using Device = ComputeTarget::Device;
using DecodeWeights = ComputeTarget::DecodeWeights;

ComputeTarget Target(Device device, ComputeTarget::Type type, DecodeWeights weights, bool batch_invariant = false) {
  ComputeTarget target;
  target.device = device;
  target.type = type;
  target.decode_weights = weights;
  target.batch_invariant = batch_invariant;
  return target;
}

TEST(ComputeTargetTest, ACpuDecodesFromIntegerBlocks) {
  for (const DecodeWeights weights : {DecodeWeights::kAsLoaded, DecodeWeights::kInt8, DecodeWeights::kInt4}) {
    EXPECT_TRUE(CheckServingOptions(Target(Device::kCpu, ComputeTarget::Type::kFloat32, weights, true)).ok());
  }
  const absl::Status fp8 = CheckServingOptions(Target(Device::kCpu, ComputeTarget::Type::kFloat32, DecodeWeights::kFp8));
  EXPECT_EQ(GetErrorDetails(fp8).reason, "NOT_ON_THIS_DEVICE");
}

// What a GPU's kernels do not do is refused, not done otherwise.
TEST(ComputeTargetTest, AGpuInFloat32HasNoKernelsForBlocks) {
  const ComputeTarget::Type type = ComputeTarget::Type::kFloat32;
  EXPECT_TRUE(CheckServingOptions(Target(Device::kCuda, type, DecodeWeights::kAsLoaded)).ok());
  EXPECT_EQ(GetErrorDetails(CheckServingOptions(Target(Device::kCuda, type, DecodeWeights::kInt8))).reason,
            "NOT_ON_THIS_DEVICE");
  EXPECT_EQ(GetErrorDetails(CheckServingOptions(Target(Device::kCuda, type, DecodeWeights::kAsLoaded, true))).reason,
            "NOT_ON_THIS_DEVICE");
}

TEST(ComputeTargetTest, LorasInInt8AreForGpusAndDependOnTheBatch) {
  ComputeTarget target = Target(Device::kCpu, ComputeTarget::Type::kFloat32, DecodeWeights::kAsLoaded);
  target.int8_loras = true;
  EXPECT_EQ(GetErrorDetails(CheckServingOptions(target)).reason, "NOT_ON_THIS_DEVICE");
  target.device = Device::kCuda;
  EXPECT_EQ(GetErrorDetails(CheckServingOptions(target)).reason, "NOT_ON_THIS_DEVICE") << "there are no kernels in float32";
  target.type = ComputeTarget::Type::kBfloat16;
  target.batch_invariant = true;
  const absl::Status alike = CheckServingOptions(target);
  EXPECT_EQ(GetErrorDetails(alike).reason, "NOT_ON_THIS_DEVICE");
  EXPECT_NE(alike.message().find("--batch-invariant"), absl::string_view::npos) << alike;
}

TEST(ComputeTargetTest, NamesOfDecodeWeightsGoBothWays) {
  for (const char* name : {"as-loaded", "int8", "fp8", "int4"}) {
    EXPECT_STREQ(DecodeWeightsName(ParseDecodeWeights(name)), name);
  }
}

}  // namespace
}  // namespace attune
