// Any bytes as a model directory's tokenizer.model (SentencePiece), or, behind a first byte '{', as its tekken.json; what
// loads must encode and decode.
#include <cstdint>
#include <cstdio>
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
  const bool is_json = size > 0 && data[0] == '{';
  const std::string tekken = Folder() + "/tekken.json", model = Folder() + "/tokenizer.model";
  std::remove((is_json ? model : tekken).c_str());
  std::ofstream(is_json ? tekken : model, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  auto tokenizer = LoadTokenizer(Folder());
  if (!tokenizer.ok()) return 0;
  for (const char* text : {"Hello, world  42", "\n\xff\xf0\x9f\x98\x80</s>", ""}) {
    for (int32_t id : (*tokenizer)->Encode(text, true)) {
      if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
    }
    (*tokenizer)->Decode((*tokenizer)->Encode(text, false), true);
  }
  return 0;
}
