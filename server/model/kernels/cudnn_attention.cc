#include "server/model/kernels/cudnn_attention.h"

#include <ATen/ATen.h>
#include <ATen/cudnn/Handle.h>
#include <cudnn_frontend.h>

#include <cmath>
#include <map>
#include <memory>
#include <tuple>
#include <unordered_map>

#include "absl/synchronization/mutex.h"

namespace attune::cudnn {
namespace {

namespace fe = cudnn_frontend;
using at::Tensor;
using TensorNode = std::shared_ptr<fe::graph::Tensor_attributes>;

enum Id : int64_t { kQ = 1, kK, kV, kO, kStats, kDo, kDq, kDk, kDv, kLengths, kQkvAt, kQAt, kKvAt, kHeadsAt };

// What a plan depends on. Of the batch, upper bounds: how long each sequence is, it reads.
struct Key {
  int device;
  bool backward;
  int64_t heads, kv_heads, head_dim, sequences, longest;
  auto operator<=>(const Key&) const = default;
};

void Check(fe::error_t status) { TORCH_CHECK(status.is_good(), "cuDNN: ", status.get_message()); }

struct Plan {
  absl::Mutex mutex;  // cuDNN's plans are not safe to launch from two threads at once
  fe::graph::Graph graph;
  int64_t workspace_bytes = 0;
};

// The operands of both directions. Rows are tokens, sequence after sequence: what a
// kernel sees as B x heads x S x D begins where the offsets say.
class Operands {
 public:
  Operands(const Key& key, fe::graph::Graph* graph) : key_(key), graph_(graph) {
    graph->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    lengths = Vector(kLengths, "lengths", key.sequences, fe::DataType_t::INT32);
    qkv_at = Vector(kQkvAt, "qkv_at", key.sequences + 1, fe::DataType_t::INT64);
    q_at = Vector(kQAt, "q_at", key.sequences + 1, fe::DataType_t::INT64);
    kv_at = Vector(kKvAt, "kv_at", key.sequences + 1, fe::DataType_t::INT64);
    heads_at = Vector(kHeadsAt, "heads_at", key.sequences + 1, fe::DataType_t::INT64);
    const int64_t row = (key.heads + 2 * key.kv_heads) * key.head_dim;
    q = graph->tensor(Rows(kQ, "q", key.heads, row, qkv_at));
    k = graph->tensor(Rows(kK, "k", key.kv_heads, row, qkv_at));
    v = graph->tensor(Rows(kV, "v", key.kv_heads, row, qkv_at));
  }

  // A matrix of `row` values a token, of which this is `heads` times head_dim.
  fe::graph::Tensor_attributes Rows(Id id, const char* name, int64_t heads, int64_t row, const TensorNode& at) const {
    fe::graph::Tensor_attributes result;
    Describe(id, name, heads, row, at, &result);
    return result;
  }
  void Describe(Id id, const char* name, int64_t heads, int64_t row, const TensorNode& at,
                fe::graph::Tensor_attributes* node) const {
    node->set_uid(id)
        .set_name(name)
        .set_dim({key_.sequences, heads, key_.longest, key_.head_dim})
        .set_stride({key_.longest * row, key_.head_dim, row, 1})
        .set_data_type(fe::DataType_t::BFLOAT16)
        .set_ragged_offset(at);
  }
  void DescribeStats(fe::graph::Tensor_attributes* node) const {
    node->set_uid(kStats)
        .set_name("stats")
        .set_dim({key_.sequences, key_.heads, key_.longest, 1})
        .set_stride({key_.longest * key_.heads, 1, key_.heads, 1})
        .set_data_type(fe::DataType_t::FLOAT)
        .set_ragged_offset(heads_at);
  }

  TensorNode q, k, v, lengths, qkv_at, q_at, kv_at, heads_at;

 private:
  TensorNode Vector(Id id, const char* name, int64_t count, fe::DataType_t type) const {
    fe::graph::Tensor_attributes node;
    node.set_uid(id).set_name(name).set_dim({count, 1, 1, 1}).set_stride({1, 1, 1, 1}).set_data_type(type);
    return graph_->tensor(node);
  }

