#include "common/log.h"

#include <unistd.h>

#include <atomic>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace attune {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kInfo};

std::string Value(absl::string_view text) {
  bool plain = !text.empty();
  for (unsigned char c : text) plain = plain && c > ' ' && c != '"' && c != '=' && c != '\\' && c != 0x7f;
  return plain ? std::string(text) : absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\"");
}

const char* Name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "DEBUG";
    case LogLevel::kInfo: return "INFO";
    case LogLevel::kWarning: return "WARNING";
    case LogLevel::kError: return "ERROR";
  }
  return "?";
}

}  // namespace

void SetLogLevel(LogLevel level) { g_level = level; }

bool ParseLogLevel(absl::string_view text, LogLevel* level) {
  if (text == "debug") *level = LogLevel::kDebug;
  else if (text == "info") *level = LogLevel::kInfo;
  else if (text == "warning") *level = LogLevel::kWarning;
  else if (text == "error") *level = LogLevel::kError;
  else return false;
  return true;
}

void Log(LogLevel level, absl::string_view event, const LogFields& fields) {
  if (level < g_level.load(std::memory_order_relaxed)) return;
  std::string line = absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()), " ",
                                  Name(level), " ", event);
  for (const auto& [key, value] : fields) absl::StrAppend(&line, " ", key, "=", Value(value));
  line += '\n';
  // One write a line, so that lines of several threads do not mix.
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace attune
