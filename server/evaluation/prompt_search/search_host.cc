#include "server/evaluation/prompt_search/search_host.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/error.h"

namespace attune {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(20);
constexpr absl::Duration kLongestWait = absl::Seconds(10);

}  // namespace

bool HasBudget(const SearchSettings& settings, const SearchMemo& memo, int64_t calls_under_way, int64_t next_tokens) {
  if (settings.max_calls > 0 && memo.calls + calls_under_way >= settings.max_calls) return false;
  if (settings.max_tokens > 0 && memo.tokens + next_tokens > settings.max_tokens) return false;
  return settings.max_seconds <= 0 || memo.seconds < settings.max_seconds;
}

absl::Status SearchStopped() { return absl::CancelledError("The search was stopped."); }

absl::Status AwaitStop(const SearchHost& host, const absl::Status& refused) {
  const bool is_shutdown = GetErrorDetails(refused).reason == "SHUTTING_DOWN" || absl::IsCancelled(refused);
  const absl::Time deadline = absl::Now() + (is_shutdown ? kLongestWait : absl::ZeroDuration());
  while (host.stop_request() == StopRequest::kNone) {
    if (absl::Now() >= deadline) return refused;
    absl::SleepFor(kPoll);
  }
  return SearchStopped();
}

}  // namespace attune
