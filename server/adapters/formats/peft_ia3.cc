#include <ATen/ATen.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/formats/peft_kinds.h"

namespace attune {
namespace {

std::string ScaleName(const std::string& module) { return absl::StrCat(kPeftPrefix, module, ".ia3_l"); }

// A feed-forward module's scale is (1, in), else (out, 1).
absl::Status TakeScale(const PeftConfig& peft, const ModelConfig& config, const FileModule& module,
                       const std::string& path, TensorReader* reader, Ia3Adapter::Layer* scales) {
  ATTUNE_ASSIGN_OR_RETURN(bool scales_input, peft.feedforward.Match(path));
  if (scales_input && module.linear != Linear::kDown) {
    return UnsupportedAdapter(absl::StrCat("feedforward_modules other than down_proj, '", path, "'"));
  }
  if (scales_input) {
    ATTUNE_ASSIGN_OR_RETURN(const at::Tensor scale, reader->Take(ScaleName(path), {1, config.intermediate}));
    scales->inner_I = scale.view({-1});
    return absl::OkStatus();
  }
  ATTUNE_ASSIGN_OR_RETURN(const at::Tensor scale, reader->Take(ScaleName(path), {module.rows, 1}));
  int64_t row = 0;
  for (const Projection projection : module.projections) {
    const int64_t rows = SliceOf(config, projection).rows;
    scales->output[static_cast<int>(projection)] = scale.narrow(0, row, rows).view({-1});
    row += rows;
  }
  return absl::OkStatus();
}

// The scales of a module's outputs, ones where a projection has none; undefined if none has any.
at::Tensor Joined(const Ia3Adapter::Layer& scales, const FileModule& module, const ModelConfig& config) {
  const at::NoGradGuard no_grad;
  at::TensorOptions options;
  bool any = false;
  for (const Projection projection : module.projections) {
    const at::Tensor& own = scales.output[static_cast<int>(projection)];
    if (own.defined()) options = own.options();
    any = any || own.defined();
  }
  if (!any) return {};
  std::vector<at::Tensor> parts;
  for (const Projection projection : module.projections) {
    const at::Tensor& own = scales.output[static_cast<int>(projection)];
    parts.push_back(own.defined() ? own : at::ones({SliceOf(config, projection).rows}, options));
  }
  return at::cat(parts);
}

}  // namespace

absl::Status LoadIa3(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter) {
  auto ia3 = std::make_unique<Ia3Adapter>();
  ia3->layers.resize(config.layers);
  int64_t modules = 0;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (const FileModule& module : FileModules(config)) {
      const std::string path = PeftModuleName(layer, module);
      ATTUNE_ASSIGN_OR_RETURN(bool targeted, peft.targets.Match(path));
      if (!targeted && reader->Has(ScaleName(path))) {
        return BadAdapter(absl::StrCat("it has a tensor for '", path, "', which is not in target_modules"));
      }
      if (!targeted) continue;
      ATTUNE_RETURN_IF_ERROR(TakeScale(peft, config, module, path, reader, &ia3->layers[layer]));
      ++modules;
    }
  }
  if (modules == 0) return BadAdapter("target_modules matches no projection of this base model");
  adapter->ia3 = std::move(ia3);
  return absl::OkStatus();
}

nlohmann::ordered_json SaveIa3(const Ia3Adapter& ia3, const ModelConfig& config, TensorWriter* writer) {
  std::set<std::string> targets, feedforward;
  auto add = [&](const std::string& path, const at::Tensor& scale) {
    writer->Add(ScaleName(path), scale);
    targets.insert(path);
  };
  for (size_t i = 0; i < ia3.layers.size(); ++i) {
    const Ia3Adapter::Layer& scales = ia3.layers[i];
    for (const FileModule& module : FileModules(config)) {
      const std::string path = PeftModuleName(static_cast<int64_t>(i), module);
      const at::Tensor outputs = Joined(scales, module, config);
      if (outputs.defined()) add(path, outputs.view({-1, 1}));
      if (module.linear != Linear::kDown || !scales.inner_I.defined()) continue;
      add(path, scales.inner_I.view({1, -1}));
      feedforward.insert(path);
    }
  }
  return {{"peft_type", "IA3"},
          {"target_modules", targets},
          {"feedforward_modules", feedforward},
          {"fan_in_fan_out", false},
          {"init_ia3_weights", true}};
}

}  // namespace attune
