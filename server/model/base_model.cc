#include "server/model/base_model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "common/log.h"
#include "server/model/file_modules.h"
#include "server/model/kernels/packed_weight.h"
#include "server/model/kernels/quantized_matrix.h"
#include "server/model/kernels/tiled_weight.h"
#include "server/model/matrix_reader.h"
#include "server/model/rope.h"
#include "server/model/tensor_source.h"
#include "server/model/torch_target.h"
#include "server/tokenizer/load.h"

namespace attune {
namespace {

// What these say, of GGUF files, is in the configuration's rope_scaling already.
constexpr const char* kRopeTensors[] = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"};

constexpr const char* kProjectionPaths[kProjections] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

std::string LayerName(int64_t layer, absl::string_view module, absl::string_view part = "weight") {
  return absl::StrCat("model.layers.", layer, ".", module, ".", part);
}

std::string BiasName(int64_t layer, Projection projection) {
  return LayerName(layer, ProjectionPath(projection), "bias");
}

// A layer's norms: what files call them, where they are kept, and how long they are.
struct NormSlot {
  const char* path;
  at::Tensor LayerWeights::* weight;
  int64_t size;
};
std::vector<NormSlot> NormSlots(const ModelConfig& config) {
  const char* const before_ffn = config.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
  std::vector<NormSlot> slots = {{"input_layernorm", &LayerWeights::attention_norm_D, config.hidden},
                                 {before_ffn, &LayerWeights::ffn_norm_D, config.hidden}};
  if (config.post_norms) {
    slots.push_back({"post_attention_layernorm", &LayerWeights::post_attention_norm_D, config.hidden});
    slots.push_back({"post_feedforward_layernorm", &LayerWeights::post_ffn_norm_D, config.hidden});
  }
  if (!config.qk_norm) return slots;
  slots.push_back({"self_attn.q_norm", &LayerWeights::q_norm_A, config.head_dim});
  slots.push_back({"self_attn.k_norm", &LayerWeights::k_norm_A, config.head_dim});
  return slots;
}

// Reads, converts and places weights; collects what they take.
class Loader {
 public:
  Loader(TensorSource* source, const ModelConfig& config, const ComputeTarget& target, WeightFormat format)
      : source_(source), config_(config), target_(target), format_(format) {}

  absl::StatusOr<DecoderWeights> Load();

 private:
  absl::StatusOr<at::Tensor> Vector(const std::string& name, int64_t size);
  absl::StatusOr<at::Tensor> Norm(const std::string& name, int64_t size);
  // Of the projections of one product, one behind the other.
  absl::StatusOr<at::Tensor> Bias(int64_t layer, Linear which);
  // The rows of several matrices that share their input, one behind the other.
  using Parts = std::vector<std::pair<std::string, int64_t>>;
  // Blocks beside a dense matrix, for decoding; where they are kept, if they are.
  struct Blocks {
    std::shared_ptr<const PackedWeight>* packed = nullptr;
    std::shared_ptr<const TiledWeight>* tiled = nullptr;
  };
  // In the blocks that the target asks for, or null.
  std::shared_ptr<const PackedWeight> QuantizeForDecoding(const at::Tensor& values) const;
  std::shared_ptr<const TiledWeight> Tile(const std::vector<TensorSource::Entry>& entries, const at::Tensor& values) const;
  absl::StatusOr<std::vector<TensorSource::Entry>> Find(const Parts& parts, int64_t columns);
  // In fp32 on the host, and in the target's type on its device.
  absl::StatusOr<at::Tensor> HostMatrix(const Parts& parts, int64_t columns, const Blocks& blocks);
  absl::StatusOr<at::Tensor> Matrix(const Parts& parts, int64_t columns, const Blocks& blocks);
  absl::StatusOr<LayerWeights> Layer(int64_t layer);

