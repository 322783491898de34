#include "server/model/tensor_source.h"

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/error.h"
#include "common/file.h"
#include "server/model/families.h"

namespace attune {
namespace {

absl::Status BadModel(const std::string& message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_MODEL", message);
}

// {GGUF's name, Hugging Face's} inside a layer.
constexpr std::pair<const char*, const char*> kLayerNames[] = {
    {"attn_norm", "input_layernorm"},     {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},       {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},       {"attn_output", "self_attn.o_proj"},
    {"ffn_gate", "mlp.gate_proj"},        {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},        {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
};
// Of families with norms behind the parts of a layer: "ffn_norm" is another's name there.
constexpr std::pair<const char*, const char*> kPostNormNames[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};
// Of families that fuse projections.
constexpr std::pair<const char*, const char*> kFusedNames[] = {
    {"attn_qkv", "self_attn.qkv_proj"},
    {"ffn_up", "mlp.gate_up_proj"},
};
constexpr std::pair<const char*, const char*> kGlobalNames[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
    // No weights of Hugging Face's; asked for by these names.
    {"rope_freqs.weight", "rope_freqs.weight"},
    {"rope_factors_long.weight", "rope_factors_long.weight"},
    {"rope_factors_short.weight", "rope_factors_short.weight"},
};

// The family's names inside a layer, those that are its own first.
std::vector<std::pair<const char*, const char*>> LayerNames(const ModelFamily& family) {
  std::vector<std::pair<const char*, const char*>> names;
  if (family.fuses_projections) names.insert(names.end(), std::begin(kFusedNames), std::end(kFusedNames));
  if (family.post_norms) names.insert(names.end(), std::begin(kPostNormNames), std::end(kPostNormNames));
  names.insert(names.end(), std::begin(kLayerNames), std::end(kLayerNames));
  return names;
}

std::string ToHuggingFaceName(const std::string& gguf_name, const ModelFamily& family) {
  for (auto [gguf, hf] : kGlobalNames) {
    if (gguf_name == gguf) return hf;
  }
  std::vector<std::string> parts = absl::StrSplit(gguf_name, '.');
  if (parts.size() != 4 || parts[0] != "blk" || (parts[3] != "weight" && parts[3] != "bias")) return "";
  for (auto [gguf, hf] : LayerNames(family)) {
    if (parts[2] == gguf) return absl::StrCat("model.layers.", parts[1], ".", hf, ".", parts[3]);
  }
  return "";
}

}  // namespace

std::string GgufTensorName(const std::string& name, const ModelFamily& family) {
  for (auto [gguf, hf] : kGlobalNames) {
    if (name == hf) return gguf;
  }
  for (auto [gguf, hf] : LayerNames(family)) {
    for (const char* part : {".weight", ".bias"}) {
      const std::string tail = absl::StrCat(".", hf, part);
      if (absl::StartsWith(name, "model.layers.") && absl::EndsWith(name, tail)) {
        return absl::StrCat("blk.", name.substr(13, name.size() - 13 - tail.size()), ".", gguf, part);
      }
    }
  }
  return "";
}

namespace {

class GgufSource final : public TensorSource {
 public:
  GgufSource(std::unique_ptr<GgufFile> file, ModelConfig config)
      : file_(std::move(file)),
        config_(std::move(config)),
        family_(*FindFamily(config_.family)) {}

  bool Has(const std::string& name) const override { return file_->Find(GgufTensorName(name, family_)) != nullptr; }
  absl::StatusOr<ModelConfig> Config() const override { return config_; }
  const GgufFile* gguf() const override { return file_.get(); }

 protected:
  absl::StatusOr<Raw> Find(const std::string& name) const override {
    const FilePart part = FindFilePart(config_, name);
    const GgufTensor* tensor = file_->Find(GgufTensorName(part.name, family_));
    if (!tensor) return BadModel(absl::StrCat("the file has no tensor '", GgufTensorName(part.name, family_), "' (", name, ")"));
    Raw raw;
    raw.tensor = part.name;
    raw.shape = tensor->shape;
    raw.entry.type = tensor->type;
    raw.entry.bytes = tensor->bytes;
    ATTUNE_RETURN_IF_ERROR(TakePart(part, &raw));
    if (family_.gguf_interleaves_rows && (absl::StrContains(name, ".q_proj.") || absl::StrContains(name, ".k_proj."))) {
      raw.entry.interleaved_head_dim = config_.head_dim;
    }
    return raw;
  }
  std::vector<std::pair<std::string, std::string>> Names() const override {
    std::vector<std::pair<std::string, std::string>> names;
    for (const GgufTensor& tensor : file_->tensors()) {
      names.emplace_back(tensor.name, ToHuggingFaceName(tensor.name, family_));
    }
    return names;
  }

 private:
  const std::unique_ptr<GgufFile> file_;
  const ModelConfig config_;
  const ModelFamily& family_;
};

class SafetensorsSource final : public TensorSource {
 public:
  SafetensorsSource(std::unique_ptr<SafetensorsFile> file, ModelConfig config)
      : file_(std::move(file)), config_(std::move(config)) {}

  bool Has(const std::string& name) const override { return file_->Find(name) != nullptr; }
  absl::StatusOr<ModelConfig> Config() const override { return config_; }

