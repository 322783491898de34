// Any bytes as a model directory's tokenizer.json; what loads must encode and decode.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "server/tokenizer/load.h"

namespace {

// The one folder of this process.
const std::string& Folder() {
  static const auto* const folder = [] {
    std::string pattern = (std::filesystem::temp_directory_path() / "attune-fuzz-XXXXXX").string();
    return new std::string(mkdtemp(pattern.data()));
  }();
  return *folder;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  std::ofstream(Folder() + "/tokenizer.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  auto tokenizer = LoadTokenizer(Folder());
  if (!tokenizer.ok()) return 0;
  for (const char* text : {"Hello, world  42", "\n\xff\xf0\x9f\x98\x80</s>", ""}) {
    for (bool special : {false, true}) {
      std::vector<int32_t> ids = (*tokenizer)->Encode(text, special);
      (*tokenizer)->Decode(ids, true);
      for (int32_t id : ids) {
        if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
      }
    }
  }
  return 0;
}
