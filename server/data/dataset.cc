#include "server/data/dataset.h"

#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/row_check.h"
#include "server/data/row_source.h"

namespace attune {
namespace {

constexpr absl::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr size_t kKeptRowErrors = 20;

// Sets what `info` leaves open and clears what reading finds out.
void Prepare(absl::string_view bytes, DatasetInfo* info) {
  if (info->format == DatasetFormat::kUnspecified) {
    bool json = absl::StartsWith(absl::StripLeadingAsciiWhitespace(bytes), "{");
    info->format = json ? DatasetFormat::kJsonl : DatasetFormat::kCsv;
  }
  if (info->prompt_template.empty()) info->prompt_template = kDefaultPromptTemplate;
  if (info->completion_template.empty()) info->completion_template = kDefaultCompletionTemplate;
  info->row_count = info->skipped_row_count = 0;
  info->row_errors.clear();
  info->columns.clear();
}

absl::Status EmptyDataset(const DatasetInfo& info) {
  std::string message = "There is no good row.";
  if (!info.row_errors.empty()) {
    absl::StrAppend(&message, " Line ", info.row_errors[0].line, " ", info.row_errors[0].reason, ".");
  }
  return MakeError(absl::StatusCode::kInvalidArgument, "EMPTY_DATASET", message);
}

}  // namespace

absl::Status ReadRows(absl::string_view bytes, DatasetInfo* info, const std::function<void(Row)>& on_row) {
  if (absl::StartsWith(bytes, kByteOrderMark)) bytes.remove_prefix(kByteOrderMark.size());
  Prepare(bytes, info);
  ATTUNE_ASSIGN_OR_RETURN(RowCheck check, RowCheck::Create(*info));
  std::set<std::string> columns;
  auto take = [&](RawRow raw) {
    std::string problem = check.Problem(raw);
    if (!problem.empty()) {
      ++info->skipped_row_count;
      if (info->row_errors.size() < kKeptRowErrors) info->row_errors.push_back({raw.line, std::move(problem)});
      return;
    }
    ++info->row_count;
    for (const auto& [name, value] : raw.columns) columns.insert(name);
    if (raw.has_messages) columns.insert("messages");
    for (const auto& [turns, name] : {std::pair(&raw.prompt, "prompt"), std::pair(&raw.chosen, "chosen"),
                                      std::pair(&raw.rejected, "rejected")}) {
      if (!turns->empty()) columns.insert(name);
    }
    if (!on_row) return;
    Row row;
    if (check.kind() == DatasetKind::kChatPreference) JoinChatPreference(raw, &row);
    row.line = raw.line;
    row.columns = std::move(raw.columns);
    row.messages = std::move(raw.messages);
    row.tools = std::move(raw.tools);
    on_row(std::move(row));
  };
  if (info->format == DatasetFormat::kJsonl) {
    ReadJsonlRows(bytes, info->column_mapping, take);
  } else {
    ATTUNE_RETURN_IF_ERROR(ReadTableRows(bytes, info->format == DatasetFormat::kCsv, info->column_mapping, take));
  }
  info->kind = check.kind();
  info->columns.assign(columns.begin(), columns.end());
  return info->row_count > 0 ? absl::OkStatus() : EmptyDataset(*info);
}

}  // namespace attune
