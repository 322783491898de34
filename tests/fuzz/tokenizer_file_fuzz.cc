// Any bytes as a model directory's tokenizer.model (SentencePiece), or, behind a first byte '{', as its tekken.json; what
// loads must encode and decode.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "server/tokenizer/load.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  const bool is_json = size > 0 && data[0] == '{';
  const char *written = is_json ? "tekken.json" : "tokenizer.model", *other = is_json ? "tokenizer.model" : "tekken.json";
  std::remove((FuzzFolder() + "/" + other).c_str());
  WriteFuzzFile(written, data, size);
  auto tokenizer = LoadTokenizer(FuzzFolder());
  if (!tokenizer.ok()) return 0;
  for (const char* text : {"Hello, world  42", "\n\xff\xf0\x9f\x98\x80</s>", ""}) {
    for (int32_t id : (*tokenizer)->Encode(text, true)) {
      if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
    }
    (*tokenizer)->Decode((*tokenizer)->Encode(text, false), true);
  }
  return 0;
}
