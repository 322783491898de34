#ifndef ATTUNE_SERVER_JOBS_VALIDATE_H_
#define ATTUNE_SERVER_JOBS_VALIDATE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/jobs/job.h"

namespace attune {

// Checks every range that tuning_job.proto states and that needs neither the
// model nor the data. INVALID_ARGUMENT (INVALID_FIELD) lists all violations at
// once, by field path such as "tuning_job.lora.rank". Empty `id`,
// `tuned_model_id` and `tenant` are fine: they get defaults.
absl::Status ValidateJobSpec(const JobSpec& spec);

// At most 63 of [a-z0-9-].
bool IsTenant(absl::string_view tenant);

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_VALIDATE_H_
