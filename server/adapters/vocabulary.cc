#include "server/adapters/vocabulary.h"

#include <ATen/ATen.h>

#include "common/error.h"
#include "server/model/decoder.h"

namespace attune {
namespace {

at::Tensor OnCpu(const at::Tensor& x) { return x.to(at::kCPU, at::kFloat); }

// Whole tables that hold what the base model's does, in its type, become undefined.
void LetGo(const at::Tensor& of_base_VD, at::Tensor* table_VD) {
  if (table_VD->defined() && at::equal(table_VD->to(of_base_VD.options()), of_base_VD)) *table_VD = at::Tensor();
}

}  // namespace

at::Tensor EmbeddingRanks(const ModelConfig& config, const LoraModule& module, const at::Tensor& ids_T,
                          at::ScalarType type) {
  const at::Tensor u_TR = module.a_RI.index_select(1, ids_T).t().to(type);
  return u_TR * (module.scale * EmbeddingScale(config, module.a_RI.scalar_type()));
}

at::Tensor EmbedUnder(const ModelConfig& config, const at::Tensor& embedding_VD, const LoraAdapter* lora,
                      const at::Tensor& ids_T, at::ScalarType type) {
  const bool is_own = lora && lora->embedding_VD.defined();
  const at::Tensor x = EmbedRows(config, is_own ? lora->embedding_VD : embedding_VD, ids_T, type);
  if (!lora || !lora->embedding.defined()) return x;
  return x + at::mm(EmbeddingRanks(config, lora->embedding, ids_T, type), lora->embedding.b_OR.to(type).t());
}

at::Tensor LogitsUnder(const at::Tensor& head_VD, const LoraAdapter* lora, const at::Tensor& x_TD) {
  const at::Tensor w_VD = lora && lora->head_VD.defined() ? lora->head_VD : head_VD;
  const at::Tensor y = at::linear(x_TD, w_VD.to(x_TD.scalar_type()));
  if (!lora || !lora->head.defined()) return y;
  const at::Tensor u_TR = at::linear(x_TD, lora->head.a_RI.to(x_TD.scalar_type()));
  return y + at::linear(u_TR, lora->head.b_OR.to(x_TD.scalar_type())) * lora->head.scale;
}

at::Tensor MergedEmbedding(const at::Tensor& embedding_VD, const LoraAdapter& lora) {
  const at::Tensor table = OnCpu(lora.embedding_VD.defined() ? lora.embedding_VD : embedding_VD);
  if (!lora.embedding.defined()) return table;
  return table + at::matmul(OnCpu(lora.embedding.b_OR), OnCpu(lora.embedding.a_RI)).t() * lora.embedding.scale;
}

at::Tensor MergedHead(const at::Tensor& head_VD, const LoraAdapter& lora) {
  const at::Tensor table = OnCpu(lora.head_VD.defined() ? lora.head_VD : head_VD);
  if (!lora.head.defined()) return table;
  return table + at::matmul(OnCpu(lora.head.b_OR), OnCpu(lora.head.a_RI)) * lora.head.scale;
}

void LetGoOfTablesBeneath(const BaseModel& base, LoraAdapter* lora) {
  const bool is_shared = lora->embedding_VD.defined() && lora->embedding_VD.is_same(lora->head_VD);
  auto let_go = [&](const LoraModule& adapted, const at::Tensor& of_base_VD, at::Tensor* table_VD, at::Tensor* other_VD) {
    if (!adapted.defined()) return;
    if (of_base_VD.defined()) {
      LetGo(of_base_VD, table_VD);
    } else {
      *table_VD = at::Tensor();
    }
    if (is_shared && !table_VD->defined()) *other_VD = at::Tensor();
  };
  let_go(lora->embedding, base.weights.embedding_VD, &lora->embedding_VD, &lora->head_VD);
  let_go(lora->head, base.weights.head_VD, &lora->head_VD, &lora->embedding_VD);
}

absl::Status PrepareVocabulary(const BaseModel& base, Adapter* adapter) {
  if (!adapter->changes_vocabulary()) return absl::OkStatus();
  LoraAdapter& lora = *adapter->lora;
  const auto bytes = [&] {
    int64_t sum = lora.embedding_VD.defined() ? lora.embedding_VD.nbytes() : 0;
    if (lora.head_VD.defined() && !lora.head_VD.is_same(lora.embedding_VD)) sum += lora.head_VD.nbytes();
    return sum;
  };
  const int64_t before = bytes();
  LetGo(base.weights.embedding_VD, &lora.embedding_VD);
  LetGo(base.weights.head_VD, &lora.head_VD);
  adapter->bytes -= before - bytes();
  const bool is_gpu = base.target.device == ComputeTarget::Device::kCuda;
  if (!is_gpu || !base.target.batch_invariant || !adapter->changes_vocabulary()) return absl::OkStatus();
  return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_ON_THIS_DEVICE",
                   "--batch-invariant serves, on a GPU, no adapter that has an embedding or a head of its own.");
}

}  // namespace attune
