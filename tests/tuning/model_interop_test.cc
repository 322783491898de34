// Compares logits and greedy answers on a real model with what transformers computes
// (tests/interop/model_reference.py, in the folder that
// ATTUNE_TEST_REFERENCES names; the model is ATTUNE_TEST_MODEL).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/packed_ops.h"
#include "server/engine/engine.h"
#include "server/model/weights/safetensors.h"
#include "server/tuning/defaults.h"
#include "server/tuning/trainer.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

constexpr double kLogitTolerance = 2e-3;

at::Tensor Values(const SafetensorsTensor& tensor) {
  at::Tensor values = at::empty(tensor.shape, tensor.type == SafetensorsType::kI64 ? at::kLong : at::kFloat);
  std::memcpy(values.mutable_data_ptr(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

class ModelInteropTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* model = std::getenv("ATTUNE_TEST_MODEL");
    const char* references = std::getenv("ATTUNE_TEST_REFERENCES");
    if (model == nullptr || references == nullptr) {
      GTEST_SKIP() << "ATTUNE_TEST_MODEL and ATTUNE_TEST_REFERENCES are not set";
    }
    references_ = references;
    if (!std::filesystem::exists(references_ + "/model_greedy.json")) GTEST_SKIP() << "no references of the model";
    std::filesystem::create_symlink(model, temp_.File("model.gguf"));
    auto base = LoadBaseModel(temp_.path(), temp_.path(), ComputeTarget{});
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }

  std::unique_ptr<SafetensorsFile> Tensors(const std::string& name) {
    auto file = SafetensorsFile::Open(absl::StrCat(references_, "/", name));
    EXPECT_TRUE(file.ok()) << file.status();
    return std::move(*file);
  }
  nlohmann::json Json(const std::string& name) {
    return nlohmann::json::parse(ReadFile(absl::StrCat(references_, "/", name)).value());
  }

  TempFolder temp_;
  std::string references_;
  std::shared_ptr<const BaseModel> base_;
};

TEST_F(ModelInteropTest, LogitsAgree) {
  auto file = Tensors("model.safetensors");
  int texts = 0;
  double worst = 0;
  for (; file->Find(absl::StrCat("tokens_", texts)) != nullptr; ++texts) {
    const at::Tensor tokens = Values(*file->Find(absl::StrCat("tokens_", texts)));
    const at::Tensor expected = Values(*file->Find(absl::StrCat("logits_", texts)));
    const int64_t* ids = tokens.const_data_ptr<int64_t>();
    const at::Tensor logits = AllLogits(*base_, nullptr, std::vector<int32_t>(ids, ids + tokens.numel()));
    const at::Tensor last = logits.narrow(0, logits.size(0) - expected.size(0), expected.size(0));
    const double difference = (last - expected).abs().max().item<double>();
    EXPECT_LT(difference, kLogitTolerance) << "text " << texts;
    worst = std::max(worst, difference);
  }
  EXPECT_EQ(texts, 8);
  RecordProperty("largest_difference", absl::StrCat(worst));
}

TEST_F(ModelInteropTest, GreedyAnswersAgree) {
  const nlohmann::json cases = Json("model_greedy.json");
  Arbiter::Options options;
  options.memory_bytes = int64_t{8} << 30;
  Arbiter arbiter(&Clock::Real(), options);
  EngineOptions engine_options;
  engine_options.kv_tokens = 2048;
  auto engine = MakeEngine(engine_options, ComputeTarget{}, &arbiter, &Clock::Real(), nullptr);
  auto model = std::make_shared<ServedModel>();
  model->base = base_;
  std::vector<std::unique_ptr<Generation>> running;
  for (const nlohmann::json& given : cases) {
    GenerateParams params;
    params.model = model;
    params.prompt = given.at("prompt").get<std::vector<int32_t>>();
    params.max_tokens = static_cast<int>(given.at("continuation").size());
    params.ignore_eos = true;
    auto generation = engine->Generate(std::move(params));
    ASSERT_TRUE(generation.ok()) << generation.status();
    running.push_back(std::move(*generation));
  }
  // Where two tokens are as likely as each other, the order of summation decides.
  int same = 0;
  for (size_t i = 0; i < running.size(); ++i) {
    std::vector<int32_t> answer;
    GenerationUpdate update;
    while (running[i]->Next(&update)) {
      if (update.has_token) answer.push_back(update.token.id);
    }
    ASSERT_TRUE(running[i]->status().ok()) << running[i]->status();
    same += answer == cases[i].at("continuation").get<std::vector<int32_t>>();
  }
  EXPECT_EQ(running.size(), 8u);
  EXPECT_GE(same, 7);
}

}  // namespace
}  // namespace attune
