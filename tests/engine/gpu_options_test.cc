// What a server may be asked for on a GPU: weights that decoding reads in blocks, and answers whose bits do not depend on
// what else is generated.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/adapters/lora_codes.h"
#include "server/adapters/packed_ops.h"
#include "server/engine/engine.h"
#include "server/engine/gpu_runner.h"
#include "server/model/kernels/tiled_weight.h"
#include "tests/testing/gpu.h"
#include "tests/testing/random_adapter.h"
#include "tests/testing/random_model.h"

namespace attune {
namespace {

using Ids = std::vector<int32_t>;
using DecodeWeights = ComputeTarget::DecodeWeights;

ModelConfig Config() {
  ModelConfig c;
  c.family = "llama";
  c.layers = 3;
  c.heads = 8;
  c.kv_heads = 2;
  c.head_dim = 64;
  c.hidden = 512;
  c.intermediate = 1088;
  c.vocab = 1008;
  c.context = 2048;
  c.tied_head = false;
  return c;
}

class GpuOptionsTest : public ::testing::TestWithParam<DecodeWeights> {
 protected:
  void SetUp() override {
    const std::optional<ComputeTarget> gpu = FindGpu(ComputeTarget::Type::kBfloat16);
    if (!gpu) GTEST_SKIP() << "no GPU";
    at::manual_seed(5);
    target_ = *gpu;
    target_.decode_weights = GetParam();
    Arbiter::Options options;
    options.memory_bytes = int64_t{4} << 30;
    arbiter_ = std::make_unique<Arbiter>(&Clock::Real(), options);
    options_.kv_tokens = 16384;
  }
  void Start(const ModelConfig& config = Config()) {
    base_ = MakeRandomModel(config, target_);
    engine_ = MakeEngine(options_, target_, arbiter_.get(), &Clock::Real(), nullptr);
  }
  std::shared_ptr<const ServedModel> Model(std::shared_ptr<const Adapter> adapter = nullptr) {
    auto model = std::make_shared<ServedModel>();
    model->base = base_;
    model->adapter = std::move(adapter);
    model->uid = ++uid_;
    return model;
  }
  at::TensorOptions options() const { return base_->weights.embedding_VD.options(); }
  std::shared_ptr<const Adapter> Lora(int64_t rank) const { return RandomLoraOfRank(base_->config, rank, options()); }
  std::shared_ptr<const Adapter> SoftPrompt(int64_t tokens) const {
    auto adapter = std::make_shared<Adapter>();
    adapter->soft_prompt = std::make_unique<attune::SoftPrompt>();
    adapter->soft_prompt->embeddings_ND = (at::randn({tokens, base_->config.hidden}) * 0.05).to(options());
    return adapter;
  }
  // How far each token behind the prompt is below the likeliest, at most, in standard deviations of the logits.
  double Shortfall(const Adapter* adapter, const Ids& all, int64_t prompt, const BaseModel* base = nullptr) const {
    const at::Tensor logits = AllLogits(base ? *base : *base_, adapter, all);
    double worst = 0;
    for (int64_t at = prompt; at < static_cast<int64_t>(all.size()); ++at) {
      const at::Tensor row = logits[at - 1];
      worst = std::max(worst, (row.max() - row[all[at]]).item<double>() / row.std().item<double>());
    }
    return worst;
  }
  static Ids MakePrompt(int length, int start) {
    Ids ids;
    for (int i = 0; i < length; ++i) ids.push_back(3 + (start * 131 + i * 17) % 997);
    return ids;
  }

