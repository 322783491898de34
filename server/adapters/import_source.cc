#include "server/adapters/import_source.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/copy_file.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOptionalFiles[] = {"generation_config.json", "tokenizer.json",        "tekken.json",
                                          "tokenizer.model",        "tokenizer_config.json", "special_tokens_map.json",
                                          "chat_template.jinja"};
constexpr char kWeights[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kAdapterConfig[] = "adapter_config.json", kAdapterWeights[] = "adapter_model.safetensors";

absl::Status OutsideRoot(const std::string& path) {
  return MakeError(absl::StatusCode::kPermissionDenied, "OUTSIDE_IMPORT_ROOT",
                   absl::StrCat("'", path,
                                "' is not below a folder that models may be imported from (the server's "
                                "import roots)."));
}

absl::Status NoModel(const std::string& message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "NO_MODEL", message);
}

absl::Status PickleRefused(const std::string& path) {
  return MakeError(absl::StatusCode::kInvalidArgument, "PICKLE_REFUSED",
                   absl::StrCat("'", path,
                                "' is in Python's pickle format, which can run code; convert the weights to "
                                "safetensors or GGUF."));
}

bool IsPickle(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt" ||
         extension == ".pkl";
}

bool IsBelow(const fs::path& path, const fs::path& root) {
  return std::mismatch(path.begin(), path.end(), root.begin(), root.end()).second == root.end();
}

// The path with its links resolved, if that is below a root. Whether a path outside
// exists is not given away.
absl::StatusOr<fs::path> Resolve(const std::string& path, const std::vector<std::string>& roots) {
  std::error_code error;
  const fs::path resolved = fs::weakly_canonical(path, error);
  if (error) return OutsideRoot(path);
  for (const std::string& root : roots) {
    const fs::path resolved_root = fs::canonical(root, error);
    if (error || !IsBelow(resolved, resolved_root)) continue;
    if (!fs::exists(resolved, error)) {
      return MakeError(absl::StatusCode::kNotFound, "FILE_NOT_FOUND", absl::StrCat("There is no '", path, "'."));
    }
    return resolved;
  }
  return OutsideRoot(path);
}

// Adds a file of a folder to the source.
absl::Status Take(const fs::path& folder, const std::string& name, const std::string& stored_name,
                  const std::vector<std::string>& roots, ImportSource* source) {
  ATTUNE_ASSIGN_OR_RETURN(fs::path path, Resolve((folder / name).string(), roots));
  source->files[stored_name] = path.string();
  return absl::OkStatus();
}

// The files that an index spreads the tensors over.
absl::StatusOr<std::set<std::string>> ShardNames(const std::string& index_path) {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(index_path));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return NoModel(absl::StrCat(kIndex, " has no 'weight_map'."));
  }
  std::set<std::string> names;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (!absl::EndsWith(name, ".safetensors") || absl::StrContains(name, "/")) {
      return NoModel(absl::StrCat(kIndex, " names '", name, "', which is no safetensors file in the same folder."));
    }
    names.insert(name);
  }
  return names;
}

absl::Status TakeWeights(const fs::path& folder, const std::vector<std::string>& roots, ImportSource* source) {
  std::error_code error;
  if (fs::exists(folder / kWeights, error)) return Take(folder, kWeights, kWeights, roots, source);
  if (!fs::exists(folder / kIndex, error)) {
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      if (IsPickle(it->path())) return PickleRefused(it->path().string());
    }
    return NoModel(absl::StrCat("'", folder.string(), "' has no ", kWeights, " and no ", kIndex, "."));
  }
  ATTUNE_RETURN_IF_ERROR(Take(folder, kIndex, kIndex, roots, source));
  ATTUNE_ASSIGN_OR_RETURN(std::set<std::string> shards, ShardNames(source->files[kIndex]));
  for (const std::string& shard : shards) ATTUNE_RETURN_IF_ERROR(Take(folder, shard, shard, roots, source));
  return absl::OkStatus();
}

