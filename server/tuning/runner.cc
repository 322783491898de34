#include "server/tuning/runner.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/torch_target.h"
#include "server/tuning/defaults.h"
#include "server/tuning/estimate.h"
#include "server/tuning/pass_batch.h"
#include "server/tuning/run.h"

namespace attune {
namespace {

// That a batch can hold: of the examples with the most.
int64_t MostLossTokens(const std::vector<Example>& examples, int64_t batch_size) {
  std::vector<int64_t> counts;
  for (const Example& example : examples) {
    counts.push_back(std::count_if(example.has_loss.begin(), example.has_loss.end(), [](uint8_t flag) { return flag; }));
  }
  const int64_t count = std::min<int64_t>(batch_size, counts.size());
  std::partial_sort(counts.begin(), counts.begin() + count, counts.end(), std::greater<>());
  return std::accumulate(counts.begin(), counts.begin() + count, int64_t{0});
}

}  // namespace

MemoryInputs MemoryInputsOf(const TuningRunnerDeps& deps, const PlannedRun& plan, const JobSpec& spec) {
  const Hyperparameters& h = plan.hyperparameters;
  Batcher batcher(&plan.data.train, h.batch_size, h.micro_batch_tokens, plan.virtual_tokens, *h.seed,
                  plan.data.group_size);
  MemoryInputs inputs;
  inputs.trainable_parameters = plan.trainable_parameters;
  inputs.on_gpu = deps.target.device == ComputeTarget::Device::kCuda;
  inputs.micro_batch_tokens = batcher.MaxTokens();
  if (inputs.on_gpu) inputs.micro_batch_tokens = BucketTokens(inputs.micro_batch_tokens);
  inputs.loss_tokens = std::min(inputs.micro_batch_tokens, MostLossTokens(plan.data.train, h.batch_size * plan.data.group_size));
  if (const auto* lora = std::get_if<LoraSpec>(&plan.method)) {
    inputs.lora_rank = lora->rank ? lora->rank : 16;
    inputs.adapts_embedding = Contains(lora->target_modules, TargetModule::kEmbedTokens);
    inputs.adapts_head = Contains(lora->target_modules, TargetModule::kLmHead);
  }
  inputs.trains_weights = TrainsWeights(spec.method);
  inputs.bfloat16 = h.precision == "bfloat16";
  inputs.quantized = QuantizedWeightBytes(deps, plan) > 0;
  inputs.is_8bit_optimizer = h.optimizer_state == "int8";
  if (spec.dpo) inputs.pairs = std::min<int64_t>(h.batch_size, inputs.micro_batch_tokens / 2);
  inputs.has_teacher = spec.distillation.has_value();
  return inputs;
}

int64_t QuantizedWeightBytes(const TuningRunnerDeps& deps, const PlannedRun& plan) {
  const WeightFormat format = ParseWeightFormat(plan.hyperparameters.quantization);
  return format == WeightFormat::kDense ? 0 : WeightBytes(plan.model->base->config, deps.target, format);
}

namespace {

class TuningRunner final : public JobRunner {
 public:
  explicit TuningRunner(const TuningRunnerDeps& deps) : deps_(deps) {}

  absl::StatusOr<JobOutcome> Run(const Job& job, JobControl& control) override {
    // A run that died after publishing has nothing left to do.
    absl::StatusOr<ModelInfo> published = deps_.registry->Get(job.spec.tuned_model_id);
    if (published.ok() && published->tuning_job == job.spec.id) {
      ATTUNE_RETURN_IF_ERROR(control.SetRunning(job.resolved_hyperparameters.value_or(job.spec.hyperparameters),
                                                job.data_report.value_or(DataReport())));
      return JobOutcome{JobOutcome::Kind::kSucceeded, published->id};
    }
    absl::StatusOr<PlannedRun> plan =
        PlanRun(deps_, job.spec, PlanFor::kRun, [&] { return control.stop_request() != StopRequest::kNone; });
    if (absl::IsCancelled(plan.status())) return JobOutcome{};
    if (!plan.ok()) return plan.status();
    // On the CPU kernels cost nothing to launch; and whose company a job has is not to show in its bits.
    const bool may_share = deps_.target.device == ComputeTarget::Device::kCuda && !IsDeterministic();
    return TuningRun(deps_, may_share ? &joint_ : nullptr, job, control, *std::move(plan)).Run();
  }

  absl::StatusOr<JobEstimate> Estimate(const JobSpec& spec) override {
    if (!spec.tuned_model_id.empty() && deps_.registry->Get(spec.tuned_model_id).ok()) {
      return MakeError(absl::StatusCode::kAlreadyExists, "MODEL_EXISTS",
                       absl::StrCat("there is a models/", spec.tuned_model_id, " already; choose another "
                                                                               "tuned_model_id"));
    }
    ATTUNE_ASSIGN_OR_RETURN(PlannedRun plan, PlanRun(deps_, spec, PlanFor::kEstimate, nullptr));
    if (!spec.start_from) ATTUNE_RETURN_IF_ERROR(CheckStart(spec.method, plan.model->tokenizer()));
    const int64_t quantized_bytes = QuantizedWeightBytes(deps_, plan);
    const ModelConfig& config = plan.model->base->config;
    JobEstimate estimate;
    estimate.total_steps = plan.hyperparameters.max_steps;
    estimate.trainable_parameters = plan.trainable_parameters;
    MemoryInputs inputs = MemoryInputsOf(deps_, plan, spec);
    if (const int64_t total = deps_.arbiter ? deps_.arbiter->memory().total() : 0; total > 0) {
      const int64_t free = deps_.arbiter->memory().available() - quantized_bytes;
      const int64_t weights = quantized_bytes > 0 ? quantized_bytes : plan.model->base->bytes;
      inputs.activation_bytes = ActivationBudget(total, free, weights, inputs);
    }
    estimate.peak_memory_bytes = quantized_bytes + EstimateTrainingBytes(config, inputs);
    estimate.data_report = plan.data.report;
    estimate.resolved_hyperparameters = plan.hyperparameters;
    const double tokens = plan.hyperparameters.epochs *
                          (plan.data.report.train_tokens +
                           plan.virtual_tokens * static_cast<int64_t>(plan.data.train.size()));
    // Products reach about two thirds of a long one's speed, all else included.
    estimate.duration_seconds = tokens * TrainingOperationsPerToken(config, TrainsWeights(spec.method)) /
                                (0.67 * MeasuredOperationsPerSecond(plan.model->base->target));
    return estimate;
  }

 private:
  const TuningRunnerDeps deps_;
  JointPasses joint_;
};

}  // namespace

std::unique_ptr<JobRunner> MakeTuningRunner(const TuningRunnerDeps& deps) {
  return std::make_unique<TuningRunner>(deps);
}

}  // namespace attune
