#ifndef ATTUNE_SERVER_MODEL_MEMORY_METER_H_
#define ATTUNE_SERVER_MODEL_MEMORY_METER_H_

#include <cstdint>
#include <memory>

#include "server/model/compute_target.h"

namespace attune {

// What one job's tensors take of the device, counted while others' work runs beside it: not the allocator's own peak,
// which is everybody's. Counts what is allocated in a scope, on its thread and on those that autograd runs for it, and
// is not freed yet; memory that libraries take without a tensor is not seen. Thread-safe.
class MemoryMeter {
 public:
  explicit MemoryMeter(const ComputeTarget& target);

  // Until it ends the calling thread's tensors on the target's device count, to this meter alone.
  class Scope {
   public:
    explicit Scope(const MemoryMeter& meter);
    ~Scope();

   private:
    struct Guard;
    const std::unique_ptr<Guard> guard_;
  };

  int64_t peak_bytes() const;
  // As if `bytes` more had been allocated for a moment: the part in what others allocate for all.
  void CountBeside(int64_t bytes);

 private:
  class Count;
  const std::shared_ptr<Count> count_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_MEMORY_METER_H_
