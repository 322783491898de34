// Any text as a prompt template; what parses must render once every variable is there.
#include <cstdint>
#include <cstdlib>

#include "server/data/template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  auto parsed = PromptTemplate::Parse(absl::string_view(reinterpret_cast<const char*>(data), size));
  if (!parsed.ok()) return 0;
  Columns columns;
  for (const std::string& name : parsed->variables()) {
    if (parsed->Render(columns).ok()) std::abort();
    columns[name] = "value";
  }
  if (!parsed->Render(columns).ok()) std::abort();
  return 0;
}
