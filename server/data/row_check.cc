#include "server/data/row_check.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

bool IsBlank(absl::string_view text) { return absl::StripAsciiWhitespace(text).empty(); }

std::string MissingVariable(const PromptTemplate& source, const Columns& columns) {
  for (const std::string& name : source.variables()) {
    if (columns.find(name) == columns.end()) return absl::StrCat("lacks the column '", name, "' as text or number");
  }
  return "";
}

}  // namespace

RowCheck::RowCheck(DatasetKind kind, bool has_templates, PromptTemplate prompt, PromptTemplate completion)
    : kind_(kind), has_templates_(has_templates), prompt_(std::move(prompt)), completion_(std::move(completion)) {}

absl::StatusOr<RowCheck> RowCheck::Create(const DatasetInfo& info) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate prompt, PromptTemplate::Parse(info.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(info.completion_template));
  bool has_templates = info.prompt_template != kDefaultPromptTemplate ||
                       info.completion_template != kDefaultCompletionTemplate;
  return RowCheck(info.kind, has_templates, std::move(prompt), std::move(completion));
}

DatasetKind RowCheck::Detect(const RawRow& row) const {
  if (has_templates_) return DatasetKind::kPromptCompletion;
  if (row.has_messages) return DatasetKind::kChat;
  if (MissingVariable(prompt_, row.columns).empty() && MissingVariable(completion_, row.columns).empty()) {
    return DatasetKind::kPromptCompletion;
  }
  return row.columns.count("text") > 0 ? DatasetKind::kText : DatasetKind::kUnspecified;
}

std::string RowCheck::PromptCompletionProblem(const Columns& columns) const {
  for (const PromptTemplate* source : {&prompt_, &completion_}) {
    std::string missing = MissingVariable(*source, columns);
    if (!missing.empty()) return missing;
  }
  absl::StatusOr<std::string> completion = completion_.Render(columns);
  return !completion.ok() || IsBlank(*completion) ? "has an empty completion" : "";
}

std::string RowCheck::Problem(const RawRow& row) {
  if (!row.problem.empty()) return row.problem;
  DatasetKind kind = kind_ == DatasetKind::kUnspecified ? Detect(row) : kind_;
  std::string problem;
  switch (kind) {
    case DatasetKind::kUnspecified:
      return "has neither 'prompt' and 'completion' nor 'messages' nor 'text'; map its columns or give templates";
    case DatasetKind::kPromptCompletion:
      problem = PromptCompletionProblem(row.columns);
      break;
    case DatasetKind::kChat:
      if (!row.has_messages) problem = "lacks 'messages'";
      break;
    case DatasetKind::kText: {
      auto text = row.columns.find("text");
      if (text == row.columns.end()) {
        problem = "lacks the column 'text'";
      } else if (IsBlank(text->second)) {
        problem = "has an empty text";
      }
      break;
    }
  }
  if (problem.empty()) kind_ = kind;
  return problem;
}

}  // namespace attune
