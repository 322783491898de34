#ifndef ATTUNE_SERVER_COMPARISON_PARTS_H_
#define ATTUNE_SERVER_COMPARISON_PARTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/comparison/split.h"
#include "server/data/dataset.h"

// A dataset's rows as a comparison divides them.
namespace attune {

// Label and text of each row. The label is the value of the completion template's only variable, else the whole
// answer; the text is everything else.
absl::StatusOr<std::vector<SplitRow>> DescribeRows(const DatasetInfo& data, const std::vector<Row>& rows);

// The distinct labels, sorted, if answers are to be chosen among them: 2 to 100, and each row's label short; else none.
std::vector<std::string> ChoicesOf(const std::vector<SplitRow>& rows);

// The rows as the bytes of a JSON Lines upload that reads as the same rows.
std::string RowsToJsonl(const DatasetInfo& data, const std::vector<Row>& rows);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_PARTS_H_