  const Key key_;
  fe::graph::Graph* const graph_;
};

float ScoreScale(const Key& key) { return 1.0f / std::sqrt(static_cast<float>(key.head_dim)); }

void DescribeForward(const Key& key, fe::graph::Graph* graph) {
  Operands operands(key, graph);
  auto [out, stats] = graph->sdpa(operands.q, operands.k, operands.v,
                                  fe::graph::SDPA_attributes()
                                      .set_name("forward")
                                      .set_generate_stats(true)
                                      .set_attn_scale(ScoreScale(key))
                                      .set_causal_mask(true)
                                      .set_padding_mask(true)
                                      .set_seq_len_q(operands.lengths)
                                      .set_seq_len_kv(operands.lengths));
  operands.Describe(kO, "o", key.heads, key.heads * key.head_dim, operands.q_at, out.get());
  out->set_output(true);
  operands.DescribeStats(stats.get());
  stats->set_output(true);
}

// Its workspace has sequences * longest rows. Sized by the tokens that there are
// (set_max_total_seq_len_q), cuDNN 9.19 gives wrong gradients for all but the first sequence.
void DescribeBackward(const Key& key, fe::graph::Graph* graph) {
  Operands operands(key, graph);
  const int64_t q_row = key.heads * key.head_dim, kv_row = key.kv_heads * key.head_dim;
  const TensorNode out = graph->tensor(operands.Rows(kO, "o", key.heads, q_row, operands.q_at));
  const TensorNode dout = graph->tensor(operands.Rows(kDo, "do", key.heads, q_row, operands.q_at));
  fe::graph::Tensor_attributes stats_node;
  operands.DescribeStats(&stats_node);
  const TensorNode stats = graph->tensor(stats_node);
  auto [dq, dk, dv] = graph->sdpa_backward(operands.q, operands.k, operands.v, out, dout, stats,
                                           fe::graph::SDPA_backward_attributes()
                                               .set_name("backward")
                                               .set_attn_scale(ScoreScale(key))
                                               .set_causal_mask(true)
                                               .set_padding_mask(true)
                                               .set_seq_len_q(operands.lengths)
                                               .set_seq_len_kv(operands.lengths));
  operands.Describe(kDq, "dq", key.heads, q_row, operands.q_at, dq.get());
  operands.Describe(kDk, "dk", key.kv_heads, kv_row, operands.kv_at, dk.get());
  operands.Describe(kDv, "dv", key.kv_heads, kv_row, operands.kv_at, dv.get());
  for (const TensorNode& node : {dq, dk, dv}) node->set_output(true);
}

std::shared_ptr<Plan> MakePlan(const Key& key, cudnnHandle_t handle) {
  auto plan = std::make_shared<Plan>();
  key.backward ? DescribeBackward(key, &plan->graph) : DescribeForward(key, &plan->graph);
  Check(plan->graph.build(handle, {fe::HeurMode_t::A}));
  Check(plan->graph.get_workspace_size(plan->workspace_bytes));
  return plan;
}

// Plans are made once and kept for good: keys are few, and captured graphs replay their kernels.
std::shared_ptr<Plan> PlanFor(const Key& key, cudnnHandle_t handle) {
  static absl::Mutex mutex(absl::kConstInit);
  static auto* plans = new std::map<Key, std::shared_ptr<Plan>>();
  absl::MutexLock lock(&mutex);
  const auto found = plans->find(key);
  if (found != plans->end()) return found->second;
  return (*plans)[key] = MakePlan(key, handle);
}

int64_t RoundUp(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
// So that batches of any shapes share few plans.
int64_t PaddedSequences(const PackedSequences& sequences) { return RoundUp(sequences.starts_int32.size(0) - 1, 8); }
int64_t PaddedLongest(const PackedSequences& sequences) { return RoundUp(sequences.longest, 128); }

Key KeyOf(const Tensor& qkv, const AttentionShape& shape, const PackedSequences& sequences, bool backward) {
  return {qkv.get_device(), backward, shape.heads, shape.kv_heads, shape.head_dim, PaddedSequences(sequences),
          PaddedLongest(sequences)};
}

using Pointers = std::unordered_map<int64_t, void*>;

Pointers InputsOf(const Tensor& qkv, const AttentionShape& shape, const RaggedOffsets& offsets) {
  auto column = [&](int64_t first) { return qkv.narrow(1, first, 1).mutable_data_ptr(); };
  return {{kQ, column(0)},
          {kK, column(shape.q_size())},
          {kV, column(shape.q_size() + shape.kv_size())},
          {kLengths, offsets.lengths.mutable_data_ptr()},
          {kQkvAt, offsets.qkv.mutable_data_ptr()},
          {kQAt, offsets.q.mutable_data_ptr()},
          {kKvAt, offsets.kv.mutable_data_ptr()},
          {kHeadsAt, offsets.heads.mutable_data_ptr()}};
}

void Execute(const Key& key, Pointers pointers, const at::TensorOptions& options) {
  const cudnnHandle_t handle = at::native::getCudnnHandle();  // with the calling thread's stream
  const std::shared_ptr<Plan> plan = PlanFor(key, handle);
  const Tensor workspace = at::empty({plan->workspace_bytes}, options.dtype(at::kByte));
  absl::MutexLock lock(&plan->mutex);  // it only launches
  Check(plan->graph.execute(handle, pointers, workspace.mutable_data_ptr()));
}

}  // namespace

bool Available() { return true; }

int64_t WorkspaceRows(const PackedSequences& sequences) {
  return PaddedSequences(sequences) * PaddedLongest(sequences);
}

RaggedOffsets OffsetsOf(const PackedSequences& sequences, const AttentionShape& shape) {
  // Empty sequences at the end make up the number.
  const int64_t given = sequences.starts_int32.size(0), count = PaddedSequences(sequences);
  const Tensor end = sequences.starts_int32.narrow(0, given - 1, 1);
  const Tensor starts32 = at::cat({sequences.starts_int32, end.expand({count + 1 - given})});
  const Tensor starts = starts32.to(at::kLong);
  return {starts32.narrow(0, 1, count) - starts32.narrow(0, 0, count),
          starts * (shape.q_size() + 2 * shape.kv_size()), starts * shape.q_size(), starts * shape.kv_size(),
          starts * shape.heads};
}

Tensor AttentionForward(const Tensor& qkv, const AttentionShape& shape, const PackedSequences& sequences,
                        const RaggedOffsets& offsets, Tensor* log_sums) {
  const Tensor out = at::empty({qkv.size(0), shape.q_size()}, qkv.options());
  *log_sums = at::empty({qkv.size(0), shape.heads}, qkv.options().dtype(at::kFloat));
  Pointers pointers = InputsOf(qkv, shape, offsets);
  pointers[kO] = out.mutable_data_ptr();
  pointers[kStats] = log_sums->mutable_data_ptr();
  Execute(KeyOf(qkv, shape, sequences, false), std::move(pointers), qkv.options());
  return out;
}

AttentionGradients AttentionBackward(const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& log_sums,
                                     const AttentionShape& shape, const PackedSequences& sequences,
                                     const RaggedOffsets& offsets) {
  const AttentionGradients gradients = {at::empty({qkv.size(0), shape.q_size()}, qkv.options()),
                                        at::empty({qkv.size(0), shape.kv_size()}, qkv.options()),
                                        at::empty({qkv.size(0), shape.kv_size()}, qkv.options())};
  Pointers pointers = InputsOf(qkv, shape, offsets);
  pointers[kO] = out.mutable_data_ptr();
  pointers[kStats] = log_sums.mutable_data_ptr();
  pointers[kDo] = dout.mutable_data_ptr();
  pointers[kDq] = gradients.dq_TQ.mutable_data_ptr();
  pointers[kDk] = gradients.dk_TK.mutable_data_ptr();
  pointers[kDv] = gradients.dv_TK.mutable_data_ptr();
  Execute(KeyOf(qkv, shape, sequences, true), std::move(pointers), qkv.options());
  return gradients;
}

}  // namespace attune::cudnn
