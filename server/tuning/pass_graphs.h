#ifndef ATTUNE_SERVER_TUNING_PASS_GRAPHS_H_
#define ATTUNE_SERVER_TUNING_PASS_GRAPHS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "server/data/batcher.h"
#include "server/tuning/direct_pass.h"

namespace attune {

// Longer passes keep a GPU busy by themselves, and would make others wait for some milliseconds: they may be
// interrupted.
inline constexpr double kShortPass = 2e12;  // operations
bool IsShortPass(const ModelConfig& config, int64_t tokens, double most = kShortPass);

// Runs a DirectPass on a GPU. Batches of up to kMaxGraphTokens are padded to one of few
// shapes; from a shape's second batch on, its pass is one CUDA graph, so that a small
// model's thousands of small kernels cost one launch; that of a long pass is a row of graphs, one for each
// piece between two pauses. Larger batches keep the device
// busy without, and fp32 passes need the host. All graphs share one memory pool: none
// keeps anything there from one replay to the next. A graph is captured on the calling
// thread's stream, or, if that is the default one, on another. A shape's first pass keeps only its
// layers' inputs, for that pool is not there for it. Throws what libtorch throws: to be
// run inside CatchTorch, in a turn on the device. Not thread-safe.
class PassGraphs {
 public:
  static constexpr int64_t kMaxGraphTokens = 65536;

  // All arguments must outlive this. `type` is the pass's; layers keep what fits into
  // `activation_bytes`. Passes of more than `short_pass` operations are captured in pieces.
  PassGraphs(DirectPass* pass, const BaseModel* base, at::ScalarType type, int64_t activation_bytes,
             double short_pass = kShortPass);
  ~PassGraphs();

  // A batch in the shape that it will run in, in pinned memory. Thread-safe.
  PackedMicroBatch Pack(const MicroBatch& batch, int64_t step_seed, int64_t loss_tokens) const;

  // The same of several jobs' batches, one behind the other in `batch`, for `places` jobs.
  PackedMicroBatch PackJoint(const MicroBatch& batch, const std::vector<BatchPart>& parts, int64_t places) const;

  // DirectPass::Run on the calling thread's device and stream. The result holds until the
  // next call. `pause`, if set, is called wherever a long pass may be interrupted; the device is up to two
  // pieces behind then.
  DirectPass::Result Run(const PackedMicroBatch& batch, bool is_first, const std::function<void()>& pause = nullptr);

  // Gives the graphs' memory back, for work that found none; they are captured again. False
  // if there are none.
  bool DropAll();

  // Whether Run would do no more than replay a graph: then others' graphs may run beside it.
  bool IsReplay(const PackedMicroBatch& batch, bool is_first) const;

  int64_t captured() const;  // passes that are replayed

 private:
  struct Graph;
  // A step's first pass is another graph than its later ones.
  struct Key {
    PassShape shape;
    bool is_first = false;
    auto operator<=>(const Key&) const = default;
  };

  bool IsCaptured(const PassShape& shape, int64_t tokens) const;
  std::vector<Keep> KeepFor(const PassShape& shape) const;
  std::vector<Keep> FirstKeepFor(const PassShape& shape) const;
  // Makes way for a pass of this shape. A pool that grew with ever larger passes would
  // hold them all: the larger pass comes first, and the others are captured again.
  void DropGraphsFor(const PassShape& shape);
  void Capture(const Key& key, bool in_pieces, Graph* graph);
  DirectPass::Result RunOnce(const PackedMicroBatch& batch, const std::vector<Keep>& keep, bool is_first,
                             const std::function<void()>& pause);

  DirectPass* const pass_;
  const BaseModel* const base_;
  const at::ScalarType type_;
  const int64_t activation_bytes_;
  const double short_pass_;
  std::map<Key, std::unique_ptr<Graph>> graphs_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_PASS_GRAPHS_H_
