#ifndef ATTUNE_SERVER_TUNING_START_VALUES_H_
#define ATTUNE_SERVER_TUNING_START_VALUES_H_

#include <functional>

#include "absl/status/statusor.h"
#include "server/adapters/adapter.h"
#include "server/jobs/job.h"
#include "server/model/base_model.h"
#include "server/tuning/methods/method.h"
#include "server/tuning/runner.h"

namespace attune {

// Values that training starts from in place of the method's own.
struct StartValues {
  MethodSpec method;  // the job's, with what it leaves open of the shape as the start has it
  // Puts the values into a method that was made by that; holds what it takes them from. Throws what libtorch throws: to be run inside CatchTorch.
  std::function<absl::Status(Method*)> put;
};

// Looks at what `spec.start_from`, which must be set, names. `base` is the job's base model, whose weights may be
// missing. INVALID_ARGUMENT (INVALID_FIELD) names what of the job does not agree with it: method, base model, rank,
// alpha, target modules, virtual tokens. NOT_FOUND (MODEL_NOT_FOUND, CHECKPOINT_NOT_FOUND), and the errors of reading
// it.
// `loads`: `put` is to be called, so a model with weights of its own is loaded now; else it may be null.
absl::StatusOr<StartValues> FindStartValues(const TuningRunnerDeps& deps, const JobSpec& spec, const BaseModel& base,
                                            bool loads);

// The method that makes adapters of this shape. INVALID_ARGUMENT (INVALID_FIELD on start_from) for a LoRA or IA3 whose
// layers or modules differ in shape: no method makes such.
absl::StatusOr<MethodSpec> MethodOf(const Adapter& adapter);
// `asked` with what it leaves open as in `start`. INVALID_ARGUMENT (INVALID_FIELD) names what differs.
absl::StatusOr<MethodSpec> MergeMethods(const MethodSpec& asked, const MethodSpec& start);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_START_VALUES_H_