 protected:
  absl::StatusOr<Raw> Find(const std::string& name) const override {
    const FilePart part = FindFilePart(config_, name);
    const SafetensorsTensor* tensor = file_->Find(part.name);
    if (!tensor) return BadModel(absl::StrCat("the files have no tensor '", part.name, "'"));
    Raw raw;
    raw.tensor = part.name;
    raw.shape = tensor->shape;
    raw.entry.bytes = tensor->bytes;
    switch (tensor->type) {
      case SafetensorsType::kF32: raw.entry.type = GgmlType::kF32; break;
      case SafetensorsType::kF16: raw.entry.type = GgmlType::kF16; break;
      case SafetensorsType::kBF16: raw.entry.type = GgmlType::kBF16; break;
      default: return BadModel(absl::StrCat("tensor '", part.name, "' is not of type F32, F16 or BF16"));
    }
    ATTUNE_RETURN_IF_ERROR(TakePart(part, &raw));
    if (raw.shape.size() == 1 && absl::EndsWith(name, "norm.weight")) raw.entry.offset = static_cast<float>(config_.norm_offset);
    return raw;
  }
  std::vector<std::pair<std::string, std::string>> Names() const override {
    std::vector<std::pair<std::string, std::string>> names;
    for (const SafetensorsTensor& tensor : file_->tensors()) names.emplace_back(tensor.name, tensor.name);
    return names;
  }

 private:
  const std::unique_ptr<SafetensorsFile> file_;
  const ModelConfig config_;
};

// Tensors that files carry though they hold nothing that the network reads.
bool IsDerived(const std::string& name) {
  return absl::EndsWith(name, "rotary_emb.inv_freq") || name == "lm_head.weight";
}

}  // namespace

int64_t TensorSource::Entry::FileRow(int64_t row) const {
  if (interleaved_head_dim == 0) return row;
  const int64_t half = interleaved_head_dim / 2, head = row / interleaved_head_dim, i = row % interleaved_head_dim;
  return head * interleaved_head_dim + 2 * (i % half) + i / half;
}

void TensorSource::Entry::ReadRows(int64_t first, int64_t last, float* out) const {
  for (int64_t row = first; row < last; ++row, out += columns) {
    // Cannot fail: Get has checked that rows are whole blocks.
    Dequantize(type, RowBytes(row), columns, out).IgnoreError();
    if (offset == 0) continue;
    for (int64_t i = 0; i < columns; ++i) out[i] += offset;
  }
}

absl::StatusOr<TensorSource::Entry> TensorSource::Get(const std::string& name, int64_t rows, int64_t columns) {
  ATTUNE_ASSIGN_OR_RETURN(Raw raw, Find(name));
  std::vector<int64_t> wanted = rows > 0 ? std::vector<int64_t>{rows, columns} : std::vector<int64_t>{columns};
  if (raw.shape != wanted) {
    return BadModel(absl::StrCat("tensor '", name, "' has shape [", absl::StrJoin(raw.shape, ", "), "], not [",
                                 absl::StrJoin(wanted, ", "), "] as the configuration says"));
  }
  if (columns % GgmlBlockElements(raw.entry.type) != 0) {
    return BadModel(absl::StrCat("tensor '", name, "': rows of ", columns, " values are no whole blocks of ",
                                 std::string(GgmlTypeName(raw.entry.type))));
  }
  raw.entry.name = name;
  raw.entry.rows = std::max<int64_t>(rows, 1);
  raw.entry.columns = columns;
  used_.insert(raw.tensor);
  return raw.entry;
}

absl::Status TensorSource::TakePart(const FilePart& part, Raw* raw) {
  if (part.all_rows == 0) return absl::OkStatus();
  if (raw->shape.size() != 2 || raw->shape[0] != part.all_rows) {
    return BadModel(absl::StrCat("tensor '", part.name, "' has shape [", absl::StrJoin(raw->shape, ", "), "], not ",
                                 part.all_rows, " rows as the configuration says"));
  }
  const int64_t row_bytes = static_cast<int64_t>(raw->entry.bytes.size()) / part.all_rows;
  raw->entry.bytes = raw->entry.bytes.substr(part.row * row_bytes, part.rows * row_bytes);
  raw->shape[0] = part.rows;
  return absl::OkStatus();
}

absl::Status TensorSource::CheckAllUsed() const {
  for (const auto& [file_name, name] : Names()) {
    if (used_.count(name) || IsDerived(name)) continue;
    return BadModel(absl::StrCat("tensor '", file_name, "' belongs to no part of the network that Attune knows"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TensorSource>> TensorSource::Open(const std::string& directory) {
  const std::string gguf_path = directory + "/model.gguf";
  if (std::filesystem::exists(gguf_path)) {
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::Open(gguf_path));
    ATTUNE_ASSIGN_OR_RETURN(ModelConfig config, ConfigFromGguf(*file));
    return std::make_unique<GgufSource>(std::move(file), std::move(config));
  }
  ATTUNE_ASSIGN_OR_RETURN(std::string json, ReadFile(directory + "/config.json"));
  ATTUNE_ASSIGN_OR_RETURN(ModelConfig config, ConfigFromJson(json));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open(directory));
  return std::make_unique<SafetensorsSource>(std::move(file), std::move(config));
}

}  // namespace attune