  TensorSource* const source_;
  const ModelConfig& config_;
  const ComputeTarget target_;
  const WeightFormat format_;
};

cuda::Codes CodesOf(WeightFormat format) {
  return format == WeightFormat::kInt8 ? cuda::Codes::kInt8 : cuda::Codes::kNf4;
}

cuda::TileCodes CodesOf(ComputeTarget::DecodeWeights weights) {
  return weights == ComputeTarget::DecodeWeights::kInt8   ? cuda::TileCodes::kInt8
         : weights == ComputeTarget::DecodeWeights::kFp8 ? cuda::TileCodes::kFp8
                                                         : cuda::TileCodes::kInt4;
}

// What blocks beside the dense weights take.
int64_t TiledBytes(const ModelConfig& config, const ComputeTarget& target) {
  if (target.device == ComputeTarget::Device::kCpu ||
      target.decode_weights == ComputeTarget::DecodeWeights::kAsLoaded) {
    return 0;
  }
  const int64_t layer = config.qkv_size() + config.q_size() + 3 * config.intermediate;
  return TiledWeight::BytesFor(CodesOf(target.decode_weights), config.layers * layer + config.vocab, config.hidden);
}

absl::StatusOr<at::Tensor> Loader::Vector(const std::string& name, int64_t size) {
  ATTUNE_ASSIGN_OR_RETURN(TensorSource::Entry entry, source_->Get(name, 0, size));
  at::Tensor values = at::empty({size}, at::kFloat);
  entry.ReadRows(0, 1, values.mutable_data_ptr<float>());
  if (entry.interleaved_head_dim > 0) {  // a bias, ordered as the rows of its projection's weight
    std::vector<int64_t> order(size);
    for (int64_t i = 0; i < size; ++i) order[i] = entry.FileRow(i);
    values = values.index_select(0, at::tensor(order, at::kLong));
  }
  return values.to(DeviceOf(target_));
}

absl::StatusOr<at::Tensor> Loader::Norm(const std::string& name, int64_t size) {
  ATTUNE_ASSIGN_OR_RETURN(const at::Tensor values, Vector(name, size));
  return config_.norm_offset != 0 ? values : values.to(TypeOf(target_));
}

absl::StatusOr<at::Tensor> Loader::Bias(int64_t layer, Linear which) {
  std::vector<at::Tensor> parts;
  for (int p = 0; p < kProjections; ++p) {
    const Projection projection = static_cast<Projection>(p);
    const ProjectionSlice slice = SliceOf(config_, projection);
    if (slice.linear != which) continue;
    ATTUNE_ASSIGN_OR_RETURN(at::Tensor part, Vector(BiasName(layer, projection), slice.rows));
    parts.push_back(std::move(part));
  }
  return at::cat(parts).to(TypeOf(target_));
}

std::shared_ptr<const PackedWeight> Pack(const std::vector<TensorSource::Entry>& entries) {
  const GgmlType type = entries[0].type;
  for (const TensorSource::Entry& entry : entries) {
    if (entry.type != type || !PackedWeight::Supports(type, entry.columns)) return nullptr;
  }
  auto packed = std::make_shared<PackedWeight>(type, entries[0].columns);
  for (const TensorSource::Entry& entry : entries) {
    for (int64_t row = 0; row < entry.rows; ++row) packed->AppendRows(entry.RowBytes(row));
  }
  return packed;
}

std::shared_ptr<const PackedWeight> Loader::QuantizeForDecoding(const at::Tensor& values) const {
  if (target_.decode_weights == ComputeTarget::DecodeWeights::kAsLoaded) return nullptr;
  const bool is_int8 = target_.decode_weights == ComputeTarget::DecodeWeights::kInt8;
  const GgmlType type = is_int8 ? GgmlType::kQ8_0 : GgmlType::kQ4_1;
  return PackedWeight::Supports(type, values.size(1)) ? PackedWeight::Quantize(values, type) : nullptr;
}

std::shared_ptr<const TiledWeight> Loader::Tile(const std::vector<TensorSource::Entry>& entries,
                                                const at::Tensor& values) const {
  const GgmlType type = entries[0].type;
  const bool is_one_type =
      std::all_of(entries.begin(), entries.end(), [&](const TensorSource::Entry& entry) { return entry.type == type; });
  const bool asks = target_.decode_weights != ComputeTarget::DecodeWeights::kAsLoaded;
  const bool takes = TiledWeight::Takes(values.size(0), values.size(1));
  const at::Device device = DeviceOf(target_);
  if (asks && takes && is_one_type && (type == GgmlType::kQ4_0 || type == GgmlType::kQ4_1)) {
    at::Tensor rows_OB = at::empty({values.size(0), entries[0].row_bytes()}, at::kByte);
    char* out = reinterpret_cast<char*>(rows_OB.mutable_data_ptr<uint8_t>());
    for (const TensorSource::Entry& entry : entries) {
      for (int64_t row = 0; row < entry.rows; ++row) {
        const absl::string_view bytes = entry.RowBytes(row);
        out = std::copy(bytes.begin(), bytes.end(), out);
      }
    }
    return std::make_shared<TiledWeight>(TileQ4Rows(rows_OB.to(device), type == GgmlType::kQ4_1));
  }
  if (asks && takes && is_one_type && type == GgmlType::kQ8_0) {
    return std::make_shared<TiledWeight>(MakeTiledWeight(values.to(device, TypeOf(target_)), cuda::TileCodes::kInt8));
  }
  return TileForDecoding(values, target_);
}

absl::StatusOr<std::vector<TensorSource::Entry>> Loader::Find(const Parts& parts, int64_t columns) {
  std::vector<TensorSource::Entry> entries;
  for (const auto& [name, rows] : parts) {
    ATTUNE_ASSIGN_OR_RETURN(TensorSource::Entry entry, source_->Get(name, rows, columns));
    entries.push_back(entry);
  }
  return entries;
}

absl::StatusOr<at::Tensor> Loader::Matrix(const Parts& parts, int64_t columns, const Blocks& blocks) {
  const bool as_loaded = target_.decode_weights == ComputeTarget::DecodeWeights::kAsLoaded;
  if (!as_loaded && (blocks.packed || blocks.tiled)) {
    ATTUNE_ASSIGN_OR_RETURN(const at::Tensor values, HostMatrix(parts, columns, blocks));
    return values.to(DeviceOf(target_), TypeOf(target_));
  }
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<TensorSource::Entry> entries, Find(parts, columns));
  if (blocks.packed && target_.device == ComputeTarget::Device::kCpu) *blocks.packed = Pack(entries);
  return ReadMatrix(entries, target_);
}

absl::StatusOr<at::Tensor> Loader::HostMatrix(const Parts& parts, int64_t columns, const Blocks& blocks) {
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<TensorSource::Entry> entries, Find(parts, columns));
  int64_t rows = 0;
  for (const TensorSource::Entry& entry : entries) rows += entry.rows;
  at::Tensor values = at::empty({rows, columns}, at::kFloat);
  float* out = values.mutable_data_ptr<float>();
  for (const TensorSource::Entry& entry : entries) {
    at::parallel_for(0, entry.rows, 64, [&](int64_t first, int64_t last) {
      entry.ReadRows(first, last, out + first * columns);
    });
    out += entry.rows * columns;
  }
  if (format_ != WeightFormat::kDense) return values;
  const bool is_cpu = target_.device == ComputeTarget::Device::kCpu;
  if (blocks.packed && is_cpu) *blocks.packed = Pack(entries);
  if (blocks.packed && is_cpu && !*blocks.packed) *blocks.packed = QuantizeForDecoding(values);
  if (blocks.tiled && !is_cpu) *blocks.tiled = Tile(entries, values);
  return values;
}

