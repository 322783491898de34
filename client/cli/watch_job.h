#ifndef ATTUNE_CLIENT_CLI_WATCH_JOB_H_
#define ATTUNE_CLIENT_CLI_WATCH_JOB_H_

#include <string>

#include "client/cli/context.h"

namespace attune::cli {

// Follows a job (full name) until it has ended, with live progress, or with
// JSON lines under --json. Events up to `after_sequence` are passed over.
// Returns kExitOk if it SUCCEEDED, kExitFailed if it FAILED or was CANCELLED,
// kExitOther if Ctrl-C detached from it.
absl::StatusOr<int> WatchJob(Context* context, const std::string& name, int64_t after_sequence);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_WATCH_JOB_H_
