#include "server/adapters/residency.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/error.h"
#include "common/log.h"
#include "common/resource_name.h"
#include "server/adapters/adapter.h"
#include "server/adapters/dora.h"
#include "server/adapters/formats/peft.h"
#include "server/adapters/lora_codes.h"
#include "server/adapters/perplexity.h"
#include "server/adapters/vocabulary.h"
#include "server/data/text_prompt.h"
#include "server/model/base_model.h"
#include "server/model/compute_target.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

// Chains of models that were tuned from each other end here: a longer one is a cycle in a damaged database.
constexpr int kMaxChain = 64;

bool HasOwnWeights(ModelKind kind) { return kind == ModelKind::kBase || kind == ModelKind::kFullWeights; }

// Where a model's tokenizer is: with the imported model at the end of its chain.
absl::StatusOr<std::string> TokenizerDirectory(const ModelRegistry& registry, ModelInfo info) {
  for (int i = 0; i < kMaxChain && info.kind != ModelKind::kBase; ++i) {
    ATTUNE_ASSIGN_OR_RETURN(info, registry.Get(info.base_model));
  }
  return registry.Directory(info.id);
}

std::shared_ptr<ServedModel> MakeServed(const ModelInfo& info, std::shared_ptr<const BaseModel> base,
                                        std::shared_ptr<const Adapter> adapter) {
  auto served = std::make_shared<ServedModel>();
  served->info = info;
  served->tokenizer_view = base->tokenizer.get();
  served->chat_view = base->chat_template.get();
  served->context = base->config.context - (adapter ? adapter->virtual_tokens() : 0);
  if (info.kind == ModelKind::kBase) served->generation = base->generation;
  served->base = std::move(base);
  served->adapter = std::move(adapter);
  return served;
}

// Computes what its base model computes, so it goes by the same uid: what is cached of one's prompts
// serves the other's.
absl::StatusOr<std::shared_ptr<const ServedModel>> MakeTextPrompt(const ModelInfo& info, const ServedModel& base,
                                                                  const std::string& directory) {
  ATTUNE_ASSIGN_OR_RETURN(TextPrompt prompt, ReadTextPrompt(directory));
  std::shared_ptr<ServedModel> served = MakeServed(info, base.base, nullptr);
  served->uid = base.uid;
  served->label_offsets = prompt.label_offsets;
  if (prompt.pool) {
    const absl::Status fits = CheckEmbeddings(*prompt.pool, base.base->config.hidden, "pool");
    if (!fits.ok()) {
      return MakeError(absl::StatusCode::kDataLoss, "MODEL_DAMAGED",
                       absl::StrCat(TextPromptPath(directory), ": ", fits.message()));
    }
    prompt.trials.clear();  // nobody who serves looks at them
    served->retrieving_prompt = std::make_shared<const TextPrompt>(std::move(prompt));
  }
  return std::shared_ptr<const ServedModel>(std::move(served));
}

}  // namespace

// All fields are guarded by Residency::mutex_.
struct Residency::Entry {
  bool loaded = false;  // or failed
  absl::Status failure;
  std::shared_ptr<const ServedModel> model;
  uint64_t last_use = 0;

  int64_t bytes() const {
    if (!model || model->info.kind == ModelKind::kTextPrompt) return 0;
    return model->adapter ? model->adapter->bytes : model->base->bytes;
  }
  bool is_adapter() const { return model && model->adapter; }
};

Residency::Residency(const ModelRegistry* registry, const ComputeTarget& target, int64_t adapter_bytes,
                     MemoryBudget* budget)
    : registry_(registry),
      target_(std::make_unique<ComputeTarget>(target)),
      adapter_bytes_(adapter_bytes),
      budget_(budget) {}

Residency::~Residency() = default;

absl::StatusOr<std::shared_ptr<const ServedModel>> Residency::LoadUncounted(const ModelInfo& info,
                                                                            WeightFormat format) {
  const absl::Time start = absl::Now();
  ATTUNE_ASSIGN_OR_RETURN(std::string tokenizer_directory, TokenizerDirectory(*registry_, info));
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const BaseModel> base,
                          LoadBaseModel(registry_->Directory(info.id), tokenizer_directory, *target_, format));
  std::shared_ptr<ServedModel> served = MakeServed(info, std::move(base), nullptr);
  {
    absl::MutexLock lock(&mutex_);
    served->uid = next_uid_++;
  }
  if (format != WeightFormat::kNone) {
    LogInfo("model.loaded", {{"model", absl::StrCat(kModels, "/", info.id)},
                             {"quantization", format == WeightFormat::kInt8 ? "int8" : "nf4"},
                             {"seconds", absl::StrCat(absl::ToDoubleSeconds(absl::Now() - start))}});
  }
  return std::shared_ptr<const ServedModel>(std::move(served));
}

