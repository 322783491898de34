#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_HOST_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_HOST_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "server/engine/engine.h"
#include "server/evaluation/prompt_search/search_data.h"
#include "server/evaluation/prompt_search/search_memo.h"
#include "server/jobs/job.h"

namespace attune {

// What the parts of a search work with. All pointers must outlive them; used on the job's
// thread only.
struct SearchHost {
  Engine* engine = nullptr;
  std::shared_ptr<const ServedModel> model;
  const SearchData* data = nullptr;
  const SearchSettings* settings = nullptr;
  SearchMemo* memo = nullptr;
  std::string tenant;
  // Asked all the time, also while waiting for the engine.
  std::function<StopRequest()> stop_request;
  // Told after each call that the memo has.
  std::function<absl::Status()> on_call;
};

// Whether the limits of the settings leave room for another call, given what was spent.
bool HasBudget(const SearchSettings& settings, const SearchMemo& memo, int64_t calls_under_way, int64_t next_tokens);

// What ends a search that is asked to stop.
absl::Status SearchStopped();

// The engine's answer to a call when the server goes down: the job's own stop follows in a
// moment, and is waited for, so that the job is put off and does not fail. Returns what the
// search ends with.
absl::Status AwaitStop(const SearchHost& host, const absl::Status& refused);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_HOST_H_
