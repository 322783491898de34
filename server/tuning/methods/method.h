#ifndef ATTUNE_SERVER_TUNING_METHODS_METHOD_H_
#define ATTUNE_SERVER_TUNING_METHODS_METHOD_H_

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/adapters/adapter.h"
#include "server/adapters/model_info.h"
#include "server/jobs/job.h"

namespace attune {

// A tensor that trains: an fp32 leaf, the master copy.
struct Parameter {
  std::string name;  // unique within the method; keys checkpoints
  at::Tensor leaf;
  double rate = 1;  // its learning rate, times the method's
};

// The base model's own weights that train, as leaves; undefined where frozen. A tied
// head is the embedding.
struct TrainedWeights {
  struct Layer {
    std::array<at::Tensor, kProjections> projections, biases;
    // Less the configuration's norm_offset, as files have them: so decay pulls towards what files call zero.
    at::Tensor attention_norm_D, ffn_norm_D, post_attention_norm_D, post_ffn_norm_D, q_norm_A, k_norm_A;
  };
  at::Tensor embedding_VD, final_norm_D, head_VD;
  std::vector<Layer> layers;
};

// What a tuning method trains, and what it publishes. The trainer knows no more of a
// method than this: adding one is one implementation and one line in MakeMethod. Not
// thread-safe.
class Method {
 public:
  virtual ~Method() = default;

  virtual const std::vector<Parameter>& parameters() const = 0;

  // What the next forward pass runs with; trained tensors in it carry gradients.
  // Valid until the parameters change.
  virtual DecoderWeights Weights() const = 0;
  // The adapter that trains; its tensors are the leaves.
  virtual const Adapter* adapter() const { return nullptr; }
  virtual const TrainedWeights* trained_weights() const { return nullptr; }
  int64_t virtual_tokens() const { return adapter() ? adapter()->virtual_tokens() : 0; }
  const LoraAdapter* lora() const { return adapter() ? adapter()->lora.get() : nullptr; }
  const Prefix* prefix() const { return adapter() ? adapter()->prefix.get() : nullptr; }
  const Ia3Adapter* ia3() const { return adapter() ? adapter()->ia3.get() : nullptr; }
  at::Tensor soft_prompt_ND() const {
    return adapter() && adapter()->soft_prompt ? adapter()->soft_prompt->embeddings_ND : at::Tensor();
  }

  virtual ModelKind kind() const = 0;
  // Writes what the registry keeps of the tuned model.
  virtual absl::Status Save(const std::string& directory, const std::string& base_model_name) const = 0;
};

// `base` is kept alive by the method. INVALID_ARGUMENT naming the field for what only
// the model can tell: more last_layers than there are, patterns that select nothing,
// a start text without tokens. Start values come from `seed`.
absl::StatusOr<std::unique_ptr<Method>> MakeMethod(const MethodSpec& spec, std::shared_ptr<const BaseModel> base,
                                                   uint64_t seed);

// Tokens that the method puts before every input: as many as asked for, else 20; 0 for methods without any.
int64_t VirtualTokens(const MethodSpec& spec);

// What MakeMethod would say of a start text, without a model's weights: INVALID_ARGUMENT naming the field.
absl::Status CheckStart(const MethodSpec& spec, const Tokenizer& tokenizer);

// Parameters that such a method would train, without making it.
absl::StatusOr<int64_t> CountTrainable(const MethodSpec& spec, const BaseModel& base);

absl::StatusOr<std::unique_ptr<Method>> MakeLora(const LoraSpec& spec, std::shared_ptr<const BaseModel> base,
                                                 uint64_t seed);
absl::StatusOr<std::unique_ptr<Method>> MakeSoftPrompt(const SoftPromptSpec& spec,
                                                       std::shared_ptr<const BaseModel> base, uint64_t seed);
absl::StatusOr<std::unique_ptr<Method>> MakePrefix(const PrefixSpec& spec, std::shared_ptr<const BaseModel> base,
                                                   uint64_t seed);
absl::StatusOr<std::unique_ptr<Method>> MakeIa3(const Ia3Spec& spec, std::shared_ptr<const BaseModel> base);
absl::StatusOr<std::unique_ptr<Method>> MakeFull(std::shared_ptr<const BaseModel> base);
absl::StatusOr<std::unique_ptr<Method>> MakePartial(const PartialSpec& spec, std::shared_ptr<const BaseModel> base);

// The proto's fields with a start text, for errors.
inline constexpr char kSoftPromptStart[] = "tuning_job.soft_prompt.init_text";
inline constexpr char kPrefixStart[] = "tuning_job.prefix.init_text";

// Ids of the tokens that so many virtual ones start from: those of `init_text`, repeated or cut, or drawn from
// the vocabulary. `field` is the proto's, for errors.
absl::StatusOr<std::vector<int64_t>> StartIds(SoftPromptSpec::Init init, const std::string& init_text, int64_t count,
                                              const Tokenizer& tokenizer, uint64_t seed, const std::string& field);

// Whether IA3 with these targets (none: its default) scales a projection.
bool IsIa3Target(const std::vector<TargetModule>& targets, Projection projection);

// Names of the parameters that a partial tuning trains, in NamedParameters' order.
absl::StatusOr<std::vector<bool>> SelectParameters(const PartialSpec& spec, const BaseModel& base);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_METHODS_METHOD_H_
