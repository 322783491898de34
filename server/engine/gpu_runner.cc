#include "server/engine/gpu_runner.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "server/engine/gpu_step.h"
#include "server/model/decoder.h"
#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/kernels/matmul.h"
#include "server/model/kernels/streamed_product.h"
#include "server/model/kernels/tiled_weight.h"
#include "server/model/own_stream.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

using at::Tensor;

// Adapters whose entries are kept on the device; their weights are the residency's matter.
constexpr int64_t kSlots = 4096;
// Steps whose inputs may be on their way at once.
constexpr int64_t kRing = 4;
// Parts of rows that attention over cut keys makes at a time.
constexpr int64_t kMostParts = 2048;
// Rows up to which dense weights are read by the kernel for few, which begins sooner than others.
constexpr int64_t kMostFewRows = 8;
// Dense weights of so many bytes are read by the kernel that streams them, where a batch is not for the one for few rows: cuBLAS's
// kernels of smaller ones are over as soon.
constexpr int64_t kLeastStreamedBytes = int64_t{10} << 20;
// Rows of logits that exist at a time.
constexpr int64_t kHeadRows = 256;

const void* DataOf(const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

cuda::RopeShape RopeShapeOf(const ModelConfig& c) { return {c.heads, c.kv_heads, c.head_dim}; }

// Few sizes, none of them much larger than the one before.
int64_t BucketRows(int64_t rows) {
  for (int64_t size : {1, 2, 4}) {
    if (rows <= size) return size;
  }
  const int64_t step = rows <= 64 ? 8 : rows <= 256 ? 16 : 64;
  return (rows + step - 1) / step * step;
}

int64_t RankOf(const LoraAdapter& lora) {
  if (lora.rank > 0) return lora.rank;
  int64_t rank = 0;
  for (const auto& layer : lora.layers) {
    for (const LoraModule& module : layer) {
      if (module.defined()) rank = std::max(rank, module.a_RI.size(0));
    }
  }
  return rank;
}

// Longer pieces of a step that have so many rows in all are replayed as a graph, too: below, the
// host takes longer to launch a pass than the device to run it. So many of them are wanted at most.
constexpr int64_t kMostGraphRows = 512, kMostGraphWanted = 64;
// Of those, so few rows over long contexts leave processors idle unless the keys are cut.
constexpr int64_t kMostCutRows = 256;

// The next power of two.
int64_t BucketPower(int64_t n, int64_t least) {
  int64_t bucket = least;
  while (bucket < n) bucket *= 2;
  return bucket;
}

int64_t RowsOf(const std::vector<ForwardItem>& items) {
  int64_t rows = 0;
  for (const ForwardItem& item : items) rows += item.count;
  return rows;
}

bool HasPromptRows(const ForwardItem& item) { return item.sampled_row < 0 && item.tokens[0] < 0; }

// Whether these pieces, all longer than one token, may be replayed.
bool IsForGraph(const std::vector<ForwardItem>& items) {
  int64_t wanted = 0;
  for (const ForwardItem& item : items) {
    wanted += item.wanted();
    const LoraAdapter* lora = item.adapter ? item.adapter->lora.get() : nullptr;
    if (HasPromptRows(item) || (lora && RankOf(*lora) > cuda::MostGroupedRanks())) return false;
  }
  return !items.empty() && RowsOf(items) <= kMostGraphRows && wanted <= kMostGraphWanted;
}

// Attention of few rows over shorter contexts is over before the second kernel that joins the parts would be.
constexpr int64_t kWorthCutting = 896;

// Whether single tokens' keys should be cut: if the longest context takes long, the longer the less the others leave of the device.
bool IsWorthCutting(const std::vector<ForwardItem>& items, int64_t kv_heads, int64_t processors) {
  int64_t longest = 0, all = 0;
  for (const ForwardItem& item : items) {
    if (item.count != 1) continue;
    longest = std::max(longest, item.context);
    all += item.context;
  }
  if (longest < kWorthCutting) return false;
  // As many tiles of the longest one's length as all of them are worth; a quarter of the device is had for nothing.
  const double tiles = static_cast<double>(kv_heads * all) / static_cast<double>(longest);
  return static_cast<double>(longest) >= kWorthCutting * std::max(1.0, 4 * tiles / static_cast<double>(processors));
}

// First rows that are treated as if all were under LoRAs, of which the last one is row `last`: few numbers of them.
int64_t LoraRowsOf(int64_t last, int64_t rows) {
  int64_t bucket = 8;
  while (bucket < last) bucket *= 4;
  return 2 * bucket <= rows ? bucket : rows;
}

cuda::LoraTarget TargetOf(const ModelConfig& config, int64_t layer, Linear which) {
  cuda::LoraTarget target;
  for (int p = 0; p < kProjections; ++p) {
    const ProjectionSlice slice = SliceOf(config, static_cast<Projection>(p));
    if (slice.linear != which) continue;
    target.entry[target.count] = static_cast<int32_t>(layer * kProjections + p);
    target.first_column[target.count] = static_cast<int32_t>(slice.row);
    target.columns[target.count++] = static_cast<int32_t>(slice.rows);
  }
  return target;
}

}  // namespace