absl::StatusOr<LayerWeights> Loader::Layer(int64_t layer) {
  LayerWeights weights;
  auto name = [&](Projection p) { return LayerName(layer, ProjectionPath(p)); };
  auto product = [&](Linear which, const Parts& parts, int64_t columns) -> absl::Status {
    const int i = static_cast<int>(which);
    const bool dense = format_ == WeightFormat::kDense;
    if (dense) {
      ATTUNE_ASSIGN_OR_RETURN(weights.linear[i], Matrix(parts, columns, {&weights.packed[i], &weights.tiled[i]}));
      return absl::OkStatus();
    }
    ATTUNE_ASSIGN_OR_RETURN(const at::Tensor values, HostMatrix(parts, columns, {}));
    if (values.numel() % QuantizedMatrix::kBlock != 0) {
      return MakeError(absl::StatusCode::kInvalidArgument, "BAD_MODEL",
                       absl::StrCat("'", parts[0].first, "' cannot be quantised: its size is no multiple of ",
                                    QuantizedMatrix::kBlock));
    }
    weights.quantized[i] = std::make_shared<QuantizedMatrix>(Quantize(values, CodesOf(format_), DeviceOf(target_)));
    return absl::OkStatus();
  };
  const int64_t hidden = config_.hidden, inner = config_.intermediate;
  for (const NormSlot& norm : NormSlots(config_)) {
    ATTUNE_ASSIGN_OR_RETURN(weights.*norm.weight, Norm(LayerName(layer, norm.path), norm.size));
  }
  ATTUNE_RETURN_IF_ERROR(product(Linear::kQkv, {{name(Projection::kQ), config_.q_size()},
                                                {name(Projection::kK), config_.kv_size()},
                                                {name(Projection::kV), config_.kv_size()}}, hidden));
  ATTUNE_RETURN_IF_ERROR(product(Linear::kO, {{name(Projection::kO), hidden}}, config_.q_size()));
  ATTUNE_RETURN_IF_ERROR(
      product(Linear::kGateUp, {{name(Projection::kGate), inner}, {name(Projection::kUp), inner}}, hidden));
  ATTUNE_RETURN_IF_ERROR(product(Linear::kDown, {{name(Projection::kDown), hidden}}, inner));
  for (int i = 0; i < kLinears; ++i) {
    if (!HasBias(config_, static_cast<Linear>(i))) continue;
    ATTUNE_ASSIGN_OR_RETURN(weights.bias[i], Bias(layer, static_cast<Linear>(i)));
  }
  return weights;
}

