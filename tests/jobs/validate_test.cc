#include "server/jobs/validate.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "common/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attune {
namespace {

using ::testing::UnorderedElementsAre;

JobSpec GoodSpec(MethodSpec method = LoraSpec()) {
  JobSpec spec;
  spec.base_model = "smollm2";
  spec.dataset = "r8";
  spec.method = method;
  return spec;
}

std::vector<std::string> BadFields(const JobSpec& spec) {
  std::vector<std::string> fields;
  absl::Status status = ValidateJobSpec(spec);
  if (!status.ok()) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(GetErrorDetails(status).reason, "INVALID_FIELD");
  }
  for (const FieldViolation& violation : GetErrorDetails(status).violations) fields.push_back(violation.field);
  return fields;
}

TEST(ValidateTest, DefaultsAreValidForEveryMethod) {
  EXPECT_TRUE(ValidateJobSpec(GoodSpec(FullSpec())).ok());
  EXPECT_TRUE(ValidateJobSpec(GoodSpec(PartialSpec{.last_layers = 1})).ok());
  EXPECT_TRUE(ValidateJobSpec(GoodSpec(LoraSpec())).ok());
  EXPECT_TRUE(ValidateJobSpec(GoodSpec(SoftPromptSpec())).ok());
  EXPECT_TRUE(ValidateJobSpec(GoodSpec(TextPromptSpec())).ok());
}

TEST(ValidateTest, StartsAndObjectivesThatExcludeEachOtherAreRefused) {
  JobSpec spec = GoodSpec(SoftPromptSpec{.init = SoftPromptSpec::Init::kText, .init_text = "x"});
  spec.start_from = StartPoint{.model = "m"};
  EXPECT_THAT(BadFields(spec), UnorderedElementsAre("tuning_job.soft_prompt.init", "tuning_job.soft_prompt.init_text"));
  spec = GoodSpec();
  spec.dpo = DpoSpec();
  spec.distillation = DistillationSpec{.teacher = "t"};
  EXPECT_THAT(BadFields(spec), UnorderedElementsAre("tuning_job.distillation"));
  spec.distillation.reset();
  spec.data.train_on_prompt = true;
  EXPECT_THAT(BadFields(spec), UnorderedElementsAre("tuning_job.data.train_on_prompt"));
  spec = GoodSpec(TextPromptSpec());
  spec.start_from = StartPoint{.model = "m"};
  spec.dpo = DpoSpec();
  EXPECT_THAT(BadFields(spec), UnorderedElementsAre("tuning_job.start_from", "tuning_job.dpo"));
}

