// Any bytes as a model's config.json, or as a GGUF file whose metadata and tokenizer are read. A configuration that is
// taken must be written, and read as the same.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/model/config.h"
#include "server/tokenizer/load.h"

namespace {

void ReadGguf(absl::string_view bytes) {
  using namespace attune;
  auto file = GgufFile::Parse(bytes);
  if (!file.ok()) return;
  ConfigFromGguf(**file).status().IgnoreError();
  auto tokenizer = LoadTokenizer(**file);
  if (!tokenizer.ok()) return;
  for (int32_t id : (*tokenizer)->Encode("Hello, world  42\n\xff\xf0\x9f\x98\x80</s>", true)) {
    if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (size >= 4 && bytes.substr(0, 4) == "GGUF") {
    ReadGguf(bytes);
    return 0;
  }
  const auto config = ConfigFromJson(std::string(bytes));
  if (!config.ok()) return 0;
  if (RopeFrequencies(*config).size() != static_cast<size_t>(config->head_dim / 2)) std::abort();
  const auto again = ConfigFromJson(ConfigToJson(*config, 1, 2));
  if (!again.ok() || again->Parameters() != config->Parameters() || again->vocab != config->vocab) std::abort();
  return 0;
}
