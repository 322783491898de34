#ifndef ATTUNE_SERVER_MODEL_WEIGHTS_GGUF_H_
#define ATTUNE_SERVER_MODEL_WEIGHTS_GGUF_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attune {

class MappedFile;

// How a tensor's numbers are stored. Values are GGUF's own type numbers.
enum class GgmlType : uint32_t {
  kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7, kQ8_0 = 8,
  kQ4_K = 12, kQ5_K = 13, kQ6_K = 14, kBF16 = 30,
};

// A metadata value. Arrays hold one kind; nested arrays are refused.
using GgufValue = std::variant<int64_t, uint64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>,
                               std::vector<std::string>>;

struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;  // outermost first, as in PyTorch (GGUF stores it reversed)
  GgmlType type;
  absl::string_view bytes;  // inside the mapping
  int64_t elements() const;
};

// A metadata entry as it lies in the file: the key, its value's kind and the value.
struct GgufKey {
  std::string name;
  absl::string_view bytes;  // inside the mapping
};

// A GGUF file (versions 2 and 3, little-endian), memory-mapped. Every count,
// offset and length is checked against the file's size before use; a hostile or
// cut file gives INVALID_ARGUMENT (BAD_GGUF), never a crash. Immutable: thread-safe.
class GgufFile {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // Parses bytes that the caller keeps alive; for tests and fuzzing.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Parse(absl::string_view bytes);
  ~GgufFile();

  // Metadata, or the default if the key is absent; INVALID_ARGUMENT (BAD_GGUF)
  // naming the key if it is there with another kind.
  absl::StatusOr<int64_t> Int(absl::string_view key, int64_t fallback) const;
  absl::StatusOr<double> Real(absl::string_view key, double fallback) const;
  absl::StatusOr<bool> Bool(absl::string_view key, bool fallback) const;
  absl::StatusOr<std::string> Text(absl::string_view key, absl::string_view fallback) const;
  // Null if absent or of another kind.
  const std::vector<std::string>* Texts(absl::string_view key) const;
  const std::vector<int64_t>* Ints(absl::string_view key) const;
  const std::vector<double>* Reals(absl::string_view key) const;
  bool Has(absl::string_view key) const;

  // All of them, in the file's order.
  const std::vector<GgufKey>& keys() const { return keys_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* Find(absl::string_view name) const;  // null if absent

 private:
  GgufFile() = default;
  std::unique_ptr<MappedFile> mapping_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufKey> keys_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;  // indices into tensors_
};

// Values that one block holds, and its bytes; 1 and the element size for plain
// types; 0 for a number that is none of the types.
int64_t GgmlBlockElements(GgmlType type);
int64_t GgmlBlockBytes(GgmlType type);
// "Q4_1" and so on.
absl::string_view GgmlTypeName(GgmlType type);

// Writes `elements` floats to `out`; elements must be whole blocks and bytes as
// long as they need. Bit-equal to the reference formulas of the GGUF formats in fp32.
absl::Status Dequantize(GgmlType type, absl::string_view bytes, int64_t elements, float* out);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_WEIGHTS_GGUF_H_
