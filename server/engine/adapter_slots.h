#ifndef ATTUNE_SERVER_ENGINE_ADAPTER_SLOTS_H_
#define ATTUNE_SERVER_ENGINE_ADAPTER_SLOTS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "server/adapters/adapter.h"

namespace attune {

// Where the grouped LoRA kernels find the adapters: a table on the device with a line of
// entries (cuda::LoraEntry, by layer and projection) for each adapter that was used of
// late. Not thread-safe; its copies go to the calling thread's stream.
class AdapterSlots {
 public:
  AdapterSlots(int64_t slots, int64_t layers, at::Device device);

  // Before each step: what the last one used may make way.
  void BeginStep() { ++step_; }
  // The adapter's slot, which it keeps at least for this step. `uid` tells adapters apart.
  // -1 if more adapters than slots are in this step. REQUIRES: no module's rank is more than
  // cuda::MostGroupedRanks(), else c10::Error. The adapter's tensors must live while steps use the slot.
  int32_t SlotOf(const LoraAdapter& lora, uint64_t uid);

  const at::Tensor& table() const { return table_; }
  int64_t entries_per_slot() const { return layers_ * kProjections; }

 private:
  struct Line {
    uint64_t uid = 0;
    int64_t last_step = -1;
  };
  // The line that was used longest ago, or -1.
  int64_t FindVictim() const;
  void Write(int64_t slot, const LoraAdapter& lora);

  const int64_t layers_;
  int64_t step_ = 0;
  std::vector<Line> lines_;
  std::unordered_map<uint64_t, int64_t> slot_of_;
  at::Tensor table_;  // bytes
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_ADAPTER_SLOTS_H_
