// Compares training objectives with what plain torch code over transformers and PEFT computes for a small random model
// (tests/interop/objectives_reference.py, in the folder that ATTUNE_TEST_REFERENCES names), in fp32.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/model/weights/safetensors.h"
#include "server/tuning/defaults.h"
#include "server/tuning/direct_pass.h"
#include "server/tuning/reference.h"
#include "server/tuning/teacher.h"
#include "server/tuning/trainer.h"
#include "tests/testing/reference_tensors.h"

namespace attune {
namespace {

constexpr double kGradientTolerance = 1e-4;  // of the norm, a parameter
constexpr double kStepTolerance = 2e-4;      // relative
// Adam's first steps are as long for the smallest gradients as for the largest, so that rounding shows.
constexpr double kChangeTolerance = 1e-2;

class ObjectivesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* references = std::getenv("ATTUNE_TEST_REFERENCES");
    folder_ = absl::StrCat(references ? references : "", "/objectives");
    if (references == nullptr || !std::filesystem::exists(folder_)) {
      GTEST_SKIP() << "no references where ATTUNE_TEST_REFERENCES says";
    }
    base_ = Load("base");
    given_ = nlohmann::json::parse(ReadFile(folder_ + "/steps.json").value());
  }

  std::shared_ptr<const BaseModel> Load(const std::string& name) const {
    const std::string path = absl::StrCat(folder_, "/", name);
    auto base = LoadBaseModel(path, path, ComputeTarget{});
    EXPECT_TRUE(base.ok()) << base.status();
    return base.ok() ? *base : nullptr;
  }
  std::unique_ptr<SafetensorsFile> Tensors(const std::string& name) const {
    auto file = SafetensorsFile::Open(absl::StrCat(folder_, "/", name, ".safetensors"));
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? std::move(*file) : nullptr;
  }

  static LoraSpec Lora() { return {.rank = 4, .alpha = 8, .dropout = 0}; }

  static Example MakeExample(const std::vector<int32_t>& prompt, const std::vector<int32_t>& answer) {
    Example example;
    example.tokens = prompt;
    example.tokens.insert(example.tokens.end(), answer.begin(), answer.end());
    example.has_loss.assign(example.tokens.size(), 1);
    std::fill_n(example.has_loss.begin(), prompt.size(), 0);
    example.prompt_tokens = static_cast<int64_t>(prompt.size());
    return example;
  }

  std::unique_ptr<Method> Start(const MethodSpec& spec, const SafetensorsFile& tensors) const {
    auto method = MakeMethod(spec, base_, 1);
    EXPECT_TRUE(method.ok()) << method.status();
    at::NoGradGuard no_grad;
    for (const Parameter& parameter : (*method)->parameters()) {
      at::Tensor(parameter.leaf).copy_(Values(tensors, "start." + parameter.name));
    }
    EXPECT_EQ(3 * (*method)->parameters().size(), tensors.tensors().size()) << "not the same parameters train";
    return std::move(*method);
  }

  // Of the whole batch, exact and padded.
  void ExpectSameGradients(const MethodSpec& spec, const std::string& name) {
    const auto tensors = Tensors("steps_" + name);
    const std::unique_ptr<Method> method = Start(spec, *tensors);
    const FlatParameters flat(method->parameters(), at::kFloat);
    DirectPass pass(base_.get(), method.get(), &flat, at::kFloat, 0, options_);
    const MicroBatch batch = Batcher(&examples_, 4, 1 << 20, 0, 1, group_size_).Step(0)[0];
    const int64_t divisor =
        static_cast<int64_t>(group_size_ == 2 ? batch.reference_margins.size() : batch.targets.size());
    for (const PassShape& shape : {ExactShape(batch), BucketShape(batch)}) {
      const at::Tensor packed = PackBatch(batch, shape, 1, divisor, false);
      const PassResult result =
          pass.Run(ViewBatch(packed, shape, packed), std::vector<Keep>(base_->config.layers, Keep::kAll), true);
      const double loss = given_.at(name).at("losses")[0].get<double>();
      EXPECT_NEAR(result.loss_sum.item<double>() / static_cast<double>(divisor), loss, 1e-5 * loss);
      double worst = 0;
      for (const Parameter& parameter : method->parameters()) {
        const at::Tensor expected = Values(*tensors, "gradient." + parameter.name);
        const double norm = expected.norm().item<double>();
        const double difference = (flat.Gradient(parameter.leaf) - expected).norm().item<double>();
        EXPECT_GT(norm, 0) << parameter.name;
        EXPECT_LT(difference, kGradientTolerance * norm) << name << ": " << parameter.name;
        worst = std::max(worst, difference / norm);
      }
      RecordProperty("largest_gradient_difference_" + name, absl::StrCat(worst));
    }
  }

