#include "server/engine/model_runner.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "server/adapters/vocabulary.h"
#include "server/model/decoder.h"
#include "server/model/kernels/packed_weight.h"
#include "server/model/kernels/tiled_weight.h"
#include "server/model/rope.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

// Rows of the batch that run under one adapter.
struct AdapterRows {
  const Adapter* adapter;
  int64_t first, count;
};

// Rows of the batch that are an adapter's virtual tokens, from its token number `token` on.
struct VirtualRows {
  const Adapter* adapter;
  int64_t first, count, token;
};

// x W^T, so many rows at a time, filled up with zeros: libraries choose kernels, which round each in its
// own way, by the number of rows.
at::Tensor InBlocks(const at::Tensor& x, const at::Tensor& w) {
  constexpr int64_t kRows = 16;
  const int64_t rows = x.size(0), blocks = (rows + kRows - 1) / kRows;
  at::Tensor padded = x.new_zeros({blocks * kRows, x.size(1)});
  padded.narrow(0, 0, rows).copy_(x);
  at::Tensor y = x.new_empty({blocks * kRows, w.size(0)});
  for (int64_t first = 0; first < blocks * kRows; first += kRows) {
    y.narrow(0, first, kRows).copy_(at::linear(padded.narrow(0, first, kRows), w));
  }
  return y.narrow(0, 0, rows).contiguous();
}

// The same for a product of an adapter's, which is small.
at::Tensor AdapterProduct(const at::Tensor& x, const at::Tensor& w, bool batch_invariant) {
  return batch_invariant ? InBlocks(x.to(w.scalar_type()), w) : at::linear(x.to(w.scalar_type()), w);
}

// x W^T by whichever product is faster for so few, or so many, rows, or by one that rounds them all
// alike; x may be in fp32 where w is in bf16, and so is the result then.
at::Tensor Product(const at::Tensor& x, const at::Tensor& w, const PackedWeight* packed, const TiledWeight* tiled,
                   bool batch_invariant) {
  if (tiled && x.scalar_type() == at::kBFloat16 && x.size(0) <= TiledWeight::kMostRows) {
    const at::Tensor y = x.new_empty({x.size(0), w.size(0)});
    MultiplyTiled(x.contiguous(), *tiled, y);
    return y;
  }
  if (batch_invariant && packed) return packed->Multiply(x.contiguous());
  if (batch_invariant) return InBlocks(x.to(w.scalar_type()), w).to(x.scalar_type());
  const bool is_bf16 = w.scalar_type() == at::kBFloat16;
  if (packed && is_bf16 && x.size(0) <= PackedWeight::MaxBf16Tokens()) return packed->MultiplyBf16(x.contiguous());
  if (packed && !is_bf16 && x.size(0) <= PackedWeight::kMaxTokens) return packed->Multiply(x.contiguous());
  return at::linear(x.to(w.scalar_type()), w).to(x.scalar_type());
}

class PagedOps final : public LayerOps {
 public:
  PagedOps(const BaseModel& base, const PagedBatch& batch, std::vector<AdapterRows> adapters,
           std::vector<VirtualRows> virtual_rows, KvCache* cache)
      : base_(base),
        rope_(RopeTablesOf(base)),
        batch_(batch),
        adapters_(std::move(adapters)),
        virtual_rows_(std::move(virtual_rows)),
        cache_(cache) {}

  at::Tensor Multiply(int64_t layer, Linear which, const at::Tensor& x) override {
    const LayerWeights& weights = base_.weights.layers[layer];
    const int index = static_cast<int>(which);
    const at::Tensor scaled = which == Linear::kDown ? ScaleInner(layer, x) : x;
    at::Tensor y = Product(scaled, weights.linear[index], weights.packed[index].get(), weights.tiled[index].get(),
                           base_.target.batch_invariant);
    for (const AdapterRows& rows : adapters_) {
      if (rows.adapter->lora) AddLora(rows, layer, which, x, y);
    }
    if (weights.bias[index].defined()) y.add_(weights.bias[index]);
    for (const AdapterRows& rows : adapters_) {
      if (rows.adapter->ia3) ScaleOutputs(rows, layer, which, y);
    }
    return y;
  }

