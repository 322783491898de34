#ifndef ATTUNE_SERVER_ADAPTERS_VOCABULARY_H_
#define ATTUNE_SERVER_ADAPTERS_VOCABULARY_H_

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "server/adapters/adapter.h"

// Embedding and head where an adapter has its own: whole tables, LoRA on them, or LoRA over tables. `lora` may be null.
namespace attune {

// The rows of the table for ids_T (int64, on its device), scaled as EmbedRows does, in type `type`. Takes part in autograd.
at::Tensor EmbedUnder(const ModelConfig& config, const at::Tensor& embedding_VD, const LoraAdapter* lora,
                      const at::Tensor& ids_T, at::ScalarType type);
// What LoRA adds to these rows without its B, times its scale and the embedding's: T x R in type `type`.
at::Tensor EmbeddingRanks(const ModelConfig& config, const LoraModule& module, const at::Tensor& ids_T, at::ScalarType type);

// The logits of hidden states x_TD, without the configuration's cap, in their type. Takes part in autograd.
at::Tensor LogitsUnder(const at::Tensor& head_VD, const LoraAdapter* lora, const at::Tensor& x_TD);

// The whole tables, LoRA merged, fp32 on the CPU. REQUIRES: lora.changes_embedding(), lora.changes_head().
at::Tensor MergedEmbedding(const at::Tensor& embedding_VD, const LoraAdapter& lora);
at::Tensor MergedHead(const at::Tensor& head_VD, const LoraAdapter& lora);

// Lets go of tables beneath a LoRA on them that are the base model's own, and of a tied model's other user's, where it shares
// them: what is left trains as it is. Of a base model without weights, all are taken to be its own.
void LetGoOfTablesBeneath(const BaseModel& base, LoraAdapter* lora);

// Makes an adapter that was loaded ready to serve over `base`: tables that are the base model's own are let go, and no longer
// counted in its bytes. FAILED_PRECONDITION (NOT_ON_THIS_DEVICE) on a GPU that serves with batch_invariant, if tables or LoRA
// remain. Throws what libtorch throws.
absl::Status PrepareVocabulary(const BaseModel& base, Adapter* adapter);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_VOCABULARY_H_
