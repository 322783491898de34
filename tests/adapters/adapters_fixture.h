#ifndef ATTUNE_TESTS_ADAPTERS_ADAPTERS_FIXTURE_H_
#define ATTUNE_TESTS_ADAPTERS_ADAPTERS_FIXTURE_H_

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "server/adapters/adapter.h"
#include "server/adapters/formats/peft.h"
#include "server/adapters/inspect.h"
#include "server/adapters/registry.h"
#include "server/model/base_model.h"
#include "tests/testing/manual_clock.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace attune {

// A registry with the tiny model as "gguf" and as "hf", and adapters over it.
class AdaptersFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(temp_.File("roots"));
    TinyModel::WriteGguf(temp_.File("roots/tiny.gguf"));
    ASSERT_TRUE(TinyModel::WriteHuggingFace(temp_.File("roots/tiny-hf")).ok());
    database_ = Database::Open(":memory:").value();
    ModelRegistry::Options options;
    options.import_roots = {temp_.File("roots")};
    options.export_root = temp_.File("exports");
    options.inspect = InspectModel;
    options.inspect_adapter = InspectAdapter;
    registry_ = ModelRegistry::Open(temp_.File("models"), database_.get(), &clock_, options).value();
    for (const auto& [path, id] : {std::pair{"roots/tiny.gguf", "gguf"}, std::pair{"roots/tiny-hf", "hf"}}) {
      ModelRegistry::ImportOptions import;
      import.source_path = temp_.File(path);
      import.id = id;
      absl::StatusOr<ModelInfo> info = registry_->Import(import);
      ASSERT_TRUE(info.ok()) << info.status();
      config_ = LoadConfig(registry_->Directory(id)).value();
    }
  }

  // A LoRA on every projection, far from zero.
  static std::unique_ptr<Adapter> RandomLora(const ModelConfig& config) {
    auto adapter = std::make_unique<Adapter>();
    adapter->lora = std::make_unique<LoraAdapter>();
    adapter->lora->rank = 3;
    adapter->lora->alpha = 6;
    adapter->lora->layers.resize(config.layers);
    for (auto& layer : adapter->lora->layers) {
      for (int p = 0; p < kProjections; ++p) {
        const Projection projection = static_cast<Projection>(p);
        const int64_t in = projection == Projection::kO      ? config.q_size()
                           : projection == Projection::kDown ? config.intermediate
                                                             : config.hidden;
        layer[p].a_RI = at::randn({3, in}) * 0.2;
        layer[p].b_OR = at::randn({SliceOf(config, projection).rows, 3}) * 0.2;
        layer[p].scale = 2;
      }
    }
    return adapter;
  }

  static std::unique_ptr<Adapter> RandomSoftPrompt(const ModelConfig& config) {
    auto adapter = std::make_unique<Adapter>();
    adapter->soft_prompt = std::make_unique<SoftPrompt>();
    adapter->soft_prompt->embeddings_ND = at::randn({5, config.hidden});
    return adapter;
  }

  void PublishAdapter(const std::string& id, const std::string& base, const Adapter& adapter) {
    const std::string staging = registry_->NewStagingDirectory().value();
    // Full weights of a job bring no tokenizer: every model here has that of "gguf".
    auto model = LoadBaseModel(registry_->Directory(base), registry_->Directory("gguf"), {});
    ASSERT_TRUE(model.ok()) << model.status();
    ASSERT_TRUE(SavePeft(staging, adapter, config_, base, {(*model)->rope_cos_PH, (*model)->rope_sin_PH}).ok());
    ModelInfo info;
    info.id = id;
    info.kind = adapter.lora          ? ModelKind::kLora
                : adapter.soft_prompt ? ModelKind::kSoftPrompt
                : adapter.prefix      ? ModelKind::kPrefix
                                      : ModelKind::kIa3;
    info.base_model = base;
    info.metrics = {{"validation_loss", 0.5}};
    absl::StatusOr<ModelInfo> published = registry_->Publish(info, staging);
    ASSERT_TRUE(published.ok()) << published.status();
  }

  // Weights of their own, over the tokenizer of `base`.
  void PublishFullWeights(const std::string& id, const std::string& base, uint32_t seed) {
    const std::string staging = registry_->NewStagingDirectory().value();
    ASSERT_TRUE(TinyModel::WriteHuggingFace(staging, seed).ok());
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) std::filesystem::remove(staging + "/" + name);
    ModelInfo info;
    info.id = id;
    info.kind = ModelKind::kFullWeights;
    info.base_model = base;
    absl::StatusOr<ModelInfo> published = registry_->Publish(info, staging);
    ASSERT_TRUE(published.ok()) << published.status();
  }

  TempFolder temp_;
  ManualClock clock_;
  ModelConfig config_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<ModelRegistry> registry_;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_ADAPTERS_ADAPTERS_FIXTURE_H_
