// Any bytes as a GGUF file; what is accepted must lie inside the bytes and dequantise.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "server/model/weights/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto file = GgufFile::Parse(bytes);
  if (!file.ok()) return 0;
  for (const GgufTensor& tensor : (*file)->tensors()) {
    if ((*file)->Find(tensor.name) == nullptr) std::abort();
    std::vector<float> values(tensor.elements());
    if (!Dequantize(tensor.type, tensor.bytes, tensor.elements(), values.data()).ok()) std::abort();
  }
  return 0;
}