struct GpuRunner::Buffers {
  Buffers(const ModelConfig& c, int64_t sequences, int64_t tokens, int64_t tiles, at::Device device) {
    const at::TensorOptions bf16 = at::TensorOptions(at::kBFloat16).device(device);
    auto rows = [&](int64_t count, int64_t width) { return at::zeros({count, width}, bf16); };
    x = rows(tokens, c.hidden);
    delta = rows(tokens, c.hidden);
    normed = rows(tokens, c.hidden);
    qkv = rows(tokens, c.qkv_size());
    attended = rows(tokens, c.q_size());
    gate_up = rows(tokens, 2 * c.intermediate);
    inner = rows(tokens, c.intermediate);
    head_in = rows(std::max(kHeadRows, sequences), c.hidden);
    logits = rows(std::max(kHeadRows, sequences), c.vocab);
    parts = rows(std::max(tiles, kMostParts), c.q_size());
    part_sums = at::zeros({parts.size(0), c.heads}, bf16.dtype(at::kFloat));
    lora_delta = rows(tokens, std::max({c.hidden, c.qkv_size(), 2 * c.intermediate}));
  }
  Tensor x, delta, normed, qkv, attended, gate_up, inner, head_in, logits;
  Tensor parts, part_sums;  // of attention whose keys are cut
  Tensor lora_delta;        // what the grouped kernel makes of the product at hand
  Tensor inputs;            // int32, on the device
  struct Host {
    Tensor values;             // int32, pinned
    at::cuda::CUDAEvent read;  // by the device
  };
  std::array<Host, kRing> hosts;
};

// Where the grouped kernel runs beside the base model's product.
struct GpuRunner::Side {
  // As the lane's own: not behind training.
  explicit Side(const ComputeTarget& target) : stream(target, OwnStream::Priority::kHigh) {}
  OwnStream stream;
  at::cuda::CUDAEvent begin, end;
};

struct GpuRunner::Model {
  std::weak_ptr<const BaseModel> base;
  const BaseModel* weights = nullptr;
  SampledTokens sampled;
  struct Graph {
    bool was_run = false;
    std::unique_ptr<at::cuda::CUDAGraph> graph;
  };
  std::map<GraphKey, Graph> graphs;
};

// A step's sizes, and where its lists are.
struct GpuRunner::Batch {
  StepInputs inputs;
  int64_t rows = 0;     // with padding
  int64_t singles = 0;  // rows of single tokens, with padding; they come first
  int64_t wanted = 0;
  int64_t lora_rows = 0;  // the first ones, which the grouped kernel serves
  bool reads_codes = false;  // of these rows' LoRAs, which all have some
  bool has_scales = false;  // IA3's or DoRA's
  bool is_decode = false;    // one token each, all wanted
  bool is_captured = false;  // that, or few longer pieces: padded to a size that is replayed
  bool is_cut = false;       // single tokens' keys may lie in several chunks
  bool is_cut_longer = false;
  // Pieces that have products of their own: of ranks, or of so many adapters, that the grouped kernel does
  // not take.
  struct LoraRows {
    const LoraAdapter* lora;
    int64_t first, count;
  };
  std::vector<LoraRows> loras;
  struct PromptRows {
    const Adapter* adapter;
    int64_t row, first, count;
  };
  std::vector<PromptRows> prompts;
  GpuStep::Pass outcome;  // what its logits are for
};

namespace {

// Whether all products of such a model can be made of rows that do not know of each other.
bool HasRowsAlike(const ModelConfig& c) {
  return TiledWeight::Takes(c.qkv_size(), c.hidden) && TiledWeight::Takes(c.hidden, c.q_size()) &&
         TiledWeight::Takes(2 * c.intermediate, c.hidden) && TiledWeight::Takes(c.hidden, c.intermediate) &&
         TiledWeight::Takes(c.vocab, c.hidden);
}

// Whether its layers are Llama's but for biases and norms of heads.
bool HasPlainLayers(const ModelConfig& c) {
  const AttentionShape shape = AttentionShapeOf(c);
  return !c.post_norms && !c.scales_embeddings && c.norm_offset == 0 && c.activation == Activation::kSilu &&
         shape.scale == 0 && shape.softcap == 0 && c.logit_softcap == 0 && c.local_rope_theta == 0;
}

}  // namespace

