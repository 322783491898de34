#include "server/adapters/gguf_export.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/gguf_keys.h"
#include "server/adapters/gguf_tokenizer.h"
#include "server/model/families.h"
#include "server/model/file_modules.h"
#include "server/model/kernels/packed_weight.h"
#include "server/model/tensor_source.h"
#include "server/model/torch_target.h"
#include "server/model/weights/gguf_writer.h"
#include "server/tokenizer/load.h"

namespace attune {
namespace {

using at::Tensor;

// llama.cpp's numbers for what most tensors of a file are.
constexpr uint32_t kMostlyF16 = 1, kMostlyQ8 = 7, kQuantizationVersion = 2;

absl::Status CannotExport(const std::string& message) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "EXPORT_UNSUPPORTED", message);
}

// A tensor of the file: the weights whose rows it holds, one behind the other, and where those stand that a head's
// rotation pairs.
struct FileTensor {
  std::vector<Tensor> parts;
  TensorSource::Entry order;  // of rows alone
};

std::string Bytes(const Tensor& t) { return std::string(static_cast<const char*>(t.const_data_ptr()), t.nbytes()); }

// Of a file's tensor, or one to be written.
template <typename T>
GgmlType TypeFor(const T& tensor, GgmlType type) {
  if (tensor.shape.size() == 1) return GgmlType::kF32;
  return tensor.shape.back() % GgmlBlockElements(type) == 0 ? type : GgmlType::kF16;
}

absl::StatusOr<std::string> Encode(const std::string& name, const FileTensor& from, GgmlType type) {
  std::string bytes;
  absl::Status status = CatchTorch([&]() -> absl::Status {
    const at::NoGradGuard no_grad;
    Tensor values = (from.parts.size() == 1 ? from.parts[0] : at::cat(from.parts)).detach().to(at::kCPU, at::kFloat).contiguous();
    if (from.order.interleaved_head_dim > 0) {
      const Tensor sorted = at::empty_like(values);
      for (int64_t row = 0; row < values.size(0); ++row) sorted.select(0, from.order.FileRow(row)).copy_(values.select(0, row));
      values = sorted;
    }
    if (type == GgmlType::kQ8_0) {
      bytes = std::string(PackedWeight::Quantize(values, type)->bytes());
      return absl::OkStatus();
    }
    if (type == GgmlType::kF32) {
      bytes = Bytes(values);
      return absl::OkStatus();
    }
    const Tensor half = values.to(at::kHalf);
    if (!at::isfinite(half).all().item<bool>()) {
      return CannotExport(absl::StrCat("'", name, "' has values that F16 cannot hold; export the model as safetensors."));
    }
    bytes = Bytes(half);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return bytes;
}

// By the file's names.
std::map<std::string, FileTensor> FileTensors(const ModelConfig& config, const DecoderWeights& weights) {
  const ModelFamily& family = *FindFamily(config.family);
  std::map<std::string, FileTensor> tensors;
  for (const NamedParameter& parameter : NamedParameters(config, weights)) {
    const FilePart part = FindFilePart(config, parameter.name);
    FileTensor& tensor = tensors[GgufTensorName(part.name, family)];
    const bool turns = absl::StrContains(parameter.name, ".q_proj.") || absl::StrContains(parameter.name, ".k_proj.");
    if (turns && family.gguf_interleaves_rows) tensor.order.interleaved_head_dim = config.head_dim;
    tensor.parts.push_back(parameter.tensor);
  }
  return tensors;
}

void AddTypeKeys(GgmlType type, std::vector<std::string>* keys) {
  const bool is_q8 = type == GgmlType::kQ8_0;
  keys->push_back(EncodeGgufKey("general.file_type", is_q8 ? kMostlyQ8 : kMostlyF16));
  if (is_q8) keys->push_back(EncodeGgufKey("general.quantization_version", kQuantizationVersion));
}

std::vector<std::string> KeysFor(const GgufFile& file, GgmlType type) {
  std::vector<std::string> keys;
  for (const GgufKey& key : file.keys()) {
    const bool is_of_types = key.name == "general.file_type" || key.name == "general.quantization_version";
    if (!is_of_types && key.name != "general.alignment") keys.emplace_back(key.bytes);
  }
  AddTypeKeys(type, &keys);
  return keys;
}

absl::Status ExportLikeFile(const std::string& from, const ModelConfig& config, const DecoderWeights& weights, GgmlType type,
                            const std::string& path) {
  ATTUNE_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, TensorSource::Open(from));
  const GgufFile& file = *source->gguf();
  const std::map<std::string, FileTensor> tensors = FileTensors(config, weights);
  std::vector<GgufTensorToWrite> out;
  size_t matched = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    if (absl::StartsWith(tensor.name, "rope_f")) {  // rope_freqs, rope_factors_long and _short: not trained
      out.push_back({tensor.name, tensor.shape, tensor.type, [&tensor] { return std::string(tensor.bytes); }});
      continue;
    }
    const auto found = tensors.find(tensor.name);
    if (found == tensors.end()) return CannotExport(absl::StrCat("'", tensor.name, "' of the imported file is none of the weights."));
    ++matched;
    const GgmlType own = TypeFor(tensor, type);
    out.push_back({tensor.name, tensor.shape, own,
                   [&name = found->first, &values = found->second, own] { return Encode(name, values, own); }});
  }
  if (matched < tensors.size()) return CannotExport("the imported file lacks some of the weights.");
  return WriteGguf(path, KeysFor(file, type), out);
}

