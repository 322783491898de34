#ifndef ATTUNE_SERVER_TUNING_PREPARE_H_
#define ATTUNE_SERVER_TUNING_PREPARE_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/dataset_store.h"
#include "server/data/example.h"
#include "server/jobs/job.h"

namespace attune {

// A job's data, ready to batch.
struct PreparedData {
  std::vector<Example> train, validation;
  int64_t group_size = 1;  // 2: examples are pairs of preferences, chosen and rejected
  int64_t train_groups() const { return static_cast<int64_t>(train.size()) / group_size; }
  DataReport report;
  RenderOptions render;  // what the tuned model is served with
};

// Reads, renders and splits. Templates: the job's, else the dataset's. Without a
// validation dataset a fraction is held out, chosen by `seed`: 0.1 and at most 500 rows
// unless the job says otherwise. Rows whose answer does not fit are dropped and counted.
// `stop` is asked now and then; true gives CANCELLED. INVALID_ARGUMENT
// (NO_USABLE_EXAMPLES) if nothing is left to train on, (NO_PREFERENCES) if the job is to learn preferences and the
// rows are none, (PREFERENCE_DATA) if they are and it is not.
absl::StatusOr<PreparedData> PrepareData(const DatasetStore& datasets, const JobSpec& spec, const Tokenizer& tokenizer,
                                         const ChatTemplate* chat, int64_t context_tokens, uint64_t seed,
                                         const std::function<bool()>& stop);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_PREPARE_H_
