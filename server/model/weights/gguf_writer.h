#ifndef ATTUNE_SERVER_MODEL_WEIGHTS_GGUF_WRITER_H_
#define ATTUNE_SERVER_MODEL_WEIGHTS_GGUF_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/model/weights/gguf.h"

namespace attune {

// A key and its value as they stand in a GGUF file: a number (uint32, float32), a truth value, a text, a list of texts or
// of numbers (int32, float32).
std::string EncodeGgufKey(absl::string_view key, uint32_t value);
std::string EncodeGgufReal(absl::string_view key, double value);
std::string EncodeGgufBool(absl::string_view key, bool value);
std::string EncodeGgufText(absl::string_view key, absl::string_view value);
std::string EncodeGgufTexts(absl::string_view key, const std::vector<std::string>& values);
std::string EncodeGgufInts(absl::string_view key, const std::vector<int32_t>& values);
std::string EncodeGgufReals(absl::string_view key, const std::vector<float>& values);

// A tensor to write; its bytes are asked for when it is its turn, so that only one is in memory.
struct GgufTensorToWrite {
  std::string name;
  std::vector<int64_t> shape;  // outermost first
  GgmlType type;
  std::function<absl::StatusOr<std::string>()> bytes;
};

// Writes a GGUF file (version 3, aligned to 32 bytes), whole or not at all. `keys` are encoded, each with its value.
// INTERNAL if a tensor's bytes do not fit its shape and type; what `bytes` says.
absl::Status WriteGguf(const std::string& path, const std::vector<std::string>& keys,
                       const std::vector<GgufTensorToWrite>& tensors);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_WEIGHTS_GGUF_WRITER_H_
