#include "server/comparison/parts.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"
#include "server/data/chat_message.h"
#include "server/data/template.h"
#include "server/evaluation/choices.h"

namespace attune {
namespace {

constexpr size_t kMostChoices = 100, kLongestLabel = 200;

SplitRow DescribeChat(const Row& row) {
  SplitRow described{LastAnswer(row.messages), ""};
  for (size_t i = 0; i + 1 < row.messages.size(); ++i) {
    absl::StrAppend(&described.text, row.messages[i].role, "\x1f", row.messages[i].content, row.messages[i].more,
                    "\x1e");
  }
  described.text += row.tools;
  return described;
}

bool Names(const PromptTemplate& text, const std::string& column) {
  const std::vector<std::string>& names = text.variables();
  return std::find(names.begin(), names.end(), column) != names.end();
}

absl::StatusOr<SplitRow> DescribeColumns(const PromptTemplate& completion, const Row& row) {
  SplitRow described;
  ATTUNE_ASSIGN_OR_RETURN(described.label, completion.Render(row.columns));
  for (const auto& [name, value] : row.columns) {
    const bool is_answer = Names(completion, name);
    if (is_answer && completion.variables().size() == 1) described.label = value;
    if (!is_answer) absl::StrAppend(&described.text, name, "\x1f", value, "\x1e");
  }
  return described;
}

}  // namespace

void UseTemplates(const DataOptions& options, DatasetInfo* data) {
  if (!options.prompt_template.empty()) data->prompt_template = options.prompt_template;
  if (!options.completion_template.empty()) data->completion_template = options.completion_template;
}

absl::StatusOr<std::vector<SplitRow>> DescribeRows(const DatasetInfo& data, const std::vector<Row>& rows) {
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(data.completion_template));
  std::vector<SplitRow> described;
  for (const Row& row : rows) {
    if (data.kind == DatasetKind::kChat) {
      described.push_back(DescribeChat(row));
    } else if (data.kind == DatasetKind::kText) {
      described.push_back({"", row.columns.at("text")});
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

absl::StatusOr<std::vector<std::string>> AnswersOf(const DatasetInfo& data, const std::vector<Row>& rows) {
  std::vector<std::string> answers;
  if (data.kind == DatasetKind::kText) return answers;
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(data.completion_template));
  for (const Row& row : rows) {
    if (data.kind == DatasetKind::kChat) {
      answers.push_back(LastAnswer(row.messages));
    } else {
      ATTUNE_ASSIGN_OR_RETURN(answers.emplace_back(), completion.Render(row.columns));
    }
  }
  return answers;
}

std::vector<Row> TakeRows(const std::vector<Row>& rows, const std::vector<int64_t>& indices) {
  std::vector<Row> taken;
  for (int64_t i : indices) taken.push_back(rows[i]);
  return taken;
}

absl::StatusOr<std::optional<std::string>> InputColumn(const DatasetInfo& data, const Row& row) {
  std::optional<std::string> input;
  if (data.kind == DatasetKind::kChat || data.kind == DatasetKind::kText) return input;
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate prompt, PromptTemplate::Parse(data.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(PromptTemplate completion, PromptTemplate::Parse(data.completion_template));
  size_t longest = 0;
  for (const auto& [name, value] : row.columns) {
    if (!Names(prompt, name) || Names(completion, name) || value.size() <= longest) continue;
    longest = value.size();
    input = name;
  }
  return input;
}

absl::StatusOr<std::string> PromptText(const DatasetInfo& data, const Row& row) {
  if (data.kind == DatasetKind::kText) return row.columns.at("text");
  if (data.kind != DatasetKind::kChat) {
    ATTUNE_ASSIGN_OR_RETURN(PromptTemplate prompt, PromptTemplate::Parse(data.prompt_template));
    return prompt.Render(row.columns);
  }
  std::string text;
  for (size_t i = 0; i + 1 < row.messages.size(); ++i) {
    absl::StrAppend(&text, i > 0 ? "\n" : "", row.messages[i].role, ": ", row.messages[i].content);
  }
  return text;
}

std::string RowsToJsonl(const DatasetInfo& data, const std::vector<Row>& rows) {
  std::string bytes;
  for (const Row& row : rows) {
    nlohmann::ordered_json json = nlohmann::ordered_json::object();
    if (data.kind == DatasetKind::kChat) {
      for (const ChatTurn& turn : row.messages) json["messages"].push_back(MessageToJson(turn));
      if (!row.tools.empty()) json["tools"] = nlohmann::ordered_json::parse(row.tools);
    } else {
      for (const auto& [name, value] : row.columns) json[name] = value;
    }
    absl::StrAppend(&bytes, json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), "\n");
  }
  return bytes;
}

absl::StatusOr<DatasetInfo> StoreRows(DatasetStore* datasets, const DatasetInfo& source,
                                      DatasetStore::UploadOptions part, const std::vector<Row>& rows) {
  part.info.prompt_template = source.prompt_template;
  part.info.completion_template = source.completion_template;
  part.info.format = DatasetFormat::kJsonl;
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<DatasetStore::Upload> upload, datasets->BeginUpload(std::move(part)));
  ATTUNE_RETURN_IF_ERROR(upload->Append(RowsToJsonl(source, rows)));
  return upload->Commit();
}

}  // namespace attune