  at::Tensor Attend(int64_t layer, at::Tensor qkv_TE) override {
    PlacePrefixes(layer, qkv_TE);
    return PagedAttention(qkv_TE, AttentionShapeOf(base_.config, layer), rope_.Of(base_.config, layer), batch_, cache_,
                          layer);
  }

 private:
  // IA3's scales of down_proj's inputs.
  at::Tensor ScaleInner(int64_t layer, const at::Tensor& x) const {
    at::Tensor scaled = x;
    for (const AdapterRows& rows : adapters_) {
      if (!rows.adapter->ia3 || !rows.adapter->ia3->layers[layer].inner_I.defined()) continue;
      if (scaled.is_same(x)) scaled = x.clone();
      scaled.narrow(0, rows.first, rows.count).mul_(rows.adapter->ia3->layers[layer].inner_I);
    }
    return scaled;
  }

  void ScaleOutputs(const AdapterRows& rows, int64_t layer, Linear which, const at::Tensor& y) const {
    for (int p = 0; p < kProjections; ++p) {
      const at::Tensor& scale = rows.adapter->ia3->layers[layer].output[p];
      const ProjectionSlice slice = SliceOf(base_.config, static_cast<Projection>(p));
      if (slice.linear != which || !scale.defined()) continue;
      y.narrow(0, rows.first, rows.count).narrow(1, slice.row, slice.rows).mul_(scale);
    }
  }

  void PlacePrefixes(int64_t layer, const at::Tensor& qkv) const {
    for (const VirtualRows& rows : virtual_rows_) {
      if (!rows.adapter->prefix) continue;
      const at::Tensor trained = rows.adapter->prefix->keys_values_LNE[layer].narrow(0, rows.token, rows.count);
      qkv.narrow(0, rows.first, rows.count).narrow(1, base_.config.q_size(), trained.size(1)).copy_(trained);
    }
  }

  void AddLora(const AdapterRows& rows, int64_t layer, Linear which, const at::Tensor& x, const at::Tensor& y) {
    const at::Tensor part = x.narrow(0, rows.first, rows.count);
    for (int p = 0; p < kProjections; ++p) {
      const LoraModule& module = rows.adapter->lora->layers[layer][p];
      const ProjectionSlice slice = SliceOf(base_.config, static_cast<Projection>(p));
      if (slice.linear != which || !module.defined()) continue;
      at::Tensor to = y.narrow(0, rows.first, rows.count).narrow(1, slice.row, slice.rows);
      AddTerm(module, part, to);
      if (module.output_scale_O.defined()) to.mul_(module.output_scale_O);
    }
  }

  void AddTerm(const LoraModule& module, const at::Tensor& x, at::Tensor to) const {
    if (base_.target.batch_invariant) {
      to.add_(InBlocks(InBlocks(x.to(module.a_RI.scalar_type()), module.a_RI), module.b_OR), module.scale);
      return;
    }
    const at::Tensor u = at::mm(x.to(module.a_RI.scalar_type()), module.a_RI.t());
    if (u.scalar_type() == to.scalar_type()) {
      to.addmm_(u, module.b_OR.t(), 1, module.scale);
    } else {
      to.add_(at::mm(u, module.b_OR.t()), module.scale);
    }
  }

  const BaseModel& base_;
  const RopeTables rope_;
  const PagedBatch& batch_;
  const std::vector<AdapterRows> adapters_;
  const std::vector<VirtualRows> virtual_rows_;
  KvCache* const cache_;
};

// What the items amount to as rows of one batch.
struct BatchRows {
  std::vector<PagedSegment> segments;
  std::vector<int64_t> ids, wanted;
  std::vector<AdapterRows> adapters;
  std::vector<VirtualRows> virtual_rows;
};

