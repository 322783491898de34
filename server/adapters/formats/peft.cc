#include "server/adapters/formats/peft.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <set>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/formats/peft_config.h"
#include "server/model/own_stream.h"
#include "server/model/torch_target.h"
#include "server/model/weights/safetensors.h"

namespace attune {
namespace {

constexpr char kConfigFile[] = "/adapter_config.json";
constexpr char kTensorFile[] = "/adapter_model.safetensors";
constexpr char kPrefix[] = "base_model.model.";
constexpr char kPromptTensor[] = "prompt_embeddings";

std::string ModuleName(int64_t layer, int projection) {
  return absl::StrCat("model.layers.", layer, ".", ProjectionPath(static_cast<Projection>(projection)));
}

int64_t InputSize(const ModelConfig& config, Projection projection) {
  switch (projection) {
    case Projection::kO: return config.q_size();
    case Projection::kDown: return config.intermediate;
    default: return config.hidden;
  }
}

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::StatusOr<at::ScalarType> ScalarTypeOf(const SafetensorsTensor& tensor) {
  switch (tensor.type) {
    case SafetensorsType::kF32:
      return at::kFloat;
    case SafetensorsType::kF16:
      return at::kHalf;
    case SafetensorsType::kBF16:
      return at::kBFloat16;
    case SafetensorsType::kF64:
      return at::kDouble;
    default:
      return BadAdapter(absl::StrCat("tensor '", tensor.name, "' does not hold real numbers"));
  }
}

// Whether all `count` values, which may lie at any address, are finite; they go to `to` in its type. On this
// thread alone: many adapters are loaded at once, each by a handler of its own.
template <typename From, typename To>
bool ConvertFinite(const char* from, int64_t count, To* to) {
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, at::BFloat16>) {
    // Most adapters for a GPU: whole numbers, which the compiler does many at a time.
    uint32_t exponents = 0;
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, from + i * sizeof(bits), sizeof(bits));
      exponents |= ((bits & 0x7f800000u) + 0x00800000u) & 0x80000000u;
      to[i].x = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    }
    return exponents == 0;
  }
  bool all_finite = true;
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + i * sizeof(From), sizeof(From));
    const auto wide = static_cast<std::conditional_t<std::is_same_v<From, double>, double, float>>(value);
    all_finite &= wide - wide == 0;  // infinities and no numbers give no number
    to[i] = static_cast<To>(static_cast<float>(wide));
  }
  return all_finite;
}

template <typename To>
bool ConvertFinite(at::ScalarType type, const char* from, int64_t count, To* to) {
  switch (type) {
    case at::kFloat:
      return ConvertFinite<float>(from, count, to);
    case at::kHalf:
      return ConvertFinite<at::Half>(from, count, to);
    case at::kBFloat16:
      return ConvertFinite<at::BFloat16>(from, count, to);
    default:
      return ConvertFinite<double>(from, count, to);
  }
}

// Takes tensors out of the file, checked, and knows in the end which were not taken. All of them lie in
// one block of memory, which goes to a GPU in one copy, on a stream beside those that compute.
class TensorReader {
 public:
  TensorReader(const SafetensorsFile& file, const ComputeTarget& target);

  bool Has(const std::string& name) const { return file_.Find(name) != nullptr; }
  // Its values are there once Finish has been called.
  absl::StatusOr<at::Tensor> Take(const std::string& name, const std::vector<int64_t>& shape);
  // Of all that was taken; refuses a file of which something was not.
  absl::Status Finish();
  int64_t bytes() const { return bytes_; }

 private:
  // Each tensor begins where kernels may read 16 bytes at a time.
  static constexpr int64_t kAlignment = 64;
  static int64_t RoomFor(int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

  const SafetensorsFile& file_;
  const ComputeTarget target_;
  OwnStream stream_;
  at::Tensor host_, values_;  // the same where there is no GPU
  int64_t used_ = 0, bytes_ = 0;
  std::set<std::string> taken_;
};

TensorReader::TensorReader(const SafetensorsFile& file, const ComputeTarget& target)
    : file_(file), target_(target), stream_(target) {
  int64_t room = 0;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    room += RoomFor(std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>()));
  }
  const bool is_gpu = target.device == ComputeTarget::Device::kCuda;
  const OwnStream::Scope scope(stream_);
  host_ = at::empty({room}, at::TensorOptions(TypeOf(target)).pinned_memory(is_gpu));
  values_ = is_gpu ? at::empty({room}, at::TensorOptions(TypeOf(target)).device(DeviceOf(target))) : host_;
}

