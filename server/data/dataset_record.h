#ifndef ATTUNE_SERVER_DATA_DATASET_RECORD_H_
#define ATTUNE_SERVER_DATA_DATASET_RECORD_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/data/dataset.h"

// How a dataset's description is kept in the database: one JSON object, so that a
// field can be added without changing the table. `id` and `position` have columns
// of their own and are not part of it.
namespace attune {

std::string EncodeDatasetRecord(const DatasetInfo& info);

// INTERNAL (DATABASE_ERROR) if the text is damaged.
absl::StatusOr<DatasetInfo> DecodeDatasetRecord(absl::string_view text);

// The name of the file that holds a dataset's rows: "rows.jsonl" and so on.
std::string RowsFileName(DatasetFormat format);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_DATASET_RECORD_H_
