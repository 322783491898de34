#ifndef ATTUNE_SERVER_COMPARISON_PARTS_H_
#define ATTUNE_SERVER_COMPARISON_PARTS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/comparison/split.h"
#include "server/data/dataset.h"
#include "server/data/dataset_store.h"
#include "server/jobs/job.h"

// A dataset's rows as a comparison divides them.
namespace attune {

// The dataset as it is with those options, whose templates go before its own.
void UseTemplates(const DataOptions& options, DatasetInfo* data);

// Label and text of each row. Plain text has no label. The label is the value of the completion template's only variable, else the whole
// answer; the text is everything else.
absl::StatusOr<std::vector<SplitRow>> DescribeRows(const DatasetInfo& data, const std::vector<Row>& rows);

// The distinct labels, sorted, if answers are to be chosen among them: 2 to 100, and each row's label short; else none.
std::vector<std::string> ChoicesOf(const std::vector<SplitRow>& rows);

// The expected answer of each row, as it is rendered; of plain text none.
absl::StatusOr<std::vector<std::string>> AnswersOf(const DatasetInfo& data, const std::vector<Row>& rows);

// Those rows, in that order.
std::vector<Row> TakeRows(const std::vector<Row>& rows, const std::vector<int64_t>& indices);

// The column with the row's input: the longest that the prompt template names and the completion template does not, the
// first of equals; none for chats and plain text, and where there is no such column.
absl::StatusOr<std::optional<std::string>> InputColumn(const DatasetInfo& data, const Row& row);

// What a model is asked of the row: its prompt, the turns of a chat before the answer, as "role: text" lines, or all of a plain text.
absl::StatusOr<std::string> PromptText(const DatasetInfo& data, const Row& row);

// The rows as the bytes of a JSON Lines upload that reads as the same rows.
std::string RowsToJsonl(const DatasetInfo& data, const std::vector<Row>& rows);

// Stores rows of `source` as a dataset of their own, under its templates. Of `part`, id, display name, labels and, if the
// same part may have been stored before, request_id count. Errors: those of an upload.
absl::StatusOr<DatasetInfo> StoreRows(DatasetStore* datasets, const DatasetInfo& source, DatasetStore::UploadOptions part,
                                      const std::vector<Row>& rows);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_PARTS_H_