BatchRows Collect(const std::vector<ForwardItem>& items) {
  BatchRows rows;
  for (const ForwardItem& item : items) {
    const int64_t first = rows.ids.size();
    rows.segments.push_back({first, item.count, item.context, *item.pages});
    for (int64_t i = 0; i < item.count; ++i) rows.ids.push_back(std::max(item.tokens[i], 0));
    for (int64_t i = item.first_logits; i < item.count; ++i) rows.wanted.push_back(first + i);
    if (!item.adapter) continue;
    int64_t virtual_tokens = 0;
    while (virtual_tokens < item.count && item.tokens[virtual_tokens] < 0) ++virtual_tokens;
    if (virtual_tokens > 0) rows.virtual_rows.push_back({item.adapter, first, virtual_tokens, -1 - item.tokens[0]});
    if (!rows.adapters.empty() && rows.adapters.back().adapter == item.adapter) {
      rows.adapters.back().count += item.count;
    } else {
      rows.adapters.push_back({item.adapter, first, item.count});
    }
  }
  return rows;
}

// Puts soft prompts over the rows of their virtual tokens.
void PlaceSoftPrompts(const std::vector<VirtualRows>& virtual_rows, const at::Tensor& x) {
  for (const VirtualRows& rows : virtual_rows) {
    if (!rows.adapter->soft_prompt) continue;
    const at::Tensor& prompt_ND = rows.adapter->soft_prompt->embeddings_ND;
    x.narrow(0, rows.first, rows.count).copy_(prompt_ND.narrow(0, rows.token, rows.count));
  }
}

// What adapters make of the embedding, over their rows.
void PlaceOwnEmbeddings(const BaseModel& base, const std::vector<AdapterRows>& adapters, const at::Tensor& ids_T,
                        const at::Tensor& x) {
  for (const AdapterRows& rows : adapters) {
    const LoraAdapter* lora = rows.adapter->lora.get();
    if (!lora || !lora->changes_embedding()) continue;
    const at::Tensor ids = ids_T.narrow(0, rows.first, rows.count);
    at::Tensor to = x.narrow(0, rows.first, rows.count);
    if (lora->embedding_VD.defined()) to.copy_(EmbedRows(base.config, lora->embedding_VD, ids, x.scalar_type()));
    if (!lora->embedding.defined()) continue;
    const at::Tensor u_TR = EmbeddingRanks(base.config, lora->embedding, ids, x.scalar_type());
    to.add_(AdapterProduct(u_TR, lora->embedding.b_OR, base.target.batch_invariant));
  }
}

// Logits of rows under one head: the adapter's, or, without one, the base model's.
at::Tensor LogitsOf(const BaseModel& base, const LoraAdapter* lora, const at::Tensor& x) {
  const DecoderWeights& weights = base.weights;
  const bool batch_invariant = base.target.batch_invariant;
  if (!lora) return Product(x, weights.head_VD, weights.packed_head.get(), weights.tiled_head.get(), batch_invariant);
  at::Tensor y = lora->head_VD.defined() ? Product(x, lora->head_VD, nullptr, nullptr, batch_invariant)
                                         : LogitsOf(base, nullptr, x);
  if (!lora->head.defined()) return y;
  const at::Tensor u_TR = AdapterProduct(x, lora->head.a_RI, batch_invariant);
  return y.add_(AdapterProduct(u_TR, lora->head.b_OR, batch_invariant), lora->head.scale);
}

