// Any bytes as a safetensors file; what is accepted must lie inside the bytes.
#include <cstdint>
#include <cstdlib>

#include "server/model/weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto file = SafetensorsFile::Parse(bytes);
  if (!file.ok()) return 0;
  volatile uint8_t sum = 0;
  for (const SafetensorsTensor& tensor : (*file)->tensors()) {
    if ((*file)->Find(tensor.name) != &tensor) std::abort();
    for (char byte : tensor.bytes) sum = static_cast<uint8_t>(sum + byte);
  }
  return 0;
}
