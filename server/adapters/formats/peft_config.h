#ifndef ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_CONFIG_H_
#define ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_CONFIG_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/adapters/formats/regex.h"

namespace attune {

// Which modules a LoRA adapts, by PEFT's rules. A module is named by its path in the
// base model, "model.layers.0.self_attn.q_proj".
struct PeftTargets {
  std::vector<std::string> names;       // whole paths, or their ends after a point
  std::optional<Regex> pattern;         // in place of names
  bool all_linear = false;              // in place of names: every linear but the head
  std::vector<std::string> excluded_names;
  std::optional<Regex> excluded_pattern;
  std::set<int64_t> layers;             // with names only; empty: all
  std::vector<Regex> layer_patterns;    // the first group is the layer's number

  absl::StatusOr<bool> Match(const std::string& module) const;
};

// The modules outside the layers that adapters may change.
inline constexpr char kEmbeddingModule[] = "model.embed_tokens";
inline constexpr char kHeadModule[] = "lm_head";

// What an adapter_config.json says, as far as it changes results.
struct PeftConfig {
  enum class Type { kLora, kSoftPrompt, kPrefix, kIa3 };
  Type type = Type::kLora;

  // kLora; `targets` of kIa3, too.
  int64_t rank = 8;
  double alpha = 8;
  double dropout = 0;
  bool use_rslora = false;
  bool use_dora = false;
  PeftTargets targets;
  // For modules whose path, or its end after a point, matches: the first counts.
  std::vector<std::pair<Regex, double>> rank_pattern, alpha_pattern;

  // Modules that are whole in the file, by their paths: kEmbeddingModule, kHeadModule.
  std::set<std::string> modules_to_save;
  bool ensure_weight_tying = false;  // what a tied model's embedding is, its head is too

  // kIa3: whose inputs are scaled; of the rest of `targets`, the outputs.
  PeftTargets feedforward;

  // kSoftPrompt, kPrefix.
  int64_t virtual_tokens = 0;
  int64_t token_dim = 0;
  std::string init_text;

  absl::StatusOr<int64_t> RankOf(const std::string& module) const;
  // alpha / r, or alpha / sqrt(r) with rsLoRA, of the module's own alpha.
  absl::StatusOr<double> ScaleOf(const std::string& module, int64_t rank) const;
};

// Reads the text of an adapter_config.json. INVALID_ARGUMENT (UNSUPPORTED_ADAPTER)
// names the first key that asks for what is not implemented, unknown keys with a
// value other than null, false, zero or empty included; (BAD_ADAPTER) an impossible value.
absl::StatusOr<PeftConfig> ParsePeftConfig(const std::string& json);

// The errors of adapters.
absl::Status BadAdapter(const std::string& message);
absl::Status UnsupportedAdapter(const std::string& feature);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_FORMATS_PEFT_CONFIG_H_
