#include "server/model/config.h"

namespace attune {

int64_t ModelConfig::Parameters() const {
  int64_t layer = hidden * qkv_size() + q_size() * hidden + 3 * hidden * intermediate + 2 * hidden;
  return layers * layer + hidden + vocab * hidden * (tied_head ? 1 : 2);
}

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  return RopeFrequencies(config.rope_scaling, config.rope_theta, config.head_dim);
}

}  // namespace attune
