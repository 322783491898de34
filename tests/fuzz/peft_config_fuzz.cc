// Any bytes as an adapter_config.json; what is taken must answer for every module of a model.
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/adapters/formats/peft_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  const auto config = ParsePeftConfig(std::string(reinterpret_cast<const char*>(data), size));
  if (!config.ok()) return 0;
  for (int layer : {0, 11}) {
    for (const char* module : {"self_attn.q_proj", "mlp.down_proj", "lm_head"}) {
      const std::string path = absl::StrCat("model.layers.", layer, ".", module);
      config->targets.Match(path).status().IgnoreError();
      config->feedforward.Match(path).status().IgnoreError();
      const auto rank = config->RankOf(path);
      if (rank.ok()) config->ScaleOf(path, *rank).status().IgnoreError();
    }
  }
  return 0;
}