// Logits of the wanted rows, whose hidden states are `last`, each under its own model's head.
at::Tensor WantedLogits(const BaseModel& base, const std::vector<AdapterRows>& adapters,
                        const std::vector<int64_t>& wanted, const at::Tensor& last) {
  const auto head_of = [&](int64_t row) -> const LoraAdapter* {
    for (const AdapterRows& rows : adapters) {
      if (row < rows.first || row >= rows.first + rows.count) continue;
      return rows.adapter->lora && rows.adapter->lora->changes_head() ? rows.adapter->lora.get() : nullptr;
    }
    return nullptr;
  };
  std::vector<at::Tensor> parts;
  for (size_t begin = 0, end = 0; begin < wanted.size(); begin = end) {
    const LoraAdapter* lora = head_of(wanted[begin]);
    while (end < wanted.size() && head_of(wanted[end]) == lora) ++end;
    const int64_t count = static_cast<int64_t>(end - begin);
    parts.push_back(LogitsOf(base, lora, last.narrow(0, static_cast<int64_t>(begin), count)));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

at::Tensor ForwardPart(const BaseModel& base, const std::vector<ForwardItem>& items, KvCache* cache) {
  at::NoGradGuard no_grad;  // each thread has its own
  const at::Device device = DeviceOf(base.target);
  BatchRows rows = Collect(items);
  const at::Tensor ids = at::tensor(rows.ids, at::kLong).to(device);
  const at::Tensor x = EmbedRows(base.config, base.weights.embedding_VD, ids, ServingTypeOf(base.target));
  PlaceOwnEmbeddings(base, rows.adapters, ids, x);
  PlaceSoftPrompts(rows.virtual_rows, x);
  PagedBatch batch = MakePagedBatch(std::move(rows.segments), cache->page_tokens, device);
  batch.is_alike = base.target.batch_invariant;
  PagedOps ops(base, batch, rows.adapters, std::move(rows.virtual_rows), cache);
  at::Tensor hidden = RunDecoder(base.config, base.weights, x, &ops);
  if (rows.wanted.empty()) return at::empty({0, base.config.vocab}, at::kFloat);
  at::Tensor last = hidden.index_select(0, at::tensor(rows.wanted, at::kLong).to(device));
  const at::Tensor logits = WantedLogits(base, rows.adapters, rows.wanted, last);
  return CapLogits(base.config, logits.to(at::kCPU, at::kFloat)).contiguous();
}

// Fewer rows than this a thread are not worth taking apart: the weights are read once a part.
constexpr int64_t kMinPartRows = 64;

int64_t CountRows(const std::vector<ForwardItem>& items) {
  int64_t rows = 0;
  for (const ForwardItem& item : items) rows += item.count;
  return rows;
}

// How many passes side by side, one a thread, a batch is worth.
int64_t CountParts(const BaseModel& base, const std::vector<ForwardItem>& items) {
  if (base.target.device != ComputeTarget::Device::kCpu || items.size() == 1) return 1;
  const int64_t threads = at::get_num_threads();
  const int64_t parts = std::clamp<int64_t>(CountRows(items) / kMinPartRows, 1, threads);
  return 2 * parts <= threads ? 1 : parts;  // else half of them would be idle
}

// Cuts a batch between items into at most so many parts of about the same number of rows.
std::vector<std::vector<ForwardItem>> Cut(const std::vector<ForwardItem>& items, int64_t parts) {
  const int64_t rows = CountRows(items);
  std::vector<std::vector<ForwardItem>> result;
  int64_t done = 0;
  for (const ForwardItem& item : items) {
    const int64_t part = std::min(parts - 1, done * parts / rows);
    if (result.empty() || part >= static_cast<int64_t>(result.size())) result.emplace_back();
    result.back().push_back(item);
    done += item.count;
  }
  return result;
}

}  // namespace

at::Tensor ForwardBatch(const BaseModel& base, const std::vector<ForwardItem>& items, KvCache* cache) {
  const int64_t count = CountParts(base, items);
  if (count == 1) return ForwardPart(base, items, cache);
  // Many small products that each wait for every thread would cost more time.
  const std::vector<std::vector<ForwardItem>> parts = Cut(items, count);
  std::vector<at::Tensor> logits(parts.size());
  at::parallel_for(0, parts.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) logits[i] = ForwardPart(base, parts[i], cache);
  });
  return at::cat(logits, 0);
}

}  // namespace attune
