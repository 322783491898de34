#include "server/adapters/formats/peft.h"

#include <ATen/core/grad_mode.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/formats/peft_config.h"
#include "server/adapters/formats/peft_kinds.h"
#include "server/adapters/formats/peft_tensors.h"
#include "server/model/torch_target.h"
#include "server/model/weights/safetensors.h"

namespace attune {

std::string PeftModuleName(int64_t layer, const FileModule& module) {
  return absl::StrCat("model.layers.", layer, ".", module.path);
}

namespace {

constexpr char kConfigFile[] = "/adapter_config.json";
constexpr char kTensorFile[] = "/adapter_model.safetensors";

absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenTensors(const std::string& directory) {
  std::error_code error;
  const std::string path = directory + kTensorFile;
  if (!std::filesystem::exists(path, error) && std::filesystem::exists(directory + "/adapter_model.bin", error)) {
    return MakeError(
        absl::StatusCode::kInvalidArgument, "PICKLE_REFUSED",
        "adapter_model.bin is in Python's pickle format, which can run code; save the adapter as safetensors.");
  }
  return SafetensorsFile::Open(path);
}

absl::Status LoadKind(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter) {
  switch (peft.type) {
    case PeftConfig::Type::kLora: return LoadLora(peft, config, reader, adapter);
    case PeftConfig::Type::kSoftPrompt: return LoadSoftPrompt(peft, config, reader, adapter);
    case PeftConfig::Type::kPrefix: return LoadPrefix(peft, config, reader, adapter);
    case PeftConfig::Type::kIa3: return LoadIa3(peft, config, reader, adapter);
  }
  return absl::InternalError("no such kind of adapter");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Adapter>> LoadPeft(const std::string& directory, const ModelConfig& config,
                                                  const ComputeTarget& target, const RopeTables& rope) {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(directory + kConfigFile));
  ATTUNE_ASSIGN_OR_RETURN(PeftConfig peft, ParsePeftConfig(text));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, OpenTensors(directory));
  auto adapter = std::make_unique<Adapter>();
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    at::NoGradGuard no_grad;
    TensorReader reader(*file, target);
    ATTUNE_RETURN_IF_ERROR(LoadKind(peft, config, &reader, adapter.get()));
    adapter->bytes = reader.bytes();
    ATTUNE_RETURN_IF_ERROR(reader.Finish());
    if (!adapter->prefix) return absl::OkStatus();
    TurnBackPrefix(config, rope, adapter->prefix.get());
    Synchronize(target);
    return absl::OkStatus();
  }));
  return adapter;
}

absl::Status SavePeft(const std::string& directory, const Adapter& adapter, const ModelConfig& config,
                      const std::string& base_model_name, const RopeTables& rope) {
  return CatchTorch([&]() -> absl::Status {
    TensorWriter writer;
    nlohmann::ordered_json json;
    if (adapter.lora) json = SaveLora(*adapter.lora, config, &writer);
    if (adapter.soft_prompt) json = SaveSoftPrompt(*adapter.soft_prompt, config, base_model_name, &writer);
    if (adapter.prefix) json = SavePrefix(*adapter.prefix, config, rope, &writer);
    if (adapter.ia3) json = SaveIa3(*adapter.ia3, config, &writer);
    json["task_type"] = "CAUSAL_LM";
    json["base_model_name_or_path"] = base_model_name;
    json["inference_mode"] = true;
    ATTUNE_RETURN_IF_ERROR(writer.Write(directory + kTensorFile));
    return WriteFileDurably(directory + kConfigFile,
                            json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  });
}

}  // namespace attune
