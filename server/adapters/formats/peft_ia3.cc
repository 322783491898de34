#include <memory>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/formats/peft_kinds.h"

namespace attune {
namespace {

std::string ScaleName(const std::string& module) { return absl::StrCat(kPeftPrefix, module, ".ia3_l"); }

// A feed-forward module's scale is (1, in), else (out, 1).
absl::Status TakeScale(const PeftConfig& peft, const ModelConfig& config, int64_t layer, Projection projection,
                       TensorReader* reader, Ia3Adapter::Layer* scales) {
  const std::string module = PeftModuleName(layer, projection);
  ATTUNE_ASSIGN_OR_RETURN(bool scales_input, peft.feedforward.Match(module));
  if (scales_input && projection != Projection::kDown) {
    return UnsupportedAdapter(absl::StrCat("feedforward_modules other than down_proj, '", module, "'"));
  }
  at::Tensor& scale = scales_input ? scales->inner_I : scales->output[static_cast<int>(projection)];
  const int64_t rows = SliceOf(config, projection).rows;
  ATTUNE_ASSIGN_OR_RETURN(scale, scales_input ? reader->Take(ScaleName(module), {1, config.intermediate})
                                              : reader->Take(ScaleName(module), {rows, 1}));
  scale = scale.view({-1});
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadIa3(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter) {
  auto ia3 = std::make_unique<Ia3Adapter>();
  ia3->layers.resize(config.layers);
  int64_t modules = 0;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      const Projection projection = static_cast<Projection>(p);
      const std::string module = PeftModuleName(layer, projection);
      ATTUNE_ASSIGN_OR_RETURN(bool targeted, peft.targets.Match(module));
      if (!targeted && reader->Has(ScaleName(module))) {
        return BadAdapter(absl::StrCat("it has a tensor for '", module, "', which is not in target_modules"));
      }
      if (!targeted) continue;
      ATTUNE_RETURN_IF_ERROR(TakeScale(peft, config, layer, projection, reader, &ia3->layers[layer]));
      ++modules;
    }
  }
  if (modules == 0) return BadAdapter("target_modules matches no projection of this base model");
  adapter->ia3 = std::move(ia3);
  return absl::OkStatus();
}

nlohmann::ordered_json SaveIa3(const Ia3Adapter& ia3, TensorWriter* writer) {
  std::set<std::string> targets, feedforward;
  auto add = [&](int64_t layer, Projection projection, const at::Tensor& scale) {
    const std::string module = PeftModuleName(layer, projection);
    writer->Add(ScaleName(module), scale);
    targets.insert(module);
  };
  for (size_t i = 0; i < ia3.layers.size(); ++i) {
    const int64_t layer = static_cast<int64_t>(i);
    const Ia3Adapter::Layer& scales = ia3.layers[i];
    for (int p = 0; p < kProjections; ++p) {
      if (scales.output[p].defined()) add(layer, static_cast<Projection>(p), scales.output[p].view({-1, 1}));
    }
    if (!scales.inner_I.defined()) continue;
    add(layer, Projection::kDown, scales.inner_I.view({1, -1}));
    feedforward.insert(PeftModuleName(layer, Projection::kDown));
  }
  return {{"peft_type", "IA3"},
          {"target_modules", targets},
          {"feedforward_modules", feedforward},
          {"fan_in_fan_out", false},
          {"init_ia3_weights", true}};
}

}  // namespace attune
