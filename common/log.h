#ifndef ATTUNE_COMMON_LOG_H_
#define ATTUNE_COMMON_LOG_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

// Structured log: one line an event on standard error,
//   2026-01-02T03:04:05.678Z INFO job.state job=tuningJobs/a state=RUNNING
// Values with spaces, quotes or control characters are quoted and escaped, so
// that no outside text can forge a line. Thread-safe.
namespace attune {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

using LogFields = std::vector<std::pair<absl::string_view, std::string>>;

// Lines below `level` are dropped. Default: kInfo.
void SetLogLevel(LogLevel level);
// "debug", "info", "warning", "error"; false if it is none of them.
bool ParseLogLevel(absl::string_view text, LogLevel* level);

// `event` is a dotted constant such as "job.state".
void Log(LogLevel level, absl::string_view event, const LogFields& fields);

inline void LogInfo(absl::string_view event, const LogFields& fields = {}) { Log(LogLevel::kInfo, event, fields); }
inline void LogWarning(absl::string_view event, const LogFields& fields = {}) { Log(LogLevel::kWarning, event, fields); }
inline void LogError(absl::string_view event, const LogFields& fields = {}) { Log(LogLevel::kError, event, fields); }

}  // namespace attune

#endif  // ATTUNE_COMMON_LOG_H_