bool GpuRunner::Serves(const BaseModel& base) {
  return base.target.device == ComputeTarget::Device::kCuda && base.target.type == ComputeTarget::Type::kBfloat16 &&
         base.format == WeightFormat::kDense && cuda::Available() && cuda::PrepareHeadsTakes(RopeShapeOf(base.config)) &&
         cuda::PagedAttentionTakes(RopeShapeOf(base.config)) && base.config.heads / base.config.kv_heads <= 16 &&
         cuda::AddAndNormTakes(base.config.hidden) && HasPlainLayers(base.config) && (!base.target.batch_invariant || HasRowsAlike(base.config));
}

int64_t GpuRunner::Bytes(const BaseModel& base, int64_t max_sequences, int64_t max_tokens) {
  const ModelConfig& c = base.config;
  const int64_t row = 3 * c.hidden + c.qkv_size() + c.q_size() + 3 * c.intermediate +
                      std::max({c.hidden, c.qkv_size(), 2 * c.intermediate});
  // Of two steps: logits that wait for masks, and changed ones in fp32.
  const int64_t choices = 2 * max_sequences * c.vocab * (2 + 4);
  return 2 * (max_tokens * row + std::max(kHeadRows, max_sequences) * (c.hidden + c.vocab) + kMostParts * c.q_size()) +
         choices;
}

GpuRunner::GpuRunner(const BaseModel& like, KvCache* cache, int64_t max_sequences, int64_t max_tokens)
    : config_(like.config),
      cache_(cache),
      max_sequences_(BucketRows(max_sequences)),
      max_tokens_(std::max({max_tokens, max_sequences_, BucketPower(std::min(max_tokens, kMostGraphRows), 16)})),
      processors_(at::cuda::getCurrentDeviceProperties()->multiProcessorCount),
      is_batch_invariant_(like.target.batch_invariant),
      reads_codes_(like.target.int8_loras),
      // FlashInfer's windows are wrong where a chunk of keys lies outside of one.
      may_cut_(!like.target.batch_invariant && like.config.windows.empty()),
      buffers_(std::make_unique<Buffers>(like.config, max_sequences_, max_tokens_,
                                         TilesFor(max_sequences_, like.config.kv_heads, processors_),
                                         DeviceOf(like.target))),
      slots_(kSlots, like.config.layers, DeviceOf(like.target)),
      side_(std::make_unique<Side>(like.target)) {}

GpuRunner::~GpuRunner() = default;

GpuRunner::Model& GpuRunner::ModelFor(const std::shared_ptr<const BaseModel>& base) {
  std::erase_if(models_, [](const auto& entry) { return entry.second->base.expired(); });
  std::unique_ptr<Model>& model = models_[base.get()];
  if (!model) {
    model = std::make_unique<Model>();
    model->base = base;
    model->weights = base.get();
    model->sampled.last = at::zeros({max_tokens_}, at::TensorOptions(at::kInt).device(DeviceOf(base->target)));
    model->sampled.before = at::zeros_like(model->sampled.last);
  }
  return *model;
}

