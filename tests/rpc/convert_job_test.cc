#include "server/rpc/convert_job.h"

#include <google/protobuf/util/message_differencer.h>

#include <gtest/gtest.h>

#include "common/error.h"

namespace attune {
namespace {

// A job with every input field set to something of its own.
v1::TuningJob FullJob() {
  v1::TuningJob job;
  job.set_name("tuningJobs/x");
  job.set_display_name("d");
  job.set_base_model("models/m");
  job.set_dataset("datasets/t");
  job.set_validation_dataset("datasets/v");
  job.set_tuned_model_id("out");
  job.set_priority(5);
  job.set_tenant("team");
  (*job.mutable_labels())["k"] = "v";
  v1::Hyperparameters* h = job.mutable_hyperparameters();
  h->set_epochs(1.5);
  h->set_max_steps(7);
  h->set_batch_size(9);
  h->set_learning_rate(0.25);
  h->set_learning_rate_multiplier(2);
  h->set_schedule(v1::LINEAR);
  h->set_warmup_ratio(0);
  h->set_weight_decay(0.125);
  h->set_adam_beta1(0.5);
  h->set_adam_beta2(0.75);
  h->set_adam_epsilon(0.001);
  h->set_max_gradient_norm(0);
  h->set_micro_batch_tokens(128);
  h->set_evaluation_steps(-1);
  h->set_early_stopping_patience(3);
  h->set_keep_best(false);
  h->set_checkpoint_steps(4);
  h->set_max_checkpoints(6);
  h->set_seed(0);
  h->set_precision("float32");
  h->set_quantization("nf4");
  h->set_optimizer_state("int8");
  h->set_neftune_noise_alpha(5);
  v1::DataOptions* data = job.mutable_data();
  data->set_prompt_template("{{a}}");
  data->set_completion_template("{{b}}");
  data->set_train_on_prompt(true);
  data->set_max_sequence_tokens(99);
  data->set_validation_fraction(-1);
  data->set_split_long_texts(true);
  return job;
}

// There and back again, output-only fields aside.
v1::TuningJob RoundTrip(const v1::TuningJob& in) {
  absl::StatusOr<JobSpec> spec = ToJobSpec(in, "x");
  EXPECT_TRUE(spec.ok()) << spec.status();
  Job job;
  job.spec = *spec;
  v1::TuningJob out = ToProto(job);
  out.clear_state();
  out.clear_progress();
  out.clear_create_time();
  return out;
}

TEST(ConvertJobTest, EveryFieldSurvivesForEveryMethod) {
  v1::TuningJob full = FullJob();
  full.mutable_full();
  full.mutable_hyperparameters()->set_quantization("none");
  v1::TuningJob partial = FullJob();
  partial.mutable_partial()->set_last_layers(2);
  partial.mutable_hyperparameters()->set_quantization("none");
  partial.mutable_partial()->add_parameter_patterns("p.*");
  partial.mutable_partial()->set_biases_and_norms(true);
  v1::TuningJob lora = FullJob();
  lora.mutable_lora()->set_rank(4);
  lora.mutable_lora()->set_alpha(8);
  lora.mutable_lora()->set_dropout(0);
  lora.mutable_lora()->add_target_modules(v1::Q_PROJ);
  lora.mutable_lora()->add_target_modules(v1::DOWN_PROJ);
  lora.mutable_lora()->add_target_modules(v1::LM_HEAD);
  lora.mutable_lora()->add_modules_to_save(v1::EMBED_TOKENS);
  lora.mutable_lora()->set_use_rslora(true);
  lora.mutable_lora()->set_learning_rate_ratio(16);
  lora.mutable_hyperparameters()->set_optimizer_state("float32");
  lora.set_start_from("models/earlier");
  lora.mutable_dpo()->set_beta(0.2);
  lora.mutable_dpo()->set_label_smoothing(0.1);
  lora.mutable_data()->set_train_on_prompt(false);
  full.set_start_from("tuningJobs/j/checkpoints/12");
  full.mutable_distillation()->set_teacher("models/big");
  full.mutable_distillation()->set_top_k(20);
  full.mutable_distillation()->set_temperature(2);
  full.mutable_distillation()->set_weight(0);
  v1::TuningJob soft = FullJob();
  soft.mutable_soft_prompt()->set_num_virtual_tokens(5);
  soft.mutable_soft_prompt()->set_init(v1::SoftPromptTuning::TEXT);
  soft.mutable_soft_prompt()->set_init_text("hello");
  v1::TuningJob prefix = FullJob();
  prefix.mutable_prefix()->set_num_virtual_tokens(6);
  prefix.mutable_prefix()->set_init(v1::SoftPromptTuning::TEXT);
  prefix.mutable_prefix()->set_init_text("hello");
  v1::TuningJob ia3 = FullJob();
  ia3.mutable_ia3()->add_target_modules(v1::UP_PROJ);
  v1::TuningJob text = FullJob();
  text.clear_hyperparameters();
  text.mutable_hyperparameters()->set_seed(3);
  text.mutable_data()->set_train_on_prompt(false);
  v1::TextPromptSearch* search = text.mutable_text_prompt();
  search->add_instructions("Classify.");
  search->set_max_examples(0);
  search->set_example_selection(v1::TextPromptSearch::DIVERSE);
  search->set_candidates(5);
  search->set_rounds(2);
  search->set_metric(v1::TextPromptSearch::EXACT_MATCH);
  search->set_calibrate(false);
  search->set_max_calls(100);
  search->set_max_tokens(1000);
  search->set_max_minutes(1.5);
  for (const v1::TuningJob& job : {full, partial, lora, soft, prefix, ia3, text}) {
    v1::TuningJob back = RoundTrip(job);
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(job, back))
        << job.DebugString() << "became\n"
        << back.DebugString();
  }
}

TEST(ConvertJobTest, StartsThatNameNothingAreRefused) {
  for (const char* name : {"earlier", "datasets/a", "models/A", "tuningJobs/j", "tuningJobs/j/checkpoints/0",
                           "tuningJobs/j/checkpoints/last", "tuningJobs/J/checkpoints/1"}) {
    v1::TuningJob job = FullJob();
    job.mutable_ia3();
    job.set_start_from(name);
    const absl::Status status = ToJobSpec(job, "x").status();
    ASSERT_FALSE(status.ok()) << name;
    EXPECT_EQ(GetErrorDetails(status).violations[0].field, "tuning_job.start_from") << name;
  }
}

TEST(ConvertJobTest, UnsetStaysUnset) {
  v1::TuningJob job;
  job.set_base_model("models/m");
  job.set_dataset("datasets/t");
  job.mutable_lora();
  v1::TuningJob back = RoundTrip(job);
  EXPECT_FALSE(back.hyperparameters().has_seed());
  EXPECT_FALSE(back.hyperparameters().has_warmup_ratio());
  EXPECT_FALSE(back.hyperparameters().has_keep_best());
  EXPECT_FALSE(back.lora().has_dropout());
  EXPECT_EQ(back.validation_dataset(), "");
}

TEST(ConvertJobTest, OutputFields) {
  Job job;
  job.spec.id = "x";
  job.state = JobState::kFailed;
  job.state_reason = "why";
  job.error = JobError{"NAN_LOSS", "it broke"};
  job.progress.step = 3;
  job.progress.peak_memory_bytes = 12;
  job.create_time = absl::FromUnixMillis(1500);
  job.end_time = absl::FromUnixSeconds(9);
  job.etag = "e";
  job.data_report = DataReport{.train_examples = 4};
  job.training_seconds = 2.5;
  v1::TuningJob out = ToProto(job);
  EXPECT_EQ(out.state(), v1::TuningJob::FAILED);
  EXPECT_EQ(out.state_reason(), "why");
  EXPECT_EQ(out.error().reason(), "NAN_LOSS");
  EXPECT_EQ(out.progress().step(), 3);
  EXPECT_EQ(out.progress().peak_memory_bytes(), 12);
  EXPECT_DOUBLE_EQ(out.progress().eta_seconds(), -1);
  EXPECT_EQ(out.create_time().seconds(), 1);
  EXPECT_EQ(out.create_time().nanos(), 500'000'000);
  EXPECT_FALSE(out.has_start_time());
  EXPECT_EQ(out.end_time().seconds(), 9);
  EXPECT_EQ(out.tuned_model(), "");
  EXPECT_EQ(out.etag(), "e");
  EXPECT_EQ(out.data_report().train_examples(), 4);
  EXPECT_FALSE(out.has_resolved_hyperparameters());
  EXPECT_DOUBLE_EQ(out.training_seconds(), 2.5);
  EXPECT_FALSE(out.has_energy_joules());  // the device did not tell
  job.energy_joules = 750;
  EXPECT_DOUBLE_EQ(ToProto(job).energy_joules(), 750);
}

}  // namespace
}  // namespace attune