  ComputeTarget target_;
  std::unique_ptr<Arbiter> arbiter_;
  EngineOptions options_;
  std::shared_ptr<const BaseModel> base_;
  std::unique_ptr<Engine> engine_;
  uint64_t uid_ = 0;
};

// The dense model of what the blocks say.
std::shared_ptr<const BaseModel> Dense(const BaseModel& base) {
  auto dense = std::make_shared<BaseModel>();
  dense->config = base.config;
  dense->target = base.target;
  dense->rope_cos_PH = base.rope_cos_PH;
  dense->rope_sin_PH = base.rope_sin_PH;
  dense->weights = base.weights;
  auto values = [](const TiledWeight& tiled, const at::Tensor& like) {
    const at::Tensor transposed = at::empty({tiled.columns, tiled.rows}, like.options());
    MultiplyTiled(at::eye(tiled.columns, like.options()), tiled, transposed);
    return transposed.t().contiguous();
  };
  for (LayerWeights& layer : dense->weights.layers) {
    for (int i = 0; i < kLinears; ++i) layer.linear[i] = values(*layer.tiled[i], layer.linear[i]);
  }
  dense->weights.head_VD = values(*base.weights.tiled_head, base.weights.head_VD);
  return dense;
}

// The same blocks beside dense weights that answer nothing.
std::shared_ptr<const BaseModel> BlocksAlone(const BaseModel& base) {
  auto alone = std::make_shared<BaseModel>();
  alone->config = base.config;
  alone->target = base.target;
  alone->rope_cos_PH = base.rope_cos_PH;
  alone->rope_sin_PH = base.rope_sin_PH;
  alone->weights = base.weights;
  for (LayerWeights& layer : alone->weights.layers) {
    for (at::Tensor& dense : layer.linear) dense = at::zeros_like(dense);
  }
  alone->weights.head_VD = at::zeros_like(base.weights.head_VD);
  return alone;
}

TEST_P(GpuOptionsTest, AnswersAreLikelyByTheWeightsBlocks) {
  if (GetParam() == DecodeWeights::kAsLoaded) GTEST_SKIP() << "no blocks";
  options_.max_batch_tokens = 32;  // longer steps read the dense weights
  Start();
  ASSERT_NE(base_->weights.layers[0].tiled[0], nullptr);
  const std::shared_ptr<const BaseModel> dense = Dense(*base_);
  const at::Tensor head_VD = base_->weights.head_VD;
  base_ = BlocksAlone(*base_);
  const double change = (dense->weights.head_VD - head_VD).norm().item<double>() / head_VD.norm().item<double>();
  EXPECT_LT(change, GetParam() == DecodeWeights::kInt8 ? 0.01 : GetParam() == DecodeWeights::kFp8 ? 0.04 : 0.12);
  EXPECT_GT(change, 0.001);
  std::vector<std::pair<std::shared_ptr<const ServedModel>, std::unique_ptr<Generation>>> running;
  for (int i = 0; i < 20; ++i) {
    GenerateParams params;
    params.model = Model(i % 3 == 1 ? Lora(8) : nullptr);
    params.prompt = MakePrompt(5 + i, i);
    params.max_tokens = 30;
    params.ignore_eos = true;
    auto model = params.model;
    auto generation = engine_->Generate(std::move(params));
    ASSERT_TRUE(generation.ok()) << generation.status();
    running.emplace_back(std::move(model), std::move(*generation));
  }
  for (int i = 0; i < 20; ++i) {
    Ids all = MakePrompt(5 + i, i);
    const int64_t prompt = static_cast<int64_t>(all.size());
    GenerationUpdate update;
    while (running[i].second->Next(&update)) {
      if (update.has_token) all.push_back(update.token.id);
    }
    EXPECT_LT(Shortfall(running[i].first->adapter.get(), all, prompt, dense.get()), 0.2) << "request " << i;
  }
}

TEST_P(GpuOptionsTest, AnswersAreTheSameBitsWhateverIsBesideThem) {
  target_.batch_invariant = true;
  options_.max_batch_tokens = 96;
  Start();
  ASSERT_TRUE(GpuRunner::Serves(*base_));
  const std::vector<std::shared_ptr<const ServedModel>> models = {
      Model(), Model(Lora(5)), Model(SoftPrompt(3)), Model(Lora(16)), Model(RandomPrefix(base_->config, 20, options(), 0.5)),
      Model(RandomIa3(base_->config, options())), Model(Lora(600))};
  auto ask = [&](int number) {
    GenerateParams params;
    params.model = models[number % models.size()];
    params.prompt = MakePrompt(3 + number * 23, number / 3);
    params.max_tokens = 16;
    params.ignore_eos = true;
    params.sampling.temperature = 1;
    params.sampling.seed = number;
    params.logprobs = true;
    auto generation = engine_->Generate(std::move(params));
    EXPECT_TRUE(generation.ok()) << generation.status();
    return std::move(*generation);
  };
  auto read = [](Generation* generation) {
    std::vector<std::pair<int32_t, float>> out;
    GenerationUpdate update;
    while (generation->Next(&update)) {
      if (update.has_token) out.emplace_back(update.token.id, update.token.logprob);
    }
    return out;
  };
  constexpr int kCount = 30;
  std::vector<std::vector<std::pair<int32_t, float>>> alone;
  for (int i = 0; i < kCount; ++i) alone.push_back(read(ask(i).get()));
  // Once with beginnings that are cached by now, once without.
  for (const bool is_fresh : {false, true}) {
    if (is_fresh) engine_ = MakeEngine(options_, target_, arbiter_.get(), &Clock::Real(), nullptr);
    std::vector<std::unique_ptr<Generation>> together;
    for (int i = 0; i < kCount; ++i) together.push_back(ask(i));
    for (int i = 0; i < kCount; ++i) EXPECT_EQ(read(together[i].get()), alone[i]) << i << (is_fresh ? ", fresh" : "");
  }
}

// What decoding reads of LoRAs that no two rows share: of two kinds of values that are not the same, the other one is zero. Prompts of one token are
// read as answers are.
TEST_P(GpuOptionsTest, AnswersAreLikelyByWhatIsReadOfLoras) {
  if (GetParam() != DecodeWeights::kAsLoaded) GTEST_SKIP() << "the weights are not what they are compared with";
  target_.int8_loras = true;
  constexpr int kCount = 20, kNew = 30;
  for (const bool by_codes : {true, false}) {
    SCOPED_TRACE(by_codes ? "codes" : "matrices, for one has no codes");
    Start();
    std::vector<std::shared_ptr<const Adapter>> all_read, meant;
    for (int i = 0; i < kCount; ++i) {
      auto adapter = std::const_pointer_cast<Adapter>(Lora(4 + i)), said = std::const_pointer_cast<Adapter>(Lora(4 + i));
      for (auto& layer : adapter->lora->layers) {
        for (LoraModule& module : layer) module.b_OR.mul_(3);
      }
      AddLoraCodes(adapter.get());
      for (size_t l = 0; l < adapter->lora->layers.size(); ++l) {
        for (int p = 0; p < kProjections; ++p) {
          LoraModule& module = adapter->lora->layers[l][p];
          const LoraModule& to = said->lora->layers[l][p];
          if (!by_codes) {
            to.a_RI.copy_(module.a_RI);
            to.b_OR.copy_(module.b_OR);
            module.codes.scale_R.zero_();
            continue;
          }
          to.a_RI.copy_(module.codes.a_RI * module.codes.scale_R.unsqueeze(1) * 100);
          to.b_OR.copy_(module.codes.b_OR.narrow(1, 0, 4 + i) * 0.01);
          module.a_RI.zero_();
          module.b_OR.zero_();
        }
      }
      all_read.push_back(adapter);
      meant.push_back(said);
    }
    auto submit = [&](std::shared_ptr<const Adapter> adapter, int i, int tokens) {
      GenerateParams params;
      params.model = Model(std::move(adapter));
      params.prompt = MakePrompt(1, i);
      params.max_tokens = tokens;
      params.ignore_eos = true;
      auto generation = engine_->Generate(std::move(params));
      EXPECT_TRUE(generation.ok()) << generation.status();
      return generation.ok() ? std::move(*generation) : nullptr;
    };
    // Before and after all others.
    const std::unique_ptr<Generation> beside = by_codes ? nullptr : submit(Lora(2), 0, 1500);
    std::vector<std::unique_ptr<Generation>> running;
    for (int i = 0; i < kCount; ++i) running.push_back(submit(all_read[i], i, kNew));
    int unlike = 0;
    for (int i = 0; i < kCount; ++i) {
      Ids all = MakePrompt(1, i);
      GenerationUpdate update;
      while (running[i]->Next(&update)) {
        if (update.has_token) all.push_back(update.token.id);
      }
      ASSERT_EQ(all.size(), static_cast<size_t>(1 + kNew)) << running[i]->status();
      EXPECT_LT(Shortfall(meant[i].get(), all, 1), 0.2) << "request " << i;
      unlike += Shortfall(nullptr, all, 1) > 0.2;
    }
    EXPECT_GT(unlike, kCount / 2) << "the LoRAs change too little to tell";
  }
}

// Matrices that do not go into tiles have no such product: said, not served otherwise.
TEST_P(GpuOptionsTest, WhatCannotBeAlikeIsRefused) {
  target_.batch_invariant = true;
  ModelConfig config = Config();
  config.vocab = 1003;
  Start(config);
  GenerateParams params;
  params.model = Model();
  params.prompt = MakePrompt(4, 1);
  params.max_tokens = 2;
  auto generation = engine_->Generate(std::move(params));
  absl::Status status = generation.status();
  if (generation.ok()) {
    GenerationUpdate update;
    while ((*generation)->Next(&update)) {
    }
    status = (*generation)->status();
  }
  EXPECT_EQ(GetErrorDetails(status).reason, "NOT_ON_THIS_DEVICE") << status;
}

INSTANTIATE_TEST_SUITE_P(Weights, GpuOptionsTest,
                         ::testing::Values(DecodeWeights::kAsLoaded, DecodeWeights::kInt8, DecodeWeights::kFp8,
                                           DecodeWeights::kInt4),
                         [](const auto& info) {
                           return info.param == DecodeWeights::kAsLoaded ? std::string("AsLoaded")
                                                                         : std::string(DecodeWeightsName(info.param));
                         });

}  // namespace
}  // namespace attune
