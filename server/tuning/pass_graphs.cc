#include "server/tuning/pass_graphs.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "server/model/torch_target.h"

namespace attune {

using at::Tensor;

struct PassGraphs::Graph {
  int64_t seen = 0;
  Tensor input;              // the packed batch, where the captured kernels read it
  DirectPass::Result result;  // where they leave what they found
  std::vector<std::unique_ptr<at::cuda::CUDAGraph>> pieces;  // one behind the other; none: not captured
};

namespace {

// More graphs than shapes that come again.
constexpr int64_t kMaxGraphs = 128;

// The default stream cannot be captured. cuBLAS keeps a workspace for each stream that it has
// seen: few streams; and what runs side by side must not share one.
c10::cuda::CUDAStream CapturableStream() {
  static const c10::cuda::CUDAStream side = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream();
  return current == c10::cuda::getDefaultCUDAStream() ? side : current;
}

}  // namespace

bool IsShortPass(const ModelConfig& config, int64_t tokens, double most) {
  return 4.0 * static_cast<double>(config.Parameters() * tokens) <= most;
}

PassGraphs::PassGraphs(DirectPass* pass, const BaseModel* base, at::ScalarType type, int64_t activation_bytes,
                       double short_pass)
    : pass_(pass), base_(base), type_(type), activation_bytes_(activation_bytes), short_pass_(short_pass) {}

PassGraphs::~PassGraphs() = default;

int64_t PassGraphs::captured() const {
  return std::count_if(graphs_.begin(), graphs_.end(), [](const auto& entry) { return !entry.second->pieces.empty(); });
}

std::vector<Keep> PassGraphs::KeepFor(const PassShape& shape) const {
  return ChooseKeep(base_->config, shape.tokens, static_cast<int64_t>(at::elementSize(type_)), activation_bytes_);
}

// Not what waits for copies to the host and back.
bool PassGraphs::IsCaptured(const PassShape& shape, int64_t tokens) const {
  if (type_ != at::kBFloat16 || tokens > kMaxGraphTokens) return false;
  const std::vector<Keep> keep = KeepFor(shape);
  return std::find(keep.begin(), keep.end(), Keep::kHost) == keep.end();
}

PackedMicroBatch PassGraphs::Pack(const MicroBatch& batch, int64_t step_seed, int64_t loss_tokens) const {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  PassShape shape = BucketShape(batch);
  const bool is_captured = IsCaptured(shape, tokens);
  if (!is_captured) shape = ExactShape(batch);
  return {shape, PackBatch(batch, shape, step_seed, loss_tokens, /*pinned=*/true), tokens, is_captured};
}

PackedMicroBatch PassGraphs::PackJoint(const MicroBatch& batch, const std::vector<BatchPart>& parts,
                                       int64_t places) const {
  const int64_t tokens = static_cast<int64_t>(batch.tokens.size());
  PassShape shape = JointShape(batch, places);
  const bool is_captured = IsCaptured(shape, tokens);
  if (!is_captured) {
    shape = ExactShape(batch);
    shape.places = places;
  }
  return {shape, PackJointBatch(batch, parts, shape, /*pinned=*/true), tokens, is_captured};
}

// The least, as far as the numbers stay the replays': what runs in chunks then does so now.
std::vector<Keep> PassGraphs::FirstKeepFor(const PassShape& shape) const {
  std::vector<Keep> keep = KeepFor(shape);
  for (Keep& layer : keep) {
    if (layer != Keep::kInput) layer = Keep::kInputWhole;
  }
  return keep;
}

DirectPass::Result PassGraphs::RunOnce(const PackedMicroBatch& batch, const std::vector<Keep>& keep, bool is_first,
                                       const std::function<void()>& pause) {
  const Tensor moved = batch.packed.to(DeviceOf(base_->target), /*non_blocking=*/true);
  pass_->SetPause(pause);
  const absl::Cleanup no_pause = [this] { pass_->SetPause(nullptr); };
  return pass_->Run(ViewBatch(moved, batch.shape, batch.packed), keep, is_first);
}

DirectPass::Result PassGraphs::Run(const PackedMicroBatch& batch, bool is_first, const std::function<void()>& pause) {
  const PassShape& shape = batch.shape;
  const Tensor& packed = batch.packed;
  if (!batch.is_captured) {
    DropGraphsFor(shape);
    return RunOnce(batch, KeepFor(shape), is_first, pause);
  }
  std::unique_ptr<Graph>& graph = graphs_[{shape, is_first}];
  if (!graph) graph = std::make_unique<Graph>();
  // Once without: what allocates or compiles on first use does so outside the capture. The
  // graphs' pool is not there for it: the pass makes do with the least.
  if (graph->seen++ == 0) return RunOnce(batch, FirstKeepFor(shape), is_first, pause);
  if (graph->pieces.empty()) {
    DropGraphsFor(shape);
    graph->input = at::empty_like(packed, at::TensorOptions().device(DeviceOf(base_->target)).pinned_memory(false));
    Capture({shape, is_first}, !IsShortPass(base_->config, batch.tokens, short_pass_), graph.get());
  }
  graph->input.copy_(packed, /*non_blocking=*/true);
  std::array<at::cuda::CUDAEvent, 2> ends;
  for (size_t i = 0; i < graph->pieces.size(); ++i) {
    // The host does not run far ahead: whoever wants the device next comes soon.
    if (i > 1 && pause) ends[i % 2].synchronize();
    if (i > 0 && pause) pause();
    graph->pieces[i]->replay();
    if (pause) ends[i % 2].record();
  }
  return graph->result;
}

bool PassGraphs::DropAll() {
  const bool any = captured() > 0;
  c10::cuda::getCurrentCUDAStream().synchronize();
  for (const auto& [other, graph] : graphs_) graph->pieces.clear();
  c10::cuda::CUDACachingAllocator::emptyCache();
  return any;
}

bool PassGraphs::IsReplay(const PackedMicroBatch& batch, bool is_first) const {
  const auto found = graphs_.find({batch.shape, is_first});
  return found != graphs_.end() && !found->second->pieces.empty();
}

void PassGraphs::DropGraphsFor(const PassShape& shape) {
  int64_t largest = 0;
  for (const auto& [other, graph] : graphs_) {
    if (!graph->pieces.empty()) largest = std::max(largest, other.shape.tokens);
  }
  if (largest == 0 || (shape.tokens <= largest && captured() < kMaxGraphs)) return;
  DropAll();
}

void PassGraphs::Capture(const Key& key, bool in_pieces, Graph* graph) {
  const at::TensorOptions options = graph->input.options();
  const std::vector<int64_t> sums(key.shape.places > 0 ? 1 : 0, key.shape.places);
  graph->result = {at::zeros(sums, options.dtype(at::kDouble)), at::zeros({}, options),
                   at::zeros({}, options.dtype(at::kDouble))};
  at::cuda::MempoolId_t pool = at::cuda::graph_pool_handle();
  for (const auto& [other_key, other] : graphs_) {
    if (!other->pieces.empty()) pool = other->pieces[0]->pool();
  }
  c10::cuda::getCurrentCUDAStream().synchronize();
  // What the pass before took and gave back would lie idle: the graphs have a pool of their own.
  c10::cuda::CUDACachingAllocator::emptyCache();
  std::vector<std::unique_ptr<at::cuda::CUDAGraph>> pieces;
  // Other threads go on using the device meanwhile, though none may wait for all of it.
  auto begin = [&] {
    pieces.push_back(std::make_unique<at::cuda::CUDAGraph>());
    pieces.back()->capture_begin(pool, cudaStreamCaptureModeRelaxed);
  };
  {
    c10::cuda::CUDAStreamGuard side(CapturableStream());
    // Their workspaces are not to come from the graphs' pool.
    at::cuda::getCurrentCUDABlasHandle();
    at::cuda::getCUDABlasLtWorkspace();
    if (in_pieces) {
      pass_->SetPause([&] {
        pieces.back()->capture_end();
        begin();
      });
    }
    const absl::Cleanup no_pause = [this] { pass_->SetPause(nullptr); };
    begin();
    try {
      const DirectPass::Result result =
          pass_->Run(ViewBatch(graph->input, key.shape), KeepFor(key.shape), key.is_first);
      graph->result.loss_sum.copy_(result.loss_sum);
      graph->result.correct.copy_(result.correct);
      if (result.margin_sum.defined()) graph->result.margin_sum.copy_(result.margin_sum);
    } catch (...) {
      // The stream must leave its capture, whatever the capture is worth.
      try {
        pieces.back()->capture_end();
      } catch (...) {
      }
      throw;
    }
    pieces.back()->capture_end();
  }
  graph->pieces = std::move(pieces);
}

}  // namespace attune
