#include "server/job_router.h"

#include <variant>

namespace attune {

JobRunner& JobRouter::RunnerFor(const MethodSpec& method) const {
  return std::holds_alternative<TextPromptSpec>(method) ? *prompt_search_ : *training_;
}

absl::StatusOr<JobOutcome> JobRouter::Run(const Job& job, JobControl& control) {
  return RunnerFor(job.spec.method).Run(job, control);
}

absl::StatusOr<JobEstimate> JobRouter::Estimate(const JobSpec& spec) { return RunnerFor(spec.method).Estimate(spec); }

}  // namespace attune