absl::StatusOr<std::shared_ptr<const ServedModel>> Residency::AcquireQuantized(absl::string_view id,
                                                                               WeightFormat format) {
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, registry_->Get(id));
  // An adapter has no weights to quantise: whoever asked says what is wrong with it.
  if (!HasOwnWeights(info.kind)) return Acquire(id);
  const std::pair<std::string, WeightFormat> key{std::string(id), format};
  absl::MutexLock load_lock(&quantized_load_mutex_);
  {
    absl::MutexLock lock(&mutex_);
    if (std::shared_ptr<const ServedModel> model = quantized_[key].lock()) return model;
  }
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> served, LoadUncounted(info, format));
  absl::MutexLock lock(&mutex_);
  quantized_[key] = served;
  return served;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> Residency::Describe(absl::string_view id) {
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, registry_->Get(id));
  return HasOwnWeights(info.kind) ? LoadUncounted(info, WeightFormat::kNone) : Acquire(id);
}

absl::StatusOr<std::shared_ptr<const ServedModel>> Residency::Acquire(absl::string_view id) {
  std::shared_ptr<Entry> entry;
  {
    absl::MutexLock lock(&mutex_);
    auto it = entries_.find(id);
    if (it != entries_.end()) {
      entry = it->second;
      mutex_.Await(absl::Condition(&entry->loaded));
      if (!entry->model) return entry->failure;
      entry->last_use = ++clock_;
      return entry->model;
    }
    entry = std::make_shared<Entry>();
    entries_.emplace(std::string(id), entry);
  }
  absl::StatusOr<ModelInfo> info = registry_->Get(id);
  absl::StatusOr<std::shared_ptr<const ServedModel>> model = info.ok() ? Load(*info) : info.status();

  absl::MutexLock lock(&mutex_);
  entry->loaded = true;
  entry->last_use = ++clock_;
  if (model.ok()) {
    entry->model = *model;
    EvictAdapters();
    return model;
  }
  entry->failure = model.status();
  // Drop may have been here, and somebody else have begun anew.
  auto it = entries_.find(id);
  if (it != entries_.end() && it->second == entry) entries_.erase(it);
  return model;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> Residency::Load(const ModelInfo& info) {
  // Whoever loads, a handler say, has no more to compute afterwards.
  const absl::Cleanup release = ReleaseThreads;
  const absl::Time start = absl::Now();
  const std::string directory = registry_->Directory(info.id);
  std::shared_ptr<ServedModel> served;
  if (HasOwnWeights(info.kind)) {
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const BaseModel> base, LoadWeights(info));
    served = MakeServed(info, std::move(base), nullptr);
  } else {
    ATTUNE_ASSIGN_OR_RETURN(ModelInfo base_info, registry_->Get(info.base_model));
    if (!HasOwnWeights(base_info.kind)) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "ADAPTER_ON_ADAPTER",
                       absl::StrCat("'", info.id, "' is an adapter over '", base_info.id, "', which is one too."));
    }
    ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> base, Acquire(info.base_model));
    if (info.kind == ModelKind::kTextPrompt) return MakeTextPrompt(info, *base, directory);
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Adapter> adapter, LoadPeft(directory, base->base->config, *target_,
                            RopeTablesOf(*base->base)));
    if (adapter->changes_vocabulary()) {
      ATTUNE_RETURN_IF_ERROR(CatchTorch([&] { return PrepareVocabulary(*base->base, adapter.get()); }));
    }
    if (adapter->lora && adapter->lora->use_dora) {
      ATTUNE_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
        PrepareDora(*base->base, adapter->lora.get());
        Synchronize(*target_);
        return absl::OkStatus();
      }));
    }
    // Embeddings and heads of an adapter's own are served by other kernels.
    if (adapter->lora && target_->int8_loras && !adapter->changes_vocabulary()) {
      ATTUNE_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
        AddLoraCodes(adapter.get());
        Synchronize(*target_);
        if (!adapter->lora->has_codes) return absl::OkStatus();
        LogInfo("model.decode_loras",
                {{"model", absl::StrCat(kModels, "/", info.id)},
                 {"format", "int8"},
                 {"error_percent", absl::StrFormat("%.2f", 100 * LoraCodesError(*adapter->lora))}});
        return absl::OkStatus();
      }));
    }
    served = MakeServed(info, base->base, std::move(adapter));
  }
  {
    absl::MutexLock lock(&mutex_);
    served->uid = next_uid_++;
  }
  LogInfo("model.loaded", {{"model", absl::StrCat(kModels, "/", info.id)},
                           {"seconds", absl::StrCat(absl::ToDoubleSeconds(absl::Now() - start))}});
  return std::shared_ptr<const ServedModel>(std::move(served));
}

