// Any text as a model's chat template, over a short conversation.
#include <cstdint>
#include <string>

#include "server/tokenizer/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  auto parsed = ChatTemplate::Parse(std::string(reinterpret_cast<const char*>(data), size), "<s>", "</s>");
  if (!parsed.ok()) return 0;
  const std::vector<ChatTurn> turns = {{"system", "be short"}, {"user", " hi "}, {"assistant", "hello"}};
  for (bool prompt : {false, true}) (*parsed)->Render(turns, prompt).status().IgnoreError();
  return 0;
}