absl::StatusOr<at::Tensor> TensorReader::Take(const std::string& name, const std::vector<int64_t>& shape) {
  const SafetensorsTensor* tensor = file_.Find(name);
  if (tensor == nullptr) return BadAdapter(absl::StrCat("tensor '", name, "' is missing"));
  if (tensor->shape != shape) {
    return BadAdapter(absl::StrCat("tensor '", name, "' is ", ShapeText(tensor->shape), " where this base model needs ",
                                   ShapeText(shape)));
  }
  ATTUNE_ASSIGN_OR_RETURN(at::ScalarType type, ScalarTypeOf(*tensor));
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  const at::Tensor to = host_.narrow(0, used_, count);
  const char* from = tensor->bytes.data();
  const bool all_finite = to.scalar_type() == at::kBFloat16
                              ? ConvertFinite(type, from, count, to.mutable_data_ptr<at::BFloat16>())
                              : ConvertFinite(type, from, count, to.mutable_data_ptr<float>());
  if (!all_finite) return BadAdapter(absl::StrCat("tensor '", name, "' holds infinities or no numbers"));
  taken_.insert(name);
  const at::Tensor values = values_.narrow(0, used_, count).view(shape);
  used_ += RoomFor(count);
  bytes_ += static_cast<int64_t>(values.nbytes());
  return values;
}

absl::Status TensorReader::Finish() {
  for (const SafetensorsTensor& tensor : file_.tensors()) {
    if (taken_.count(tensor.name) == 0) {
      return UnsupportedAdapter(absl::StrCat("the tensor '", tensor.name, "', which belongs to no adapted projection"));
    }
  }
  if (values_.is_same(host_)) return absl::OkStatus();
  const OwnStream::Scope scope(stream_);
  values_.copy_(host_, /*non_blocking=*/true);
  Synchronize(target_);
  return absl::OkStatus();
}

absl::StatusOr<LoraModule> TakeModule(const PeftConfig& peft, const ModelConfig& config, const std::string& module,
                                      Projection projection, TensorReader* reader) {
  LoraModule lora;
  ATTUNE_ASSIGN_OR_RETURN(int64_t rank, peft.RankOf(module));
  ATTUNE_ASSIGN_OR_RETURN(lora.scale, peft.ScaleOf(module, rank));
  const std::string name = absl::StrCat(kPrefix, module);
  ATTUNE_ASSIGN_OR_RETURN(lora.a_RI, reader->Take(name + ".lora_A.weight", {rank, InputSize(config, projection)}));
  ATTUNE_ASSIGN_OR_RETURN(lora.b_OR, reader->Take(name + ".lora_B.weight", {SliceOf(config, projection).rows, rank}));
  return lora;
}

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
      const std::string module = ModuleName(layer, p);
      ATTUNE_ASSIGN_OR_RETURN(bool targeted, peft.targets.Match(module));
      if (!targeted) {
        // PEFT would leave it out silently.
        if (!reader->Has(absl::StrCat(kPrefix, module, ".lora_A.weight"))) continue;
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

absl::Status LoadSoftPrompt(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, Adapter* adapter) {
  if (peft.token_dim != 0 && peft.token_dim != config.hidden) {
    return BadAdapter(absl::StrCat("token_dim is ", peft.token_dim, ", the base model's hidden size ", config.hidden));
  }
  if (peft.virtual_tokens >= config.context)
    return BadAdapter("its virtual tokens fill the base model's whole context");
  auto prompt = std::make_unique<SoftPrompt>();
  prompt->init_text = peft.init_text;
  ATTUNE_ASSIGN_OR_RETURN(prompt->embeddings_ND, reader->Take(kPromptTensor, {peft.virtual_tokens, config.hidden}));
  adapter->soft_prompt = std::move(prompt);
  return absl::OkStatus();
}

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

// ---- Saving ----

// An integer where it is one: PEFT's fields are typed so.
nlohmann::ordered_json Number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

// The tensors of a file; owns their bytes until it is written.
class TensorWriter {
 public:
  void Add(const std::string& name, const at::Tensor& tensor) {
    at::Tensor values = tensor.detach().cpu().contiguous();
    if (values.scalar_type() != at::kBFloat16) values = values.to(at::kFloat);
    alive_.push_back(values);
    tensors_.push_back({name, values.sizes().vec(),
                        values.scalar_type() == at::kBFloat16 ? SafetensorsType::kBF16 : SafetensorsType::kF32,
                        absl::string_view(static_cast<const char*>(values.const_data_ptr()), values.nbytes())});
  }
  absl::Status Write(const std::string& path) const { return WriteSafetensors(path, tensors_, {{"format", "pt"}}); }

 private:
  std::vector<at::Tensor> alive_;
  std::vector<SafetensorsTensor> tensors_;
};

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
      const std::string path = ModuleName(layer, p);
      names.push_back(same ? path.substr(path.rfind('.') + 1) : path);
    }
  }
  return names;
}