TEST(ValidateTest, EveryFieldHasItsRange) {
  struct Case {
    std::string field;
    std::function<void(JobSpec&)> set_good;  // at the edge of the range
    std::function<void(JobSpec&)> set_bad;   // just outside
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
#define CASE(field, path, good, bad) \
  {"tuning_job." field, [=](JobSpec& s) { s.path = good; }, [=](JobSpec& s) { s.path = bad; }}
  const std::vector<Case> cases = {
      CASE("display_name", display_name, std::string(200, 'x'), std::string(201, 'x')),
      CASE("base_model", base_model, "a", ""),
      CASE("dataset", dataset, "a-1", "A"),
      CASE("validation_dataset", validation_dataset, "b", "no/slash"),
      CASE("tuned_model_id", tuned_model_id, "b", "-b"),
      CASE("lora.rank", method, LoraSpec{.rank = 512}, LoraSpec{.rank = 513}),
      CASE("lora.rank", method, LoraSpec{.rank = 1}, LoraSpec{.rank = -1}),
      CASE("lora.alpha", method, LoraSpec{.alpha = 0.5}, LoraSpec{.alpha = -0.5}),
      CASE("lora.dropout", method, LoraSpec{.dropout = 0.0}, LoraSpec{.dropout = 1.0}),
      CASE("lora.learning_rate_ratio", method, LoraSpec{.learning_rate_ratio = 16}, LoraSpec{.learning_rate_ratio = 0.5}),
      CASE("lora.target_modules", method, LoraSpec{.target_modules = {TargetModule::kDownProj}},
           LoraSpec{.target_modules = {static_cast<TargetModule>(10)}}),
      CASE("lora.modules_to_save", method,
           (LoraSpec{.modules_to_save = {TargetModule::kEmbedTokens, TargetModule::kLmHead}}),
           LoraSpec{.modules_to_save = {TargetModule::kVProj}}),
      CASE("lora.modules_to_save", method, LoraSpec{.modules_to_save = {TargetModule::kLmHead}},
           (LoraSpec{.modules_to_save = {TargetModule::kLmHead, TargetModule::kLmHead}})),
      CASE("lora.modules_to_save", method,
           (LoraSpec{.target_modules = {TargetModule::kEmbedTokens}, .modules_to_save = {TargetModule::kLmHead}}),
           (LoraSpec{.target_modules = {TargetModule::kLmHead}, .modules_to_save = {TargetModule::kLmHead}})),
      CASE("lora.use_dora", method, (LoraSpec{.use_dora = true, .modules_to_save = {TargetModule::kLmHead}}),
           (LoraSpec{.target_modules = {TargetModule::kLmHead}, .use_dora = true})),
      CASE("lora.learning_rate_ratio", method,
           (LoraSpec{.target_modules = {TargetModule::kLmHead}, .learning_rate_ratio = 2}),
           (LoraSpec{.target_modules = {TargetModule::kEmbedTokens}, .learning_rate_ratio = 2})),
      CASE("lora.target_modules", method, (LoraSpec{.target_modules = {TargetModule::kQProj, TargetModule::kKProj}}),
           (LoraSpec{.target_modules = {TargetModule::kQProj, TargetModule::kQProj}})),
      CASE("partial", method, PartialSpec{.biases_and_norms = true}, PartialSpec{}),
      CASE("partial.parameter_patterns", method, PartialSpec{.parameter_patterns = {".*"}},
           PartialSpec{.parameter_patterns = {""}}),
      CASE("soft_prompt.num_virtual_tokens", method, SoftPromptSpec{.num_virtual_tokens = 1024},
           SoftPromptSpec{.num_virtual_tokens = 1025}),
      CASE("prefix.num_virtual_tokens", method, PrefixSpec{.num_virtual_tokens = 1},
           PrefixSpec{.num_virtual_tokens = -1}),
      CASE("prefix.init_text", method, (PrefixSpec{.init = SoftPromptSpec::Init::kText, .init_text = "x"}),
           PrefixSpec{.init = SoftPromptSpec::Init::kText}),
      CASE("ia3.target_modules", method, Ia3Spec{{TargetModule::kKProj}},
           (Ia3Spec{{TargetModule::kKProj, TargetModule::kKProj}})),
      CASE("ia3.target_modules", method, Ia3Spec{{TargetModule::kDownProj}}, Ia3Spec{{TargetModule::kLmHead}}),
      CASE("soft_prompt.init", method, SoftPromptSpec{.init = SoftPromptSpec::Init::kRandom},
           SoftPromptSpec{.init = static_cast<SoftPromptSpec::Init>(4)}),
      CASE("soft_prompt.init_text", method, (SoftPromptSpec{.init = SoftPromptSpec::Init::kText, .init_text = "x"}),
           SoftPromptSpec{.init = SoftPromptSpec::Init::kText}),
      CASE("text_prompt.instructions", method, (TextPromptSpec{.instructions = {std::string(8192, 'x')}}),
           (TextPromptSpec{.instructions = {std::string(8193, 'x')}})),
      CASE("text_prompt.instructions", method, TextPromptSpec{}, TextPromptSpec{.instructions = {""}}),
      CASE("text_prompt.max_examples", method, TextPromptSpec{.max_examples = 0}, TextPromptSpec{.max_examples = -1}),
      CASE("text_prompt.max_examples", method, TextPromptSpec{.max_examples = 64}, TextPromptSpec{.max_examples = 65}),
      CASE("text_prompt.example_selection", method, TextPromptSpec{.selection = TextPromptSpec::Selection::kSimilar},
           TextPromptSpec{.selection = static_cast<TextPromptSpec::Selection>(4)}),
      CASE("text_prompt.metric", method, TextPromptSpec{.metric = TextPromptSpec::Metric::kLoss},
           TextPromptSpec{.metric = static_cast<TextPromptSpec::Metric>(4)}),
      CASE("text_prompt.candidates", method, TextPromptSpec{.candidates = 200}, TextPromptSpec{.candidates = 1}),
      CASE("text_prompt.rounds", method, TextPromptSpec{.rounds = 20}, TextPromptSpec{.rounds = 21}),
      CASE("text_prompt.max_calls", method, TextPromptSpec{.max_calls = 1}, TextPromptSpec{.max_calls = -1}),
      CASE("text_prompt.max_tokens", method, TextPromptSpec{.max_tokens = 1}, TextPromptSpec{.max_tokens = -1}),
      CASE("text_prompt.max_minutes", method, TextPromptSpec{.max_minutes = 0.5}, TextPromptSpec{.max_minutes = nan}),
      CASE("hyperparameters.epochs", hyperparameters.epochs, 0.5, nan),
      CASE("hyperparameters.epochs", hyperparameters.epochs, 100, -1),
      CASE("hyperparameters.max_steps", hyperparameters.max_steps, 1, -1),
      CASE("hyperparameters.batch_size", hyperparameters.batch_size, 4096, 4097),
      CASE("hyperparameters.learning_rate", hyperparameters.learning_rate, 1e-9, infinity),
      CASE("hyperparameters.learning_rate_multiplier", hyperparameters.learning_rate_multiplier, 2, -2),
      CASE("hyperparameters.schedule", hyperparameters.schedule, LearningRateSchedule::kConstant,
           static_cast<LearningRateSchedule>(4)),
      CASE("hyperparameters.warmup_ratio", hyperparameters.warmup_ratio, 1, 1.01),
      CASE("hyperparameters.weight_decay", hyperparameters.weight_decay, 0, -0.1),
      CASE("hyperparameters.adam_beta1", hyperparameters.adam_beta1, 0, 1),
      CASE("hyperparameters.adam_beta2", hyperparameters.adam_beta2, 0.9999, -0.1),
      CASE("hyperparameters.adam_epsilon", hyperparameters.adam_epsilon, 1e-12, 0),
      CASE("hyperparameters.max_gradient_norm", hyperparameters.max_gradient_norm, 0, -1),
      CASE("hyperparameters.micro_batch_tokens", hyperparameters.micro_batch_tokens, 64, 63),
      CASE("hyperparameters.micro_batch_tokens", hyperparameters.micro_batch_tokens, 1048576, 1048577),
      CASE("hyperparameters.early_stopping_patience", hyperparameters.early_stopping_patience, 3, -3),
      CASE("hyperparameters.checkpoint_steps", hyperparameters.checkpoint_steps, 1, -1),
      CASE("hyperparameters.max_checkpoints", hyperparameters.max_checkpoints, 100, 101),
      CASE("hyperparameters.precision", hyperparameters.precision, "bfloat16", "bf16"),
      CASE("hyperparameters.quantization", hyperparameters.quantization, "nf4", "int4"),
      CASE("hyperparameters.neftune_noise_alpha", hyperparameters.neftune_noise_alpha, 1000, -1),
      CASE("hyperparameters.neftune_noise_alpha", hyperparameters.neftune_noise_alpha, 0, nan),
      CASE("start_from", start_from, (StartPoint{.model = "a"}), (StartPoint{.model = "A"})),
      CASE("start_from", start_from, (StartPoint{.job = "j", .step = 1}), (StartPoint{.job = "j", .step = 0})),
      CASE("dpo.beta", dpo, DpoSpec{.beta = 100}, DpoSpec{.beta = 101}),
      CASE("dpo.beta", dpo, DpoSpec{}, DpoSpec{.beta = nan}),
      CASE("dpo.label_smoothing", dpo, DpoSpec{.label_smoothing = 0.49}, DpoSpec{.label_smoothing = 0.5}),
      CASE("distillation.teacher", distillation, DistillationSpec{.teacher = "t"}, DistillationSpec{}),
      CASE("distillation.top_k", distillation, (DistillationSpec{.teacher = "t", .top_k = 1024}),
           (DistillationSpec{.teacher = "t", .top_k = 1025})),
      CASE("distillation.temperature", distillation, (DistillationSpec{.teacher = "t", .temperature = 100}),
           (DistillationSpec{.teacher = "t", .temperature = infinity})),
      CASE("distillation.weight", distillation, (DistillationSpec{.teacher = "t", .weight = 1.0}),
           (DistillationSpec{.teacher = "t", .weight = 1.5})),
      CASE("hyperparameters.optimizer_state", hyperparameters.optimizer_state, "int8", "fp8"),
      CASE("data.max_sequence_tokens", data.max_sequence_tokens, 8, 7),
      CASE("data.validation_fraction", data.validation_fraction, 0.5, 0.51),
      CASE("data.validation_fraction", data.validation_fraction, -1, nan),
      CASE("priority", priority, 100, 101),
      CASE("priority", priority, -100, -101),
      CASE("tenant", tenant, std::string(63, '-'), std::string(64, 'a')),
      CASE("tenant", tenant, "a1", "A1"),
      CASE("labels", labels, (std::map<std::string, std::string>{{"k", std::string(128, 'v')}}),
           (std::map<std::string, std::string>{{"k", std::string(129, 'v')}})),
  };
#undef CASE
  for (const Case& c : cases) {
    JobSpec good = GoodSpec();
    c.set_good(good);
    EXPECT_TRUE(ValidateJobSpec(good).ok()) << c.field << ": " << ValidateJobSpec(good);
    JobSpec bad = GoodSpec();
    c.set_bad(bad);
    EXPECT_THAT(BadFields(bad), UnorderedElementsAre(c.field));
  }
}

TEST(ValidateTest, NegativeEvaluationStepsMeanOnlyAtTheEnd) {
  JobSpec spec = GoodSpec();
  spec.hyperparameters.evaluation_steps = -1;
  EXPECT_TRUE(ValidateJobSpec(spec).ok());
}

TEST(ValidateTest, AtMost32Labels) {
  JobSpec spec = GoodSpec();
  for (int i = 0; i < 32; ++i) spec.labels["k" + std::to_string(i)] = "v";
  EXPECT_TRUE(ValidateJobSpec(spec).ok());
  spec.labels["one more"] = "v";
  EXPECT_THAT(BadFields(spec), UnorderedElementsAre("tuning_job.labels"));
}

TEST(ValidateTest, AllViolationsAreToldAtOnce) {
  JobSpec spec = GoodSpec(LoraSpec{.rank = 1000});
  spec.id = "Not An Id";
  spec.dataset = "";
  spec.priority = 1000;
  EXPECT_THAT(BadFields(spec), UnorderedElementsAre("tuning_job_id", "tuning_job.dataset", "tuning_job.lora.rank",
                                                    "tuning_job.priority"));
  EXPECT_THAT(std::string(ValidateJobSpec(spec).message()),
              testing::AllOf(testing::HasSubstr("tuning_job.lora.rank"), testing::HasSubstr("1000")));
}

TEST(ValidateTest, ASearchTakesNoTrainingSettings) {
  JobSpec spec = GoodSpec(TextPromptSpec());
  spec.hyperparameters.seed = 7;
  EXPECT_TRUE(ValidateJobSpec(spec).ok());
  spec.hyperparameters.epochs = 2;
  spec.data.train_on_prompt = true;
  spec.data.validation_fraction = -1;
  EXPECT_THAT(BadFields(spec), UnorderedElementsAre("tuning_job.hyperparameters", "tuning_job.data.train_on_prompt",
                                                    "tuning_job.data.validation_fraction"));
  spec.hyperparameters.epochs = 0;
  spec.data.train_on_prompt = false;
  spec.validation_dataset = "v";
  EXPECT_TRUE(ValidateJobSpec(spec).ok());
}

}  // namespace
}  // namespace attune
