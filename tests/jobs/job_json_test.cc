#include "server/jobs/job_json.h"

#include <cmath>
#include <limits>

#include "common/error.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

Hyperparameters FullHyperparameters() {
  return {.epochs = 1.5,
          .max_steps = int64_t{1} << 40,
          .batch_size = 8,
          .learning_rate = 0.1 + 0.2,
          .learning_rate_multiplier = 2,
          .schedule = LearningRateSchedule::kLinear,
          .warmup_ratio = 0.0,
          .weight_decay = 0.01,
          .adam_beta1 = 0.8,
          .adam_beta2 = 0.99,
          .adam_epsilon = 1e-300,
          .max_gradient_norm = 0.0,
          .micro_batch_tokens = 4096,
          .evaluation_steps = -1,
          .early_stopping_patience = 3,
          .keep_best = false,
          .checkpoint_steps = 7,
          .max_checkpoints = 5,
          .seed = std::numeric_limits<int64_t>::min(),
          .precision = "bfloat16",
          .quantization = "int8",
          .optimizer_state = "int8",
          .neftune_noise_alpha = 5};
}

JobSpec FullJobSpec(MethodSpec method) {
  JobSpec spec;
  spec.id = "j";
  spec.display_name = "quotes \" and \n lines, \xE4\xB8\xAD";
  spec.base_model = "m";
  spec.dataset = "d";
  spec.validation_dataset = "v";
  spec.tuned_model_id = "t";
  spec.method = std::move(method);
  spec.start_from = StartPoint{"m2", "j2", 12};
  spec.dpo = DpoSpec{0.2, 0.1};
  spec.distillation = DistillationSpec{"big", 20, 2, 0.0};
  spec.hyperparameters = FullHyperparameters();
  spec.data = {"{{a}}", "{{b}}", true, 512, -1, true};
  spec.priority = -5;
  spec.tenant = "x";
  spec.labels = {{"k", "v"}, {"", ""}};
  return spec;
}

TEST(JobJsonTest, SpecsOfEveryMethodSurvive) {
  const MethodSpec methods[] = {
      FullSpec{}, PartialSpec{3, {"a.*", "b"}, true},
      LoraSpec{8, 4.5, 0.0, {TargetModule::kQProj, TargetModule::kLmHead}, true, 16, true, {TargetModule::kEmbedTokens}},
      SoftPromptSpec{5, SoftPromptSpec::Init::kText, "Classify:"},
      PrefixSpec{7, SoftPromptSpec::Init::kText, "Sort:"}, Ia3Spec{{TargetModule::kVProj}},
      TextPromptSpec{{"Classify.", "{{braces}}"}, 0, TextPromptSpec::Selection::kDiverse, 20, 4,
                     TextPromptSpec::Metric::kLoss, false, 1000, 5000, 1.5}};
  for (const MethodSpec& method : methods) {
    const JobSpec spec = FullJobSpec(method);
    absl::StatusOr<JobSpec> back = JobSpecFromJson(JobSpecToJson(spec));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, spec);
    EXPECT_EQ(JobSpecToJson(*back), JobSpecToJson(spec));
  }
}

TEST(JobJsonTest, UnsetIsNotZero) {
  Hyperparameters unset;
  Hyperparameters zero;
  zero.warmup_ratio = 0.0;
  EXPECT_EQ(*HyperparametersFromJson(HyperparametersToJson(unset)), unset);
  EXPECT_EQ(*HyperparametersFromJson(HyperparametersToJson(zero)), zero);
  EXPECT_FALSE(unset == zero);
}

TEST(JobJsonTest, ProgressKeepsNanAndInfinity) {
  JobProgress progress{.step = 7, .total_steps = 9, .epoch = 0.5, .trained_tokens = 100, .eta_seconds = 0,
                       .peak_memory_bytes = int64_t{3} << 40, .reward_margin = -1, .preference_accuracy = 0.5,
                       .validation_reward_margin = 2, .validation_preference_accuracy = 0.75};
  progress.train_loss = std::numeric_limits<double>::quiet_NaN();
  progress.gradient_norm = std::numeric_limits<double>::infinity();
  progress.validation_loss = -std::numeric_limits<double>::infinity();
  absl::StatusOr<JobProgress> back = JobProgressFromJson(JobProgressToJson(progress));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(std::isnan(back->train_loss));
  progress.train_loss = back->train_loss = 0;
  EXPECT_EQ(*back, progress);
}

TEST(JobJsonTest, CheckpointsSurvive) {
  const Checkpoint checkpoint{12, 0.5, 0.25, 0.75, int64_t{1} << 35, absl::FromUnixMicros(1700000000123456), true};
  EXPECT_EQ(*CheckpointFromJson(CheckpointToJson(checkpoint)), checkpoint);
}

TEST(JobJsonTest, StatusSurvives) {
  Job job;
  job.state_reason = "because";
  job.error = JobError{"NAN_LOSS", "The loss is not a number."};
  job.tuned_model = "t";
  job.start_time = absl::FromUnixMicros(1);
  job.end_time = absl::FromUnixMicros(2);
  job.queue_time = absl::FromUnixMicros(3);
  job.resolved_hyperparameters = FullHyperparameters();
  job.data_report = DataReport{1, 2, 3, 4, 5, 6, 7};
  job.memory_bytes = 99;
  job.stop_requested = StopRequest::kPause;
  Job back;
  ASSERT_TRUE(JobStatusFromJson(JobStatusToJson(job), &back).ok());
  EXPECT_EQ(back, job);
}

TEST(JobJsonTest, MissingFieldsReadAsUnset) {
  absl::StatusOr<JobSpec> spec = JobSpecFromJson(R"({"id": "x", "method": {"lora": {}}, "a_later_field": [1]})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  JobSpec expected;
  expected.id = "x";
  expected.method = LoraSpec();
  EXPECT_EQ(*spec, expected);
}

TEST(JobJsonTest, BrokenTextIsDataLoss) {
  for (const char* text : {"", "{", "[]", "3", R"({"id": 3})", R"({"labels": {"a": 1}})", R"({"method": {}})",
                           R"({"method": {"magic": {}}})", R"({"priority": "high"})", R"({"priority": 1.5})",
                           R"({"hyperparameters": {"epochs": "many"}})", R"({"hyperparameters": {"keep_best": 1}})"}) {
    absl::StatusOr<JobSpec> spec = JobSpecFromJson(text);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_EQ(GetErrorDetails(spec.status()).reason, "CORRUPT_JOB") << text;
  }
}

}  // namespace
}  // namespace attune
