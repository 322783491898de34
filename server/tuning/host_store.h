#ifndef ATTUNE_SERVER_TUNING_HOST_STORE_H_
#define ATTUNE_SERVER_TUNING_HOST_STORE_H_

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "server/model/own_stream.h"

namespace attune {

// Keeps tensors of a device in host memory, copying both ways beside the work of the
// calling thread's stream; on the CPU it just holds them. A slot is saved, fetched and
// taken once, in this order. Not thread-safe.
class HostStore {
 public:
  HostStore(const ComputeTarget& target, int64_t slots);
  ~HostStore();

  // `x` is copied out once the work asked for so far has made it. The caller may drop it.
  void Save(int64_t slot, const at::Tensor& x);
  // Begins to copy a saved tensor back.
  void Fetch(int64_t slot);
  // Forgets everything, e.g. of a pass that failed half-way. Waits for copies under way.
  void Reset();
  // The tensor; work that is asked for from now on waits for the copy. Fetches it if need be.
  at::Tensor Take(int64_t slot);

 private:
  struct Slot;

  void MakeStream();

  const ComputeTarget target_;
  std::unique_ptr<OwnStream> copies_;  // made when it is first used
  std::vector<Slot> slots_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_HOST_STORE_H_
