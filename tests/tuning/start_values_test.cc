#include "server/tuning/start_values.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/adapters/vocabulary.h"
#include "server/model/weights/safetensors.h"
#include "server/tuning/checkpoint.h"
#include "tests/tuning/runner_fixture.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class StartValuesTest : public RunnerFixture {
 protected:
  static MethodSpec Lora(int32_t rank, double dropout = 0) {
    LoraSpec spec;
    spec.rank = rank;
    spec.dropout = dropout;
    return spec;
  }

  // The values that a job begins with: none of its steps moves any, at a learning rate that is as good as zero.
  static Job Still(Job job) {
    job.spec.hyperparameters.learning_rate = 1e-30;
    job.spec.hyperparameters.weight_decay = 0;
    job.spec.hyperparameters.max_steps = 1;
    return job;
  }

  std::string Bytes(const std::string& model, const char* file) {
    return ReadFile(absl::StrCat(registry_->Directory(model), "/", file)).value();
  }
};

struct MethodCase {
  const char* name;
  MethodSpec method;
  const char* file;
};

class EveryStartTest : public StartValuesTest, public ::testing::WithParamInterface<MethodCase> {};

// The published values of a job that goes nowhere are those of the model that it started from; a start of its own is
// not.
TEST_P(EveryStartTest, BeginsWithATunedModelsValues) {
  const Job first = MakeJob("first", GetParam().method);
  ASSERT_TRUE(Run(first).ok());
  Job second = Still(MakeJob("second", GetParam().method)), alone = Still(MakeJob("alone", GetParam().method));
  second.spec.start_from = StartPoint{.model = "first-model"};
  const absl::Status status = Run(second);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_TRUE(Run(alone).ok());
  EXPECT_EQ(Bytes("second-model", GetParam().file), Bytes("first-model", GetParam().file));
  EXPECT_NE(Bytes("alone-model", GetParam().file), Bytes("first-model", GetParam().file));
}

TEST_P(EveryStartTest, BeginsWithACheckpointsValues) {
  Job first = MakeJob("first", GetParam().method);
  first.spec.hyperparameters.keep_best = false;
  ASSERT_TRUE(Run(first).ok());
  Job second = Still(MakeJob("second", GetParam().method));
  second.spec.start_from = StartPoint{.job = "first", .step = 4};
  const absl::Status status = Run(second);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Bytes("second-model", GetParam().file), Bytes("first-model", GetParam().file));
}