absl::StatusOr<DecoderWeights> Loader::Load() {
  DecoderWeights weights;
  const Blocks head = {&weights.packed_head, &weights.tiled_head};
  ATTUNE_ASSIGN_OR_RETURN(weights.embedding_VD, Matrix({{"model.embed_tokens.weight", config_.vocab}}, config_.hidden,
                                                       config_.tied_head ? head : Blocks()));
  for (int64_t i = 0; i < config_.layers; ++i) {
    ATTUNE_ASSIGN_OR_RETURN(LayerWeights layer, Layer(i));
    weights.layers.push_back(std::move(layer));
  }
  ATTUNE_ASSIGN_OR_RETURN(weights.final_norm_D, Norm("model.norm.weight", config_.hidden));
  if (config_.tied_head) {
    weights.head_VD = weights.embedding_VD;
  } else {
    ATTUNE_ASSIGN_OR_RETURN(weights.head_VD, Matrix({{"lm_head.weight", config_.vocab}}, config_.hidden, head));
  }
  return weights;
}

int64_t WeightBytes(const DecoderWeights& weights) {
  int64_t bytes = weights.embedding_VD.nbytes() + weights.final_norm_D.nbytes();
  if (!weights.head_VD.is_same(weights.embedding_VD)) bytes += weights.head_VD.nbytes();
  if (weights.tiled_head) bytes += weights.tiled_head->bytes();
  for (const LayerWeights& layer : weights.layers) {
    for (const auto& tiled : layer.tiled) bytes += tiled ? tiled->bytes() : 0;
    for (const at::Tensor* norm : {&layer.attention_norm_D, &layer.ffn_norm_D, &layer.post_attention_norm_D,
                                   &layer.post_ffn_norm_D, &layer.q_norm_A, &layer.k_norm_A}) {
      if (norm->defined()) bytes += norm->nbytes();
    }
    for (int i = 0; i < kLinears; ++i) {
      if (layer.bias[i].defined()) bytes += layer.bias[i].nbytes();
      bytes += layer.quantized[i] ? layer.quantized[i]->bytes() : static_cast<int64_t>(layer.linear[i].nbytes());
    }
  }
  return bytes;
}