// As a decoding step, one of longer pieces that is replayed, or of any pieces that is not.
GpuRunner::Batch GpuRunner::MakeBatch(const std::vector<ForwardItem>& items) {
  Batch batch;
  std::vector<StepSegment> segments;
  int64_t row = 0;
  batch.is_decode = true;
  batch.reads_codes = reads_codes_;
  const bool is_longer_graph = items.front().count > 1 && IsForGraph(items);
  int64_t last_lora_row = 0;
  batch.is_cut = may_cut_ && IsWorthCutting(items, config_.kv_heads, processors_);
  for (const ForwardItem& item : items) {
    StepSegment segment{item.tokens, item.sampled_row, item.count, item.context, item.pages, -1, item.first_logits};
    const LoraAdapter* lora = item.adapter ? item.adapter->lora.get() : nullptr;
    TORCH_CHECK(!item.adapter || !item.adapter->changes_vocabulary(), "a GpuRunner has the base model's embedding and head");
    if (lora && RankOf(*lora) <= cuda::MostGroupedRanks())
      segment.adapter_slot = slots_.SlotOf(*lora, item.adapter_uid);
    if (segment.adapter_slot >= 0) {
      last_lora_row = row + item.count;
      batch.reads_codes = batch.reads_codes && lora->has_codes;
    }
    if (lora && segment.adapter_slot < 0) {
      batch.loras.push_back({lora, row, item.count});
    }
    const Ia3Adapter* ia3 = item.adapter ? item.adapter->ia3.get() : nullptr;
    if (ia3) segment.scale_slot = slots_.SlotOf(*ia3, item.adapter_uid);
    const bool is_dora = lora && lora->use_dora;
    if (is_dora) segment.scale_slot = slots_.ScaleSlotOf(*lora, item.adapter_uid);
    TORCH_CHECK(!(ia3 || is_dora) || segment.scale_slot >= 0, "more IA3 and DoRA adapters in one step than slots");
    batch.has_scales = batch.has_scales || ia3 || is_dora;
    int64_t prompt = 0;
    while (HasPromptRows(item) && prompt < item.count && item.tokens[prompt] < 0) ++prompt;
    if (prompt > 0) batch.prompts.push_back({item.adapter, row, -1 - item.tokens[0], prompt});
    batch.is_decode = batch.is_decode && item.count == 1 && item.first_logits == 0 && prompt == 0 && batch.loras.empty();
    batch.singles += item.count == 1;
    batch.wanted += item.wanted();
    row += item.count;
    segments.push_back(segment);
  }
  const int64_t group = config_.heads / config_.kv_heads;
  if (batch.is_decode) {
    const int64_t rows = BucketRows(row), tiles = batch.is_cut ? TilesFor(rows, config_.kv_heads, processors_) : rows;
    if (last_lora_row > 0) batch.lora_rows = is_batch_invariant_ ? rows : LoraRowsOf(last_lora_row, rows);
    // Room for the tiles of few adapters, or of as many as there are rows.
    const int64_t few = batch.lora_rows / 8 + 1;
    const bool are_few = !is_batch_invariant_ && CountLoraTiles(segments, batch.lora_rows) <= few;
    const int64_t lora_tiles = batch.lora_rows == 0 ? 0 : are_few ? few : batch.lora_rows;
    const StepRoom room{rows, 0, lora_tiles, batch.lora_rows, {rows, rows, tiles}, {}};
    batch.inputs = MakeStepInputs(segments, cache_->page_tokens, group, batch.is_cut ? tiles : 0, &room, 0, 0, cutting());
    batch.rows = batch.singles = rows;
    batch.is_captured = true;
  } else if (is_longer_graph && batch.loras.empty()) {
    PadLonger(segments, &batch);
  } else {
    const int64_t tiles = batch.is_cut ? TilesFor(batch.singles, config_.kv_heads, processors_) : 0;
    // Few rows over long contexts do not fill the device as they are.
    const int64_t longer_tiles = may_cut_ ? TilesFor(0, config_.kv_heads, processors_) : 0;
    batch.inputs = MakeStepInputs(segments, cache_->page_tokens, group, tiles, nullptr, longer_tiles,
                                  buffers_->parts.size(0), cutting());
    batch.is_cut_longer = batch.inputs.is_cut_longer;
    batch.rows = row;
  }
  if (last_lora_row > 0 && !batch.is_decode) batch.lora_rows = batch.is_captured ? batch.rows : last_lora_row;
  return batch;
}

void GpuRunner::PadLonger(const std::vector<StepSegment>& segments, Batch* batch) const {
  std::vector<AttentionWork> work;
  int64_t rows = 0, longest = 0;
  for (const StepSegment& s : segments) {
    work.push_back({s.count, s.context + s.count});
    rows += s.count;
    longest = std::max(longest, s.context);
  }
  const int64_t group = config_.heads / config_.kv_heads;
  const int64_t tile_rows = is_batch_invariant_ ? kAlikeTileRows : ChooseTileRows(work, group);
  AttentionRoom room{BucketPower(static_cast<int64_t>(segments.size()), 1), BucketPower(rows, 16), 0};
  batch->is_cut_longer = may_cut_ && room.rows <= kMostCutRows && longest >= kWorthCutting;
  room.tiles = room.rows * group / tile_rows + room.segments;
  if (batch->is_cut_longer) room.tiles = std::max(room.tiles, TilesFor(0, config_.kv_heads, processors_));
  // Each piece's last tile may have but one row, and so may the padding's.
  const int64_t lora_tiles = is_batch_invariant_ ? room.rows : room.rows / cuda::kLoraTileRows + room.segments + 1;
  const StepRoom step{room.rows, kMostGraphWanted, lora_tiles, room.rows, {}, room};
  batch->inputs = MakeStepInputs(segments, cache_->page_tokens, group, 0, &step, batch->is_cut_longer ? room.tiles : 0,
                                 buffers_->parts.size(0), cutting());
  batch->rows = room.rows;
  batch->is_captured = true;
}