// What was written is what was meant.
absl::Status CheckWritten(const std::string& path, const ModelConfig& config, const Tokenizer& tokenizer) {
  ATTUNE_ASSIGN_OR_RETURN(const std::unique_ptr<GgufFile> file, GgufFile::Open(path));
  const absl::StatusOr<ModelConfig> read = ConfigFromGguf(*file);
  if (!read.ok()) return CannotExport(absl::StrCat("no GGUF file can say this: ", std::string(read.status().message())));
  ATTUNE_RETURN_IF_ERROR(CheckSameModel(config, *read));
  const absl::StatusOr<std::unique_ptr<Tokenizer>> again = LoadTokenizer(*file);
  if (!again.ok()) return CannotExport(absl::StrCat("its tokenizer: ", std::string(again.status().message())));
  return CheckSameTokenizer(tokenizer, **again);
}

absl::Status ExportFromFolder(const std::string& from, const ModelConfig& as_loaded, const DecoderWeights& weights,
                              GgmlType type, const std::string& path) {
  ATTUNE_ASSIGN_OR_RETURN(const ModelConfig config, GgufConfig(as_loaded));
  ATTUNE_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(from));
  std::vector<std::string> keys = GgufShapeKeys(config);
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<std::string> more, GgufTokenizerKeys(from, *tokenizer, config.vocab));
  keys.insert(keys.end(), more.begin(), more.end());
  AddTypeKeys(type, &keys);
  const std::map<std::string, FileTensor> tensors = FileTensors(config, weights);
  std::vector<GgufTensorToWrite> out;
  const auto rope_factors = GgufRopeFactors(config);
  for (const auto& [name, factors] : rope_factors) {
    out.push_back({name, {static_cast<int64_t>(factors.size())}, GgmlType::kF32, [&factors = factors] {
                     return std::string(reinterpret_cast<const char*>(factors.data()), factors.size() * sizeof(float));
                   }});
  }
  for (const auto& [name, tensor] : tensors) {
    std::vector<int64_t> shape = tensor.parts[0].sizes().vec();
    for (size_t i = 1; i < tensor.parts.size(); ++i) shape[0] += tensor.parts[i].size(0);
    GgufTensorToWrite to_write = {name, std::move(shape), type, nullptr};
    to_write.type = TypeFor(to_write, type);
    to_write.bytes = [&name = name, &values = tensor, own = to_write.type] { return Encode(name, values, own); };
    out.push_back(std::move(to_write));
  }
  ATTUNE_RETURN_IF_ERROR(WriteGguf(path, keys, out));
  return CheckWritten(path, config, *tokenizer);
}

}  // namespace

absl::Status ExportGguf(const std::string& from, const ModelConfig& config, const DecoderWeights& weights, GgmlType type,
                        const std::string& path) {
  std::error_code error;
  const bool like_file = std::filesystem::exists(from + "/model.gguf", error);
  return like_file ? ExportLikeFile(from, config, weights, type, path) : ExportFromFolder(from, config, weights, type, path);
}

}  // namespace attune
