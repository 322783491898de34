#ifndef ATTUNE_SERVER_MODEL_TENSOR_SOURCE_H_
#define ATTUNE_SERVER_MODEL_TENSOR_SOURCE_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/model/config.h"
#include "server/model/families.h"
#include "server/model/file_modules.h"
#include "server/model/weights/gguf.h"
#include "server/model/weights/safetensors.h"

namespace attune {

// What the family's GGUF files call a tensor of this Hugging Face name; empty if it has none such.
std::string GgufTensorName(const std::string& name, const ModelFamily& family);

// A model file's tensors under Hugging Face names, in Hugging Face's row order,
// whatever the format. Counts which tensors were asked for, so that a load can prove
// that it used them all. Not thread-safe, except ReadRows.
class TensorSource {
 public:
  // A matrix (or a vector: one row) as it lies in the file.
  struct Entry {
    std::string name;
    int64_t rows = 0, columns = 0;
    GgmlType type = GgmlType::kF32;  // safetensors' types map onto the plain ones
    absl::string_view bytes;
    // > 0: rows of each head are in GGUF's rotary order; of a bias, its values.
    int64_t interleaved_head_dim = 0;
    float offset = 0;  // ReadRows adds it: the configuration's norm_offset, where the file leaves it out
    int64_t row_bytes() const { return static_cast<int64_t>(bytes.size()) / rows; }
    // Where the file keeps row `row` of the Hugging Face order.
    int64_t FileRow(int64_t row) const;
    // Row `row` as in the file.
    absl::string_view RowBytes(int64_t row) const { return bytes.substr(FileRow(row) * row_bytes(), row_bytes()); }
    // Rows [first, last) in fp32, one behind the other.
    void ReadRows(int64_t first, int64_t last, float* out) const;
  };

  virtual ~TensorSource() = default;
  // INVALID_ARGUMENT (BAD_MODEL) if absent, or if its shape is not rows x columns
  // (rows = 0: a vector of `columns`).
  absl::StatusOr<Entry> Get(const std::string& name, int64_t rows, int64_t columns);
  virtual bool Has(const std::string& name) const = 0;
  // BAD_MODEL naming a tensor that was never asked for.
  absl::Status CheckAllUsed() const;

  // Opens model.gguf or the safetensors of a folder. `gguf` is set for the former.
  static absl::StatusOr<std::unique_ptr<TensorSource>> Open(const std::string& directory);
  // The configuration beside the tensors.
  virtual absl::StatusOr<ModelConfig> Config() const = 0;
  // Null for a Hugging Face folder.
  virtual const GgufFile* gguf() const { return nullptr; }

 protected:
  struct Raw {
    Entry entry;
    std::vector<int64_t> shape;
    std::string tensor;  // of Names: that which holds it
  };
  // Leaves of `raw` the rows that are the part. BAD_MODEL if the tensor has not as many as it should.
  static absl::Status TakePart(const FilePart& part, Raw* raw);
  virtual absl::StatusOr<Raw> Find(const std::string& name) const = 0;
  // File names of all tensors, with the Hugging Face name each answers to (empty: none).
  virtual std::vector<std::pair<std::string, std::string>> Names() const = 0;

 private:
  std::set<std::string> used_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_TENSOR_SOURCE_H_
