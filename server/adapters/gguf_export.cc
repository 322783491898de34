#include "server/adapters/gguf_export.h"

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/families.h"
#include "server/model/file_modules.h"
#include "server/model/kernels/packed_weight.h"
#include "server/model/tensor_source.h"
#include "server/model/torch_target.h"
#include "server/model/weights/gguf_writer.h"

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
  TensorSource::Entry entry;  // of the first
};

std::string Bytes(const Tensor& t) { return std::string(static_cast<const char*>(t.const_data_ptr()), t.nbytes()); }

GgmlType TypeFor(const GgufTensor& tensor, GgmlType type) {
  if (tensor.shape.size() == 1) return GgmlType::kF32;
  return tensor.shape.back() % GgmlBlockElements(type) == 0 ? type : GgmlType::kF16;
}

absl::StatusOr<std::string> Encode(const std::string& name, const FileTensor& from, GgmlType type) {
  std::string bytes;
  absl::Status status = CatchTorch([&]() -> absl::Status {
    const at::NoGradGuard no_grad;
    Tensor values = (from.parts.size() == 1 ? from.parts[0] : at::cat(from.parts)).detach().to(at::kCPU, at::kFloat).contiguous();
    if (from.entry.interleaved_head_dim > 0) {
      const Tensor sorted = at::empty_like(values);
      for (int64_t row = 0; row < values.size(0); ++row) sorted.select(0, from.entry.FileRow(row)).copy_(values.select(0, row));
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
absl::StatusOr<std::map<std::string, FileTensor>> FileTensors(TensorSource* source, const ModelConfig& config,
                                                              const DecoderWeights& weights) {
  std::map<std::string, FileTensor> tensors;
  for (const NamedParameter& parameter : NamedParameters(config, weights)) {
    const FilePart part = FindFilePart(config, parameter.name);
    const bool is_matrix = parameter.tensor.dim() == 2;
    ATTUNE_ASSIGN_OR_RETURN(TensorSource::Entry entry,
                            source->Get(parameter.name, is_matrix ? parameter.tensor.size(0) : 0, parameter.tensor.size(-1)));
    FileTensor& tensor = tensors[GgufTensorName(part.name, *FindFamily(config.family))];
    if (tensor.parts.empty()) tensor.entry = std::move(entry);
    tensor.parts.push_back(parameter.tensor);
  }
  return tensors;
}

std::vector<std::string> KeysFor(const GgufFile& file, GgmlType type) {
  std::vector<std::string> keys;
  for (const GgufKey& key : file.keys()) {
    const bool is_of_types = key.name == "general.file_type" || key.name == "general.quantization_version";
    if (!is_of_types && key.name != "general.alignment") keys.emplace_back(key.bytes);
  }
  const bool is_q8 = type == GgmlType::kQ8_0;
  keys.push_back(EncodeGgufKey("general.file_type", is_q8 ? kMostlyQ8 : kMostlyF16));
  if (is_q8) keys.push_back(EncodeGgufKey("general.quantization_version", kQuantizationVersion));
  return keys;
}

}  // namespace

absl::Status ExportGguf(const std::string& from, const ModelConfig& config, const DecoderWeights& weights, GgmlType type,
                        const std::string& path) {
  ATTUNE_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, TensorSource::Open(from));
  const GgufFile& file = *source->gguf();
  using Tensors = std::map<std::string, FileTensor>;
  ATTUNE_ASSIGN_OR_RETURN(const Tensors tensors, FileTensors(source.get(), config, weights));
  std::vector<GgufTensorToWrite> out;
  size_t matched = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.name == "rope_freqs.weight") {  // not trained
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

}  // namespace attune
