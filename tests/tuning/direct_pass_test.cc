// The pass that is differentiated by hand gives what autograd gives.
#include "server/tuning/direct_pass.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "server/adapters/packed_ops.h"
#include "server/adapters/vocabulary.h"
#include "server/model/kernels/cross_entropy.h"
#include "server/model/kernels/cuda/launch.h"
#include "server/model/kernels/embedding_noise.h"
#include "server/model/torch_target.h"
#include "server/tuning/pass_graphs.h"
#include "tests/testing/gpu.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tensor_matchers.h"
#include "tests/testing/tiny_family.h"
#include "tests/testing/tiny_model.h"

namespace attune {
namespace {

constexpr int64_t kSeed = 77, kLossTokens = 9;

struct PassCase {
  const char* name;
  MethodSpec spec;
  bool gpu;
  WeightFormat format = WeightFormat::kDense;
  const char* family = "llama";
  double noise_alpha = 0;
};

LoraSpec Lora(double dropout, std::vector<TargetModule> targets = {}) {
  LoraSpec spec;
  spec.rank = 8;
  spec.dropout = dropout;
  spec.target_modules = std::move(targets);
  return spec;
}

LoraSpec Dora(double dropout, std::vector<TargetModule> targets = {}) {
  LoraSpec spec = Lora(dropout, std::move(targets));
  spec.use_dora = true;
  return spec;
}

constexpr TargetModule kEmbedding = TargetModule::kEmbedTokens, kHead = TargetModule::kLmHead;

// With an embedding and a head of its own: as these say, trained whole.
LoraSpec Saved(std::vector<TargetModule> modules, LoraSpec spec = Lora(0)) {
  spec.modules_to_save = std::move(modules);
  return spec;
}

SoftPromptSpec Prompt() {
  SoftPromptSpec spec;
  spec.num_virtual_tokens = 3;
  return spec;
}

PrefixSpec PrefixOf() {
  PrefixSpec spec;
  spec.num_virtual_tokens = 3;
  return spec;
}

Ia3Spec Scales(std::vector<TargetModule> targets = {}) { return {std::move(targets)}; }

PartialSpec LastLayer() {
  PartialSpec spec;
  spec.last_layers = 1;
  return spec;
}

// Some rows of fused products, a norm in between, nothing of the first layer's.
PartialSpec Scattered() {
  PartialSpec spec;
  spec.parameter_patterns = {".*layers.1.self_attn.(q|v)_proj.weight", ".*layers.1.mlp.up_proj.weight",
                             ".*layers.1.post_attention_layernorm.weight"};
  return spec;
}

PartialSpec Norms() {
  PartialSpec spec;
  spec.biases_and_norms = true;
  return spec;
}

class DirectPassTest : public ::testing::TestWithParam<PassCase> {
 protected:
  void SetUp() override {
    if (GetParam().gpu && (!FindGpu() || !cuda::Available())) GTEST_SKIP() << "no GPU";
    if (GetParam().family == std::string("llama")) {
      TinyModel::WriteGguf(temp_.File("model.gguf"));
    } else {
      WriteFamilyGguf(temp_.File("model.gguf"), GetParam().family);
    }
    Make(ComputeTarget::Type::kFloat32);
  }

  void Make(ComputeTarget::Type type) {
    ComputeTarget target;
    if (GetParam().gpu) target.device = ComputeTarget::Device::kCuda;
    target.type = type;
    auto base = LoadBaseModel(temp_.path(), temp_.path(), target, GetParam().format);
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
    auto method = MakeMethod(GetParam().spec, base_, 5);
    ASSERT_TRUE(method.ok()) << method.status();
    method_ = std::move(*method);
    // LoRA's B starts at zero, which would hide A's gradient.
    at::NoGradGuard no_grad;
    at::manual_seed(3);
    for (const Parameter& p : method_->parameters()) at::Tensor(p.leaf).add_(at::randn_like(p.leaf) * 0.1);
    flat_ = std::make_unique<FlatParameters>(method_->parameters(), TypeOf(target));
    direct_ = std::make_unique<DirectPass>(base_.get(), method_.get(), flat_.get(), TypeOf(target), Dropout(),
                                           PassOptions{.noise_alpha = GetParam().noise_alpha});
    batch_ = Batch({5, 1, 9, 3}, {2, 1, 4, 2});
  }

