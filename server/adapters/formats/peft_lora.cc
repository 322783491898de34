#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/formats/peft_kinds.h"

namespace attune {
namespace {

int64_t InputSize(const ModelConfig& config, Projection projection) {
  switch (projection) {
    case Projection::kO: return config.q_size();
    case Projection::kDown: return config.intermediate;
    default: return config.hidden;
  }
}

absl::StatusOr<LoraModule> TakeModule(const PeftConfig& peft, const ModelConfig& config, const std::string& module,
                                      Projection projection, TensorReader* reader) {
  LoraModule lora;
  ATTUNE_ASSIGN_OR_RETURN(int64_t rank, peft.RankOf(module));
  ATTUNE_ASSIGN_OR_RETURN(lora.scale, peft.ScaleOf(module, rank));
  const std::string name = absl::StrCat(kPeftPrefix, module);
  ATTUNE_ASSIGN_OR_RETURN(lora.a_RI, reader->Take(name + ".lora_A.weight", {rank, InputSize(config, projection)}));
  ATTUNE_ASSIGN_OR_RETURN(lora.b_OR, reader->Take(name + ".lora_B.weight", {SliceOf(config, projection).rows, rank}));
  return lora;
}

// An integer where it is one: PEFT's fields are typed so.
nlohmann::ordered_json Number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

bool SameModulesInEveryLayer(const LoraAdapter& lora) {
  for (const auto& layer : lora.layers) {
    for (int p = 0; p < kProjections; ++p) {
      if (layer[p].defined() != lora.layers[0][p].defined()) return false;
    }
  }
  return true;
}

// The modules' last names if every layer has the same, else their whole paths.
std::vector<std::string> TargetModules(const LoraAdapter& lora) {
  const bool same = SameModulesInEveryLayer(lora);
  std::vector<std::string> names;
  for (size_t layer = 0; layer < (same ? std::min<size_t>(1, lora.layers.size()) : lora.layers.size()); ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      if (!lora.layers[layer][p].defined()) continue;
      const std::string path = PeftModuleName(layer, static_cast<Projection>(p));
      names.push_back(same ? path.substr(path.rfind('.') + 1) : path);
    }
  }
  return names;
}

}  // namespace

absl::Status LoadLora(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter) {
  auto lora = std::make_unique<LoraAdapter>();
  lora->rank = peft.rank;
  lora->alpha = peft.alpha;
  lora->dropout = peft.dropout;
  lora->use_rslora = peft.use_rslora;
  lora->layers.resize(config.layers);
  int64_t modules = 0;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      const std::string module = PeftModuleName(layer, static_cast<Projection>(p));
      ATTUNE_ASSIGN_OR_RETURN(bool targeted, peft.targets.Match(module));
      if (!targeted) {
        // PEFT would leave it out silently.
        if (!reader->Has(absl::StrCat(kPeftPrefix, module, ".lora_A.weight"))) continue;
        return BadAdapter(absl::StrCat("it has tensors for '", module, "', which is not in target_modules"));
      }
      ATTUNE_ASSIGN_OR_RETURN(lora->layers[layer][p],
                              TakeModule(peft, config, module, static_cast<Projection>(p), reader));
      ++modules;
    }
  }
  if (modules == 0) return BadAdapter("target_modules matches no projection of this base model");
  adapter->lora = std::move(lora);
  return absl::OkStatus();
}

nlohmann::ordered_json SaveLora(const LoraAdapter& lora, TensorWriter* writer) {
  nlohmann::ordered_json ranks = nlohmann::ordered_json::object(), alphas = ranks;
  for (size_t layer = 0; layer < lora.layers.size(); ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      const LoraModule& module = lora.layers[layer][p];
      if (!module.defined()) continue;
      const std::string path = PeftModuleName(layer, static_cast<Projection>(p));
      writer->Add(absl::StrCat(kPeftPrefix, path, ".lora_A.weight"), module.a_RI);
      writer->Add(absl::StrCat(kPeftPrefix, path, ".lora_B.weight"), module.b_OR);
      const double rank = static_cast<double>(module.a_RI.size(0));
      const double alpha = module.scale * (lora.use_rslora ? std::sqrt(rank) : rank);
      if (module.a_RI.size(0) != lora.rank) ranks[path] = module.a_RI.size(0);
      if (std::abs(alpha - lora.alpha) > 1e-9 * std::abs(lora.alpha)) alphas[path] = Number(alpha);
    }
  }
  return {{"peft_type", "LORA"},          {"r", lora.rank},
          {"lora_alpha", Number(lora.alpha)}, {"lora_dropout", lora.dropout},
          {"use_rslora", lora.use_rslora},    {"target_modules", TargetModules(lora)},
          {"rank_pattern", ranks},            {"alpha_pattern", alphas},
          {"bias", "none"},                   {"fan_in_fan_out", false},
          {"init_lora_weights", true},        {"use_dora", false}};
}

}  // namespace attune
