#include "server/comparison/parts.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/data/template.h"
#include "server/evaluation/choices.h"

namespace attune {
namespace {

constexpr size_t kMostChoices = 100, kLongestLabel = 200;

SplitRow DescribeChat(const Row& row) {
  SplitRow described{LastAnswer(row.messages), ""};
  for (size_t i = 0; i + 1 < row.messages.size(); ++i) {
    absl::StrAppend(&described.text, row.messages[i].role, "\x1f", row.messages[i].content, "\x1e");
  }
  return described;
}

absl::StatusOr<SplitRow> DescribeColumns(const PromptTemplate& completion, const Row& row) {
  SplitRow described;
  ATTUNE_ASSIGN_OR_RETURN(described.label, completion.Render(row.columns));
  const std::vector<std::string>& answer = completion.variables();
  for (const auto& [name, value] : row.columns) {
    const bool is_answer = std::find(answer.begin(), answer.end(), name) != answer.end();
    if (is_answer && answer.size() == 1) described.label = value;
    if (!is_answer) absl::StrAppend(&described.text, name, "\x1f", value, "\x1e");
  }
  return described;
}

}  // namespace

absl::StatusOr<std::vector<SplitRow>> DescribeRows(const DatasetInfo& data, const std::vector<Row>& rows) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(data.completion_template));
  std::vector<SplitRow> described;
  for (const Row& row : rows) {
    if (data.kind == DatasetKind::kChat) {
      described.push_back(DescribeChat(row));
    } else {
      ATTUNE_ASSIGN_OR_RETURN(described.emplace_back(), DescribeColumns(completion, row));
    }
  }
  return described;
}

std::vector<std::string> ChoicesOf(const std::vector<SplitRow>& rows) {
  std::set<std::string> labels;
  for (const SplitRow& row : rows) {
    if (row.label.size() > kLongestLabel) return {};
    labels.insert(row.label);
    if (labels.size() > kMostChoices) return {};
  }
  // As many answers as rows are no labels.
  if (labels.size() < 2 || 2 * labels.size() > rows.size()) return {};
  return {labels.begin(), labels.end()};
}

std::string RowsToJsonl(const DatasetInfo& data, const std::vector<Row>& rows) {
  std::string bytes;
  for (const Row& row : rows) {
    nlohmann::json json = nlohmann::json::object();
    if (data.kind == DatasetKind::kChat) {
      for (const ChatTurn& turn : row.messages) json["messages"].push_back({{"role", turn.role}, {"content", turn.content}});
    } else {
      for (const auto& [name, value] : row.columns) json[name] = value;
    }
    absl::StrAppend(&bytes, json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), "\n");
  }
  return bytes;
}

}  // namespace attune
