#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INPUT_EMBEDDINGS_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INPUT_EMBEDDINGS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/template.h"
#include "server/evaluation/prompt_search/search_host.h"

// What a search embeds for prompts that retrieve their examples. These all write an input as the data's own template
// does, so that one embedding of it serves them all.
namespace attune {

// Inputs by number, as the memo has them: validation rows count from 0, training rows down from -1; content-free ones
// are beyond any row.
int64_t TrainingRow(int64_t index);
int64_t ContentFreeInput(int64_t index);

// Gives the data a pool of training rows with their embeddings, at most 512, with as many of each label as there are,
// or by chance; but none if the settings want none, if fewer than 16 rows are short enough to be examples, or where the
// model cannot embed (an error, if examples by similarity alone were asked for). At most a quarter of the limits of
// tokens and time goes into it. Returns a line for the log; CANCELLED when the job is to stop.
absl::StatusOr<std::string> AddPool(const SearchHost& host, SearchData* data);

// Embeddings of inputs, each made when it is first needed. Not thread-safe.
class InputEmbeddings {
 public:
  // `host` must outlive it.
  explicit InputEmbeddings(const SearchHost* host) : host_(*host) {}

  // Has these. False if the budget has no room for them. CANCELLED as RowScorer::Score.
  absl::StatusOr<bool> Add(const std::map<int64_t, Columns>& inputs);

  // REQUIRES: it was added.
  const std::vector<float>& Of(int64_t input) const;
  // The pool's row that the input is; -1: none.
  int64_t PoolRow(int64_t input) const;

 private:
  const SearchHost& host_;
  std::map<int64_t, std::vector<float>> embeddings_;  // but for the pool's
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_INPUT_EMBEDDINGS_H_
