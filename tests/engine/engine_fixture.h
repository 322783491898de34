#ifndef ATTUNE_TESTS_ENGINE_ENGINE_FIXTURE_H_
#define ATTUNE_TESTS_ENGINE_ENGINE_FIXTURE_H_

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/adapters/packed_ops.h"
#include "server/engine/engine.h"
#include "tests/testing/random_adapter.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace attune {

using Ids = std::vector<int32_t>;

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(29);
    TinyModel::WriteGguf(temp_.File("model.gguf"));
    Load(ComputeTarget{});
    Arbiter::Options options;
    options.memory_bytes = int64_t{1} << 30;
    arbiter_ = std::make_unique<Arbiter>(&Clock::Real(), options);
    options_.kv_tokens = 1024;
  }
  void Load(const ComputeTarget& target) {
    auto base = LoadBaseModel(temp_.path(), temp_.path(), target);
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }
  void Start(EngineObserver* observer = nullptr) {
    engine_ = MakeEngine(options_, base_->target, arbiter_.get(), &Clock::Real(), observer);
  }

  std::shared_ptr<const ServedModel> Model(std::shared_ptr<const Adapter> adapter = nullptr) {
    auto model = std::make_shared<ServedModel>();
    model->base = base_;
    model->adapter = std::move(adapter);
    model->uid = ++uid_;
    return model;
  }
  std::shared_ptr<const Adapter> Lora() {
    auto adapter = std::make_shared<Adapter>();
    adapter->lora = std::make_unique<LoraAdapter>();
    adapter->lora->layers.resize(TinyModel::kLayers);
    for (auto& layer : adapter->lora->layers) {
      for (int p = 0; p < kProjections; ++p) {
        const ProjectionSlice slice = SliceOf(base_->config, static_cast<Projection>(p));
        const int64_t in = base_->weights.layers[0].linear[static_cast<int>(slice.linear)].size(1);
        const at::TensorOptions options = base_->weights.embedding_VD.options();
        layer[p] = {at::randn({2, in}).to(options), (at::randn({slice.rows, 2}) * 0.2).to(options), 0.5};
      }
    }
    return adapter;
  }
  std::shared_ptr<const Adapter> Prompt(int64_t tokens) {
    auto adapter = std::make_shared<Adapter>();
    adapter->soft_prompt = std::make_unique<SoftPrompt>();
    adapter->soft_prompt->embeddings_ND =
        (at::randn({tokens, TinyModel::kHidden}) * 0.3).to(base_->weights.embedding_VD.options());
    return adapter;
  }

  std::shared_ptr<const Adapter> Prefix(int64_t tokens) {
    return RandomPrefix(base_->config, tokens, base_->weights.embedding_VD.options());
  }
  std::shared_ptr<const Adapter> Dora() { return RandomDora(*base_, 4, base_->weights.embedding_VD.options()); }
  std::shared_ptr<const Adapter> Ia3() { return RandomIa3(base_->config, base_->weights.embedding_VD.options()); }

  std::shared_ptr<const Adapter> OwnVocabulary(const VocabularyKind& kind) {
    auto adapter = std::const_pointer_cast<Adapter>(Lora());
    AddRandomVocabulary(base_->config, kind, adapter->lora.get(), base_->weights.embedding_VD.options());
    return adapter;
  }

  // The likeliest continuation, by whole forward passes.
  Ids Greedy(const ServedModel& model, Ids tokens, int count) {
    Ids answer;
    for (int i = 0; i < count; ++i) {
      const at::Tensor logits = AllLogits(*base_, model.adapter.get(), tokens);
      answer.push_back(static_cast<int32_t>(logits[logits.size(0) - 1].argmax().item<int64_t>()));
      tokens.push_back(answer.back());
    }
    return answer;
  }
  static Ids MakePrompt(int length, int start) {
    Ids ids;
    for (int i = 0; i < length; ++i) ids.push_back(3 + (start * 31 + i * 7) % 250);
    return ids;
  }

  GenerateParams Params(std::shared_ptr<const ServedModel> model, Ids prompt, int max_tokens) {
    GenerateParams params;
    params.model = std::move(model);
    params.prompt = std::move(prompt);
    params.max_tokens = max_tokens;
    params.ignore_eos = true;
    return params;
  }
  std::unique_ptr<Generation> Submit(GenerateParams params) {
    auto generation = engine_->Generate(std::move(params));
    EXPECT_TRUE(generation.ok()) << generation.status();
    return generation.ok() ? std::move(*generation) : nullptr;
  }
  // A last update may be read before the engine has taken the pages and the swap space back. Never
  // returns if it does not.
  void AwaitNoPagesInUse() const {
    while (engine_->stats().kv_pages_used != 0 || engine_->stats().swap_bytes_used != 0) std::this_thread::yield();
  }
  // Each answer's tokens, and how it ended.
  struct Answers {
    std::vector<Ids> tokens;
    std::vector<FinishReason> finish;
    std::vector<TokenInfo> infos;  // of answer 0
  };
  static Answers Collect(Generation* generation, int n = 1) {
    Answers answers{std::vector<Ids>(n), std::vector<FinishReason>(n, FinishReason::kNone), {}};
    GenerationUpdate update;
    while (generation->Next(&update)) {
      if (update.has_token) answers.tokens[update.index].push_back(update.token.id);
      if (update.has_token && update.index == 0) answers.infos.push_back(update.token);
      if (update.finish != FinishReason::kNone) answers.finish[update.index] = update.finish;
    }
    return answers;
  }

  TempFolder temp_;
  std::shared_ptr<const BaseModel> base_;
  std::unique_ptr<Arbiter> arbiter_;
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;
  uint64_t uid_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_ENGINE_ENGINE_FIXTURE_H_
