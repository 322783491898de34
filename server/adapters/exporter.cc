#include "server/adapters/exporter.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/error.h"
#include "common/file.h"
#include "common/resource_name.h"
#include "nlohmann/json.hpp"
#include "server/adapters/adapter.h"
#include "server/adapters/copy_file.h"
#include "server/adapters/gguf_export.h"
#include "server/adapters/merge_adapter.h"
#include "server/adapters/model_card.h"
#include "server/adapters/residency.h"
#include "server/adapters/tokenizer_files.h"
#include "server/data/text_prompt.h"
#include "server/model/base_model.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

constexpr char kAdapterConfig[] = "/adapter_config.json";

absl::Status CannotExport(absl::string_view message) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "EXPORT_UNSUPPORTED", message);
}

absl::Status ExportExists(const std::string& destination) {
  return MakeError(absl::StatusCode::kAlreadyExists, "EXPORT_EXISTS",
                   absl::StrCat("'", destination, "' is there already; name another destination."));
}

absl::StatusOr<ExportFormat> ChooseFormat(const ModelInfo& info, ExportFormat format) {
  if (info.kind == ModelKind::kTextPrompt) {
    if (format == ExportFormat::kDefault) return format;
    return CannotExport("A text prompt has no weights; export it without a format, as its JSON.");
  }
  if (format == ExportFormat::kDefault)
    format = IsAdapter(info.kind) ? ExportFormat::kPeft : ExportFormat::kSafetensors;
  if (format == ExportFormat::kPeft && !IsAdapter(info.kind)) {
    return CannotExport("Only adapters go into PEFT's format; this model has weights of its own.");
  }
  if (format != ExportFormat::kPeft && HasVirtualTokens(info.kind)) {
    return CannotExport("Virtual tokens cannot be merged into weights; export the model in PEFT's format.");
  }
  return format;
}

// The folder to make. Its parent is there and, links resolved, below the root.
absl::StatusOr<fs::path> PrepareDestination(const std::string& root, const std::string& destination) {
  if (root.empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "EXPORTS_DISABLED",
                     "The server has no export root, so it exports nothing; start it with one.");
  }
  for (absl::string_view part : absl::StrSplit(destination, '/')) {
    if (part.empty() || part[0] == '.' || absl::StrContains(part, absl::string_view("\0", 1))) {
      return InvalidField("destination", "must be a relative path whose parts are not empty and begin with no point");
    }
  }
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(root));
  std::error_code error;
  const fs::path real_root = fs::canonical(root, error);
  if (error) return ErrnoStatus(error.value(), absl::StrCat("opening ", root));
  const fs::path path = real_root / destination;
  if (fs::weakly_canonical(path, error) != path || error) {
    return InvalidField("destination", "must not lead through symbolic links");
  }
  if (fs::exists(fs::symlink_status(path, error))) return ExportExists(destination);
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(path.parent_path().string()));
  return path;
}

absl::Status WritePeft(const ModelRegistry& registry, const ModelInfo& info, const std::string& to) {
  const std::string from = registry.Directory(info.id);
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(from + kAdapterConfig));
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object())
    return MakeError(absl::StatusCode::kDataLoss, "MODEL_DAMAGED", "adapter_config.json is damaged");
  const auto name = json.find("base_model_name_or_path");
  if (name == json.end() || !name->is_string() || name->empty()) json["base_model_name_or_path"] = info.base_model;
  ATTUNE_RETURN_IF_ERROR(WriteFileDurably(to + kAdapterConfig, json.dump(2) + "\n"));
  return CopyFile(from + "/adapter_model.safetensors", to + "/adapter_model.safetensors");
}

// The weights by which a model in memory answers, an adapter merged into them.
absl::StatusOr<DecoderWeights> OwnWeights(const ServedModel& served) {
  const BaseModel& base = *served.base;
  if (!served.adapter) return base.weights;
  DecoderWeights merged;
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    at::NoGradGuard no_grad;
    merged = MergeAdapter(base.config, base.weights, *served.adapter);
    return absl::OkStatus();
  }));
  return merged;
}

// The imported model, which has the tokenizer.
absl::StatusOr<ModelInfo> RootOf(const ModelRegistry& registry, ModelInfo info) {
  while (info.kind != ModelKind::kBase) {
    ATTUNE_ASSIGN_OR_RETURN(info, registry.Get(info.base_model));
  }
  return info;
}

absl::Status CopyWeights(const std::string& from, const std::string& to) {
  std::error_code error;
  for (fs::directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool weights = absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".safetensors.index.json");
    if (weights || name == "config.json")
      ATTUNE_RETURN_IF_ERROR(CopyFile(it->path().string(), absl::StrCat(to, "/", name)));
  }
  return error ? ErrnoStatus(error.value(), absl::StrCat("listing ", from)) : absl::OkStatus();
}

