#include "server/model/config.h"

#include <algorithm>

namespace attune {

int64_t ModelConfig::Parameters() const {
  int64_t layer = hidden * qkv_size() + q_size() * hidden + 3 * hidden * intermediate + 2 * hidden;
  if (qkv_bias) layer += qkv_size();
  if (output_bias) layer += hidden;
  if (mlp_bias) layer += 2 * intermediate + hidden;
  if (qk_norm) layer += 2 * head_dim;
  if (post_norms) layer += 2 * hidden;
  return layers * layer + hidden + vocab * hidden * (tied_head ? 1 : 2);
}

void ModelConfig::DropNoWindows() {
  if (std::all_of(windows.begin(), windows.end(), [](int64_t window) { return window == 0; })) windows.clear();
}

std::vector<double> LocalRopeFrequencies(const ModelConfig& config) {
  return RopeFrequencies(RopeScaling(), config.local_rope_theta, config.head_dim);
}

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  return RopeFrequencies(config.rope_scaling, config.rope_theta, config.head_dim);
}

}  // namespace attune