nlohmann::ordered_json SaveLora(const LoraAdapter& lora, TensorWriter* writer) {
  nlohmann::ordered_json ranks = nlohmann::ordered_json::object(), alphas = ranks;
  for (size_t layer = 0; layer < lora.layers.size(); ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      const LoraModule& module = lora.layers[layer][p];
      if (!module.defined()) continue;
      const std::string path = ModuleName(layer, p);
      writer->Add(absl::StrCat(kPrefix, path, ".lora_A.weight"), module.a_RI);
      writer->Add(absl::StrCat(kPrefix, path, ".lora_B.weight"), module.b_OR);
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

nlohmann::ordered_json SaveSoftPrompt(const SoftPrompt& prompt, const ModelConfig& config, const std::string& base,
                                      TensorWriter* writer) {
  writer->Add(kPromptTensor, prompt.embeddings_ND);
  nlohmann::ordered_json json = {{"peft_type", "PROMPT_TUNING"},
                                 {"num_virtual_tokens", prompt.embeddings_ND.size(0)},
                                 {"token_dim", config.hidden},
                                 {"num_transformer_submodules", 1},
                                 {"num_attention_heads", config.heads},
                                 {"num_layers", config.layers},
                                 {"prompt_tuning_init", prompt.init_text.empty() ? "RANDOM" : "TEXT"}};
  if (!prompt.init_text.empty()) {
    json["prompt_tuning_init_text"] = prompt.init_text;
    json["tokenizer_name_or_path"] = base;  // PEFT wants one with a text
  }
  return json;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Adapter>> LoadPeft(const std::string& directory, const ModelConfig& config,
                                                  const ComputeTarget& target) {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadFile(directory + kConfigFile));
  ATTUNE_ASSIGN_OR_RETURN(PeftConfig peft, ParsePeftConfig(text));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, OpenTensors(directory));
  auto adapter = std::make_unique<Adapter>();
  ATTUNE_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    at::NoGradGuard no_grad;
    TensorReader reader(*file, target);
    ATTUNE_RETURN_IF_ERROR(peft.type == PeftConfig::Type::kLora ? LoadLora(peft, config, &reader, adapter.get())
                                                                : LoadSoftPrompt(peft, config, &reader, adapter.get()));
    adapter->bytes = reader.bytes();
    return reader.Finish();
  }));
  return adapter;
}

absl::Status SavePeft(const std::string& directory, const Adapter& adapter, const ModelConfig& config,
                      const std::string& base_model_name) {
  return CatchTorch([&]() -> absl::Status {
    TensorWriter writer;
    nlohmann::ordered_json json = adapter.lora ? SaveLora(*adapter.lora, &writer)
                                               : SaveSoftPrompt(*adapter.soft_prompt, config, base_model_name, &writer);
    json["task_type"] = "CAUSAL_LM";
    json["base_model_name_or_path"] = base_model_name;
    json["inference_mode"] = true;
    ATTUNE_RETURN_IF_ERROR(writer.Write(directory + kTensorFile));
    return WriteFileDurably(directory + kConfigFile,
                            json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  });
}

}  // namespace attune