absl::Status TakeHuggingFace(const fs::path& folder, const std::vector<std::string>& roots, ImportSource* source) {
  std::error_code error;
  ATTUNE_RETURN_IF_ERROR(Take(folder, "config.json", "config.json", roots, source));
  ATTUNE_RETURN_IF_ERROR(TakeWeights(folder, roots, source));
  for (const char* name : kOptionalFiles) {
    if (fs::exists(folder / name, error)) ATTUNE_RETURN_IF_ERROR(Take(folder, name, name, roots, source));
  }
  return absl::OkStatus();
}

absl::Status TakePeft(const fs::path& folder, const std::vector<std::string>& roots, ImportSource* source) {
  std::error_code error;
  source->is_adapter = true;
  ATTUNE_RETURN_IF_ERROR(Take(folder, kAdapterConfig, kAdapterConfig, roots, source));
  if (fs::exists(folder / kAdapterWeights, error)) return Take(folder, kAdapterWeights, kAdapterWeights, roots, source);
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (IsPickle(it->path())) return PickleRefused(it->path().string());
  }
  return NoModel(absl::StrCat("'", folder.string(), "' has ", kAdapterConfig, ", but no ", kAdapterWeights, "."));
}

absl::Status TakeOnlyGguf(const fs::path& folder, const std::vector<std::string>& roots, ImportSource* source) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".gguf") names.push_back(it->path().filename().string());
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("listing ", folder.string()));
  if (names.size() > 1)
    return NoModel(absl::StrCat("'", folder.string(), "' has several GGUF files; name one of them."));
  if (names.empty()) {
    return NoModel(absl::StrCat("'", folder.string(), "' holds no model: neither config.json nor a GGUF file."));
  }
  return Take(folder, names[0], "model.gguf", roots, source);
}

}  // namespace

absl::StatusOr<ImportSource> FindImportSource(const std::string& path, const std::vector<std::string>& roots) {
  if (path.empty() || path[0] != '/') return InvalidField("source_path", "must be an absolute path on the server");
  if (roots.empty()) {
    return MakeError(absl::StatusCode::kPermissionDenied, "OUTSIDE_IMPORT_ROOT",
                     "The server has no import root, so it imports nothing; start it with one.");
  }
  ATTUNE_ASSIGN_OR_RETURN(fs::path resolved, Resolve(path, roots));
  ImportSource source;
  const fs::path given = fs::path(path).lexically_normal();
  source.name = given.has_filename() ? given.filename().string() : given.parent_path().filename().string();
  std::error_code error;
  if (fs::is_directory(resolved, error)) {
    // A folder of PEFT's may hold the tokenizer and the base model's configuration, but not its weights.
    const bool hugging_face = fs::exists(resolved / "config.json", error);
    const bool has_weights = fs::exists(resolved / kWeights, error) || fs::exists(resolved / kIndex, error);
    if (!has_weights && fs::exists(resolved / kAdapterConfig, error)) {
      ATTUNE_RETURN_IF_ERROR(TakePeft(resolved, roots, &source));
      return source;
    }
    ATTUNE_RETURN_IF_ERROR(hugging_face ? TakeHuggingFace(resolved, roots, &source)
                                        : TakeOnlyGguf(resolved, roots, &source));
    return source;
  }
  if (IsPickle(given)) return PickleRefused(path);
  if (given.extension() == ".safetensors") {
    return NoModel("A safetensors file alone is no model; import the folder that holds it with config.json.");
  }
  source.name = std::string(absl::StripSuffix(source.name, ".gguf"));
  source.files["model.gguf"] = resolved.string();
  return source;
}

absl::Status CopyImportSource(const ImportSource& source, const std::string& directory) {
  for (const auto& [name, path] : source.files) {
    ATTUNE_RETURN_IF_ERROR(CopyFile(path, absl::StrCat(directory, "/", name)));
  }
  return absl::OkStatus();
}

}  // namespace attune
