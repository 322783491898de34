#include "server/engine/slot_table.h"

#include <ATen/ATen.h>

#include <cstring>

namespace attune {

SlotTable::SlotTable(int64_t slots, int64_t line_bytes, at::Device device)
    : line_bytes_(line_bytes),
      lines_(slots),
      table_(at::zeros({slots * line_bytes}, at::TensorOptions(at::kByte).device(device))) {}

int64_t SlotTable::FindVictim() const {
  int64_t victim = -1;
  for (size_t i = 0; i < lines_.size(); ++i) {
    if (lines_[i].last_step == step_) continue;
    if (victim < 0 || lines_[i].last_step < lines_[victim].last_step) victim = static_cast<int64_t>(i);
  }
  return victim;
}

int32_t SlotTable::SlotOf(uint64_t uid, const std::function<void(void* line)>& write) {
  const auto found = slot_of_.find(uid);
  if (found != slot_of_.end()) {
    lines_[found->second].last_step = step_;
    return static_cast<int32_t>(found->second);
  }
  const int64_t slot = FindVictim();
  if (slot < 0) return -1;
  slot_of_.erase(lines_[slot].uid);
  lines_[slot] = {};
  Write(slot, write);  // if it throws, the line is nobody's
  lines_[slot] = {uid, step_};
  slot_of_[uid] = slot;
  return static_cast<int32_t>(slot);
}

void SlotTable::Write(int64_t slot, const std::function<void(void* line)>& write) {
  // Whoever steps does not wait for it. The memory is not used again before it was read.
  at::Tensor host = at::empty({line_bytes_}, at::TensorOptions(at::kByte).pinned_memory(table_.is_cuda()));
  std::memset(host.mutable_data_ptr(), 0, line_bytes_);
  write(host.mutable_data_ptr());
  table_.narrow(0, slot * line_bytes_, line_bytes_).copy_(host, /*non_blocking=*/true);
}

}  // namespace attune
