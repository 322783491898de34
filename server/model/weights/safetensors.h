#ifndef ATTUNE_SERVER_MODEL_WEIGHTS_SAFETENSORS_H_
#define ATTUNE_SERVER_MODEL_WEIGHTS_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attune {

class MappedFile;

enum class SafetensorsType { kF32, kF16, kBF16, kF64, kI64, kI32, kU8 };

struct SafetensorsTensor {
  std::string name;
  std::vector<int64_t> shape;
  SafetensorsType type;
  absl::string_view bytes;  // inside the mapping
  int64_t elements() const;
};

// One safetensors file, or the shards that model.safetensors.index.json names,
// memory-mapped. Header size, JSON, types, shapes and offsets are all checked
// (no overlap, no gap, nothing past the end): INVALID_ARGUMENT (BAD_SAFETENSORS)
// else, never a crash. Immutable: thread-safe.
class SafetensorsFile {
 public:
  // A file, or a directory with model.safetensors or an index.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  // Parses bytes that the caller keeps alive; for tests and fuzzing.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(absl::string_view bytes);
  ~SafetensorsFile();

  const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  const SafetensorsTensor* Find(absl::string_view name) const;  // null if absent
  // The file's __metadata__.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;
  absl::Status Add(absl::string_view bytes);
  std::vector<std::unique_ptr<MappedFile>> mappings_;
  std::vector<SafetensorsTensor> tensors_;  // shard by shard, by offset
  std::map<std::string, size_t, std::less<>> by_name_;  // indices into tensors_
  std::map<std::string, std::string> metadata_;
};

// Bytes of one element.
int64_t SafetensorsElementBytes(SafetensorsType type);

// Writes a safetensors file durably (temporary name, sync, rename). The tensors'
// bytes must stay valid during the call. Names are written in the given order.
absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorsTensor>& tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_WEIGHTS_SAFETENSORS_H_
