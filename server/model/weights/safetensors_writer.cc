#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/model/weights/safetensors.h"

namespace attune {
namespace {

const char* TypeName(SafetensorsType type) {
  switch (type) {
    case SafetensorsType::kF32: return "F32";
    case SafetensorsType::kF16: return "F16";
    case SafetensorsType::kBF16: return "BF16";
    case SafetensorsType::kF64: return "F64";
    case SafetensorsType::kI64: return "I64";
    case SafetensorsType::kI32: return "I32";
    case SafetensorsType::kU8: return "U8";
  }
  return "";
}

// The length and the JSON, padded with spaces so that the data starts at a multiple of 8.
absl::StatusOr<std::string> MakeHeader(const std::vector<SafetensorsTensor>& tensors,
                                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata.empty()) json["__metadata__"] = metadata;
  std::set<absl::string_view> names;
  int64_t offset = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    int64_t bytes = SafetensorsElementBytes(tensor.type);
    for (int64_t size : tensor.shape) bytes *= size;
    if (bytes != static_cast<int64_t>(tensor.bytes.size()) || tensor.name == "__metadata__" ||
        !names.insert(tensor.name).second) {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_SAFETENSORS",
                       absl::StrCat("tensor '", tensor.name, "' is there twice or its bytes do not fit its shape"));
    }
    json[tensor.name] = {{"dtype", TypeName(tensor.type)}, {"shape", tensor.shape},
                         {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  // Text that is not UTF-8 is replaced, where dump() would throw by default.
  std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  uint64_t size = text.size();
  std::string header(sizeof size, '\0');
  std::memcpy(header.data(), &size, sizeof size);
  return header + text;
}

// 0, or the errno of the failure.
int WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(n);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorsTensor>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  ATTUNE_ASSIGN_OR_RETURN(std::string header, MakeHeader(tensors, metadata));
  std::string temporary = path + ".tmp";
  int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("opening ", temporary));
  int failed = WriteAll(fd, header);
  for (const SafetensorsTensor& tensor : tensors) {
    if (!failed) failed = WriteAll(fd, tensor.bytes);
  }
  if (!failed && fsync(fd) != 0) failed = errno;
  if (close(fd) != 0 && !failed) failed = errno;
  if (!failed && rename(temporary.c_str(), path.c_str()) != 0) failed = errno;
  if (failed) {
    unlink(temporary.c_str());
    return ErrnoStatus(failed, absl::StrCat("writing ", path));
  }
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  return SyncPath(folder.empty() ? "." : folder.string());
}

}  // namespace attune
