#include "server/tuning/defaults.h"

#include <algorithm>
#include <cmath>

namespace attune {

bool TrainsWeights(const MethodSpec& method) {
  return std::holds_alternative<FullSpec>(method) || std::holds_alternative<PartialSpec>(method);
}

namespace {

// Whether it has so few parameters that it needs more passes.
bool IsSmall(const MethodSpec& method) { return !TrainsWeights(method) && !std::holds_alternative<LoraSpec>(method); }

// Small models take, and need, higher rates.
double AutoLearningRate(const MethodSpec& method, int64_t parameters) {
  const bool small = parameters < 500'000'000;
  if (std::holds_alternative<SoftPromptSpec>(method)) return 3e-2;
  if (std::holds_alternative<PrefixSpec>(method)) return 1e-2;
  if (std::holds_alternative<Ia3Spec>(method)) return 5e-3;
  if (std::holds_alternative<LoraSpec>(method)) return small ? 5e-4 : 2e-4;
  if (std::holds_alternative<PartialSpec>(method)) return small ? 1e-4 : 2e-5;
  return small ? 5e-5 : 1e-5;
}

// Few examples need more passes.
double AutoEpochs(const MethodSpec& method, int64_t examples) {
  const double epochs = examples < 100 ? 10 : examples < 500 ? 5 : examples < 5000 ? 3 : 2;
  return IsSmall(method) ? 2 * epochs : epochs;
}

int32_t AutoBatchSize(int64_t examples) { return examples < 256 ? 8 : examples < 2048 ? 16 : 32; }

// Evaluation costs a third of training a token: at most ten, and about a twentieth of the work.
int64_t AutoEvaluationSteps(const AutoInputs& inputs, int64_t total_steps, double epochs) {
  if (inputs.validation_tokens == 0) return -1;
  const double budget = 0.15 * epochs * inputs.train_tokens / inputs.validation_tokens;
  const int64_t times = std::clamp<int64_t>(std::llround(budget), 1, 10);
  return std::max<int64_t>(1, (total_steps + times - 1) / times);
}

}  // namespace

Hyperparameters ResolveHyperparameters(const MethodSpec& method, const Hyperparameters& given,
                                       const AutoInputs& inputs) {
  Hyperparameters h = given;
  if (h.batch_size == 0) h.batch_size = AutoBatchSize(inputs.train_examples);
  const int64_t per_epoch = std::max<int64_t>(1, (inputs.train_examples + h.batch_size - 1) / h.batch_size);
  if (h.max_steps > 0) {
    h.epochs = static_cast<double>(h.max_steps) / per_epoch;
  } else {
    if (h.epochs == 0) h.epochs = AutoEpochs(method, inputs.train_examples);
    h.max_steps = std::max<int64_t>(1, std::llround(std::ceil(h.epochs * per_epoch - 1e-9)));
  }
  if (h.learning_rate_multiplier == 0) h.learning_rate_multiplier = 1;
  if (h.learning_rate == 0) {
    h.learning_rate = AutoLearningRate(method, inputs.parameters) * h.learning_rate_multiplier *
                      (inputs.is_preference ? 0.1 : 1.0);
  }
  if (h.schedule == LearningRateSchedule::kUnspecified) h.schedule = LearningRateSchedule::kCosine;
  if (!h.warmup_ratio) h.warmup_ratio = 0.05;
  if (!h.weight_decay) h.weight_decay = TrainsWeights(method) ? 0.01 : 0.0;
  if (!h.adam_beta1) h.adam_beta1 = 0.9;
  if (!h.adam_beta2) h.adam_beta2 = 0.999;
  if (!h.adam_epsilon) h.adam_epsilon = 1e-8;
  if (!h.max_gradient_norm) h.max_gradient_norm = 1.0;
  if (h.micro_batch_tokens == 0) {
    h.micro_batch_tokens = inputs.target.device == ComputeTarget::Device::kCuda ? 16384 : 2048;
  }
  if (h.evaluation_steps == 0) h.evaluation_steps = AutoEvaluationSteps(inputs, h.max_steps, h.epochs);
  if (!h.keep_best) h.keep_best = inputs.validation_tokens > 0;
  if (h.checkpoint_steps == 0) {
    h.checkpoint_steps = h.evaluation_steps > 0 ? h.evaluation_steps : std::max<int64_t>(1, (h.max_steps + 4) / 5);
  }
  if (h.max_checkpoints == 0) h.max_checkpoints = 2;
  if (!h.seed) h.seed = 42;
  if (h.precision.empty() || h.precision == "auto") {
    h.precision = inputs.target.type == ComputeTarget::Type::kBfloat16 ? "bfloat16" : "float32";
  }
  if (h.quantization.empty()) h.quantization = "none";
  if (h.optimizer_state.empty()) h.optimizer_state = "float32";
  return h;
}

}  // namespace attune