INSTANTIATE_TEST_SUITE_P(
    Methods, EveryStartTest,
    ::testing::Values(
        MethodCase{"Lora", LoraSpec{.rank = 4, .alpha = 12, .use_rslora = true}, "adapter_model.safetensors"},
        MethodCase{"Dora", LoraSpec{.rank = 4, .use_dora = true}, "adapter_model.safetensors"},
        MethodCase{"Saved", LoraSpec{.rank = 4, .modules_to_save = {TargetModule::kEmbedTokens, TargetModule::kLmHead}},
                   "adapter_model.safetensors"},
        MethodCase{"Adapted", LoraSpec{.rank = 4, .target_modules = {TargetModule::kQProj, TargetModule::kEmbedTokens,
                                                                     TargetModule::kLmHead}},
                   "adapter_model.safetensors"},
        MethodCase{"Ia3", Ia3Spec{{TargetModule::kQProj, TargetModule::kDownProj}}, "adapter_model.safetensors"},
        MethodCase{"SoftPrompt", SoftPromptSpec{.num_virtual_tokens = 3}, "adapter_model.safetensors"},
        MethodCase{"Prefix", PrefixSpec{.num_virtual_tokens = 1}, "adapter_model.safetensors"},
        MethodCase{"Full", FullSpec{}, "model.safetensors"},
        MethodCase{"Partial", PartialSpec{.last_layers = 1}, "model.safetensors"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(StartValuesTest, OpenSettingsOfTheShapeAreTheStarts) {
  ASSERT_TRUE(Run(MakeJob("first", LoraSpec{.rank = 3, .alpha = 5, .target_modules = {TargetModule::kVProj}})).ok());
  Job second = Still(MakeJob("second", LoraSpec{}));
  second.spec.start_from = StartPoint{.model = "first-model"};
  ASSERT_TRUE(Run(second).ok());
  EXPECT_EQ(control_->logs[0], "starts from the values of models/first-model");
  EXPECT_EQ(Bytes("second-model", "adapter_model.safetensors"), Bytes("first-model", "adapter_model.safetensors"));
  // Its checkpoints tell the shape that was filled in.
  const TrainingState state = ReadTrainingState(temp_.File("jobs/second/1")).value();
  EXPECT_EQ(std::get<LoraSpec>(*state.method).rank, 3);
  EXPECT_EQ(state.base_model, "gguf");
}

TEST_F(StartValuesTest, ResumesFromItsOwnCheckpointAndNotFromTheStart) {
  ASSERT_TRUE(Run(MakeJob("first", Lora(4))).ok());
  Job straight = MakeJob("straight", Lora(4)), stopped = MakeJob("stopped", Lora(4));
  straight.spec.start_from = stopped.spec.start_from = StartPoint{.model = "first-model"};
  ASSERT_TRUE(Run(straight).ok());
  FakeControl control;
  control.StopAfter(2, StopRequest::kPause);
  ASSERT_EQ(runner_->Run(stopped, control)->kind, JobOutcome::Kind::kStopped);
  control.StopAfter(0, StopRequest::kNone);
  ASSERT_EQ(runner_->Run(stopped, control)->kind, JobOutcome::Kind::kSucceeded);
  EXPECT_EQ(Bytes("stopped-model", "adapter_model.safetensors"), Bytes("straight-model", "adapter_model.safetensors"));
}

TEST_F(StartValuesTest, NamesWhatDoesNotAgree) {
  LoraSpec has{.rank = 4, .alpha = 8, .target_modules = {TargetModule::kQProj, TargetModule::kKProj}};
  ASSERT_TRUE(Run(MakeJob("lora", has)).ok());
  ASSERT_TRUE(Run(MakeJob("prompt", SoftPromptSpec{.num_virtual_tokens = 3})).ok());
  ASSERT_TRUE(Run(MakeJob("ia3", Ia3Spec{})).ok());
  ASSERT_TRUE(Run(MakeJob("full", FullSpec{})).ok());
  auto refusal = [&](MethodSpec method, StartPoint start, const std::string& base = "gguf") {
    JobSpec spec = MakeJob("next", std::move(method)).spec;
    spec.start_from = std::move(start);
    spec.base_model = base;
    return Refusal(spec);
  };
  for (const StartPoint& start : {StartPoint{.model = "lora-model"}, StartPoint{.job = "lora", .step = 4}}) {
    EXPECT_EQ(refusal(Lora(8), start), "tuning_job.lora.rank must be 4, as of start_from, or unset");
    EXPECT_EQ(refusal(LoraSpec{.alpha = 9}, start), "tuning_job.lora.alpha must be 8, as of start_from, or unset");
    EXPECT_THAT(refusal(LoraSpec{.use_rslora = true}, start), StartsWith("tuning_job.lora.use_rslora must be false"));
    EXPECT_THAT(refusal(LoraSpec{.use_dora = true}, start), StartsWith("tuning_job.lora.use_dora must be false"));
    EXPECT_EQ(refusal(LoraSpec{.target_modules = {TargetModule::kQProj}}, start),
              "tuning_job.lora.target_modules must be q_proj, k_proj, as of start_from, or unset");
    EXPECT_EQ(refusal(LoraSpec{.modules_to_save = {TargetModule::kLmHead}}, start),
              "tuning_job.lora.modules_to_save must be unset, as of start_from");
    EXPECT_THAT(refusal(Ia3Spec{}, start), StartsWith("tuning_job.method must be lora, as of start_from, not ia3"));
    EXPECT_THAT(refusal(LoraSpec{}, start, "hf"), StartsWith("tuning_job.base_model must be models/gguf"));
  }
  EXPECT_THAT(refusal(SoftPromptSpec{.num_virtual_tokens = 4}, {.model = "prompt-model"}),
              StartsWith("tuning_job.soft_prompt.num_virtual_tokens must be 3"));
  EXPECT_THAT(refusal(Ia3Spec{{TargetModule::kQProj}}, {.model = "ia3-model"}),
              StartsWith("tuning_job.ia3.target_modules must be k_proj, v_proj, down_proj"));
  EXPECT_THAT(refusal(LoraSpec{}, {.model = "full-model"}), StartsWith("tuning_job.method must be full or partial"));
  EXPECT_THAT(refusal(LoraSpec{}, {.model = "gguf"}), HasSubstr("is a base model"));
  EXPECT_THAT(refusal(LoraSpec{}, {.model = "nowhere"}), StartsWith("MODEL_NOT_FOUND"));
  EXPECT_THAT(refusal(LoraSpec{}, {.job = "lora", .step = 99}), StartsWith("CHECKPOINT_NOT_FOUND"));
}

// What the start has trained elsewhere would be lost.
TEST_F(StartValuesTest, PartialRefusesAModelThatDiffersWhereNothingTrains) {
  ASSERT_TRUE(Run(MakeJob("full", FullSpec{})).ok());
  Job job = MakeJob("next", PartialSpec{.last_layers = 1});
  job.spec.start_from = StartPoint{.model = "full-model"};
  const absl::Status status = Run(job);
  EXPECT_EQ(GetErrorDetails(status).reason, "INVALID_FIELD");
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.embed_tokens.weight"));
}

TEST_F(StartValuesTest, ACheckpointThatDoesNotTellItsShapeIsRefused) {
  ASSERT_TRUE(Run(MakeJob("first", Lora(4))).ok());
  const std::string path = temp_.File("jobs/first/4/state.json");
  nlohmann::json state = nlohmann::json::parse(ReadFile(path).value());
  state.erase("method");
  TinyModel::Write(path, state.dump());
  JobSpec spec = MakeJob("next", Lora(4)).spec;
  spec.start_from = StartPoint{.job = "first", .step = 4};
  EXPECT_THAT(Refusal(spec), HasSubstr("older version"));
}

TEST(MethodOfTest, TellsOfOwnEmbeddingsAndHeads) {
  Adapter adapter;
  adapter.lora = std::make_unique<LoraAdapter>();
  LoraAdapter& lora = *adapter.lora;
  lora.rank = 1;
  lora.alpha = 2;
  lora.layers.resize(1);
  lora.head_VD = at::ones({3, 2});
  lora.embedding = {at::ones({1, 3}), at::ones({2, 1}), 2.0};
  const auto spec = std::get<LoraSpec>(MethodOf(adapter).value());
  EXPECT_THAT(spec.target_modules, ElementsAre(TargetModule::kEmbedTokens));
  EXPECT_THAT(spec.modules_to_save, ElementsAre(TargetModule::kLmHead));
  lora.embedding.scale = 1;
  EXPECT_FALSE(MethodOf(adapter).ok());
  lora.embedding.scale = 2;
  lora.embedding_VD = at::zeros({3, 2});  // beneath the LoRA
  EXPECT_THAT(GetErrorDetails(MethodOf(adapter).status()).violations[0].description, HasSubstr("embed_tokens"));
  BaseModel base;
  base.weights.embedding_VD = at::zeros({3, 2});
  base.weights.head_VD = at::zeros({3, 2});
  LetGoOfTablesBeneath(base, &lora);
  EXPECT_TRUE(MethodOf(adapter).ok());
  EXPECT_TRUE(lora.head_VD.defined());
  // A tied model's other user of such a table goes with it, and stays where it differs from the base model's.
  for (const double value : {0.0, 1.0}) {
    lora.head_VD = lora.embedding_VD = at::full({3, 2}, value);
    LetGoOfTablesBeneath(base, &lora);
    EXPECT_EQ(lora.head_VD.defined(), value != 0);
    EXPECT_EQ(MethodOf(adapter).ok(), value == 0);
  }
}

TEST(MethodOfTest, LayersOfDifferentShapeAreNoMethods) {
  Adapter adapter;
  adapter.lora = std::make_unique<LoraAdapter>();
  adapter.lora->rank = 2;
  adapter.lora->alpha = 4;
  adapter.lora->layers.resize(2);
  for (auto& layer : adapter.lora->layers) layer[0] = {at::zeros({2, 3}), at::zeros({3, 2}), 2.0};
  EXPECT_TRUE(MethodOf(adapter).ok());
  adapter.lora->layers[1][0].scale = 1;
  EXPECT_EQ(GetErrorDetails(MethodOf(adapter).status()).violations[0].field, "tuning_job.start_from");
  adapter.lora->layers[1][0] = {};
  EXPECT_FALSE(MethodOf(adapter).ok());
}

}  // namespace
}  // namespace attune
