#ifndef ATTUNE_SERVER_JOBS_POLICY_H_
#define ATTUNE_SERVER_JOBS_POLICY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

// Which job runs next. Pure: no clock, no database, no threads.
//
// Queued jobs are put in order
//   1. by priority, higher first;
//   2. between tenants: the one that used fewer device seconds lately, then the
//      one with fewer jobs running, comes first;
//   3. by age: the one created first.
// The first job in this order that fits the free memory starts.
//
// A job that does not fit is passed over at first. Once it has waited in the
// queue for `patience`, it is passed over no more: nothing behind it starts
// until the running jobs' ends have freed enough memory for it. (It does not
// hold up others if even the end of every running job would not free enough.)
//
// Nobody starves: within a priority and a tenant the oldest comes first, a
// tenant that waits falls behind in use and so moves ahead, and `patience`
// bounds how long small jobs can keep a large one out. Priorities are strict: a
// lower one waits for as long as higher ones keep coming.
namespace attune {

struct QueuedJob {
  std::string id;
  int32_t priority = 0;
  std::string tenant;
  int64_t position = 0;   // order of creation
  absl::Time queue_time;  // when it last entered the queue
  int64_t memory_bytes = 0;
};

struct RunningJob {
  std::string tenant;
  int64_t memory_bytes = 0;
};

struct QueueSnapshot {
  absl::Time now;
  std::vector<QueuedJob> queued;  // in any order
  std::vector<RunningJob> running;
  std::map<std::string, double> tenant_seconds;  // recent use; missing: none
  int64_t free_memory_bytes = 0;
  int free_slots = 0;
  absl::Duration patience = absl::Minutes(10);
};

// The id of the job to start now, if any.
std::optional<std::string> PickJob(const QueueSnapshot& snapshot);

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_POLICY_H_
