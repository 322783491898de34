// Compares tokens, logits, greedy answers and optimizer steps of Gemma 3 270M with what transformers and PEFT compute
// (tests/interop/gemma_reference.py, in the folder that ATTUNE_TEST_REFERENCES names; the model's GGUF file is
// ATTUNE_TEST_GEMMA).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/packed_ops.h"
#include "server/engine/engine.h"
#include "server/model/weights/safetensors.h"
#include "server/tuning/defaults.h"
#include "server/tuning/trainer.h"
#include "tests/testing/gpu.h"
#include "tests/testing/reference_tensors.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

constexpr double kLogitTolerance = 2e-3;
constexpr double kStepTolerance = 1e-3;  // relative
constexpr int64_t kEach = 64;            // of the vocabulary, in the reference

class GemmaInteropTest : public ::testing::Test {
 protected:
  void SetUp() override { Load(ComputeTarget{}); }

  void Load(const ComputeTarget& target) {
    const char *model = std::getenv("ATTUNE_TEST_GEMMA"), *references = std::getenv("ATTUNE_TEST_REFERENCES");
    folder_ = absl::StrCat(references ? references : "", "/gemma");
    if (model == nullptr || references == nullptr || !std::filesystem::exists(folder_ + "/steps.json")) {
      GTEST_SKIP() << "ATTUNE_TEST_GEMMA and ATTUNE_TEST_REFERENCES do not name the model and its references";
    }
    if (!std::filesystem::exists(temp_.File("model.gguf")))
      std::filesystem::create_symlink(model, temp_.File("model.gguf"));
    auto base = LoadBaseModel(temp_.path(), temp_.path(), target);
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }
  nlohmann::json Json(const std::string& name) {
    return nlohmann::json::parse(ReadFile(absl::StrCat(folder_, "/", name, ".json")).value());
  }
  std::unique_ptr<SafetensorsFile> Tensors(const std::string& name) {
    auto file = SafetensorsFile::Open(absl::StrCat(folder_, "/", name, ".safetensors"));
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? std::move(*file) : nullptr;
  }

  void ExpectLogits(double tolerance) {
    const auto file = Tensors("logits");
    double worst = 0;
    int texts = 0;
    for (; file->Find(absl::StrCat("tokens_", texts)) != nullptr; ++texts) {
      const at::Tensor tokens = Values(*file, absl::StrCat("tokens_", texts));
      const at::Tensor expected = Values(*file, absl::StrCat("logits_", texts));
      const int64_t* ids = tokens.const_data_ptr<int64_t>();
      const at::Tensor hidden = AllHidden(*base_, nullptr, {std::vector<int32_t>(ids, ids + tokens.numel())});
      const int64_t rows = expected.size(0);
      const at::Tensor logits = at::linear(hidden.narrow(0, hidden.size(0) - rows, rows), base_->weights.head_VD);
      const at::Tensor found = logits.to(at::kCPU, at::kFloat).slice(1, 0, std::nullopt, kEach);
      ASSERT_EQ(found.sizes(), expected.sizes());
      worst = std::max(worst, (found - expected).abs().max().item<double>());
    }
    EXPECT_EQ(texts, 5);
    EXPECT_LT(worst, tolerance);
    RecordProperty("largest_difference", absl::StrCat(worst));
  }

  // How many of the greedy answers are the reference's, side by side and in pieces.
  int CountSameAnswers() {
    Arbiter::Options options;
    options.memory_bytes = int64_t{16} << 30;
    Arbiter arbiter(&Clock::Real(), options);
    EngineOptions engine_options;
    engine_options.kv_tokens = 4096;
    engine_options.max_batch_tokens = 200;
    const auto engine = MakeEngine(engine_options, base_->target, &arbiter, &Clock::Real(), nullptr);
    auto model = std::make_shared<ServedModel>();
    model->base = base_;
    const nlohmann::json cases = Json("greedy");
    std::vector<std::unique_ptr<Generation>> running;
    for (const nlohmann::json& given : cases) {
      GenerateParams params;
      params.model = model;
      params.prompt = given.at("prompt").get<std::vector<int32_t>>();
      params.max_tokens = static_cast<int>(given.at("continuation").size());
      params.ignore_eos = true;
      auto generation = engine->Generate(std::move(params));
      EXPECT_TRUE(generation.ok()) << generation.status();
      if (!generation.ok()) return -1;
      running.push_back(std::move(*generation));
    }
    int same = 0;
    for (size_t i = 0; i < running.size(); ++i) {
      std::vector<int32_t> answer;
      GenerationUpdate update;
      while (running[i]->Next(&update)) {
        if (update.has_token) answer.push_back(update.token.id);
      }
      same += answer == cases[i].at("continuation").get<std::vector<int32_t>>();
    }
    return same;
  }

  TempFolder temp_;
  std::string folder_;
  std::shared_ptr<const BaseModel> base_;
};