  double Dropout() const { return method_->lora() ? method_->lora()->dropout : 0; }
  bool IsRandom() const { return Dropout() > 0 || GetParam().noise_alpha > 0; }

  // Sequences of these lengths, each with loss on its last tokens.
  MicroBatch Batch(const std::vector<int64_t>& lengths, const std::vector<int64_t>& losses) const {
    std::mt19937 random(2);
    std::vector<Example> examples;
    for (size_t i = 0; i < lengths.size(); ++i) {
      Example example;
      for (int64_t t = 0; t < lengths[i]; ++t) {
        example.tokens.push_back(3 + static_cast<int32_t>(random() % 250));
        example.has_loss.push_back(t >= lengths[i] - losses[i]);
      }
      examples.push_back(example);
    }
    return Batcher(&examples, examples.size(), 1 << 20, method_->virtual_tokens(), 1).Step(0)[0];
  }

  struct Outcome {
    double loss = 0;
    int64_t correct = 0;
    std::vector<at::Tensor> gradients;
  };
  Outcome Recorded() const {
    const DecoderWeights weights = method_->Weights();
    const at::Device device = DeviceOf(base_->target);
    auto moved = [&](const std::vector<int64_t>& values) { return at::tensor(values, at::kLong).to(device); };
    const PackedSequences sequences = PackSequences(batch_.starts, device);
    const RopeTables rope = RopeTablesOf(*base_);
    PackedOps ops(base_->config, weights, rope, sequences, moved(batch_.tokens), method_->adapter(), Dropout(), kSeed);
    const at::Tensor ids = moved(batch_.tokens);
    const LoraAdapter* lora = method_->lora();
    at::Tensor x = lora ? EmbedUnder(base_->config, weights.embedding_VD, lora, ids, at::kFloat)
                        : EmbedTokens(base_->config, weights.embedding_VD, method_->soft_prompt_ND(), ids, at::kFloat);
    if (GetParam().noise_alpha > 0) {
      const at::Tensor noise = at::zeros(x.sizes(), x.options().requires_grad(false));
      AddEmbeddingNoise(noise, moved(batch_.tokens), sequences.starts_int32, method_->virtual_tokens(),
                        GetParam().noise_alpha, {.value = kSeed});
      x = x + noise;
    }
    at::Tensor hidden = RunDecoder(base_->config, weights, x, &ops).index_select(0, moved(batch_.loss_rows));
    CrossEntropy result = lora && lora->changes_head()
                              ? AdaptedLoss(weights.head_VD, *lora, hidden, moved(batch_.targets))
                              : LinearCrossEntropy(hidden, weights.head_VD, moved(batch_.targets), base_->config.logit_softcap);
    std::vector<at::Tensor> leaves;
    for (const Parameter& p : method_->parameters()) leaves.push_back(p.leaf);
    return {result.loss_sum.item<double>(), result.correct,
            torch::autograd::grad({result.loss_sum / static_cast<double>(kLossTokens)}, leaves)};
  }
  // Of a head of the adapter's own, written down plainly; before its LoRA there is dropout.
  CrossEntropy AdaptedLoss(const at::Tensor& head_VD, const LoraAdapter& lora, const at::Tensor& hidden,
                           const at::Tensor& targets) const {
    at::Tensor logits = at::linear(hidden, lora.head_VD.defined() ? lora.head_VD : head_VD);
    if (lora.head.defined()) {
      const uint32_t number = static_cast<uint32_t>(base_->config.layers * kLinears);
      const at::Tensor ones = at::ones(hidden.sizes(), hidden.options().requires_grad(false));
      const at::Tensor mask = Dropout() > 0 ? DropoutOfStep(ones, Dropout(), {.value = kSeed}, number) : ones;
      logits = logits + lora.head.scale * at::linear(at::linear(hidden * mask, lora.head.a_RI), lora.head.b_OR);
    }
    logits = CapLogits(base_->config, logits);
    const at::Tensor losses = -at::log_softmax(logits, 1).gather(1, targets.unsqueeze(1));
    return {losses.sum(), logits.argmax(1).eq(targets).sum().item<int64_t>()};
  }
  Outcome Collect(const DirectPass::Result& result) const {
    Outcome outcome{result.loss_sum.item<double>(), result.correct.item<int64_t>(), {}};
    for (const Parameter& p : method_->parameters()) outcome.gradients.push_back(flat_->Gradient(p.leaf).clone());
    at::Tensor(flat_->gradients()).fill_(1e9);  // a first pass takes no notice of what is there
    return outcome;
  }
  Outcome Direct(const PassShape& shape, Keep keep) const {
    return Collect(Run(shape, keep));
  }
  DirectPass::Result Run(const PassShape& shape, Keep keep, bool is_first = true) const {
    const at::Tensor packed = PackBatch(batch_, shape, kSeed, kLossTokens, false);
    return direct_->Run(ViewBatch(packed.to(DeviceOf(base_->target)), shape, packed),
                        std::vector<Keep>(base_->config.layers, keep), is_first);
  }

