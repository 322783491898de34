#include <ATen/ATen.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/formats/peft_kinds.h"

namespace attune {
namespace {

constexpr char kMagnitude[] = ".lora_magnitude_vector";

// Each projection of a module has the module's A, and its own rows of the module's B.
absl::Status TakeModule(const PeftConfig& peft, const ModelConfig& config, const FileModule& module,
                        const std::string& path, TensorReader* reader, std::array<LoraModule, kProjections>* layer) {
  ATTUNE_ASSIGN_OR_RETURN(const int64_t rank, peft.RankOf(path));
  ATTUNE_ASSIGN_OR_RETURN(const double scale, peft.ScaleOf(path, rank));
  const std::string name = absl::StrCat(kPeftPrefix, path);
  const int64_t in = InputSize(config, module.linear);
  ATTUNE_ASSIGN_OR_RETURN(const at::Tensor a_RI, reader->Take(name + ".lora_A.weight", {rank, in}));
  ATTUNE_ASSIGN_OR_RETURN(const at::Tensor b_OR, reader->Take(name + ".lora_B.weight", {module.rows, rank}));
  at::Tensor magnitude_O;
  if (peft.use_dora) {
    ATTUNE_ASSIGN_OR_RETURN(magnitude_O, reader->Take(name + kMagnitude, {module.rows}));
  }
  int64_t row = 0;
  for (const Projection projection : module.projections) {
    const int64_t rows = SliceOf(config, projection).rows;
    LoraModule& own = (*layer)[static_cast<int>(projection)];
    own = {a_RI, b_OR.narrow(0, row, rows), scale};
    if (magnitude_O.defined()) own.magnitude_O = magnitude_O.narrow(0, row, rows);
    row += rows;
  }
  return absl::OkStatus();
}

// DoRA's lengths of a module's rows. A projection without would need the base model's: training adapts all or none.
at::Tensor JoinedMagnitude(const std::array<LoraModule, kProjections>& layer, const FileModule& module) {
  std::vector<at::Tensor> parts;
  for (const Projection projection : module.projections) {
    const at::Tensor& own = layer[static_cast<int>(projection)].magnitude_O;
    if (own.defined()) parts.push_back(own);
  }
  TORCH_CHECK(parts.empty() || parts.size() == module.projections.size(), "DoRA adapts only a part of ", module.path);
  return parts.empty() ? at::Tensor() : at::cat(parts);
}

// The LoRA of a module whose projections have their own: their A's one below the other, and their B's on the
// diagonal. One A that all share, as PEFT trains it, stays one. Undefined if no projection has any.
LoraModule Joined(const std::array<LoraModule, kProjections>& layer, const FileModule& module, const ModelConfig& config) {
  const at::NoGradGuard no_grad;
  if (module.projections.size() == 1) return layer[static_cast<int>(module.projections[0])];
  std::vector<at::Tensor> a_parts, b_parts;
  std::vector<int64_t> first_ranks;  // of each projection
  int64_t rank = 0;
  double scale = 0;
  for (const Projection projection : module.projections) {
    const LoraModule& own = layer[static_cast<int>(projection)];
    const bool is_new = own.defined() && (a_parts.empty() || !own.a_RI.is_same(a_parts.back()));
    if (is_new && a_parts.empty()) scale = own.scale;
    if (is_new) a_parts.push_back(own.a_RI);
    if (is_new) rank += own.a_RI.size(0);
    first_ranks.push_back(own.defined() ? rank - own.a_RI.size(0) : 0);
  }
  if (a_parts.empty()) return {};
  for (size_t i = 0; i < module.projections.size(); ++i) {
    const LoraModule& own = layer[static_cast<int>(module.projections[i])];
    at::Tensor b_OR = at::zeros({SliceOf(config, module.projections[i]).rows, rank}, a_parts[0].options());
    if (own.defined()) {
      const at::Tensor scaled = own.scale == scale ? own.b_OR : own.b_OR * (own.scale / scale);
      b_OR.narrow(1, first_ranks[i], own.b_OR.size(1)).copy_(scaled);
    }
    b_parts.push_back(std::move(b_OR));
  }
  LoraModule joined{at::cat(a_parts), at::cat(b_parts), scale};
  joined.magnitude_O = JoinedMagnitude(layer, module);
  return joined;
}

// An integer where it is one: PEFT's fields are typed so.
nlohmann::ordered_json Number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

// The modules' last names if every layer has the same, else their whole paths.
std::vector<std::string> TargetModules(const std::vector<std::vector<std::string>>& paths_of_layers) {
  auto last_names = [](const std::vector<std::string>& paths) {
    std::vector<std::string> names;
    for (const std::string& path : paths) names.push_back(path.substr(path.rfind('.') + 1));
    return names;
  };
  std::vector<std::string> all;
  bool same = true;
  for (const std::vector<std::string>& paths : paths_of_layers) {
    same = same && last_names(paths) == last_names(paths_of_layers[0]);
    all.insert(all.end(), paths.begin(), paths.end());
  }
  return same && !paths_of_layers.empty() ? last_names(paths_of_layers[0]) : all;
}

}  // namespace

absl::Status LoadLora(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter) {
  auto lora = std::make_unique<LoraAdapter>();
  lora->rank = peft.rank;
  lora->alpha = peft.alpha;
  lora->dropout = peft.dropout;
  lora->use_rslora = peft.use_rslora;
  lora->use_dora = peft.use_dora;
  lora->layers.resize(config.layers);
  int64_t modules = 0;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (const FileModule& module : FileModules(config)) {
      const std::string path = PeftModuleName(layer, module);
      ATTUNE_ASSIGN_OR_RETURN(bool targeted, peft.targets.Match(path));
      if (!targeted) {
        // PEFT would leave it out silently.
        if (!reader->Has(absl::StrCat(kPeftPrefix, path, ".lora_A.weight"))) continue;
        return BadAdapter(absl::StrCat("it has tensors for '", path, "', which is not in target_modules"));
      }
      ATTUNE_RETURN_IF_ERROR(TakeModule(peft, config, module, path, reader, &lora->layers[layer]));
      ++modules;
    }
  }
  ATTUNE_RETURN_IF_ERROR(LoadVocabulary(peft, config, reader, lora.get()));
  if (modules == 0 && !lora->embedding.defined() && !lora->head.defined()) return BadAdapter("target_modules matches no projection of this base model");
  adapter->lora = std::move(lora);
  return absl::OkStatus();
}