void GpuRunner::Upload(const StepInputs& inputs) {
  Buffers::Host& host = buffers_->hosts[steps_++ % kRing];
  const int64_t count = static_cast<int64_t>(inputs.values.size());
  if (!buffers_->inputs.defined() || buffers_->inputs.numel() < count) {
    buffers_->inputs = at::zeros({2 * count + (1 << 16)}, at::TensorOptions(at::kInt).device(buffers_->x.device()));
    for (auto& [base, model] : models_) model->graphs.clear();
  }
  host.read.synchronize();
  if (!host.values.defined() || host.values.numel() < count) {
    host.values = at::empty({2 * count + (1 << 16)}, at::TensorOptions(at::kInt).pinned_memory(true));
  }
  std::copy(inputs.values.begin(), inputs.values.end(), host.values.mutable_data_ptr<int32_t>());
  buffers_->inputs.narrow(0, 0, count).copy_(host.values.narrow(0, 0, count), /*non_blocking=*/true);
  host.read.record();
}

const int32_t* GpuRunner::Input(int64_t offset) const { return buffers_->inputs.const_data_ptr<int32_t>() + offset; }

cuda::LoraBatch GpuRunner::Loras(const Batch& batch) const {
  const int64_t tiles = batch.inputs.room.lora_tiles;
  cuda::LoraSharing sharing = batch.inputs.shares_loras ? cuda::LoraSharing::kSome : cuda::LoraSharing::kNone;
  if (4 * tiles < batch.lora_rows) sharing = cuda::LoraSharing::kMost;
  if (is_batch_invariant_) sharing = cuda::LoraSharing::kAlike;
  return {slots_.loras(), slots_.entries_per_slot(),
          reinterpret_cast<const cuda::LoraTile*>(Input(batch.inputs.offsets.lora_tiles)), tiles, sharing, batch.reads_codes};
}

void GpuRunner::Product(const Model& model, const Batch& batch, int64_t layer, Linear which, const Tensor& x,
                        const Tensor& y) {
  const LayerWeights& weights = model.weights->weights.layers[layer];
  const Tensor& w = weights.linear[static_cast<int>(which)];
  const TiledWeight* tiled = weights.tiled[static_cast<int>(which)].get();
  auto add_loras = [&](cuda::LoraStart start) {
    cuda::GroupedLora(x.const_data_ptr(), x.stride(0), Loras(batch), TargetOf(config_, layer, which),
                      buffers_->lora_delta.mutable_data_ptr(), y.size(1), x.size(1), CurrentCudaStream(), start);
  };
  const ProductKernel kernel = KernelFor(x.size(0), w, tiled);
  const bool has_loras = batch.lora_rows > 0, is_beside = has_loras && kernel != ProductKernel::kCublas;
  // Kernels of cuBLAS let none begin beside them: then it has a stream of its own.
  const bool has_side = has_loras && !is_beside;
  if (has_side) side_->begin.record();
  // The larger kernel first: the grouped one takes the processors that it leaves.
  Multiply(x, w, tiled, y, {cuda::Start::kEarly, has_loras});
  if (is_beside) add_loras(kernel == ProductKernel::kTiled ? cuda::LoraStart::kBesideTiled : cuda::LoraStart::kBesideStreamed);
  if (has_side) {
    {
      const OwnStream::Scope scope(side_->stream);
      side_->begin.block(c10::cuda::getCurrentCUDAStream());
      add_loras(cuda::LoraStart::kAfter);
      side_->end.record();
    }
    side_->end.block(c10::cuda::getCurrentCUDAStream());
  }
  for (const Batch::LoraRows& rows : batch.loras) {
    for (int p = 0; p < kProjections; ++p) {
      const LoraModule& module = rows.lora->layers[layer][p];
      const ProjectionSlice slice = SliceOf(config_, static_cast<Projection>(p));
      if (slice.linear != which || !module.defined()) continue;
      const Tensor out = y.narrow(1, slice.row, slice.rows);
      // cuBLAS rounds by the number of rows.
      const int64_t step = is_batch_invariant_ ? 1 : rows.count;
      for (int64_t row = rows.first; row < rows.first + rows.count; row += step) {
        const Tensor u = MatMul(x.narrow(0, row, step), As::kIs, module.a_RI, As::kTransposed);
        MatMul(u, As::kIs, module.b_OR, As::kTransposed, module.scale, 1, out.narrow(0, row, step));
      }
    }
  }
}

GpuRunner::ProductKernel GpuRunner::KernelFor(int64_t rows, const Tensor& w, const TiledWeight* tiled) const {
  if (is_batch_invariant_) return ProductKernel::kTiled;
  if (tiled) return rows <= TiledWeight::kMostRows ? ProductKernel::kTiled : ProductKernel::kCublas;
  if (rows <= kMostFewRows && TiledWeight::Takes(w.size(0), w.size(1))) return ProductKernel::kTiled;
  const bool is_streamed = rows <= kMostStreamedRows && static_cast<int64_t>(w.nbytes()) >= kLeastStreamedBytes && CanStream(w);
  return is_streamed ? ProductKernel::kStreamed : ProductKernel::kCublas;
}