  // Ten steps, whole and in micro-batches.
  void ExpectSameSteps(const MethodSpec& spec, const std::string& name) {
    const nlohmann::json& expected = given_.at(name);
    for (int64_t micro_batch_tokens : {int64_t{1} << 20, int64_t{24}}) {
      const auto tensors = Tensors("steps_" + name);
      const std::unique_ptr<Method> method = Start(spec, *tensors);
      Hyperparameters h;
      h.learning_rate = expected.at("learning_rate").get<double>();
      h.schedule = LearningRateSchedule::kConstant;
      h.warmup_ratio = 0;
      h.weight_decay = 0.01;
      h.batch_size = 4;
      h.max_steps = static_cast<int64_t>(expected.at("losses").size());
      h = ResolveHyperparameters(spec, h, {base_->config.Parameters(), 4, 1, 0, {}});
      Batcher batcher(&examples_, h.batch_size, micro_batch_tokens, 0, 1, group_size_);
      Trainer trainer(base_.get(), method.get(), &batcher, h, nullptr, 0, nullptr, options_);
      for (int64_t step = 0; step < h.max_steps; ++step) {
        auto result = trainer.Step(step);
        ASSERT_TRUE(result.ok()) << result.status();
        const double loss = expected.at("losses")[step].get<double>();
        const double norm = expected.at("gradient_norms")[step].get<double>();
        EXPECT_NEAR(result->loss, loss, kStepTolerance * loss) << name << ", step " << step;
        EXPECT_NEAR(result->gradient_norm, norm, 5 * kStepTolerance * norm) << name << ", step " << step;
        if (group_size_ == 1) continue;
        EXPECT_NEAR(result->reward_margin, expected.at("reward_margin")[step].get<double>(), 1e-3)
            << name << ", step " << step;
        // Of a model that is its own reference it is rounding's choice.
        if (step == 0 && std::abs(loss - std::log(2)) < 1e-6) continue;
        EXPECT_EQ(result->preference_accuracy, expected.at("preference_accuracy")[step].get<double>());
      }
      double worst = 0;
      for (const Parameter& parameter : method->parameters()) {
        const at::Tensor start = Values(*tensors, "start." + parameter.name),
                         after = Values(*tensors, "after." + parameter.name);
        const double change = (after - start).norm().item<double>();
        const double difference = (parameter.leaf.detach() - after).norm().item<double>();
        EXPECT_GT(change, 0) << parameter.name;
        EXPECT_LT(difference, kChangeTolerance * change) << name << ": " << parameter.name;
        worst = std::max(worst, difference / change);
      }
      RecordProperty("largest_difference_after_ten_steps_" + name, absl::StrCat(worst));
    }
  }

  void Check(const std::string& objective) {
    for (const auto& [method, spec] : {std::pair<const char*, MethodSpec>("lora", Lora()), {"full", FullSpec{}}}) {
      ExpectSameGradients(spec, absl::StrCat(objective, "_", method));
      ExpectSameSteps(spec, absl::StrCat(objective, "_", method));
    }
  }

  std::string folder_;
  std::shared_ptr<const BaseModel> base_;
  nlohmann::json given_;
  std::vector<Example> examples_;
  int64_t group_size_ = 1;
  PassOptions options_;
};

TEST_F(ObjectivesTest, DirectPreferenceOptimizationAgrees) {
  const nlohmann::json& dpo = given_.at("dpo");
  for (const nlohmann::json& pair : dpo.at("pairs")) {
    const auto prompt = pair.at(0).get<std::vector<int32_t>>();
    for (int i : {1, 2}) examples_.push_back(MakeExample(prompt, pair.at(i).get<std::vector<int32_t>>()));
  }
  group_size_ = 2;
  options_.beta = dpo.at("beta").get<double>();
  options_.label_smoothing = dpo.at("label_smoothing").get<double>();
  const Batcher batcher(&examples_, 4, 40, 0, 1, 2);
  const auto scores =
      ScoreAnswersOfBase(*base_, at::kFloat, batcher, static_cast<int64_t>(examples_.size()), nullptr, {});
  ASSERT_TRUE(scores.ok()) << scores.status();
  for (size_t i = 0; i < examples_.size(); ++i) examples_[i].reference_log_probability = (*scores)[i];
  Check("dpo");
}

TEST_F(ObjectivesTest, DistillationAgrees) {
  const nlohmann::json& given = given_.at("distillation");
  for (const nlohmann::json& example : given.at("examples")) {
    const auto ids = example.at(0).get<std::vector<int32_t>>();
    const int64_t prompt = example.at(1).get<int64_t>();
    examples_.push_back(MakeExample({ids.begin(), ids.begin() + prompt}, {ids.begin() + prompt, ids.end()}));
  }
  ServedModel teacher;
  teacher.base = Load("teacher");
  teacher.tokenizer_view = teacher.base->tokenizer.get();
  teacher.context = teacher.base->config.context;
  ASSERT_TRUE(CheckTeacher(teacher, *base_->tokenizer).ok());
  DistillationSpec spec{.teacher = "teacher",
                        .top_k = given.at("top_k").get<int32_t>(),
                        .temperature = given.at("temperature").get<double>(),
                        .weight = given.at("weight").get<double>()};
  const absl::Status scored = ScoreTeacher(teacher, spec, nullptr, {}, &examples_);
  ASSERT_TRUE(scored.ok()) << scored;
  const auto expected = Tensors("teacher");
  for (size_t i = 0; i < examples_.size(); ++i) {
    const TeacherTokens& found = examples_[i].teacher;
    EXPECT_EQ(found.k, spec.top_k);
    const at::Tensor ids = Values(*expected, absl::StrCat("ids_", i)).to(at::kInt).flatten().contiguous();
    const at::Tensor values = Values(*expected, absl::StrCat("log_probabilities_", i)).flatten();
    ASSERT_EQ(static_cast<int64_t>(found.ids.size()), ids.numel());
    EXPECT_EQ(found.ids,
              std::vector<int32_t>(ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + ids.numel()));
    EXPECT_LT((at::tensor(found.log_probabilities) - values).abs().max().item<double>(), 1e-4);
  }
  options_.temperature = spec.temperature;
  options_.teacher_weight = *spec.weight;
  Check("distillation");
}

}  // namespace
}  // namespace attune
