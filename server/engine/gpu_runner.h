#ifndef ATTUNE_SERVER_ENGINE_GPU_RUNNER_H_
#define ATTUNE_SERVER_ENGINE_GPU_RUNNER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "server/engine/adapter_slots.h"
#include "server/engine/gpu_step.h"
#include "server/engine/model_runner.h"
#include "server/engine/step_inputs.h"
#include "server/model/kernels/cuda/launch.h"

namespace attune {

// Forward passes of the engine on a GPU in bf16, over the hand-written kernels and
// FlashInfer's attention. A step that only adds one token to each sequence is replayed as a
// CUDA graph, one for each of a few numbers of sequences, and so are a few rows of prompts, for
// themselves; all that differs between two passes goes to the device in one copy. Each wanted
// row's likeliest token is chosen on the device, where the next step may read it before the
// host knows it; so are tokens that are drawn, after the pass (gpu_step.h). Buffers are made once; from
// step to step there are allocated, from libtorch's caches, the vector of tokens, logits that the host asked
// for, changed logits and log-probabilities, and what LoRAs need that the grouped kernel does not take.
// Launches on the calling thread's stream, which must always be the same and not the default one. Throws what
// libtorch throws. Not thread-safe.
class GpuRunner {
 public:
  // Whether it takes models of this kind; model_runner.h's ForwardBatch serves the others.
  static bool Serves(const BaseModel& base);
  // Device memory that it takes for models of this shape.
  static int64_t Bytes(const BaseModel& base, int64_t max_sequences, int64_t max_tokens);

  // For models of the shape of `like`; `cache` must outlive this.
  GpuRunner(const BaseModel& like, KvCache* cache, int64_t max_sequences, int64_t max_tokens);
  ~GpuRunner();

  // REQUIRES: pieces of one token come first. A step with items that wait for a mask is done only after its ChooseLater,
  // which comes before the next Launch for the same model.
  std::unique_ptr<GpuStep> Launch(const std::shared_ptr<const BaseModel>& base, const std::vector<ForwardItem>& items);

 private:
  struct Buffers;
  struct Model;
  struct Batch;
  struct Side;
  struct GraphKey {
    int64_t rows = 0, segments = 0;  // segments 0: one token each
    int tile_rows = 0;
    int64_t lora_rows = 0, lora_tiles = 0;  // 0: no LoRA
    bool has_scales = false;
    bool is_cut = false;
    bool shares_loras = false, reads_codes = false;
    auto operator<=>(const GraphKey&) const = default;
  };

  Model& ModelFor(const std::shared_ptr<const BaseModel>& base);
  Batch MakeBatch(const std::vector<ForwardItem>& items);
  void Upload(const StepInputs& inputs);
  void Forward(Model* model, const Batch& batch);
  void Layer(const Model& model, const Batch& batch, int64_t layer);
  void Product(const Model& model, const Batch& batch, int64_t layer, Linear which, const at::Tensor& x,
               const at::Tensor& y);
  // How a product is made. is_before_loras: the grouped kernel comes right behind it.
  struct ProductOptions {
    cuda::Start start = cuda::Start::kAfter;
    bool is_before_loras = false;
  };
  // What makes the product: the kernel for few rows, by the weight's blocks if it has some; that for a batch's; or cuBLAS.
  enum class ProductKernel { kTiled, kStreamed, kCublas };
  ProductKernel KernelFor(int64_t rows, const at::Tensor& w, const TiledWeight* tiled) const;
  // y = x w^T.
  void Multiply(const at::Tensor& x, const at::Tensor& w, const TiledWeight* tiled, const at::Tensor& y,
                const ProductOptions& options) const;
  cuda::LoraBatch Loras(const Batch& batch) const;
  // What belongs to the product that was last: what the grouped kernel made, and its bias.
  cuda::Addend AddendOf(const Batch& batch, const LayerWeights& weights, Linear which) const;
  cuda::RowScales Scales(const Batch& batch, int64_t layer) const;
  // Puts prefixes' keys and values where the layer computed some for their tokens.
  void PlacePrefixes(const Batch& batch, int64_t layer) const;
  void Attend(const Model& model, const Batch& batch, int64_t layer);
  // Rounds a batch of longer pieces up to a size that is replayed.
  void PadLonger(const std::vector<StepSegment>& segments, Batch* batch) const;
  void Head(Model* model, const Batch& batch, GpuStep* step);
  void Replay(Model* model, const Batch& batch);
  const int32_t* Input(int64_t offset) const;
  StepCutting cutting() const { return is_batch_invariant_ ? StepCutting::kAlike : StepCutting::kBest; }

  const ModelConfig config_;
  KvCache* const cache_;
  const int64_t max_sequences_, max_tokens_, processors_;
  const bool is_batch_invariant_;  // every row's numbers are the same in every batch
  const bool reads_codes_;         // of LoRAs
  const bool may_cut_;             // a row's keys may lie in several chunks
  std::unique_ptr<Buffers> buffers_;
  AdapterSlots slots_;
  std::unique_ptr<Side> side_;
  std::map<const BaseModel*, std::unique_ptr<Model>> models_;
  int64_t steps_ = 0;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_GPU_RUNNER_H_