absl::Status SetRopeTable(TensorSource* source, BaseModel* model) {
  for (const char* name : kRopeTensors) {
    if (source->Has(name)) ATTUNE_RETURN_IF_ERROR(source->Get(name, 0, model->config.head_dim / 2).status());
  }
  const RopeTables rope = MakeRopeTables(model->config);
  const at::Device device = DeviceOf(model->target);
  model->rope_cos_PH = rope.global.cos_PH.to(device);
  model->rope_sin_PH = rope.global.sin_PH.to(device);
  if (!rope.local.cos_PH.defined()) return absl::OkStatus();
  model->local_rope_cos_PH = rope.local.cos_PH.to(device);
  model->local_rope_sin_PH = rope.local.sin_PH.to(device);
  return absl::OkStatus();
}

// What the model's files name, and the ends of a turn in this family's chat formats,
// which some files forget.
std::vector<int32_t> EndIds(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.end_ids();
  for (const char* text : {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<end_of_turn>"}) {
    const int32_t id = tokenizer.TokenId(text);
    if (id < 0 || !tokenizer.IsSpecial(id) || std::find(ids.begin(), ids.end(), id) != ids.end()) continue;
    ids.push_back(id);
  }
  return ids;
}

absl::Status LoadTokenizerAndTemplate(const TensorSource& source, const std::string& directory, BaseModel* model) {
  const std::string gguf_path = directory + "/model.gguf";
  if (source.gguf() && std::filesystem::exists(gguf_path)) {
    ATTUNE_ASSIGN_OR_RETURN(model->tokenizer, LoadTokenizer(*source.gguf()));
  } else if (std::filesystem::exists(gguf_path)) {
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::Open(gguf_path));
    ATTUNE_ASSIGN_OR_RETURN(model->tokenizer, LoadTokenizer(*file));
  } else {
    ATTUNE_ASSIGN_OR_RETURN(model->tokenizer, LoadTokenizer(directory));
  }
  const Tokenizer& tokenizer = *model->tokenizer;
  if (tokenizer.vocab_size() > model->config.vocab) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_MODEL",
                     absl::StrCat("the tokenizer has ", tokenizer.vocab_size(), " tokens, the embedding table only ",
                                  model->config.vocab));
  }
  model->end_ids = EndIds(tokenizer);
  ATTUNE_ASSIGN_OR_RETURN(model->generation, LoadGenerationDefaults(directory));
  if (tokenizer.chat_template().empty()) return absl::OkStatus();
  auto parsed = ChatTemplate::Parse(tokenizer.chat_template(), tokenizer.TokenBytes(tokenizer.bos_id()),
                                    tokenizer.TokenBytes(tokenizer.eos_id()));
  if (parsed.ok()) {
    model->chat_template = std::move(*parsed);
  } else {
    LogWarning("model.chat_template", {{"directory", directory}, {"error", std::string(parsed.status().message())}});
  }
  return absl::OkStatus();
}

}  // namespace

const char* ProjectionPath(Projection projection) { return kProjectionPaths[static_cast<int>(projection)]; }

ProjectionSlice SliceOf(const ModelConfig& config, Projection projection) {
  switch (projection) {
    case Projection::kQ: return {Linear::kQkv, 0, config.q_size()};
    case Projection::kK: return {Linear::kQkv, config.q_size(), config.kv_size()};
    case Projection::kV: return {Linear::kQkv, config.q_size() + config.kv_size(), config.kv_size()};
    case Projection::kO: return {Linear::kO, 0, config.hidden};
    case Projection::kGate: return {Linear::kGateUp, 0, config.intermediate};
    case Projection::kUp: return {Linear::kGateUp, config.intermediate, config.intermediate};
    case Projection::kDown: return {Linear::kDown, 0, config.hidden};
  }
  return {};
}

bool HasBias(const ModelConfig& config, Linear which) {
  switch (which) {
    case Linear::kQkv: return config.qkv_bias;
    case Linear::kO: return config.output_bias;
    case Linear::kGateUp:
    case Linear::kDown: return config.mlp_bias;
  }
  return false;
}

int64_t InputSize(const ModelConfig& config, Linear which) {
  return which == Linear::kO ? config.q_size() : which == Linear::kDown ? config.intermediate : config.hidden;
}