  void ExpectSame(const Outcome& actual, const Outcome& expected) const {
    EXPECT_NEAR(actual.loss, expected.loss, 1e-5 * expected.loss);
    EXPECT_EQ(actual.correct, expected.correct);
    for (size_t i = 0; i < expected.gradients.size(); ++i) {
      const at::Tensor &a = actual.gradients[i], &e = expected.gradients[i];
      EXPECT_GT(e.norm().item<double>(), 0) << method_->parameters()[i].name;
      EXPECT_LT((a - e).norm().item<double>(), 1e-4 * e.norm().item<double>()) << method_->parameters()[i].name;
    }
  }

  TempFolder temp_;
  std::shared_ptr<const BaseModel> base_;
  std::unique_ptr<Method> method_;
  std::unique_ptr<FlatParameters> flat_;
  std::unique_ptr<DirectPass> direct_;
  MicroBatch batch_;
};

TEST_P(DirectPassTest, GivesAutogradsLossAndGradients) {
  const Outcome expected = Recorded();
  ExpectSame(Direct(ExactShape(batch_), Keep::kAll), expected);
}

TEST_P(DirectPassTest, PaddingChangesNothing) {
  const PassShape shape = BucketShape(batch_);
  ASSERT_GT(shape.tokens, static_cast<int64_t>(batch_.tokens.size()));
  ASSERT_GT(shape.loss_rows, static_cast<int64_t>(batch_.targets.size()));
  Outcome expected = Recorded();
  if (Dropout() > 0) expected = Direct(ExactShape(batch_), Keep::kAll);
  ExpectSame(Direct(shape, Keep::kAll), expected);
}

TEST_P(DirectPassTest, WhatIsComputedAgainIsTheSame) {
  const Outcome kept = Direct(ExactShape(batch_), Keep::kAll);
  for (Keep keep : {Keep::kNoCheap, Keep::kNoGateUp, Keep::kInput, Keep::kHost}) {
    const Outcome again = Direct(ExactShape(batch_), keep);
    EXPECT_EQ(again.loss, kept.loss);
    for (size_t i = 0; i < kept.gradients.size(); ++i) EXPECT_TRUE(at::equal(again.gradients[i], kept.gradients[i]));
  }
}

// More rows than a chunk of the feed-forward part has: the same numbers, to the order of sums.
TEST_P(DirectPassTest, FeedForwardInChunksIsTheSame) {
  std::vector<int64_t> lengths(75, 120), losses(75, 2);
  batch_ = Batch(lengths, losses);
  const Outcome kept = Direct(ExactShape(batch_), Keep::kAll);
  for (Keep keep : {Keep::kInput, Keep::kHost}) {
    ExpectSame(Direct(ExactShape(batch_), keep), kept);
  }
  const Outcome whole = Direct(ExactShape(batch_), Keep::kInputWhole);
  EXPECT_EQ(whole.loss, kept.loss);
  for (size_t i = 0; i < kept.gradients.size(); ++i) EXPECT_TRUE(at::equal(whole.gradients[i], kept.gradients[i]));
}

TEST_P(DirectPassTest, EvaluatesWithoutDropoutAndGradients) {
  const at::Tensor before = flat_->gradients().clone();
  const at::Tensor packed = PackBatch(batch_, ExactShape(batch_), kSeed, kLossTokens, false);
  const PassBatch moved = ViewBatch(packed.to(DeviceOf(base_->target)), ExactShape(batch_), packed);
  const DirectPass::Result result = direct_->Evaluate(moved);
  EXPECT_TRUE(at::equal(flat_->gradients(), before));
  const DirectPass::Result trained = direct_->Run(moved, std::vector<Keep>(base_->config.layers, Keep::kAll), true);
  if (IsRandom()) {
    EXPECT_NE(result.loss_sum.item<double>(), trained.loss_sum.item<double>());
    return;
  }
  EXPECT_NEAR(result.loss_sum.item<double>(), trained.loss_sum.item<double>(), 1e-5 * trained.loss_sum.item<double>());
  EXPECT_EQ(result.correct.item<int64_t>(), trained.correct.item<int64_t>());
}

TEST_P(DirectPassTest, GradientsOfSeveralPassesAddUp) {
  const Outcome once = Direct(ExactShape(batch_), Keep::kAll);
  Run(ExactShape(batch_), Keep::kAll);
  const Outcome twice = Collect(Run(ExactShape(batch_), Keep::kAll, /*is_first=*/false));
  for (size_t i = 0; i < once.gradients.size(); ++i) {
    EXPECT_TRUE(Near(twice.gradients[i], 2 * once.gradients[i], 1e-5)) << method_->parameters()[i].name;
  }
}

// Nothing of one sequence reaches another.
TEST_P(DirectPassTest, PackedIsWhatTheSequencesGiveAlone) {
  if (IsRandom()) GTEST_SKIP() << "masks and noise follow the packing";
  const Outcome packed = Direct(ExactShape(batch_), Keep::kAll);
  const MicroBatch whole = batch_;
  double loss = 0;
  bool is_first = true;
  DirectPass::Result result;
  for (size_t i = 0; i + 1 < whole.starts.size(); ++i) {
    const int64_t begin = whole.starts[i], end = whole.starts[i + 1];
    batch_ = {};
    batch_.tokens.assign(whole.tokens.begin() + begin, whole.tokens.begin() + end);
    batch_.starts = {0, end - begin};
    for (size_t n = 0; n < whole.loss_rows.size(); ++n) {
      if (whole.loss_rows[n] < begin || whole.loss_rows[n] >= end) continue;
      batch_.loss_rows.push_back(whole.loss_rows[n] - begin);
      batch_.targets.push_back(whole.targets[n]);
    }
    if (batch_.targets.empty()) continue;
    result = Run(ExactShape(batch_), Keep::kAll, std::exchange(is_first, false));
    loss += result.loss_sum.item<double>();
  }
  Outcome alone = Collect(result);
  alone.loss = loss;
  alone.correct = packed.correct;
  ExpectSame(alone, packed);
}

// Agrees with fp32 as far as bf16 can.
TEST_P(DirectPassTest, InBfloat16GivesRoughlyTheSame) {
  const Outcome expected = Direct(ExactShape(batch_), Keep::kAll);
  Make(ComputeTarget::Type::kBfloat16);
  const Outcome actual = Direct(BucketShape(batch_), Keep::kAll);
  EXPECT_NEAR(actual.loss, expected.loss, 0.02 * expected.loss);
  if (Dropout() > 0) return;  // the masks follow the packed shape
  for (size_t i = 0; i < expected.gradients.size(); ++i) {
    const at::Tensor difference = actual.gradients[i] - expected.gradients[i];
    EXPECT_LT(difference.norm().item<double>(), 0.15 * expected.gradients[i].norm().item<double>());
  }
}

TEST_P(DirectPassTest, ReplayedGraphsFollowTheirInput) {
  if (!GetParam().gpu) GTEST_SKIP() << "graphs are the GPU's";
  Make(ComputeTarget::Type::kBfloat16);
  PassGraphs graphs(direct_.get(), base_.get(), at::kBFloat16, int64_t{1} << 30);
  auto run = [&] { return Collect(graphs.Run(graphs.Pack(batch_, kSeed, kLossTokens), true)); };
  const Outcome first = run();
  EXPECT_EQ(graphs.captured(), 0);
  for (int i = 0; i < 3; ++i) ExpectSame(run(), first);
  EXPECT_EQ(graphs.captured(), 1);
  // Another batch of the same bucket, another mask, and a graph of another bucket between.
  const MicroBatch small = batch_;
  batch_ = Batch({120, 90}, {50, 2});
  for (int i = 0; i < 2; ++i) {
    ExpectSame(run(), Direct(BucketShape(batch_), Keep::kAll));
  }
  EXPECT_EQ(graphs.captured(), 1) << "the larger pass takes the place of the smaller";
  batch_ = Batch({2, 7, 4}, {1, 3, 2});
  ASSERT_EQ(BucketShape(batch_), BucketShape(small));
  ExpectSame(run(), Direct(BucketShape(batch_), Keep::kAll));
  const Outcome before = run();
  const Outcome other_mask = Collect(graphs.Run(graphs.Pack(batch_, kSeed + 1, kLossTokens), true));
  EXPECT_EQ(before.loss == other_mask.loss, !IsRandom());
  EXPECT_EQ(graphs.captured(), 2);
}

// A step's later passes add, also as graphs.
TEST_P(DirectPassTest, GraphsOfLaterPassesAdd) {
  if (!GetParam().gpu) GTEST_SKIP() << "graphs are the GPU's";
  Make(ComputeTarget::Type::kBfloat16);
  PassGraphs graphs(direct_.get(), base_.get(), at::kBFloat16, int64_t{1} << 30);
  const PackedMicroBatch packed = graphs.Pack(batch_, kSeed, kLossTokens);
  const Outcome once = Collect(graphs.Run(packed, true));
  for (int i = 0; i < 3; ++i) {
    graphs.Run(packed, true);
    const Outcome twice = Collect(graphs.Run(packed, false));
    for (size_t p = 0; p < once.gradients.size(); ++p) {
      EXPECT_TRUE(Near(twice.gradients[p], 2 * once.gradients[p], 1e-4)) << method_->parameters()[p].name;
    }
  }
  EXPECT_EQ(graphs.captured(), 2);
}

// What a process computes must not depend on whether it has seen the shape: resuming starts anew.
TEST_P(DirectPassTest, GraphsGiveTheirFirstPassesBits) {
  if (!GetParam().gpu) GTEST_SKIP() << "graphs are the GPU's";
  Make(ComputeTarget::Type::kBfloat16);
  batch_ = Batch(std::vector<int64_t>(75, 120), std::vector<int64_t>(75, 2));
  for (int64_t activation_bytes : {int64_t{1} << 30, int64_t{1000}}) {
    PassGraphs graphs(direct_.get(), base_.get(), at::kBFloat16, activation_bytes);
    const PackedMicroBatch packed = graphs.Pack(batch_, kSeed, kLossTokens);
    const Outcome first = Collect(graphs.Run(packed, true));
    for (int i = 0; i < 2; ++i) {
      const Outcome again = Collect(graphs.Run(packed, true));
      EXPECT_EQ(again.loss, first.loss);
      for (size_t p = 0; p < first.gradients.size(); ++p) {
        EXPECT_TRUE(at::equal(again.gradients[p], first.gradients[p])) << method_->parameters()[p].name;
      }
    }
  }
}

// A long pass is captured piece by piece, and whoever holds the device may be asked between them.
TEST_P(DirectPassTest, GraphsInPiecesPauseAndGiveTheSameBits) {
  if (!GetParam().gpu) GTEST_SKIP() << "graphs are the GPU's";
  Make(ComputeTarget::Type::kBfloat16);
  PassGraphs whole(direct_.get(), base_.get(), at::kBFloat16, int64_t{1} << 30);
  PassGraphs pieces(direct_.get(), base_.get(), at::kBFloat16, int64_t{1} << 30, /*short_pass=*/0);
  const PackedMicroBatch packed = whole.Pack(batch_, kSeed, kLossTokens);
  for (int i = 0; i < 3; ++i) {
    const Outcome expected = Collect(whole.Run(packed, true));
    int pauses = 0;
    const Outcome found = Collect(pieces.Run(packed, true, [&] {
      ++pauses;
      Synchronize(base_->target);
      // Others allocate and compute meanwhile.
      at::ones({1000, 100}, base_->weights.embedding_VD.options()).sum().item<float>();
    }));
    EXPECT_GE(pauses, base_->config.layers) << i;
    EXPECT_EQ(found.loss, expected.loss);
    for (size_t p = 0; p < expected.gradients.size(); ++p) {
      EXPECT_TRUE(at::equal(found.gradients[p], expected.gradients[p])) << method_->parameters()[p].name;
    }
  }
  EXPECT_EQ(pieces.captured(), 1);
}

const std::vector<TargetModule> kSome = {static_cast<TargetModule>(1), static_cast<TargetModule>(3),
                                         static_cast<TargetModule>(6)};

// All that LoRA can adapt.
const std::vector<TargetModule> kAll = {TargetModule::kQProj,    TargetModule::kKProj,  TargetModule::kVProj,
                                        TargetModule::kOProj,    TargetModule::kGateProj, TargetModule::kUpProj,
                                        TargetModule::kDownProj, kEmbedding,            kHead};

INSTANTIATE_TEST_SUITE_P(
    Methods, DirectPassTest,
    ::testing::Values(PassCase{"Lora", Lora(0), false}, PassCase{"LoraDropout", Lora(0.3), false},
                      PassCase{"LoraOnSome", Lora(0, kSome), false}, PassCase{"SoftPrompt", Prompt(), false},
                      PassCase{"Prefix", PrefixOf(), false}, PassCase{"Ia3", Scales(), false},
                      PassCase{"Ia3OnSome", Scales(kSome), false},
                      PassCase{"Ia3Nf4", Scales(), false, WeightFormat::kNf4},
                      PassCase{"GpuPrefix", PrefixOf(), true}, PassCase{"GpuIa3", Scales(), true},
                      PassCase{"Full", FullSpec{}, false}, PassCase{"LastLayer", LastLayer(), false},
                      PassCase{"Scattered", Scattered(), false}, PassCase{"Norms", Norms(), false},
                      PassCase{"Dora", Dora(0), false}, PassCase{"DoraDropout", Dora(0.3), false},
                      PassCase{"DoraOnSome", Dora(0, kSome), false}, PassCase{"DoraNf4", Dora(0), false, WeightFormat::kNf4},
                      PassCase{"GpuDora", Dora(0), true}, PassCase{"GpuDoraOnSome", Dora(0, kSome), true},
                      PassCase{"Saved", Saved({kEmbedding, kHead}), false},
                      PassCase{"SavedEmbedding", Saved({kEmbedding}), false},
                      PassCase{"SavedHeadDropout", Saved({kHead}, Lora(0.3)), false},
                      PassCase{"SavedDora", Saved({kEmbedding, kHead}, Dora(0)), false},
                      PassCase{"SavedNf4", Saved({kEmbedding, kHead}), false, WeightFormat::kNf4},
                      PassCase{"SavedNoise", Saved({kEmbedding, kHead}), false, WeightFormat::kDense, "llama", 5},
                      PassCase{"Adapted", Lora(0, kAll), false}, PassCase{"AdaptedDropout", Lora(0.3, kAll), false},
                      PassCase{"AdaptedEmbedding", Lora(0, {kEmbedding}), false},
                      PassCase{"AdaptedHead", Lora(0, {kHead}), false},
                      PassCase{"AdaptedHeadDropout", Lora(0.3, {kHead}), false},
                      PassCase{"AdaptedNoise", Lora(0, kAll), false, WeightFormat::kDense, "llama", 5},
                      PassCase{"Mixed", Saved({kHead}, Lora(0, {kEmbedding, TargetModule::kVProj})), false},
                      PassCase{"GpuSaved", Saved({kEmbedding, kHead}), true},
                      PassCase{"GpuSavedDora", Saved({kEmbedding, kHead}, Dora(0)), true},
                      PassCase{"GpuSavedNf4", Saved({kEmbedding, kHead}), true, WeightFormat::kNf4},
                      PassCase{"GpuAdapted", Lora(0, kAll), true}, PassCase{"GpuAdaptedDropout", Lora(0.3, kAll), true},
                      PassCase{"GpuAdaptedHead", Lora(0, {kHead}), true},
                      PassCase{"GpuMixed", Saved({kHead}, Lora(0, {kEmbedding, TargetModule::kVProj})), true},
                      PassCase{"LoraInt8", Lora(0), false, WeightFormat::kInt8},
                      PassCase{"LoraNf4", Lora(0), false, WeightFormat::kNf4},
                      PassCase{"GpuLoraInt8", Lora(0), true, WeightFormat::kInt8},
                      PassCase{"GpuLoraNf4", Lora(0), true, WeightFormat::kNf4},
                      PassCase{"GpuLora", Lora(0), true}, PassCase{"GpuLoraDropout", Lora(0.3), true},
                      PassCase{"GpuLoraOnSome", Lora(0, kSome), true}, PassCase{"GpuSoftPrompt", Prompt(), true},
                      PassCase{"GpuFull", FullSpec{}, true}, PassCase{"GpuLastLayer", LastLayer(), true},
                      PassCase{"GpuScattered", Scattered(), true}, PassCase{"GpuNorms", Norms(), true},
                      PassCase{"LoraNoise", Lora(0), false, WeightFormat::kDense, "llama", 5},
                      PassCase{"SoftPromptNoise", Prompt(), false, WeightFormat::kDense, "llama", 5},
                      PassCase{"FullNoise", FullSpec{}, false, WeightFormat::kDense, "llama", 5},
                      PassCase{"GpuLoraNoise", Lora(0), true, WeightFormat::kDense, "llama", 5},
                      PassCase{"GpuSoftPromptNoise", Prompt(), true, WeightFormat::kDense, "llama", 5},
                      PassCase{"GpuFullNoise", FullSpec{}, true, WeightFormat::kDense, "llama", 5}),
    [](const auto& info) { return std::string(info.param.name); });

constexpr WeightFormat kDense = WeightFormat::kDense;

INSTANTIATE_TEST_SUITE_P(
    Families, DirectPassTest,
    ::testing::Values(PassCase{"Qwen2Full", FullSpec{}, false, kDense, "qwen2"},
                      PassCase{"Qwen2BiasesAndNorms", Norms(), false, kDense, "qwen2"},
                      PassCase{"Qwen2LastLayer", LastLayer(), false, kDense, "qwen2"},
                      PassCase{"Qwen2Lora", Lora(0.3), false, kDense, "qwen2"},
                      PassCase{"Qwen2Dora", Dora(0), false, kDense, "qwen2"},
                      PassCase{"Qwen2Ia3OnSome", Scales(kSome), false, kDense, "qwen2"},
                      PassCase{"Qwen2LoraNf4", Lora(0), false, WeightFormat::kNf4, "qwen2"},
                      PassCase{"Qwen3Full", FullSpec{}, false, kDense, "qwen3"},
                      PassCase{"Qwen3BiasesAndNorms", Norms(), false, kDense, "qwen3"},
                      PassCase{"Qwen3Lora", Lora(0.3), false, kDense, "qwen3"},
                      PassCase{"Qwen3Prefix", PrefixOf(), false, kDense, "qwen3"},
                      PassCase{"Qwen3SoftPrompt", Prompt(), false, kDense, "qwen3"},
                      PassCase{"Gemma3Full", FullSpec{}, false, kDense, "gemma3"},
                      PassCase{"Gemma3Norms", Norms(), false, kDense, "gemma3"},
                      PassCase{"Gemma3LastLayer", LastLayer(), false, kDense, "gemma3"},
                      PassCase{"Gemma3Lora", Lora(0.3), false, kDense, "gemma3"},
                      PassCase{"Gemma3Prefix", PrefixOf(), false, kDense, "gemma3"},
                      PassCase{"Gemma3SoftPrompt", Prompt(), false, kDense, "gemma3"},
                      PassCase{"Gemma3Ia3Nf4", Scales(), false, WeightFormat::kNf4, "gemma3"},
                      PassCase{"Gemma2Full", FullSpec{}, false, kDense, "gemma2"},
                      PassCase{"Gemma2Norms", Norms(), false, kDense, "gemma2"},
                      PassCase{"Gemma2Lora", Lora(0.3), false, kDense, "gemma2"},
                      PassCase{"Gemma2SoftPrompt", Prompt(), false, kDense, "gemma2"},
                      PassCase{"Gemma2Saved", Saved({kEmbedding, kHead}), false, kDense, "gemma2"},
                      PassCase{"Gemma2Adapted", Lora(0, kAll), false, kDense, "gemma2"},
                      PassCase{"GpuGemma2Saved", Saved({kEmbedding, kHead}), true, kDense, "gemma2"},
                      PassCase{"GpuGemma2Adapted", Lora(0, kAll), true, kDense, "gemma2"},
                      PassCase{"GpuGemma3Full", FullSpec{}, true, kDense, "gemma3"},
                      PassCase{"GpuGemma3Norms", Norms(), true, kDense, "gemma3"},
                      PassCase{"GpuGemma3Lora", Lora(0.3), true, kDense, "gemma3"},
                      PassCase{"GpuGemma3Prefix", PrefixOf(), true, kDense, "gemma3"},
                      PassCase{"GpuGemma2Full", FullSpec{}, true, kDense, "gemma2"},
                      PassCase{"GpuGemma2Lora", Lora(0), true, kDense, "gemma2"},
                      PassCase{"GpuQwen2Full", FullSpec{}, true, kDense, "qwen2"},
                      PassCase{"GpuQwen2BiasesAndNorms", Norms(), true, kDense, "qwen2"},
                      PassCase{"GpuQwen2Lora", Lora(0.3), true, kDense, "qwen2"},
                      PassCase{"GpuQwen2Dora", Dora(0), true, kDense, "qwen2"},
                      PassCase{"GpuQwen3Full", FullSpec{}, true, kDense, "qwen3"},
                      PassCase{"GpuQwen3BiasesAndNorms", Norms(), true, kDense, "qwen3"},
                      PassCase{"GpuQwen3Lora", Lora(0.3), true, kDense, "qwen3"},
                      PassCase{"GpuQwen3Prefix", PrefixOf(), true, kDense, "qwen3"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ChooseKeepTest, KeepsAsMuchAsFits) {
  ModelConfig config;
  config.layers = 4;
  config.hidden = 64;
  config.intermediate = 256;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  auto bytes = [&](const std::vector<Keep>& keep) {
    int64_t sum = 0;
    for (Keep layer : keep) sum += 10 * KeptBytesPerToken(config, layer, 2);
    return sum;
  };
  const int64_t all = bytes(std::vector<Keep>(4, Keep::kAll)), least = bytes(std::vector<Keep>(4, Keep::kInput));
  EXPECT_LT(least, all / 10);
  for (int64_t budget = least; budget <= all; budget += 512) EXPECT_LE(bytes(ChooseKeep(config, 10, 2, budget)), budget);
  EXPECT_EQ(ChooseKeep(config, 10, 2, all), std::vector<Keep>(4, Keep::kAll));
  EXPECT_EQ(ChooseKeep(config, 10, 2, least), std::vector<Keep>(4, Keep::kInput));
  EXPECT_EQ(ChooseKeep(config, 10, 2, least - 1)[0], Keep::kHost);
  EXPECT_EQ(ChooseKeep(config, 10, 2, 0), std::vector<Keep>(4, Keep::kHost));
  EXPECT_EQ(ChooseKeep(config, 10, 2, 0, /*has_host=*/false), std::vector<Keep>(4, Keep::kInput));
  const std::vector<Keep> nearly = ChooseKeep(config, 10, 2, all - 1);
  EXPECT_EQ(nearly[0], Keep::kNoCheap);
  EXPECT_EQ(nearly[1], Keep::kAll);
}

}  // namespace
}  // namespace attune