void GpuRunner::Multiply(const Tensor& x, const Tensor& w, const TiledWeight* tiled, const Tensor& y,
                         const ProductOptions& options) const {
  const ProductKernel kernel = KernelFor(x.size(0), w, tiled);
  if (kernel == ProductKernel::kCublas) return MatMul(x, As::kIs, w, As::kTransposed, 1, 0, y);
  const cuda::Next next = options.is_before_loras ? cuda::Next::kWithInput : cuda::Next::kAtOnce;
  if (kernel == ProductKernel::kStreamed) return MultiplyStreamed(x, w, y, {.start = options.start, .next = next});
  const TiledOptions how{options.start, is_batch_invariant_ ? cuda::TiledSplit::kColumns : cuda::TiledSplit::kBest, next};
  tiled ? MultiplyTiled(x, *tiled, y, how) : MultiplyFewRows(x, w, y, how);
}

cuda::Addend GpuRunner::AddendOf(const Batch& batch, const LayerWeights& weights, Linear which) const {
  return {buffers_->lora_delta.const_data_ptr(), batch.lora_rows, DataOf(weights.bias[static_cast<int>(which)])};
}

cuda::RowScales GpuRunner::Scales(const Batch& batch, int64_t layer) const {
  return batch.has_scales ? slots_.ScalesOf(layer, Input(batch.inputs.offsets.scale_slots)) : cuda::RowScales();
}

void GpuRunner::PlacePrefixes(const Batch& batch, int64_t layer) const {
  for (const Batch::PromptRows& rows : batch.prompts) {
    if (!rows.adapter->prefix) continue;
    const Tensor trained = rows.adapter->prefix->keys_values_LNE.select(0, layer).narrow(0, rows.first, rows.count);
    buffers_->qkv.narrow(0, rows.row, rows.count).narrow(1, config_.q_size(), trained.size(1)).copy_(trained);
  }
}

void GpuRunner::Attend(const Model& model, const Batch& batch, int64_t layer) {
  const Buffers& b = *buffers_;
  const StepOffsets& o = batch.inputs.offsets;
  const cuda::Stream stream = CurrentCudaStream();
  const Tensor &keys = cache_->keys[layer], &values = cache_->values[layer];
  const BaseModel& base = *model.weights;
  const AttentionShape shape = AttentionShapeOf(base.config, layer);
  const LayerWeights& weights = base.weights.layers[layer];
  const cuda::Addend addend = AddendOf(batch, weights, Linear::kQkv);
  const cuda::RowScales scales = Scales(batch, layer);
  // A prefix's keys and values come behind biases and norms, so these get a kernel of their own.
  const bool prepares = addend.bias || weights.q_norm_A.defined();
  if (prepares) {
    cuda::PrepareHeads(b.qkv.mutable_data_ptr(), addend, scales, DataOf(weights.q_norm_A), DataOf(weights.k_norm_A),
                       base.config.rms_epsilon, batch.rows, RopeShapeOf(config_), stream, cuda::Start::kEarly);
  }
  PlacePrefixes(batch, layer);
  cuda::RopeAndCache(b.qkv.mutable_data_ptr(), prepares ? cuda::Addend() : addend, prepares ? cuda::RowScales() : scales, base.rope_cos_PH.const_data_ptr<float>(),
                     base.rope_sin_PH.const_data_ptr<float>(), Input(o.positions), Input(o.slots),
                     keys.mutable_data_ptr(), values.mutable_data_ptr(), batch.rows, RopeShapeOf(config_), stream, cuda::Start::kEarly);
  struct Part {
    const AttentionRoom& room;
    const AttentionOffsets& at;
    int tile_rows;
    int64_t first;
    bool is_cut, are_single_queries;
  };
  auto attend = [&](const Part& part) {
    const AttentionRoom& room = part.room;
    const AttentionOffsets& at = part.at;
    cuda::PagedAttentionCall call;
    call.are_single_queries = part.are_single_queries;
    call.shape = RopeShapeOf(config_);
    call.page_tokens = cache_->page_tokens;
    call.row_stride = b.qkv.stride(0);
    call.scale = static_cast<float>(shape.score_scale());
    call.window_before = shape.window > 0 ? static_cast<int32_t>(shape.window - 1) : -1;
    call.q = b.qkv.narrow(0, part.first, room.rows).const_data_ptr();
    call.out = b.attended.narrow(0, part.first, room.rows).mutable_data_ptr();
    call.keys = keys.const_data_ptr();
    call.values = values.const_data_ptr();
    if (part.is_cut) {
      call.partial_out = b.parts.mutable_data_ptr();
      call.partial_sums = b.part_sums.mutable_data_ptr<float>();
    }
    call.plan = {room.segments,         room.rows,
                 room.tiles,            part.tile_rows,
                 Input(at.query_starts), Input(at.page_starts),
                 Input(o.pages),        Input(at.last_page_tokens),
                 Input(at.tile_segments), Input(at.tile_queries),
                 Input(at.tile_chunks), reinterpret_cast<const uint8_t*>(Input(at.tile_used)),
                 Input(at.row_parts),   Input(at.out_starts),
                 Input(at.chunk_tokens), Input(at.rows_used)};
    cuda::PagedAttention(call, stream);
  };
  const StepRoom& room = batch.inputs.room;
  if (room.singles.segments > 0) {
    // By the kernel for these, whose sums are in another order than those of longer pieces.
    const bool may_differ = !is_batch_invariant_;
    attend({room.singles, o.singles, batch.inputs.tile_rows_singles, 0, batch.is_cut, may_differ});
  }
  if (room.longer.segments > 0) {
    attend({room.longer, o.longer, batch.inputs.tile_rows_longer, room.singles.rows, batch.is_cut_longer, false});
  }
}

