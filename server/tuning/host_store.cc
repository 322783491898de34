#include "server/tuning/host_store.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "server/model/torch_target.h"

namespace attune {

using at::Tensor;

struct HostStore::Slot {
  // In pinned memory, cut by rows: the allocator rounds sizes up to powers of two. Where there is
  // no device, the tensor itself.
  std::vector<Tensor> kept;
  std::vector<int64_t> sizes;
  Tensor fetched;  // on its way back, or there
  at::cuda::CUDAEvent copied;
};

namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 26;

}  // namespace

HostStore::HostStore(const ComputeTarget& target, int64_t slots) : target_(target), slots_(slots) {}

HostStore::~HostStore() {
  try {
    Reset();  // a copy under way must not write into memory that is given back
  } catch (const std::exception&) {  // the device has failed: nothing is under way
  }
}

void HostStore::MakeStream() {
  if (!copies_) copies_ = std::make_unique<OwnStream>(target_);
}

void HostStore::Reset() {
  bool any = false;
  for (const Slot& slot : slots_) any = any || !slot.kept.empty() || slot.fetched.defined();
  if (!any) return;
  if (copies_) {
    const OwnStream::Scope scope(*copies_);
    Synchronize(target_);
  }
  for (Slot& slot : slots_) {
    slot.kept.clear();
    slot.fetched = Tensor();
  }
}

void HostStore::Save(int64_t slot, const Tensor& x) {
  Slot& s = slots_[slot];
  s.sizes = x.sizes().vec();
  s.kept.clear();
  if (!x.is_cuda()) {
    s.kept = {x};
    return;
  }
  MakeStream();
  at::cuda::CUDAEvent made;
  made.record();
  const OwnStream::Scope scope(*copies_);
  made.block(c10::cuda::getCurrentCUDAStream());
  const int64_t rows = std::max<int64_t>(1, kPieceBytes / static_cast<int64_t>(x.nbytes() / x.size(0)));
  for (int64_t begin = 0; begin < x.size(0); begin += rows) {
    const Tensor piece = x.narrow(0, begin, std::min(rows, x.size(0) - begin));
    s.kept.push_back(at::empty(piece.sizes(), x.options().device(at::kCPU).pinned_memory(true)));
    s.kept.back().copy_(piece, /*non_blocking=*/true);
  }
  // Its memory is not used again before the copy is done.
  c10::cuda::CUDACachingAllocator::recordStream(x.storage().data_ptr(), c10::cuda::getCurrentCUDAStream());
}

void HostStore::Fetch(int64_t slot) {
  Slot& s = slots_[slot];
  if (s.fetched.defined() || s.kept.empty()) return;
  if (!s.kept[0].is_pinned()) {
    s.fetched = s.kept[0];
    return;
  }
  // Made on the calling thread's stream, where it will be freed: the copy waits for what used the memory before.
  s.fetched = at::empty(s.sizes, s.kept[0].options().pinned_memory(false).device(at::kCUDA));
  at::cuda::CUDAEvent free;
  free.record();
  const OwnStream::Scope scope(*copies_);
  free.block(c10::cuda::getCurrentCUDAStream());
  int64_t begin = 0;
  for (const Tensor& piece : s.kept) {
    s.fetched.narrow(0, begin, piece.size(0)).copy_(piece, /*non_blocking=*/true);
    begin += piece.size(0);
  }
  s.copied.record();
}

Tensor HostStore::Take(int64_t slot) {
  Fetch(slot);
  Slot& s = slots_[slot];
  if (s.fetched.is_cuda()) s.copied.block(c10::cuda::getCurrentCUDAStream());
  s.kept.clear();
  return std::exchange(s.fetched, Tensor());
}

}  // namespace attune