absl::Status WriteSafetensorsModel(const ModelRegistry& registry, Residency* residency, const ModelInfo& info,
                                   const std::string& to) {
  ATTUNE_ASSIGN_OR_RETURN(const ModelInfo root, RootOf(registry, info));
  const std::string from = registry.Directory(info.id);
  std::error_code error;
  if (fs::exists(from + "/config.json", error)) {
    ATTUNE_RETURN_IF_ERROR(CopyWeights(from, to));
  } else {
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> served, residency->Acquire(info.id));
    ATTUNE_ASSIGN_OR_RETURN(const DecoderWeights weights, OwnWeights(*served));
    const ModelConfig config = ConfigOf(served->base->config, weights);
    ATTUNE_RETURN_IF_ERROR(SaveWeights(to, config, weights, *served->base->tokenizer));
  }
  return WriteTokenizerFiles(registry.Directory(root.id), to);
}

absl::Status WriteGgufModel(const ModelRegistry& registry, Residency* residency, const ModelInfo& info, GgmlType type,
                            const std::string& to) {
  ATTUNE_ASSIGN_OR_RETURN(const ModelInfo root, RootOf(registry, info));
  const std::string from = registry.Directory(root.id);
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> served, residency->Acquire(info.id));
  ATTUNE_ASSIGN_OR_RETURN(const DecoderWeights weights, OwnWeights(*served));
  const ModelConfig config = ConfigOf(served->base->config, weights);
  std::error_code error;
  if (config.tied_head != served->base->config.tied_head && fs::exists(from + "/model.gguf", error)) {
    return CannotExport("The adapter's embedding and head are no longer one table, for which the imported GGUF file has no "
                        "place. Export the model as safetensors.");
  }
  return ExportGguf(from, config, weights, type, to + "/model.gguf");
}

ExportResult Describe(const fs::path& path) {
  ExportResult result;
  result.path = path.string();
  std::error_code error;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error)) result.files.push_back(fs::relative(it->path(), path, error).string());
  }
  std::sort(result.files.begin(), result.files.end());
  result.size_bytes = SizeOnDisk(result.path);
  return result;
}

absl::Status WriteAll(const ModelRegistry& registry, Residency* residency, const ModelInfo& info, ExportFormat format,
                      const ModelCardFacts& facts, const std::string& to) {
  if (info.kind == ModelKind::kTextPrompt) {
    ATTUNE_RETURN_IF_ERROR(CopyFile(TextPromptPath(registry.Directory(info.id)), TextPromptPath(to)));
    return WriteFileDurably(to + "/README.md", ModelCard(info, facts, "transformers"));
  }
  const bool peft = format == ExportFormat::kPeft, gguf = format == ExportFormat::kGgufF16 || format == ExportFormat::kGgufQ8;
  if (gguf) {
    const GgmlType type = format == ExportFormat::kGgufQ8 ? GgmlType::kQ8_0 : GgmlType::kF16;
    ATTUNE_RETURN_IF_ERROR(WriteGgufModel(registry, residency, info, type, to));
  } else {
    ATTUNE_RETURN_IF_ERROR(peft ? WritePeft(registry, info, to) : WriteSafetensorsModel(registry, residency, info, to));
  }
  return WriteFileDurably(to + "/README.md", ModelCard(info, facts, peft ? "peft" : gguf ? "gguf" : "transformers"));
}

}  // namespace

absl::StatusOr<ExportResult> ExportModel(const ModelRegistry& registry, Residency* residency, const std::string& id,
                                         ExportFormat format, const std::string& destination,
                                         const ModelCardFacts& facts) {
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, registry.Get(id));
  ATTUNE_ASSIGN_OR_RETURN(format, ChooseFormat(info, format));
  const std::string relative = destination.empty() ? id : destination;
  ATTUNE_ASSIGN_OR_RETURN(fs::path path, PrepareDestination(registry.export_root(), relative));
  // Hidden, so that no destination meets it; beside the final folder, so that it can be renamed.
  const std::string staging = (path.parent_path() / absl::StrCat(".", RandomId("export"))).string();
  ATTUNE_RETURN_IF_ERROR(MakeDirectories(staging));
  absl::Status status = WriteAll(registry, residency, info, format, facts, staging);
  if (status.ok()) status = PublishDirectory(staging, path.string());
  if (status.ok()) return Describe(path);
  RemoveAll(staging).IgnoreError();
  return absl::IsAlreadyExists(status) ? ExportExists(relative) : status;
}

}  // namespace attune