namespace {

Tensor Rows(const Tensor& buffer, int64_t rows) { return buffer.narrow(0, 0, rows); }

}  // namespace

void GpuRunner::Layer(const Model& model, const Batch& batch, int64_t layer) {
  const Buffers& b = *buffers_;
  const DecoderWeights& weights = model.weights->weights;
  const cuda::Stream stream = CurrentCudaStream();
  const int64_t rows = batch.rows;
  const double epsilon = model.weights->config.rms_epsilon;
  // x += delta, what the projection gave, and its norm: the next product's input.
  const LayerWeights& own = weights.layers[layer];
  auto add_and_norm = [&](Projection from, Linear which, const Tensor& weight) {
    cuda::AddAndNorm(b.x.mutable_data_ptr(), b.delta.const_data_ptr(), AddendOf(batch, own, which), Scales(batch, layer),
                     static_cast<int>(from), weight.const_data_ptr(), epsilon, b.normed.mutable_data_ptr(), rows,
                     config_.hidden, stream, cuda::Start::kEarly);
  };
  Product(model, batch, layer, Linear::kQkv, Rows(b.normed, rows), Rows(b.qkv, rows));
  Attend(model, batch, layer);
  Product(model, batch, layer, Linear::kO, Rows(b.attended, rows), Rows(b.delta, rows));
  add_and_norm(Projection::kO, Linear::kO, own.ffn_norm_D);
  Product(model, batch, layer, Linear::kGateUp, Rows(b.normed, rows), Rows(b.gate_up, rows));
  cuda::SwiGluAdded(b.gate_up.const_data_ptr(), AddendOf(batch, own, Linear::kGateUp), Scales(batch, layer), b.inner.mutable_data_ptr(), rows,
                    config_.intermediate, stream, cuda::Start::kEarly);
  Product(model, batch, layer, Linear::kDown, Rows(b.inner, rows), Rows(b.delta, rows));
  add_and_norm(Projection::kDown, Linear::kDown, layer + 1 < config_.layers ? weights.layers[layer + 1].attention_norm_D : weights.final_norm_D);
}

void GpuRunner::Forward(Model* model, const Batch& batch) {
  const Buffers& b = *buffers_;
  const DecoderWeights& weights = model->weights->weights;
  const cuda::Stream stream = CurrentCudaStream();
  cuda::EmbedTokens(weights.embedding_VD.const_data_ptr(), Input(batch.inputs.offsets.tokens),
                    model->sampled.last.const_data_ptr<int32_t>(), b.x.mutable_data_ptr(), batch.rows, config_.hidden, stream);
  for (const Batch::PromptRows& rows : batch.prompts) {
    if (!rows.adapter->soft_prompt) continue;
    const Tensor& prompt_ND = rows.adapter->soft_prompt->embeddings_ND;
    b.x.narrow(0, rows.row, rows.count).copy_(prompt_ND.narrow(0, rows.first, rows.count));
  }
  cuda::AddAndNorm(b.x.mutable_data_ptr(), nullptr, {}, {}, 0, weights.layers[0].attention_norm_D.const_data_ptr(),
                   model->weights->config.rms_epsilon, b.normed.mutable_data_ptr(), batch.rows, config_.hidden, stream);
  for (int64_t layer = 0; layer < config_.layers; ++layer) Layer(*model, batch, layer);
  if (!batch.is_decode) return;
  // Every row is wanted.
  const Tensor logits = Rows(b.logits, batch.rows);
  Multiply(Rows(b.normed, batch.rows), weights.head_VD, weights.tiled_head.get(), logits, {cuda::Start::kEarly});
  cuda::Argmax(logits.const_data_ptr(), model->sampled.last.mutable_data_ptr<int32_t>(), batch.rows, config_.vocab, stream);
}

