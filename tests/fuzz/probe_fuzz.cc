// Any bytes as a probe; what is read keeps to the limits.
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>

#include "server/evaluation/probe/probe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  const auto items = ParseProbe(absl::string_view(reinterpret_cast<const char*>(data), size));
  if (!items.ok()) return 0;
  std::set<std::string> ids;
  for (const ProbeItem& item : *items) {
    if (!ids.insert(item.id).second || item.prompt.empty() || item.area.empty()) std::abort();
    if (item.choices.size() < kMinProbeChoices || item.choices.size() > kMaxProbeChoices) std::abort();
    if (std::set<std::string>(item.choices.begin(), item.choices.end()).size() != item.choices.size()) std::abort();
    if (item.answer < 0 || item.answer >= static_cast<int>(item.choices.size())) std::abort();
    if (item.level < 1 || item.level > 3) std::abort();
  }
  if (items->empty()) std::abort();
  return 0;
}
