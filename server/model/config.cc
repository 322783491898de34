#include "server/model/config.h"

namespace attune {

int64_t ModelConfig::Parameters() const {
  int64_t layer = hidden * qkv_size() + q_size() * hidden + 3 * hidden * intermediate + 2 * hidden;
  if (qkv_bias) layer += qkv_size();
  if (output_bias) layer += hidden;
  if (mlp_bias) layer += 2 * intermediate + hidden;
  if (qk_norm) layer += 2 * head_dim;
  return layers * layer + hidden + vocab * hidden * (tied_head ? 1 : 2);
}

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  return RopeFrequencies(config.rope_scaling, config.rope_theta, config.head_dim);
}

}  // namespace attune