void GpuRunner::Replay(Model* model, const Batch& batch) {
  GraphKey key{.rows = batch.rows, .is_cut = batch.is_decode ? batch.is_cut : batch.is_cut_longer};
  key.has_scales = batch.has_scales;
  key.lora_rows = batch.lora_rows;
  if (batch.lora_rows > 0) key.lora_tiles = batch.inputs.room.lora_tiles;
  key.shares_loras = batch.inputs.shares_loras;
  key.reads_codes = batch.reads_codes;
  if (!batch.is_decode) {
    key.segments = batch.inputs.room.longer.segments;
    key.tile_rows = batch.inputs.tile_rows_longer;
  }
  Model::Graph& graph = model->graphs[key];
  // Once without: what is made on first use is made outside the capture.
  if (!std::exchange(graph.was_run, true)) return Forward(model, batch);
  if (!graph.graph) {
    auto captured = std::make_unique<at::cuda::CUDAGraph>();
    captured->capture_begin({0, 0}, cudaStreamCaptureModeRelaxed);
    try {
      Forward(model, batch);
    } catch (...) {
      try {
        captured->capture_end();  // the stream must leave its capture, whatever that is worth
      } catch (...) {
      }
      throw;
    }
    captured->capture_end();
    graph.graph = std::move(captured);
  }
  graph.graph->replay();
}

// What the step wants of the logits of the wanted rows, which are made first unless the pass has made them.
void GpuRunner::Head(Model* model, const Batch& batch, GpuStep* step) {
  const Buffers& b = *buffers_;
  if (batch.is_decode) return step->Take(batch.outcome, Input(0), 0, batch.rows);
  const cuda::Stream stream = CurrentCudaStream();
  const int64_t* rows = reinterpret_cast<const int64_t*>(Input(batch.inputs.offsets.wanted_rows));
  int32_t* sampled = model->sampled.last.mutable_data_ptr<int32_t>() + batch.outcome.first_row;
  for (int64_t begin = 0; begin < batch.wanted; begin += b.logits.size(0)) {
    const int64_t count = std::min(b.logits.size(0), batch.wanted - begin);
    cuda::TakeRows(cuda::Type::kBfloat16, b.normed.const_data_ptr(), rows + begin, b.head_in.mutable_data_ptr(), count,
                   config_.hidden, stream);
    const DecoderWeights& weights = model->weights->weights;
    Multiply(Rows(b.head_in, count), weights.head_VD, weights.tiled_head.get(), Rows(b.logits, count), {});
    cuda::Argmax(b.logits.const_data_ptr(), sampled + begin, count, config_.vocab, stream);
    step->Take(batch.outcome, Input(0), begin, count);
  }
}

namespace {

// Passes that a step is run in: single tokens and a few longer rows are replayed each for
// itself, for launching them together would take longer than reading the weights twice.
std::vector<std::vector<ForwardItem>> Divide(const std::vector<ForwardItem>& items) {
  const auto middle = std::find_if(items.begin(), items.end(), [](const ForwardItem& i) { return i.count > 1; });
  std::vector<ForwardItem> singles(items.begin(), middle), longer(middle, items.end());
  const bool is_plain = std::none_of(singles.begin(), singles.end(), HasPromptRows);
  if (singles.empty() || !is_plain || !IsForGraph(longer)) return {items};
  return {std::move(singles), std::move(longer)};
}

}  // namespace

std::unique_ptr<GpuStep> GpuRunner::Launch(const std::shared_ptr<const BaseModel>& base,
                                           const std::vector<ForwardItem>& items) {
  at::NoGradGuard no_grad;
  Model& model = ModelFor(base);
  slots_.BeginStep();
  auto step = std::make_unique<GpuStep>(items, buffers_->logits, &model.sampled);
  for (const std::vector<ForwardItem>& part : Divide(items)) {
    Batch batch = MakeBatch(part);
    batch.outcome = step->AddPass(part, &batch.inputs.values);
    Upload(batch.inputs);
    if (batch.is_captured) {
      Replay(&model, batch);
    } else {
      Forward(&model, batch);
    }
    Head(&model, batch, step.get());
  }
  step->EndPasses();
  return step;
}

}  // namespace attune
