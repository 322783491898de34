#ifndef ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_DATA_H_
#define ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_DATA_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/adapters/residency.h"
#include "server/data/dataset_store.h"
#include "server/data/example_pool.h"
#include "server/evaluation/prompt_search/prompt_format.h"
#include "server/jobs/job.h"

namespace attune {

// A search's settings, with every default replaced by its value.
struct SearchSettings {
  std::vector<std::string> instructions;
  int64_t max_examples = 0, candidates = 0, rounds = 0;
  TextPromptSpec::Selection selection = TextPromptSpec::Selection::kUnspecified;
  std::optional<bool> calibrate;          // unset: where it helps
  int64_t max_calls = 0, max_tokens = 0;  // 0: no limit
  double max_seconds = 0;                 // 0: no limit
  uint64_t seed = 0;
};
SearchSettings ResolveSearch(const JobSpec& spec);

// A search's data.
struct SearchData {
  std::vector<Row> train;
  std::vector<Row> validation;               // in the order in which prompts meet them
  std::vector<std::string> train_answers;    // labels, of label tasks
  std::vector<int64_t> eligible;             // training rows that are short enough to be examples
  std::vector<std::vector<float>> features;  // of the training rows' inputs
  TextPromptSpec::Metric metric = TextPromptSpec::Metric::kUnspecified;  // never kUnspecified
  std::vector<std::string> labels;                                       // empty unless the metric is kLabelAccuracy
  std::vector<PromptFormat> formats;
  // What prompts may retrieve examples from, embedded in the first format; null: none may. See AddPool.
  std::shared_ptr<const ExamplePool> pool;
  std::map<int64_t, int64_t> pool_row_of;  // training row to the pool's
  std::vector<int64_t> longest_in_pool;    // the pool's rows, by tokens
  int64_t max_tokens = 0;  // of a row with its answer, without what comes before it
  int64_t row_tokens = 0;  // mean, prompt and answer
  DataReport report;
};

// Reads, checks and splits: the rows that are held out are those that the other methods hold
// out under the same seed. `stop` is asked now and then; true gives CANCELLED.
// INVALID_ARGUMENT for rows of another kind, (NO_USABLE_EXAMPLES) if rows to train on or to
// validate with are missing, or naming the metric if the data does not allow it.
absl::StatusOr<SearchData> PrepareSearch(const DatasetStore& datasets, const JobSpec& spec, const ServedModel& model,
                                         const std::function<bool()>& stop);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROMPT_SEARCH_SEARCH_DATA_H_
