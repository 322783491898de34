#include "server/tuning/estimate.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "server/model/memory_meter.h"
#include "server/tuning/defaults.h"
#include "server/tuning/trainer.h"
#include "tests/testing/gpu.h"
#include "tests/testing/random_model.h"

namespace attune {
namespace {

ModelConfig MiddleConfig() {
  ModelConfig config;
  config.family = "llama";
  config.layers = 6;
  config.hidden = 1024;
  config.intermediate = 2816;
  config.heads = 16;
  config.kv_heads = 4;
  config.head_dim = 64;
  config.vocab = 16384;
  config.context = 4096;
  config.tied_head = true;
  return config;
}

MemoryInputs SomeInputs() {
  MemoryInputs inputs;
  inputs.trainable_parameters = 10'000'000;
  inputs.micro_batch_tokens = inputs.loss_tokens = 16384;
  inputs.lora_rank = 16;
  inputs.bfloat16 = true;
  return inputs;
}

TEST(EstimateTest, CountsWhatJobsDiffersIn) {
  const ModelConfig config = MiddleConfig();
  const int64_t usual = EstimateTrainingBytes(config, SomeInputs());
  MemoryInputs inputs = SomeInputs();
  inputs.is_8bit_optimizer = true;
  EXPECT_NEAR(usual - EstimateTrainingBytes(config, inputs), 10e6 * 5.97, 1e6);
  inputs = SomeInputs();
  inputs.bfloat16 = false;
  EXPECT_GT(EstimateTrainingBytes(config, inputs), 1.8 * usual);
  inputs = SomeInputs();
  inputs.quantized = true;
  EXPECT_EQ(EstimateTrainingBytes(config, inputs), usual + 2 * 2 * config.intermediate * config.hidden);
  inputs = SomeInputs();
  inputs.adapts_head = true;
  EXPECT_EQ(EstimateTrainingBytes(config, inputs), usual);  // what its ranks take is less than the layers' backward passes
  inputs.adapts_embedding = true;
  EXPECT_EQ(EstimateTrainingBytes(config, inputs), usual);
  inputs.lora_rank = 512;
  inputs.micro_batch_tokens = inputs.loss_tokens = 1;
  EXPECT_GT(EstimateTrainingBytes(config, inputs), 10'000'000 * 18 + config.vocab * 512 * 4);
  inputs = SomeInputs();
  inputs.has_teacher = true;
  const int64_t taught = EstimateTrainingBytes(config, inputs);
  EXPECT_GT(taught, usual);
  inputs.has_teacher = false;
  inputs.pairs = 4096;  // whose rows are told apart by matrices of pairs by rows
  const int64_t paired = EstimateTrainingBytes(config, inputs);
  EXPECT_GT(paired, usual + int64_t{1} * 4096 * 16384);
  inputs.adapts_head = true;  // where the head is the peak, its ranks count
  EXPECT_EQ(EstimateTrainingBytes(config, inputs), paired + inputs.loss_tokens * 2 * inputs.lora_rank * 2);
  inputs = SomeInputs();
  inputs.micro_batch_tokens = inputs.loss_tokens = 8192;
  EXPECT_LT(EstimateTrainingBytes(config, inputs), 0.7 * usual);
}

TEST(EstimateTest, LayersThatKeepLessTakeLess) {
  const ModelConfig config = MiddleConfig();
  MemoryInputs inputs = SomeInputs();
  inputs.on_gpu = true;
  int64_t last = EstimateTrainingBytes(config, inputs);
  for (int64_t budget : {1'800'000'000, 1'200'000'000, 600'000'000, 250'000'000, 1}) {
    inputs.activation_bytes = budget;
    const int64_t bytes = EstimateTrainingBytes(config, inputs);
    EXPECT_LT(bytes, last) << budget;
    last = bytes;
  }
}

TEST(EstimateTest, BudgetsFollowWhatIsFree) {
  constexpr int64_t kGiB = int64_t{1} << 30;
  const MemoryInputs inputs = SomeInputs();
  EXPECT_NEAR(ActivationBudget(80 * kGiB, 40 * kGiB, 14 * kGiB, inputs), 20 * kGiB, kGiB);
  EXPECT_NEAR(ActivationBudget(80 * kGiB, 0, 14 * kGiB, inputs), 8 * kGiB, kGiB) << "not slow for ever";
  EXPECT_EQ(ActivationBudget(1, 1, 2, inputs), 1);
}

// What a job was admitted with gives back a budget that it fits, and the same layers keep the same.
TEST(EstimateTest, AdmittedBytesGiveTheBudgetBack) {
  const ModelConfig config = MiddleConfig();
  for (int64_t budget : {int64_t{1}, int64_t{250'000'000}, int64_t{1'000'000'000}, int64_t{1} << 40}) {
    MemoryInputs inputs = SomeInputs();
    inputs.on_gpu = true;
    inputs.activation_bytes = budget;
    const int64_t bytes = EstimateTrainingBytes(config, inputs);
    inputs.activation_bytes = ActivationBudgetWithin(bytes, config, inputs);
    EXPECT_LE(EstimateTrainingBytes(config, inputs), bytes) << budget;
    EXPECT_GE(EstimateTrainingBytes(config, inputs), 0.98 * bytes) << budget;
  }
}

struct MeasuredCase {
  const char* name;
  const char* method;
  int64_t activation_bytes;
  WeightFormat format = WeightFormat::kDense;
  const char* optimizer_state = "";
};

class GpuEstimateTest : public ::testing::TestWithParam<MeasuredCase> {};

MethodSpec SpecOf(const std::string& method) {
  if (method == "full") return FullSpec{};
  constexpr TargetModule kEmbedding = TargetModule::kEmbedTokens, kHead = TargetModule::kLmHead;
  LoraSpec lora;
  lora.dropout = 0.05;
  if (method == "saved") lora.modules_to_save = {kEmbedding, kHead};
  if (method == "adapted") lora.target_modules = {TargetModule::kQProj, kEmbedding, kHead};
  return lora;
}

// Within a tenth of what the allocator saw, weights included.
TEST_P(GpuEstimateTest, IsWhatTrainingTakes) {
  const std::optional<ComputeTarget> gpu = FindGpu(ComputeTarget::Type::kBfloat16);
  if (!gpu) GTEST_SKIP() << "no GPU";
  const ModelConfig config = MiddleConfig();
  at::empty({1}, at::kCUDA);  // the allocator's counters are there from its first use on
  auto allocated = [] { return c10::cuda::CUDACachingAllocator::getDeviceStats(0).allocated_bytes[0]; };
  const int64_t before = allocated().current;
  MemoryMeter meter(*gpu);
  const MemoryMeter::Scope scope(meter);
  const std::shared_ptr<const BaseModel> base = MakeRandomModel(config, *gpu, GetParam().format);
  const int64_t weights = allocated().current - before;
  std::mt19937 random(1);
  std::vector<Example> examples(16);
  for (Example& example : examples) {
    for (int t = 0; t < 1024; ++t) {
      example.tokens.push_back(static_cast<int32_t>(random() % config.vocab));
      example.has_loss.push_back(true);
    }
  }
  Hyperparameters given;
  given.batch_size = 16;
  given.max_steps = 4;
  given.optimizer_state = GetParam().optimizer_state;
  const MethodSpec spec = SpecOf(GetParam().method);
  const Hyperparameters h = ResolveHyperparameters(spec, given, {config.Parameters(), 16, 16384, 0, *gpu});
  const std::unique_ptr<Method> method = *MakeMethod(spec, base, 1);
  const Batcher batches(&examples, 16, 1 << 20, 0, 1);
  Trainer trainer(base.get(), method.get(), &batches, h, nullptr, GetParam().activation_bytes);
  c10::cuda::CUDACachingAllocator::resetPeakStats(0);
  for (int step = 0; step < 4; ++step) ASSERT_TRUE(trainer.Step(step).ok());
  MemoryInputs inputs;
  for (const Parameter& p : method->parameters()) inputs.trainable_parameters += p.leaf.numel();
  inputs.micro_batch_tokens = inputs.loss_tokens = 16384;
  inputs.lora_rank = method->lora() ? method->lora()->rank : 0;
  inputs.adapts_embedding = method->lora() && method->lora()->embedding.defined();
  inputs.adapts_head = method->lora() && method->lora()->head.defined();
  inputs.trains_weights = !method->lora();
  inputs.bfloat16 = inputs.on_gpu = true;
  inputs.quantized = GetParam().format != WeightFormat::kDense;
  inputs.is_8bit_optimizer = h.optimizer_state == "int8";
  inputs.activation_bytes = GetParam().activation_bytes;
  const double peak = static_cast<double>(allocated().peak - before);
  const double estimate = static_cast<double>(weights + EstimateTrainingBytes(config, inputs));
  EXPECT_NEAR(estimate / peak, 1, 0.1);
  EXPECT_NEAR(static_cast<double>(meter.peak_bytes()) / peak, 1, 0.02);  // the job's own is all that there is
  std::cout << "peak " << peak / 1e9 << " GB, estimate " << estimate / 1e9 << " GB\n";
}

INSTANTIATE_TEST_SUITE_P(Jobs, GpuEstimateTest,
                         ::testing::Values(MeasuredCase{"Lora", "lora", int64_t{8} << 30},
                                           MeasuredCase{"LoraThatKeepsLess", "lora", int64_t{800} << 20},
                                           MeasuredCase{"LoraThatKeepsInputs", "lora", int64_t{250} << 20},
                                           MeasuredCase{"LoraThatKeepsNothing", "lora", 1},
                                           MeasuredCase{"LoraNf4", "lora", int64_t{8} << 30, WeightFormat::kNf4},
                                           MeasuredCase{"SavedVocabulary", "saved", int64_t{8} << 30},
                                           MeasuredCase{"AdaptedVocabulary", "adapted", int64_t{8} << 30},
                                           MeasuredCase{"AdaptedVocabularyThatKeepsNothing", "adapted", 1},
                                           MeasuredCase{"Full", "full", int64_t{8} << 30},
                                           MeasuredCase{"Full8Bit", "full", int64_t{8} << 30, WeightFormat::kDense,
                                                        "int8"}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace attune