// What decoding by blocks costs in quality, so that whoever asked for it can tell.
static absl::Status LogDecodingLoss(const std::string& id, const BaseModel& base, const ComputeTarget& target) {
  return CatchTorch([&] {
    const PerplexityPair found = MeasurePerplexity(base);
    LogInfo("model.decode_weights",
            {{"model", absl::StrCat(kModels, "/", id)},
             {"format", DecodeWeightsName(target.decode_weights)},
             {"perplexity", absl::StrFormat("%.3f", found.decoding)},
             {"perplexity_as_loaded", absl::StrFormat("%.3f", found.dense)},
             {"change_percent", absl::StrFormat("%+.2f", 100 * (found.decoding / found.dense - 1))}});
    return absl::OkStatus();
  });
}

absl::StatusOr<std::shared_ptr<const BaseModel>> Residency::LoadWeights(const ModelInfo& info) {
  // Goes when the model's last holder lets go.
  struct Counted {
    MemoryBudget::Reservation memory, more_memory;
    std::shared_ptr<const BaseModel> base;
  };
  const std::string directory = registry_->Directory(info.id);
  auto counted = std::make_shared<Counted>();
  int64_t foreseen = 0;
  if (budget_) {
    // Before loading: to find out by running out of memory would hurt those who have some.
    ATTUNE_ASSIGN_OR_RETURN(ModelConfig config, LoadConfig(directory));
    foreseen = WeightBytes(config, *target_, WeightFormat::kDense);
    ATTUNE_ASSIGN_OR_RETURN(counted->memory, budget_->Reserve(foreseen, absl::StrCat("the weights of ", kModels, "/", info.id)));
  }
  ATTUNE_ASSIGN_OR_RETURN(std::string tokenizer_directory, TokenizerDirectory(*registry_, info));
  ATTUNE_ASSIGN_OR_RETURN(counted->base, LoadBaseModel(directory, tokenizer_directory, *target_));
  // Blocks of the file's own may be larger than those that were asked for.
  const int64_t unforeseen = counted->base->bytes - foreseen;
  if (budget_ && unforeseen > 0) {
    ATTUNE_ASSIGN_OR_RETURN(counted->more_memory,
                            budget_->Reserve(unforeseen, absl::StrCat("the weights of ", kModels, "/", info.id)));
  }
  if (target_->decode_weights != ComputeTarget::DecodeWeights::kAsLoaded) {
    ATTUNE_RETURN_IF_ERROR(LogDecodingLoss(info.id, *counted->base, *target_));
  }
  return std::shared_ptr<const BaseModel>(counted, counted->base.get());
}

void Residency::Drop(absl::string_view id) {
  absl::MutexLock lock(&mutex_);
  for (WeightFormat format : {WeightFormat::kInt8, WeightFormat::kNf4}) quantized_.erase({std::string(id), format});
  auto it = entries_.find(id);
  if (it != entries_.end()) entries_.erase(it);
}

// Adapters that somebody holds stay: to forget them would free nothing, and load them twice.
void Residency::EvictAdapters() {
  for (;;) {
    int64_t bytes = 0;
    auto oldest = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      const Entry& entry = *it->second;
      if (!entry.is_adapter()) continue;
      bytes += entry.bytes();
      const bool idle = entry.model.use_count() == 1 && entry.last_use != clock_;
      if (idle && (oldest == entries_.end() || entry.last_use < oldest->second->last_use)) oldest = it;
    }
    if (bytes <= adapter_bytes_ || oldest == entries_.end()) return;
    LogInfo("model.evicted", {{"model", absl::StrCat(kModels, "/", oldest->first)}});
    entries_.erase(oldest);
  }
}

int64_t Residency::resident_adapters() const {
  absl::MutexLock lock(&mutex_);
  int64_t adapters = 0;
  for (const auto& [id, entry] : entries_) adapters += entry->is_adapter() ? 1 : 0;
  return adapters;
}

int64_t Residency::resident_bytes() const {
  absl::MutexLock lock(&mutex_);
  int64_t bytes = 0;
  for (const auto& [id, entry] : entries_) bytes += entry->bytes();
  return bytes;
}

}  // namespace attune
