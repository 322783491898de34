// Any bytes as a model directory's tokenizer.json; what loads must encode and decode.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/tokenizer/load.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  WriteFuzzFile("tokenizer.json", data, size);
  auto tokenizer = LoadTokenizer(FuzzFolder());
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