TEST_F(GemmaInteropTest, TokensAgree) {
  const Tokenizer& tokenizer = *base_->tokenizer;
  for (const nlohmann::json& given : Json("tokens")) {
    const auto text = given.at("text").get<std::string>();
    const auto ids = given.at("ids").get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.Encode(text, /*parse_special=*/true), ids) << text.substr(0, 80);
    EXPECT_EQ(tokenizer.Decode(ids, /*skip_special=*/false), text);
  }
  EXPECT_TRUE(tokenizer.add_bos());
  const int32_t end_of_turn = tokenizer.TokenId("<end_of_turn>");
  EXPECT_NE(std::find(base_->end_ids.begin(), base_->end_ids.end(), end_of_turn), base_->end_ids.end());
}

TEST_F(GemmaInteropTest, LogitsAgree) { ExpectLogits(kLogitTolerance); }

TEST_F(GemmaInteropTest, GreedyAnswersAgree) { EXPECT_EQ(CountSameAnswers(), 4); }

// What a tuned model of this base would be saved as, transformers' form with one less in its norms, is read back.
TEST_F(GemmaInteropTest, SavedWeightsGiveTheSameLogits) {
  TempFolder saved;
  ASSERT_TRUE(SaveWeights(saved.path(), base_->config, base_->weights, *base_->tokenizer).ok());
  auto base = LoadBaseModel(saved.path(), temp_.path(), ComputeTarget{});
  ASSERT_TRUE(base.ok()) << base.status();
  base_ = *base;
  ExpectLogits(kLogitTolerance);
}

class GemmaStepTest : public GemmaInteropTest {
 protected:
  void ExpectSameSteps(const std::string& name, const MethodSpec& spec) {
    const nlohmann::json reference = Json("steps"), expected = reference.at("methods").at(name);
    std::vector<Example> examples;
    for (const nlohmann::json& given : reference.at("examples")) {
      Example example;
      example.tokens = given.at(0).get<std::vector<int32_t>>();
      example.has_loss.assign(example.tokens.size(), 1);
      std::fill_n(example.has_loss.begin(), given.at(1).get<size_t>(), 0);
      examples.push_back(std::move(example));
    }
    auto method = MakeMethod(spec, base_, 1);
    ASSERT_TRUE(method.ok()) << method.status();
    const auto start = Tensors("steps_" + name);
    for (const Parameter& parameter : (*method)->parameters()) {
      const at::NoGradGuard no_grad;
      at::Tensor(parameter.leaf).copy_(Values(*start, parameter.name));
    }
    Hyperparameters h;
    h.learning_rate = expected.at("learning_rate").get<double>();
    h.schedule = LearningRateSchedule::kConstant;
    h.warmup_ratio = 0;
    h.weight_decay = 0.01;
    h.batch_size = static_cast<int32_t>(examples.size());
    h.max_steps = static_cast<int64_t>(expected.at("losses").size());
    h = ResolveHyperparameters(spec, h, {base_->config.Parameters(), 4, 1, 0, {}});
    Batcher batcher(&examples, h.batch_size, h.micro_batch_tokens, (*method)->virtual_tokens(), 1);
    Trainer trainer(base_.get(), method->get(), &batcher, h, nullptr);
    for (int64_t step = 0; step < h.max_steps; ++step) {
      auto result = trainer.Step(step);
      ASSERT_TRUE(result.ok()) << result.status();
      const double loss = expected.at("losses")[step].get<double>(),
                   norm = expected.at("gradient_norms")[step].get<double>();
      EXPECT_NEAR(result->loss, loss, kStepTolerance * loss) << name << ", step " << step;
      EXPECT_NEAR(result->gradient_norm, norm, 10 * kStepTolerance * norm) << name << ", step " << step;
    }
    EXPECT_LT(expected.at("losses").back().get<double>(), 0.9 * expected.at("losses").front().get<double>());
  }
};

TEST_F(GemmaStepTest, LoraAgrees) {
  LoraSpec spec;
  spec.rank = 4;
  spec.alpha = 8;
  spec.dropout = 0;
  ExpectSameSteps("lora", spec);
}

TEST_F(GemmaStepTest, SoftPromptAgrees) {
  SoftPromptSpec spec;
  spec.num_virtual_tokens = 8;
  spec.init = SoftPromptSpec::Init::kRandom;
  ExpectSameSteps("soft_prompt", spec);
}

TEST_F(GemmaStepTest, NormsAgree) {
  PartialSpec spec;
  spec.biases_and_norms = true;
  ExpectSameSteps("norms", spec);
}

// Through ATen, where the engine's own kernels do not serve the model.
class GpuGemmaInteropTest : public GemmaInteropTest {
 protected:
  void SetUp() override {
    if (!FindGpu()) GTEST_SKIP() << "no GPU";
    Load(*FindGpu(ComputeTarget::Type::kFloat32));
  }
};

TEST_F(GpuGemmaInteropTest, LogitsAndAnswersAgreeInFloat32) {
  ExpectLogits(1e-2);
  EXPECT_GE(CountSameAnswers(), 3);
}

TEST_F(GpuGemmaInteropTest, AnswersInBfloat16) {
  Load(*FindGpu(ComputeTarget::Type::kBfloat16));
  ExpectLogits(1.5);
  EXPECT_GE(CountSameAnswers(), 1);
}

}  // namespace
}  // namespace attune
