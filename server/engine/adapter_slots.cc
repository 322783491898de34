#include "server/engine/adapter_slots.h"

#include <ATen/ATen.h>

#include <cstring>

#include "server/model/kernels/cuda/launch.h"

namespace attune {

AdapterSlots::AdapterSlots(int64_t slots, int64_t layers, at::Device device)
    : layers_(layers),
      lines_(slots),
      table_(at::zeros({slots * layers * kProjections * static_cast<int64_t>(sizeof(cuda::LoraEntry))},
                       at::TensorOptions(at::kByte).device(device))) {}

int64_t AdapterSlots::FindVictim() const {
  int64_t victim = -1;
  for (size_t i = 0; i < lines_.size(); ++i) {
    if (lines_[i].last_step == step_) continue;
    if (victim < 0 || lines_[i].last_step < lines_[victim].last_step) victim = static_cast<int64_t>(i);
  }
  return victim;
}

int32_t AdapterSlots::SlotOf(const LoraAdapter& lora, uint64_t uid) {
  const auto found = slot_of_.find(uid);
  if (found != slot_of_.end()) {
    lines_[found->second].last_step = step_;
    return static_cast<int32_t>(found->second);
  }
  const int64_t slot = FindVictim();
  if (slot < 0) return -1;
  slot_of_.erase(lines_[slot].uid);
  lines_[slot] = {};
  Write(slot, lora);  // if it throws, the line is nobody's
  lines_[slot] = {uid, step_};
  slot_of_[uid] = slot;
  return static_cast<int32_t>(slot);
}

void AdapterSlots::Write(int64_t slot, const LoraAdapter& lora) {
  std::vector<cuda::LoraEntry> entries(entries_per_slot());
  for (int64_t layer = 0; layer < layers_; ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      const LoraModule& module = lora.layers[layer][p];
      if (!module.defined()) continue;
      TORCH_CHECK(module.a_RI.is_contiguous() && module.b_OR.is_contiguous(), "an adapter's matrices must be contiguous");
      TORCH_CHECK(module.a_RI.size(0) <= cuda::MostGroupedRanks(), "a rank of ", module.a_RI.size(0),
                  " is more than the grouped kernel takes");
      entries[layer * kProjections + p] = {module.a_RI.const_data_ptr(), module.b_OR.const_data_ptr(),
                                           static_cast<int32_t>(module.a_RI.size(0)), static_cast<float>(module.scale)};
    }
  }
  const int64_t bytes = static_cast<int64_t>(entries.size() * sizeof(cuda::LoraEntry));
  // Whoever steps does not wait for it. The memory is not used again before it was read.
  at::Tensor host = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(table_.is_cuda()));
  std::memcpy(host.mutable_data_ptr(), entries.data(), bytes);
  table_.narrow(0, slot * bytes, bytes).copy_(host, /*non_blocking=*/true);
}

}  // namespace attune