absl::StatusOr<std::shared_ptr<const BaseModel>> LoadBaseModel(const std::string& directory,
                                                               const std::string& tokenizer_directory,
                                                               const ComputeTarget& target, WeightFormat format) {
  auto model = std::make_shared<BaseModel>();
  model->target = target;
  model->format = format;
  absl::Status status = CatchTorch([&]() -> absl::Status {
    at::NoGradGuard no_grad;
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<TensorSource> source, TensorSource::Open(directory));
    ATTUNE_ASSIGN_OR_RETURN(model->config, source->Config());
    if (format == WeightFormat::kNone) return LoadTokenizerAndTemplate(*source, tokenizer_directory, model.get());
    ATTUNE_ASSIGN_OR_RETURN(model->weights, Loader(source.get(), model->config, target, format).Load());
    ATTUNE_RETURN_IF_ERROR(SetRopeTable(source.get(), model.get()));
    ATTUNE_RETURN_IF_ERROR(source->CheckAllUsed());
    model->bytes = WeightBytes(model->weights);
    Synchronize(target);  // others read the weights on streams of their own
    return LoadTokenizerAndTemplate(*source, tokenizer_directory, model.get());
  });
  if (!status.ok()) return status;
  return std::shared_ptr<const BaseModel>(std::move(model));
}

std::shared_ptr<const TiledWeight> TileForDecoding(const at::Tensor& w_OI, const ComputeTarget& target) {
  const bool asks = target.device == ComputeTarget::Device::kCuda &&
                    target.decode_weights != ComputeTarget::DecodeWeights::kAsLoaded;
  if (!asks || !TiledWeight::Takes(w_OI.size(0), w_OI.size(1))) return nullptr;
  // In the type that products compute in: a matrix in fp32 would be too much beside it.
  const at::Tensor on_device = w_OI.to(DeviceOf(target), TypeOf(target));
  return std::make_shared<TiledWeight>(MakeTiledWeight(on_device, CodesOf(target.decode_weights)));
}

at::Tensor LinearWeight(const LayerWeights& layer, Linear which, at::ScalarType type) {
  const int i = static_cast<int>(which);
  return layer.quantized[i] ? Dequantize(*layer.quantized[i], type) : layer.linear[i].to(type);
}

namespace {

// Norms' weights that are in fp32 whatever the target's type is.
int64_t WideNorms(const ModelConfig& config) {
  if (config.norm_offset == 0) return 0;
  int64_t layer = 0;
  for (const NormSlot& norm : NormSlots(config)) layer += norm.size;
  return config.layers * layer + config.hidden;
}

}  // namespace

int64_t WeightBytes(const ModelConfig& config, const ComputeTarget& target, WeightFormat format) {
  const int64_t element = target.type == ComputeTarget::Type::kBfloat16 ? 2 : 4;
  const int64_t wide = WideNorms(config) * (4 - element);
  if (format == WeightFormat::kDense) return config.Parameters() * element + wide + TiledBytes(config, target);
  const int64_t layer = config.hidden * (config.qkv_size() + config.q_size() + 3 * config.intermediate);
  const int64_t products = config.layers * layer;
  return (config.Parameters() - products) * element + wide + QuantizedMatrix::BytesFor(CodesOf(format), products);
}

absl::StatusOr<ModelConfig> LoadConfig(const std::string& directory) {
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<TensorSource> source, TensorSource::Open(directory));
  ATTUNE_ASSIGN_OR_RETURN(ModelConfig config, source->Config());
  auto check = [&](const std::string& name, int64_t rows, int64_t columns) {
    return source->Get(name, rows, columns).status();
  };
  ATTUNE_RETURN_IF_ERROR(check("model.embed_tokens.weight", config.vocab, config.hidden));
  ATTUNE_RETURN_IF_ERROR(check("model.norm.weight", 0, config.hidden));
  if (!config.tied_head) ATTUNE_RETURN_IF_ERROR(check("lm_head.weight", config.vocab, config.hidden));
  for (const char* name : kRopeTensors) {
    if (source->Has(name)) ATTUNE_RETURN_IF_ERROR(check(name, 0, config.head_dim / 2));
  }
  for (int64_t i = 0; i < config.layers; ++i) {
    for (const NormSlot& norm : NormSlots(config)) {
      ATTUNE_RETURN_IF_ERROR(check(LayerName(i, norm.path), 0, norm.size));
    }
    for (int p = 0; p < kProjections; ++p) {
      const Projection projection = static_cast<Projection>(p);
      const ProjectionSlice slice = SliceOf(config, projection);
      ATTUNE_RETURN_IF_ERROR(
          check(LayerName(i, ProjectionPath(projection)), slice.rows, InputSize(config, slice.linear)));
      if (HasBias(config, slice.linear)) ATTUNE_RETURN_IF_ERROR(check(BiasName(i, projection), 0, slice.rows));
    }
  }
  ATTUNE_RETURN_IF_ERROR(source->CheckAllUsed());
  return config;
}

