#include "server/rpc/convert_dataset.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "common/utf8.h"
#include "server/rpc/check.h"

namespace attune {
namespace {

bool IsSha256(absl::string_view text) {
  if (text.size() != 64) return false;
  for (char c : text) {
    if (!absl::ascii_isdigit(c) && !(c >= 'a' && c <= 'f')) return false;
  }
  return true;
}

absl::Status CheckDataset(const v1::Dataset& dataset) {
  ATTUNE_RETURN_IF_ERROR(CheckLength(dataset.display_name(), 200, "header.dataset.display_name"));
  ATTUNE_RETURN_IF_ERROR(CheckLabels(dataset.labels(), "header.dataset.labels"));
  if (!v1::Dataset::Format_IsValid(dataset.format())) {
    return InvalidField("header.dataset.format", "is no known format");
  }
  if (!v1::Dataset::Kind_IsValid(dataset.kind())) return InvalidField("header.dataset.kind", "is no known kind");
  for (const auto& [field, source] : {std::pair("header.dataset.prompt_template", dataset.prompt_template()),
                                      std::pair("header.dataset.completion_template", dataset.completion_template())}) {
    absl::Status status = PromptTemplate::Parse(source).status();
    if (!status.ok()) return InvalidField(field, status.message(), "BAD_TEMPLATE");
  }
  for (const auto& [from, to] : dataset.column_mapping()) {
    if (from.empty() || to.empty()) return InvalidField("header.dataset.column_mapping", "must not have an empty name");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DatasetStore::UploadOptions> ToUploadOptions(const v1::UploadDatasetRequest::Header& header) {
  if (!header.dataset_id().empty()) ATTUNE_RETURN_IF_ERROR(CheckId(header.dataset_id(), "header.dataset_id"));
  if (!header.sha256().empty() && !IsSha256(header.sha256())) {
    return InvalidField("header.sha256", "must be 64 lower-case hex digits");
  }
  ATTUNE_RETURN_IF_ERROR(CheckLength(header.request_id(), 128, "header.request_id"));
  const v1::Dataset& dataset = header.dataset();
  ATTUNE_RETURN_IF_ERROR(CheckDataset(dataset));

  DatasetStore::UploadOptions out;
  out.info.id = header.dataset_id();
  out.info.display_name = dataset.display_name();
  out.info.format = static_cast<DatasetFormat>(dataset.format());
  out.info.kind = static_cast<DatasetKind>(dataset.kind());
  out.info.prompt_template = dataset.prompt_template().empty() ? kDefaultPromptTemplate : dataset.prompt_template();
  out.info.completion_template =
      dataset.completion_template().empty() ? kDefaultCompletionTemplate : dataset.completion_template();
  out.info.column_mapping = ToMap(dataset.column_mapping());
  out.info.labels = ToMap(dataset.labels());
  out.skip_bad_rows = header.skip_bad_rows();
  out.sha256 = header.sha256();
  out.request_id = header.request_id();
  return out;
}

v1::Dataset ToProto(const DatasetInfo& info) {
  v1::Dataset out;
  out.set_name(absl::StrCat(kDatasets, "/", info.id));
  out.set_display_name(info.display_name);
  out.set_format(static_cast<v1::Dataset::Format>(info.format));
  out.set_kind(static_cast<v1::Dataset::Kind>(info.kind));
  out.set_prompt_template(info.prompt_template);
  out.set_completion_template(info.completion_template);
  out.mutable_column_mapping()->insert(info.column_mapping.begin(), info.column_mapping.end());
  out.mutable_labels()->insert(info.labels.begin(), info.labels.end());
  out.set_state(v1::Dataset::READY);
  out.set_row_count(info.row_count);
  out.set_skipped_row_count(info.skipped_row_count);
  for (const RowError& error : info.row_errors) {
    auto* row = out.add_row_errors();
    row->set_line(error.line);
    row->set_reason(ReplaceBrokenUtf8(error.reason));  // may quote a row that is not UTF-8
  }
  out.set_size_bytes(info.size_bytes);
  out.set_sha256(info.sha256);
  for (const std::string& column : info.columns) out.add_columns(ReplaceBrokenUtf8(column));
  *out.mutable_create_time() = ToTimestamp(info.create_time);
  return out;
}

v1::PreviewDatasetResponse::Example ToProto(const Example& example, const Tokenizer& tokenizer) {
  v1::PreviewDatasetResponse::Example out;
  out.set_row(example.row);
  out.set_prompt(example.prompt);
  out.set_completion(example.completion);
  for (size_t i = 0; i < example.tokens.size(); ++i) {
    auto* token = out.add_tokens();
    token->set_id(example.tokens[i]);
    token->set_text(ReplaceBrokenUtf8(tokenizer.TokenBytes(example.tokens[i])));
    token->set_has_loss(example.has_loss[i] != 0);
  }
  out.set_truncated(example.truncated);
  return out;
}

}  // namespace attune
