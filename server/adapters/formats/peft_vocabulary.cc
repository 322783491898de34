#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/formats/peft_kinds.h"

namespace attune {
namespace {

// The embedding or the head, as PEFT's files name it.
struct VocabularyModule {
  const char* path;
  const char* a;
  const char* b;
  std::vector<int64_t> a_shape, b_shape;  // but for the rank: A's columns, B's rows
};

VocabularyModule EmbeddingOf(const ModelConfig& config) {
  return {kEmbeddingModule, ".lora_embedding_A", ".lora_embedding_B", {config.vocab}, {config.hidden}};
}
VocabularyModule HeadOf(const ModelConfig& config) {
  return {kHeadModule, ".lora_A.weight", ".lora_B.weight", {config.hidden}, {config.vocab}};
}

std::string FileName(const char* path, const char* end) { return absl::StrCat(kPeftPrefix, path, end); }

// Whether the file's LoRA holds a module. PEFT makes the head's of the embedding's, and the other way round, where a tied
// model's are to stay tied.
absl::StatusOr<bool> IsTarget(const PeftConfig& peft, const ModelConfig& config, const VocabularyModule& module) {
  ATTUNE_ASSIGN_OR_RETURN(const bool embedding, peft.targets.Match(kEmbeddingModule));
  ATTUNE_ASSIGN_OR_RETURN(const bool head, peft.targets.Match(kHeadModule));
  if (config.tied_head && peft.ensure_weight_tying) return embedding || head;
  return module.path == absl::string_view(kHeadModule) ? head : embedding;
}

absl::Status TakeLora(const PeftConfig& peft, const ModelConfig& config, const VocabularyModule& module,
                      TensorReader* reader, LoraModule* out, at::Tensor* table_VD) {
  ATTUNE_ASSIGN_OR_RETURN(const bool is_target, IsTarget(peft, config, module));
  const std::string a = FileName(module.path, module.a), b = FileName(module.path, module.b);
  if (!is_target) {
    // PEFT would leave it out silently.
    if (!reader->Has(a)) return absl::OkStatus();
    return BadAdapter(absl::StrCat("it has tensors for '", module.path, "', which is not in target_modules"));
  }
  if (peft.use_dora) return UnsupportedAdapter(absl::StrCat("use_dora on '", module.path, "'"));
  ATTUNE_ASSIGN_OR_RETURN(const int64_t rank, peft.RankOf(module.path));
  ATTUNE_ASSIGN_OR_RETURN(out->scale, peft.ScaleOf(module.path, rank));
  ATTUNE_ASSIGN_OR_RETURN(out->a_RI, reader->Take(a, {rank, module.a_shape[0]}));
  ATTUNE_ASSIGN_OR_RETURN(out->b_OR, reader->Take(b, {module.b_shape[0], rank}));
  // The table beneath, which PEFT writes beside a LoRA on embeddings, and puts in the base model's place.
  const std::string beneath = FileName(module.path, kBaseLayer);
  if (!reader->Has(beneath)) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(*table_VD, reader->Take(beneath, {config.vocab, config.hidden}));
  return absl::OkStatus();
}

absl::Status TakeSaved(const PeftConfig& peft, const ModelConfig& config, const VocabularyModule& module,
                       TensorReader* reader, at::Tensor* table_VD) {
  const std::string name = FileName(module.path, ".weight"), old_name = FileName(module.path, ".modules_to_save.weight");
  const bool is_there = reader->Has(name) || reader->Has(old_name);
  const bool follows = config.tied_head && peft.ensure_weight_tying && !peft.modules_to_save.empty() && is_there;
  if (peft.modules_to_save.count(module.path) == 0 && !follows) {
    if (!is_there) return absl::OkStatus();
    return BadAdapter(absl::StrCat("it has a table for '", module.path, "', which is not in modules_to_save"));
  }
  if (table_VD->defined()) return BadAdapter(absl::StrCat("'", module.path, "' is in target_modules and in modules_to_save"));
  ATTUNE_ASSIGN_OR_RETURN(*table_VD, reader->Take(reader->Has(old_name) ? old_name : name, {config.vocab, config.hidden}));
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadVocabulary(const PeftConfig& peft, const ModelConfig& config, TensorReader* reader, LoraAdapter* lora) {
  const VocabularyModule embedding = EmbeddingOf(config), head = HeadOf(config);
  for (const char* path : {kEmbeddingModule, kHeadModule}) {
    ATTUNE_ASSIGN_OR_RETURN(const bool is_target, peft.targets.Match(path));
    if (is_target && peft.modules_to_save.count(path) > 0) {
      return BadAdapter(absl::StrCat("'", path, "' is in target_modules and in modules_to_save"));
    }
  }
  ATTUNE_RETURN_IF_ERROR(TakeLora(peft, config, embedding, reader, &lora->embedding, &lora->embedding_VD));
  ATTUNE_RETURN_IF_ERROR(TakeLora(peft, config, head, reader, &lora->head, &lora->head_VD));
  const at::Tensor beneath_embedding = lora->embedding_VD, beneath_head = lora->head_VD;
  ATTUNE_RETURN_IF_ERROR(TakeSaved(peft, config, embedding, reader, &lora->embedding_VD));
  ATTUNE_RETURN_IF_ERROR(TakeSaved(peft, config, head, reader, &lora->head_VD));
  if (!config.tied_head) return absl::OkStatus();
  // A tied model's table is one: what is put beneath a LoRA is what its other user reads, too.
  if (beneath_embedding.defined() && !lora->head_VD.defined()) lora->head_VD = beneath_embedding;
  if (beneath_head.defined() && !lora->embedding_VD.defined()) lora->embedding_VD = beneath_head;
  if (!peft.ensure_weight_tying || peft.modules_to_save.empty()) return absl::OkStatus();
  if (!lora->head_VD.defined()) lora->head_VD = lora->embedding_VD;
  if (!lora->embedding_VD.defined()) lora->embedding_VD = lora->head_VD;
  return absl::OkStatus();
}

std::vector<std::string> SaveVocabulary(const LoraAdapter& lora, TensorWriter* writer) {
  std::vector<std::string> saved;
  const auto add = [&](const LoraModule& module, const at::Tensor& table_VD, const VocabularyModule& names,
                       const char* short_name) {
    if (module.defined()) {
      writer->Add(FileName(names.path, names.a), module.a_RI);
      writer->Add(FileName(names.path, names.b), module.b_OR);
    }
    if (!table_VD.defined()) return;
    writer->Add(FileName(names.path, module.defined() ? kBaseLayer : ".weight"), table_VD);
    if (!module.defined()) saved.push_back(short_name);
  };
  add(lora.embedding, lora.embedding_VD, EmbeddingOf({}), "embed_tokens");
  add(lora.head, lora.head_VD, HeadOf({}), "lm_head");
  return saved;
}

}  // namespace attune
