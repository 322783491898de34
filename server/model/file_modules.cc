#include "server/model/file_modules.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/model/families.h"

namespace attune {
namespace {

// Of a fused product; empty if each of its projections is a module.
std::string FusedPath(const ModelConfig& config, Linear linear) {
  const ModelFamily* const family = FindFamily(config.family);
  if (family == nullptr || !family->fuses_projections) return "";
  if (linear == Linear::kQkv) return "self_attn.qkv_proj";
  return linear == Linear::kGateUp ? "mlp.gate_up_proj" : "";
}

}  // namespace

std::vector<FileModule> FileModules(const ModelConfig& config) {
  std::vector<FileModule> modules;
  for (int p = 0; p < kProjections; ++p) {
    const Projection projection = static_cast<Projection>(p);
    const ProjectionSlice slice = SliceOf(config, projection);
    const std::string fused = FusedPath(config, slice.linear);
    if (fused.empty() || modules.empty() || modules.back().path != fused) {
      modules.push_back({fused.empty() ? ProjectionPath(projection) : fused, slice.linear, {}, 0});
    }
    modules.back().projections.push_back(projection);
    modules.back().rows += slice.rows;
  }
  return modules;
}

FilePart FindFilePart(const ModelConfig& config, const std::string& name) {
  for (const FileModule& module : FileModules(config)) {
    if (module.projections.size() == 1) continue;
    for (const Projection projection : module.projections) {
      const std::string tail = absl::StrCat(".", ProjectionPath(projection), ".weight");
      if (!absl::EndsWith(name, tail)) continue;
      const std::string layer = name.substr(0, name.size() - tail.size());
      const ProjectionSlice slice = SliceOf(config, projection);
      return {absl::StrCat(layer, ".", module.path, ".weight"), slice.row, slice.rows, module.rows};
    }
  }
  return {name};
}

}  // namespace attune