nlohmann::ordered_json SaveLora(const LoraAdapter& lora, const ModelConfig& config, TensorWriter* writer) {
  nlohmann::ordered_json ranks = nlohmann::ordered_json::object(), alphas = ranks;
  std::vector<std::vector<std::string>> paths(lora.layers.size());
  const auto note = [&](const std::string& path, const LoraModule& module) {
    const double rank = static_cast<double>(module.a_RI.size(0));
    const double alpha = module.scale * (lora.use_rslora ? std::sqrt(rank) : rank);
    if (module.a_RI.size(0) != lora.rank) ranks[path] = module.a_RI.size(0);
    if (std::abs(alpha - lora.alpha) > 1e-9 * std::abs(lora.alpha)) alphas[path] = Number(alpha);
  };
  for (size_t layer = 0; layer < lora.layers.size(); ++layer) {
    for (const FileModule& file_module : FileModules(config)) {
      const LoraModule module = Joined(lora.layers[layer], file_module, config);
      if (!module.defined()) continue;
      const std::string path = PeftModuleName(layer, file_module);
      paths[layer].push_back(path);
      writer->Add(absl::StrCat(kPeftPrefix, path, ".lora_A.weight"), module.a_RI);
      writer->Add(absl::StrCat(kPeftPrefix, path, ".lora_B.weight"), module.b_OR);
      if (module.magnitude_O.defined()) writer->Add(absl::StrCat(kPeftPrefix, path, kMagnitude), module.magnitude_O);
      note(path, module);
    }
  }
  std::vector<std::string> targets = TargetModules(paths);
  for (const auto& [path, module] : {std::pair{kEmbeddingModule, &lora.embedding}, {kHeadModule, &lora.head}}) {
    if (!module->defined()) continue;
    targets.emplace_back(path);
    note(path, *module);
  }
  const std::vector<std::string> saved = SaveVocabulary(lora, writer);
  return {{"peft_type", "LORA"},          {"r", lora.rank},
          {"lora_alpha", Number(lora.alpha)}, {"lora_dropout", lora.dropout},
          {"use_rslora", lora.use_rslora},    {"target_modules", targets},
          {"modules_to_save", saved.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(saved)},
          {"rank_pattern", ranks},            {"alpha_pattern", alphas},
          {"bias", "none"},                   {"fan_in_fan_out", false},
          {"init_lora_weights", true},        {"use_dora", lora.use_dora}};
}

}  // namespace attune