std::vector<NamedParameter> NamedParameters(const ModelConfig& config, const DecoderWeights& weights) {
  std::vector<NamedParameter> out;
  out.push_back({"model.embed_tokens.weight", weights.embedding_VD});
  for (int64_t i = 0; i < config.layers; ++i) {
    const LayerWeights& layer = weights.layers[i];
    for (int p = 0; p < kProjections; ++p) {
      const ProjectionSlice slice = SliceOf(config, static_cast<Projection>(p));
      out.push_back({LayerName(i, kProjectionPaths[p]),
                     layer.linear[static_cast<int>(slice.linear)].narrow(0, slice.row, slice.rows)});
    }
    for (int p = 0; p < kProjections; ++p) {
      const Projection projection = static_cast<Projection>(p);
      const ProjectionSlice slice = SliceOf(config, projection);
      if (!HasBias(config, slice.linear)) continue;
      out.push_back({BiasName(i, projection),
                     layer.bias[static_cast<int>(slice.linear)].narrow(0, slice.row, slice.rows)});
    }
    for (const NormSlot& norm : NormSlots(config)) {
      out.push_back({LayerName(i, norm.path), layer.*norm.weight, config.norm_offset});
    }
  }
  out.push_back({"model.norm.weight", weights.final_norm_D, config.norm_offset});
  if (!config.tied_head) out.push_back({"lm_head.weight", weights.head_VD});
  return out;
}

namespace {

// The parameters as the family's files hold them: where these fuse projections, as one tensor.
std::vector<NamedParameter> FileTensors(const ModelConfig& config, const DecoderWeights& weights) {
  std::vector<NamedParameter> tensors;
  const at::ScalarType type = weights.embedding_VD.scalar_type();
  for (NamedParameter& parameter : NamedParameters(config, weights)) {
    const std::string name = FindFilePart(config, parameter.name).name;
    if (parameter.offset != 0) parameter.tensor = (parameter.tensor.detach() - parameter.offset).to(type);
    if (!tensors.empty() && tensors.back().name == name) {
      // On the host: the device may be full.
      tensors.back().tensor = at::cat({tensors.back().tensor.cpu(), parameter.tensor.detach().cpu()});
    } else {
      tensors.push_back({name, parameter.tensor.detach()});
    }
  }
  return tensors;
}

}  // namespace

absl::Status SaveWeights(const std::string& directory, const ModelConfig& config, const DecoderWeights& weights,
                         const Tokenizer& tokenizer) {
  return CatchTorch([&]() -> absl::Status {
    std::vector<at::Tensor> alive;  // owns the bytes until they are written
    std::vector<SafetensorsTensor> tensors;
    for (const NamedParameter& parameter : FileTensors(config, weights)) {
      alive.push_back(parameter.tensor.detach().cpu().contiguous());
      const at::Tensor& t = alive.back();
      tensors.push_back({parameter.name, t.sizes().vec(),
                         t.scalar_type() == at::kBFloat16 ? SafetensorsType::kBF16 : SafetensorsType::kF32,
                         absl::string_view(static_cast<const char*>(t.const_data_ptr()), t.nbytes())});
    }
    ATTUNE_RETURN_IF_ERROR(WriteFileDurably(directory + "/config.json",
                                            ConfigToJson(config, tokenizer.bos_id(), tokenizer.eos_id())));
    return WriteSafetensors(directory + "/model.safetensors", tensors, {{"format", "pt"}});
  });
}

}  // namespace attune
