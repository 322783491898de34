#ifndef ATTUNE_SERVER_ADAPTERS_RESIDENCY_H_
#define ATTUNE_SERVER_ADAPTERS_RESIDENCY_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/adapters/registry.h"
#include "server/device/memory_budget.h"
#include "server/model/compute_target.h"
#include "server/model/generation_config.h"
#include "server/tokenizer/chat_template.h"
#include "server/tokenizer/tokenizer.h"

// No torch headers here: gRPC handlers include this file.
namespace attune {

struct BaseModel;      // server/model/base_model.h
struct Adapter;        // server/adapters/adapter.h
struct TextPrompt;     // server/data/text_prompt.h

// A model in memory, pinned by whoever holds the pointer: deleting or replacing the
// model does not touch requests that run. Immutable: thread-safe.
struct ServedModel {
  ModelInfo info;
  std::shared_ptr<const BaseModel> base;
  std::shared_ptr<const Adapter> adapter;  // null for models with own weights and text prompts
  // Keys caches: models of one uid compute the same. A text prompt has its base model's; else never
  // used twice in a process.
  uint64_t uid = 0;
  std::map<std::string, double> label_offsets;  // of a calibrated text prompt; see TextPrompt
  // Of a text prompt with a pool of examples, which each request's are taken from; else null. See
  // server/evaluation/example_retrieval.h.
  std::shared_ptr<const TextPrompt> retrieving_prompt;

  // Set by whoever makes the model, so that handlers need not know BaseModel: views
  // into `base`, and what a request may use of the context (soft prompt tokens are taken off).
  const Tokenizer* tokenizer_view = nullptr;
  const ChatTemplate* chat_view = nullptr;  // null if the model has none
  int64_t context = 0;
  // Of imported models. Tuned ones answer greedily unless asked otherwise: they were trained to give one answer.
  GenerationDefaults generation;

  const Tokenizer& tokenizer() const { return *tokenizer_view; }
  const ChatTemplate* chat_template() const { return chat_view; }
  int64_t context_tokens() const { return context; }
};

// Keeps models in memory and loads them on first use. Models with own weights stay
// until deleted, and their weights are taken from the memory budget until the last
// holder lets go; adapters leave, least recently used first, above `adapter_bytes`.
// Adapters and text prompts of one base share its weights. Thread-safe; a load blocks only callers
// that want the same model.
class Residency {
 public:
  // `registry` must outlive this; `budget` this and every model. Without a budget
  // weights are not counted.
  Residency(const ModelRegistry* registry, const ComputeTarget& target, int64_t adapter_bytes,
            MemoryBudget* budget = nullptr);
  ~Residency();

  // NOT_FOUND (MODEL_NOT_FOUND); RESOURCE_EXHAUSTED (OUT_OF_MEMORY, OUT_OF_MEMORY_BUDGET).
  absl::StatusOr<std::shared_ptr<const ServedModel>> Acquire(absl::string_view id);
  // A quantised copy of a model with own weights, for an adapter to train over: beside the
  // one that serves, shared by its holders, dropped with the last of them. Its weights are
  // not taken from the budget: whoever asks holds the memory. Loads wait for one another.
  absl::StatusOr<std::shared_ptr<const ServedModel>> AcquireQuantized(absl::string_view id, WeightFormat format);
  // A model with own weights without these: configuration, tokenizer, chat template. Not kept.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Describe(absl::string_view id);
  // Drops a model that was deleted; holders keep it until they let go.
  void Drop(absl::string_view id);

  int64_t resident_adapters() const;
  int64_t resident_bytes() const;

 private:
  struct Entry;
  absl::StatusOr<std::shared_ptr<const ServedModel>> Load(const ModelInfo& info);
  // Of models with own weights; adapters are refused as by PlanRun.
  absl::StatusOr<std::shared_ptr<const ServedModel>> LoadUncounted(const ModelInfo& info, WeightFormat format);
  absl::StatusOr<std::shared_ptr<const BaseModel>> LoadWeights(const ModelInfo& info);
  void EvictAdapters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ModelRegistry* const registry_;
  const std::unique_ptr<ComputeTarget> target_;
  const int64_t adapter_bytes_;
  MemoryBudget* const budget_;
  mutable absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<Entry>, std::less<>> entries_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex quantized_load_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);  // loads of quantised models take turns
  std::map<std::pair<std::string, WeightFormat>, std::weak_ptr<const ServedModel>> quantized_
      ABSL_GUARDED_BY(mutex_);
  uint64_t next_uid_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t clock_ ABSL_GUARDED_BY(mutex_) = 0;  // counts uses, for least recently used
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_RESIDENCY_H_
