#ifndef ATTUNE_SERVER_JOB_ROUTER_H_
#define ATTUNE_SERVER_JOB_ROUTER_H_

#include "server/jobs/runner_interface.h"

namespace attune {

// Gives each job to the runner for its method: those that train and those that search know
// nothing of each other. Thread-safe if the runners are.
class JobRouter final : public JobRunner {
 public:
  // Both must outlive this.
  JobRouter(JobRunner* training, JobRunner* prompt_search) : training_(training), prompt_search_(prompt_search) {}

  absl::StatusOr<JobOutcome> Run(const Job& job, JobControl& control) override;
  absl::StatusOr<JobEstimate> Estimate(const JobSpec& spec) override;

 private:
  JobRunner& RunnerFor(const MethodSpec& method) const;

  JobRunner* const training_;
  JobRunner* const prompt_search_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_JOB_ROUTER_H_
