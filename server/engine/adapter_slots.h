#ifndef ATTUNE_SERVER_ENGINE_ADAPTER_SLOTS_H_
#define ATTUNE_SERVER_ENGINE_ADAPTER_SLOTS_H_

#include <cstdint>

#include "server/adapters/adapter.h"
#include "server/engine/slot_table.h"
#include "server/model/kernels/cuda/launch.h"

namespace attune {

// Where a GPU's kernels find the adapters of a step: LoRAs' matrices (cuda::LoraEntry, by layer and projection) and
// IA3's scales (cuda::RowScales). Not thread-safe; its copies go to the calling thread's stream.
class AdapterSlots {
 public:
  // `slots` of each kind.
  AdapterSlots(int64_t slots, int64_t layers, at::Device device);

  // Before each step: what the last one used may make way.
  void BeginStep();
  // The adapter's slot, which it keeps at least for this step. `uid` tells adapters apart.
  // -1 if more adapters than slots are in this step. REQUIRES: no module's rank is more than
  // cuda::MostGroupedRanks(), else c10::Error. The adapter's tensors must live while steps use the slot.
  int32_t SlotOf(const LoraAdapter& lora, uint64_t uid);
  int32_t SlotOf(const Ia3Adapter& ia3, uint64_t uid);
  // Of DoRA's scales of outputs, among IA3's. REQUIRES: lora.use_dora, and its scales are there.
  int32_t ScaleSlotOf(const LoraAdapter& lora, uint64_t uid);

  const cuda::LoraEntry* loras() const;
  int64_t entries_per_slot() const;
  cuda::RowScales ScalesOf(int64_t layer, const int32_t* slots_T) const;

 private:
  const int64_t layers_;
  SlotTable loras_, scales_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_ADAPTER_SLOTS_H_
