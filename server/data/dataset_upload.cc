#include "server/data/dataset_upload.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/data/template.h"

namespace attune {
namespace {

constexpr size_t kMaxDisplayNameBytes = 200;
constexpr size_t kMaxLabels = 32;
constexpr size_t kMaxLabelBytes = 128;
constexpr size_t kMaxTemplateBytes = 64 << 10;
constexpr size_t kSha256HexBytes = 64;

absl::Status CheckTemplate(absl::string_view source, absl::string_view field) {
  if (source.size() > kMaxTemplateBytes) return InvalidField(field, "is longer than 64 KiB", "BAD_TEMPLATE");
  absl::StatusOr<PromptTemplate> parsed = PromptTemplate::Parse(source);
  return parsed.ok() ? absl::OkStatus() : InvalidField(field, parsed.status().message(), "BAD_TEMPLATE");
}

absl::Status CheckLabels(const std::map<std::string, std::string>& labels) {
  if (labels.size() > kMaxLabels) return InvalidField("labels", absl::StrCat("has more than ", kMaxLabels, " pairs"));
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > kMaxLabelBytes || value.size() > kMaxLabelBytes) {
      return InvalidField("labels", absl::StrCat("has an empty key, or a side longer than ", kMaxLabelBytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckUploadOptions(const DatasetStore::UploadOptions& options) {
  if (!options.info.id.empty()) ATTUNE_RETURN_IF_ERROR(CheckId(options.info.id, "dataset_id"));
  if (options.info.display_name.size() > kMaxDisplayNameBytes) {
    return InvalidField("display_name", absl::StrCat("is longer than ", kMaxDisplayNameBytes, " bytes"));
  }
  ATTUNE_RETURN_IF_ERROR(CheckTemplate(options.info.prompt_template, "prompt_template"));
  ATTUNE_RETURN_IF_ERROR(CheckTemplate(options.info.completion_template, "completion_template"));
  ATTUNE_RETURN_IF_ERROR(CheckLabels(options.info.labels));
  bool hex = options.sha256.empty() || options.sha256.size() == kSha256HexBytes;
  for (char c : options.sha256) hex = hex && absl::ascii_isxdigit(c);
  return hex ? absl::OkStatus() : InvalidField("sha256", "must be 64 hexadecimal digits");
}

absl::Status CheckRowErrors(const DatasetInfo& info, bool skip_bad_rows) {
  if (info.skipped_row_count == 0 || skip_bad_rows) return absl::OkStatus();
  std::string message = absl::StrCat(info.skipped_row_count, info.skipped_row_count == 1 ? " row is" : " rows are",
                                     " bad; correct them or ask to skip bad rows.");
  std::vector<FieldViolation> violations;
  for (const RowError& error : info.row_errors) {
    absl::StrAppend(&message, "\nline ", error.line, " ", error.reason);
    violations.push_back({absl::StrCat("line ", error.line), error.reason});
  }
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ROWS", message,
                   {{"bad_rows", absl::StrCat(info.skipped_row_count)}}, std::move(violations));
}

std::string UploadFile::PartPath() const { return folder_ + "/part"; }

absl::StatusOr<std::unique_ptr<UploadFile>> UploadFile::Create(const std::string& folder) {
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(folder));
  auto file = std::unique_ptr<UploadFile>(new UploadFile(folder, -1));
  file->fd_ = open(file->PartPath().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file->fd_ < 0) return ErrnoStatus(errno, "opening the upload's file");
  return file;
}

UploadFile::~UploadFile() {
  if (fd_ >= 0) close(fd_);
  RemoveAll(folder_).IgnoreError();  // Open of the store removes it otherwise
}

absl::Status UploadFile::Append(absl::string_view bytes) {
  hash_.Update(bytes);
  size_ += static_cast<int64_t>(bytes.size());
  while (!bytes.empty()) {
    ssize_t n = write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR) return ErrnoStatus(errno, "writing the upload");
    if (n > 0) bytes.remove_prefix(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> UploadFile::Contents() const { return ReadFile(PartPath()); }

absl::Status UploadFile::Finish(const std::string& file_name) {
  int failed = fsync(fd_) != 0 ? errno : 0;
  if (close(fd_) != 0 && !failed) failed = errno;
  fd_ = -1;
  if (!failed && rename(PartPath().c_str(), (folder_ + "/" + file_name).c_str()) != 0) failed = errno;
  return failed ? ErrnoStatus(failed, "finishing the upload's file") : absl::OkStatus();
}

}  // namespace attune
