// Client's uploads: checksum first, then the bytes in chunks.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "client/attune.h"
#include "client/stubs.h"
#include "common/error.h"
#include "common/file.h"

namespace attune {

constexpr int64_t kUploadChunkBytes = 512 << 10;

// Bytes that can be read again from any place, as a retry needs.
struct ByteSource {
  int64_t size = 0;
  // Fills `out` with up to kUploadChunkBytes from `offset`; empty at the end.
  std::function<absl::Status(int64_t offset, std::string* out)> read;
};

namespace {

absl::Status ReadAt(int fd, const std::string& path, int64_t offset, std::string* out) {
  out->resize(kUploadChunkBytes);
  int64_t filled = 0;
  while (filled < kUploadChunkBytes) {
    ssize_t n = pread(fd, out->data() + filled, kUploadChunkBytes - filled, offset + filled);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrCat("cannot read '", path, "'"));
    if (n == 0) break;
    filled += n;
  }
  out->resize(filled);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Checksum(const ByteSource& source) {
  Sha256 hash;
  std::string chunk;
  for (int64_t offset = 0;; offset += static_cast<int64_t>(chunk.size())) {
    ATTUNE_RETURN_IF_ERROR(source.read(offset, &chunk));
    if (chunk.empty()) return hash.Finish();
    hash.Update(chunk);
  }
}

// Sends header and chunks. A false Write means that the server has already
// answered, and the answer comes with Finish.
absl::Status Send(grpc::ClientWriterInterface<v1::UploadDatasetRequest>* writer,
                  const v1::UploadDatasetRequest::Header& header, const ByteSource& source,
                  const Client::OnUpload& progress) {
  v1::UploadDatasetRequest message;
  *message.mutable_header() = header;
  if (!writer->Write(message)) return absl::OkStatus();
  for (int64_t offset = 0;;) {
    std::string* chunk = message.mutable_chunk();
    ATTUNE_RETURN_IF_ERROR(source.read(offset, chunk));
    if (chunk->empty()) break;
    offset += static_cast<int64_t>(chunk->size());
    if (!writer->Write(message)) return absl::OkStatus();
    if (progress != nullptr) progress(offset, source.size);
  }
  writer->WritesDone();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Dataset> Client::UploadDatasetFile(v1::UploadDatasetRequest::Header header, const std::string& path,
                                                      const OnUpload& progress) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("cannot open '", path, "'"));
  auto close_file = absl::MakeCleanup([fd] { close(fd); });
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoStatus(errno, absl::StrCat("cannot read '", path, "'"));
  if (!S_ISREG(info.st_mode)) return InvalidField("path", absl::StrCat("'", path, "' is not a plain file"));
  ByteSource source;
  source.size = info.st_size;
  source.read = [fd, &path](int64_t offset, std::string* out) { return ReadAt(fd, path, offset, out); };
  return Upload(std::move(header), source, progress);
}

absl::StatusOr<v1::Dataset> Client::UploadDatasetBytes(v1::UploadDatasetRequest::Header header, absl::string_view bytes,
                                                       const OnUpload& progress) {
  ByteSource source;
  source.size = static_cast<int64_t>(bytes.size());
  source.read = [bytes](int64_t offset, std::string* out) {
    absl::string_view rest = bytes.substr(std::min<size_t>(offset, bytes.size()), kUploadChunkBytes);
    out->assign(rest.data(), rest.size());
    return absl::OkStatus();
  };
  return Upload(std::move(header), source, progress);
}

absl::StatusOr<v1::Dataset> Client::Upload(v1::UploadDatasetRequest::Header header, const ByteSource& source,
                                           const OnUpload& progress) {
  if (header.sha256().empty()) {
    ATTUNE_ASSIGN_OR_RETURN(*header.mutable_sha256(), Checksum(source));
  }
  if (header.request_id().empty()) header.set_request_id(NewRequestId());
  const absl::Time deadline = absl::Now() + options_.long_deadline;
  Retrier retrier(options_, deadline, nullptr);
  v1::Dataset dataset;
  absl::Status status;
  do {
    CallContext context(deadline, nullptr);
    dataset.Clear();
    auto writer = stubs_->datasets->UploadDataset(context.get(), &dataset);
    if (absl::Status sent = Send(writer.get(), header, source, progress); !sent.ok()) {
      context.get()->TryCancel();
      writer->Finish();
      return sent;
    }
    status = FromGrpcStatus(writer->Finish());
  } while (retrier.Again(status));
  if (!status.ok()) return status;
  return dataset;
}

}  // namespace attune
