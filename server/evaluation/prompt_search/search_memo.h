#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_MEMO_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_MEMO_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attune {

// How a prompt did on a row, 0 to 1: as it is, and with its calibration.
struct RowScore {
  double plain = 0, calibrated = 0;
};

// Every answer that a search has had from the model. A search is a function of its seed and
// these, so one that starts again with them gets to where it was without a call. Not
// thread-safe.
struct SearchMemo {
  // By prompt (KeyOf), then by row: validation rows from 0, training row i as -1 - i.
  std::map<std::string, std::map<int64_t, RowScore>> scores;
  // By prompt, then by content-free input: the labels' log-probabilities.
  std::map<std::string, std::map<int64_t, std::vector<double>>> content_free;
  // By what the model was asked for: the texts that it wrote.
  std::map<std::string, std::vector<std::string>> written;
  // Inputs whose embedding is among the tokens spent, by EmbeddedInput: a run that embeds them again spends no more.
  std::set<int64_t> embedded;
  // Spent on all this, over all runs. Embeddings count as tokens and seconds, not as calls.
  int64_t calls = 0, tokens = 0;
  double seconds = 0;

  // Null if the prompt has not met the row.
  const RowScore* Find(const std::string& prompt, int64_t row) const;
};

std::string SearchMemoToJson(const SearchMemo& memo);
// DATA_LOSS (BAD_CHECKPOINT).
absl::StatusOr<SearchMemo> SearchMemoFromJson(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_MEMO_H_
