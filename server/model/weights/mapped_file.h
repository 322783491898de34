#ifndef ATTUNE_SERVER_MODEL_WEIGHTS_MAPPED_FILE_H_
#define ATTUNE_SERVER_MODEL_WEIGHTS_MAPPED_FILE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attune {

// A file mapped read-only; the mapping ends with the object. Thread-safe.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  absl::string_view bytes() const { return bytes_; }

 private:
  explicit MappedFile(absl::string_view bytes) : bytes_(bytes) {}
  absl::string_view bytes_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_WEIGHTS_MAPPED_FILE_H_
