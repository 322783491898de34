#include <algorithm>
#include <functional>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/tuning/defaults.h"
#include "server/tuning/run.h"
#include "server/tuning/start_values.h"
#include "server/tuning/teacher.h"

namespace attune {
namespace {

int64_t Tokens(const std::vector<Example>& examples) {
  int64_t tokens = 0;
  for (const Example& example : examples) tokens += example.tokens.size();
  return tokens;
}

}  // namespace

absl::StatusOr<PlannedRun> PlanRun(const TuningRunnerDeps& deps, const JobSpec& spec, PlanFor use,
                                   const std::function<bool()>& stop) {
  PlannedRun plan;
  const WeightFormat format = ParseWeightFormat(spec.hyperparameters.quantization);
  if (format == WeightFormat::kDense) {
    ATTUNE_ASSIGN_OR_RETURN(plan.model, deps.residency->Acquire(spec.base_model));
  } else {
    ATTUNE_ASSIGN_OR_RETURN(plan.model, use == PlanFor::kRun ? deps.residency->AcquireQuantized(spec.base_model, format)
                                                             : deps.residency->Describe(spec.base_model));
  }
  if (plan.model->adapter || plan.model->info.kind == ModelKind::kTextPrompt) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "BASE_IS_ADAPTER",
                     absl::StrCat("models/", spec.base_model, " is an adapter; tune the model that it is based on, or "
                                                              "export it merged and import that"));
  }
  const BaseModel& base = *plan.model->base;
  if (spec.distillation) {
    const std::string& teacher = spec.distillation->teacher;
    ATTUNE_ASSIGN_OR_RETURN(plan.teacher, use == PlanFor::kRun ? deps.residency->Acquire(teacher)
                                                               : deps.residency->Describe(teacher));
    ATTUNE_RETURN_IF_ERROR(CheckTeacher(*plan.teacher, *base.tokenizer));
  }
  plan.method = spec.method;
  if (spec.start_from) {
    ATTUNE_ASSIGN_OR_RETURN(StartValues start, FindStartValues(deps, spec, base, use == PlanFor::kRun));
    plan.method = std::move(start.method);
    plan.put_start_values = std::move(start.put);
  }
  plan.virtual_tokens = VirtualTokens(plan.method);
  if (plan.virtual_tokens >= base.config.context) {
    return InvalidField(absl::StrCat("tuning_job.", MethodName(spec.method), ".num_virtual_tokens"),
                        "leaves no room in the model's context");
  }
  ATTUNE_ASSIGN_OR_RETURN(plan.trainable_parameters, CountTrainable(plan.method, base));
  const uint64_t seed = spec.hyperparameters.seed.value_or(42);
  ATTUNE_ASSIGN_OR_RETURN(plan.data, PrepareData(*deps.datasets, spec, *base.tokenizer, base.chat_template.get(),
                                                 base.config.context - plan.virtual_tokens, seed, stop));
  AutoInputs inputs;
  inputs.parameters = base.config.Parameters();
  inputs.train_examples = plan.data.train_groups();
  inputs.train_tokens = Tokens(plan.data.train);
  inputs.validation_tokens = Tokens(plan.data.validation);
  inputs.target = base.target;
  inputs.is_preference = spec.dpo.has_value();
  plan.hyperparameters = ResolveHyperparameters(plan.method, spec.hyperparameters, inputs);
  return plan;
}

}  // namespace attune
