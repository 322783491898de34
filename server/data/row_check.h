#ifndef ATTUNE_SERVER_DATA_ROW_CHECK_H_
#define ATTUNE_SERVER_DATA_ROW_CHECK_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/data/row_source.h"
#include "server/data/template.h"

namespace attune {

// Puts the chats of a row of preferences between chats into `joined`, each with what comes before the answers. What is
// wrong with the row; empty if nothing is.
std::string JoinChatPreference(const RawRow& row, Row* joined);

// Decides which rows of a dataset are good. Not thread-safe.
class RowCheck {
 public:
  // INVALID_ARGUMENT (BAD_TEMPLATE) for templates of `info` that do not parse.
  static absl::StatusOr<RowCheck> Create(const DatasetInfo& info);

  // What is wrong with the row; empty if it is good. The first good row decides
  // the kind where it was not given.
  std::string Problem(const RawRow& row);

  // kUnspecified until a good row was seen.
  DatasetKind kind() const { return kind_; }

 private:
  RowCheck(DatasetKind kind, bool has_templates, PromptTemplate prompt, PromptTemplate completion);
  DatasetKind Detect(const RawRow& row) const;
  std::string PromptCompletionProblem(const Columns& columns) const;
  // Whether the row has two answers, and no template takes another column for the answer.
  bool HasPreference(const RawRow& row) const;
  std::string PreferenceProblem(Columns columns) const;

  DatasetKind kind_;
  bool has_templates_;  // other than the defaults
  PromptTemplate prompt_, completion_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_ROW_CHECK_H_
