#ifndef ATTUNE_SERVER_ENGINE_SLOT_TABLE_H_
#define ATTUNE_SERVER_ENGINE_SLOT_TABLE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

namespace attune {

// Where kernels find adapters: a table on the device with a line for each adapter that was used of
// late. Not thread-safe; its copies go to the calling thread's stream.
class SlotTable {
 public:
  // All bytes are zero in the beginning.
  SlotTable(int64_t slots, int64_t line_bytes, at::Device device);

  // Before each step: what the last one used may make way.
  void BeginStep() { ++step_; }
  // The adapter's slot, which it keeps at least for this step; `write` fills its line, zeros, if it is new there.
  // `uid` tells adapters apart. -1 if more adapters than slots are in this step.
  int32_t SlotOf(uint64_t uid, const std::function<void(void* line)>& write);

  const at::Tensor& table() const { return table_; }

 private:
  struct Line {
    uint64_t uid = 0;
    int64_t last_step = -1;
  };
  // The line that was used longest ago, or -1.
  int64_t FindVictim() const;
  void Write(int64_t slot, const std::function<void(void* line)>& write);

  const int64_t line_bytes_;
  int64_t step_ = 0;
  std::vector<Line> lines_;
  std::unordered_map<uint64_t, int64_t> slot_of_;
  at::Tensor table_;  // bytes
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_SLOT_TABLE_H_
