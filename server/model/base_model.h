#ifndef ATTUNE_SERVER_MODEL_BASE_MODEL_H_
#define ATTUNE_SERVER_MODEL_BASE_MODEL_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/model/compute_target.h"
#include "server/model/config.h"
#include "server/model/generation_config.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// The seven projections of a Llama-family layer that adapters may target, in the
// order of the proto's TargetModule (less one).
enum class Projection { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kProjections = 7;
// Hugging Face module path inside a layer: "self_attn.q_proj", "mlp.down_proj".
const char* ProjectionPath(Projection projection);

// The products that the decoder runs: projections that share their input are one.
enum class Linear { kQkv, kO, kGateUp, kDown };
inline constexpr int kLinears = 4;

// Where a projection's rows lie in the product that holds it.
struct ProjectionSlice {
  Linear linear;
  int64_t row;   // first output row
  int64_t rows;  // output rows
};
ProjectionSlice SliceOf(const ModelConfig& config, Projection projection);

struct QuantizedMatrix;  // server/model/kernels/quantized_matrix.h
struct TiledWeight;      // server/model/kernels/tiled_weight.h: blocks that decoding on a GPU reads
// Columns of a product's weight.
int64_t InputSize(const ModelConfig& config, Linear which);
// Whether a product's projections have biases.
bool HasBias(const ModelConfig& config, Linear which);

class PackedWeight;  // server/model/kernels/packed_weight.h: quantised rows kept as in the file, for decoding on the CPU

// One layer's weights. D hidden, I intermediate, E qkv_size, Q q_size, A head_dim. All in the
// target's type on its device, contiguous; but norms of a configuration with a norm_offset are fp32, since that
// offset would cost the bfloat16 of a file most of its digits.
struct LayerWeights {
  at::Tensor attention_norm_D, ffn_norm_D;
  at::Tensor post_attention_norm_D, post_ffn_norm_D;  // undefined without the configuration's post_norms
  at::Tensor q_norm_A, k_norm_A;         // undefined without the configuration's qk_norm
  std::array<at::Tensor, kLinears> bias;  // one value for each row of `linear`; undefined where there are none
  std::array<at::Tensor, kLinears> linear;  // qkv_ED, o_DQ, gate_up_2ID (gate's rows first), down_DI
  std::array<std::shared_ptr<const PackedWeight>, kLinears> packed;  // null where not kept
  std::array<std::shared_ptr<const TiledWeight>, kLinears> tiled;    // likewise
  // Where this is set `linear` is undefined: weights to be frozen under an adapter.
  std::array<std::shared_ptr<const QuantizedMatrix>, kLinears> quantized;
};
// A product's weight in type `type`: a view where it is kept so, else a new tensor.
at::Tensor LinearWeight(const LayerWeights& layer, Linear which, at::ScalarType type);

struct DecoderWeights {
  at::Tensor embedding_VD;
  std::vector<LayerWeights> layers;
  at::Tensor final_norm_D;
  at::Tensor head_VD;  // the same tensor as embedding_VD if the head is tied
  std::shared_ptr<const PackedWeight> packed_head;
  std::shared_ptr<const TiledWeight> tiled_head;
};

// A model with weights of its own, in memory. Immutable once loaded: thread-safe.
struct BaseModel {
  ModelConfig config;
  ComputeTarget target;
  WeightFormat format = WeightFormat::kDense;
  DecoderWeights weights;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null if the model has none that can be used
  std::vector<int32_t> end_ids;                 // tokens that end an answer
  GenerationDefaults generation;
  at::Tensor rope_cos_PH, rope_sin_PH;          // fp32, P = context positions, H = head_dim / 2
  at::Tensor local_rope_cos_PH, local_rope_sin_PH;  // of layers with a window, where these have angles of their own
  int64_t bytes = 0;                            // device memory of the weights
};

// In the blocks that the target, a GPU, asks for; null if it asks for none, or the matrix does not go into tiles.
std::shared_ptr<const TiledWeight> TileForDecoding(const at::Tensor& w_OI, const ComputeTarget& target);

// Loads a folder that holds model.gguf or a Hugging Face model. `tokenizer_directory`
// is where the tokenizer is, usually the same folder. Every tensor of the file must
// be used and every weight be found: INVALID_ARGUMENT (BAD_MODEL) names the first
// that is not. RESOURCE_EXHAUSTED (OUT_OF_MEMORY).
absl::StatusOr<std::shared_ptr<const BaseModel>> LoadBaseModel(const std::string& directory,
                                                               const std::string& tokenizer_directory,
                                                               const ComputeTarget& target,
                                                               WeightFormat format = WeightFormat::kDense);

// What the weights of such a model take on the device.
int64_t WeightBytes(const ModelConfig& config, const ComputeTarget& target, WeightFormat format);

// Only the configuration of such a folder, with the tensor list checked against it.
absl::StatusOr<ModelConfig> LoadConfig(const std::string& directory);

// A parameter by its Hugging Face name, e.g. "model.layers.0.self_attn.q_proj.weight" (also where the family's files
// hold q, k and v as one),
// as a view into the fused tensors of `weights`, which are not quantised. In each layer: the weights of its
// projections, their biases, its norms.
struct NamedParameter {
  std::string name;
  at::Tensor tensor;
  double offset = 0;  // Hugging Face files, and optimizers, have the values less this
};
std::vector<NamedParameter> NamedParameters(const ModelConfig& config, const DecoderWeights& weights);

// Writes config.json and model.safetensors (in the type of `weights`) into a folder.
absl::Status SaveWeights(const std::string& directory, const ModelConfig& config, const DecoderWeights& weights,
                         const Tokenizer& tokenizer);

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_BASE_MODEL_H_
