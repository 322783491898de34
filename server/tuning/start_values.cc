#include "server/tuning/start_values.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error.h"
#include "server/adapters/formats/peft.h"
#include "server/adapters/vocabulary.h"
#include "server/model/rope.h"
#include "server/model/torch_target.h"
#include "server/tuning/checkpoint.h"
#include "server/tuning/defaults.h"

namespace attune {
namespace {

constexpr char kField[] = "tuning_job.start_from";

absl::Status Uneven() { return InvalidField(kField, "is an adapter whose layers or modules differ in shape"); }

// Of a shape's setting that must be the start's, or unset.
absl::Status Differs(const std::string& field, const std::string& of_start) {
  return InvalidField(absl::StrCat("tuning_job.", field),
                      absl::StrCat("must be ", of_start, ", as of start_from, or unset"));
}

absl::StatusOr<std::vector<TargetModule>> TargetsOf(const LoraAdapter& lora) {
  std::vector<TargetModule> targets;
  for (int p = 0; p < kProjections; ++p) {
    const bool is_target = !lora.layers.empty() && lora.layers[0][p].defined();
    if (is_target) targets.push_back(static_cast<TargetModule>(p + 1));
    for (const auto& layer : lora.layers) {
      if (layer[p].defined() != is_target) return Uneven();
    }
  }
  return targets;
}

// Whether a module has the adapter's rank and scale, or is not there.
bool IsUsual(const LoraAdapter& lora, const LoraModule& module) {
  const double scale = lora.alpha / (lora.use_rslora ? std::sqrt(static_cast<double>(lora.rank)) : lora.rank);
  return !module.defined() || (module.a_RI.size(0) == lora.rank && std::abs(module.scale - scale) <= 1e-6 * std::abs(scale));
}

// Adds what is adapted or whole outside the layers.
absl::Status AddVocabulary(const LoraModule& adapted, const at::Tensor& table_VD, TargetModule module, LoraSpec* spec) {
  if (adapted.defined() && table_VD.defined()) {
    return InvalidField(kField, absl::StrCat("has a LoRA on ", TargetModuleName(module), " over a table of its own, which no "
                                                                                         "method trains"));
  }
  if (adapted.defined()) spec->target_modules.push_back(module);
  if (table_VD.defined()) spec->modules_to_save.push_back(module);
  return absl::OkStatus();
}

absl::StatusOr<MethodSpec> MethodOf(const LoraAdapter& lora) {
  LoraSpec spec;
  spec.rank = static_cast<int32_t>(lora.rank);
  spec.alpha = lora.alpha;
  spec.use_rslora = lora.use_rslora;
  spec.use_dora = lora.use_dora;
  ATTUNE_ASSIGN_OR_RETURN(spec.target_modules, TargetsOf(lora));
  ATTUNE_RETURN_IF_ERROR(AddVocabulary(lora.embedding, lora.embedding_VD, TargetModule::kEmbedTokens, &spec));
  ATTUNE_RETURN_IF_ERROR(AddVocabulary(lora.head, lora.head_VD, TargetModule::kLmHead, &spec));
  for (const auto& layer : lora.layers) {
    for (const LoraModule& module : layer) {
      if (!IsUsual(lora, module)) return Uneven();
    }
  }
  if (!IsUsual(lora, lora.embedding) || !IsUsual(lora, lora.head)) return Uneven();
  return spec;
}

bool Scales(const Ia3Adapter::Layer& layer, int p) {
  return static_cast<Projection>(p) == Projection::kDown ? layer.inner_I.defined() : layer.output[p].defined();
}

absl::StatusOr<MethodSpec> MethodOf(const Ia3Adapter& ia3) {
  Ia3Spec spec;
  for (int p = 0; p < kProjections; ++p) {
    const bool is_target = !ia3.layers.empty() && Scales(ia3.layers[0], p);
    if (is_target) spec.target_modules.push_back(static_cast<TargetModule>(p + 1));
    for (const Ia3Adapter::Layer& layer : ia3.layers) {
      if (Scales(layer, p) != is_target) return Uneven();
    }
    // Of the other way to scale the feed-forward part no method of Attune's makes any.
    if (!ia3.layers.empty() && ia3.layers[0].output[static_cast<int>(Projection::kDown)].defined()) return Uneven();
  }
  return spec;
}

std::set<TargetModule> AsSet(const std::vector<TargetModule>& modules) { return {modules.begin(), modules.end()}; }

std::string Names(const std::set<TargetModule>& modules) {
  return absl::StrJoin(modules, ", ",
                       [](std::string* out, TargetModule m) { absl::StrAppend(out, TargetModuleName(m)); });
}

std::set<TargetModule> Every() {
  return {TargetModule::kQProj,    TargetModule::kKProj,  TargetModule::kVProj,   TargetModule::kOProj,
          TargetModule::kGateProj, TargetModule::kUpProj, TargetModule::kDownProj};
}

// None of a start's are its method's default.
absl::Status MergeTargets(const std::vector<TargetModule>& start, const std::set<TargetModule>& if_none,
                          const std::string& field, std::vector<TargetModule>* asked) {
  const std::set<TargetModule> has = start.empty() ? if_none : AsSet(start);
  if (!asked->empty() && has.empty()) return InvalidField(absl::StrCat("tuning_job.", field), "must be unset, as of start_from");
  if (!asked->empty() && AsSet(*asked) != has) return Differs(field, Names(has));
  asked->assign(has.begin(), has.end());
  return absl::OkStatus();
}

absl::StatusOr<MethodSpec> Merge(LoraSpec asked, const LoraSpec& start) {
  const int32_t rank = start.rank ? start.rank : 16;
  const double alpha = start.alpha > 0 ? start.alpha : 2.0 * rank;
  if (asked.rank && asked.rank != rank) return Differs("lora.rank", absl::StrCat(rank));
  if (asked.alpha > 0 && asked.alpha != alpha) return Differs("lora.alpha", absl::StrCat(alpha));
  if (asked.use_rslora != start.use_rslora) {
    return InvalidField("tuning_job.lora.use_rslora",
                        absl::StrCat("must be ", start.use_rslora ? "true" : "false", ", as of start_from"));
  }
  if (asked.use_dora != start.use_dora) {
    return InvalidField("tuning_job.lora.use_dora",
                        absl::StrCat("must be ", start.use_dora ? "true" : "false", ", as of start_from"));
  }
  asked.rank = rank;
  asked.alpha = alpha;
  ATTUNE_RETURN_IF_ERROR(MergeTargets(start.target_modules, Every(), "lora.target_modules", &asked.target_modules));
  ATTUNE_RETURN_IF_ERROR(MergeTargets(start.modules_to_save, {}, "lora.modules_to_save", &asked.modules_to_save));
  if (asked.learning_rate_ratio > 1 && Contains(asked.target_modules, TargetModule::kEmbedTokens)) {
    return InvalidField("tuning_job.lora.learning_rate_ratio", "is not supported with embed_tokens, which start_from adapts");
  }
  return asked;
}

absl::StatusOr<MethodSpec> Merge(Ia3Spec asked, const Ia3Spec& start) {
  const std::set<TargetModule> usual = {TargetModule::kKProj, TargetModule::kVProj, TargetModule::kDownProj};
  ATTUNE_RETURN_IF_ERROR(MergeTargets(start.target_modules, usual, "ia3.target_modules", &asked.target_modules));
  return asked;
}

// Of a soft prompt or a prefix.
template <typename Spec>
absl::StatusOr<MethodSpec> MergeVirtualTokens(Spec asked, const Spec& start, const std::string& method) {
  const int32_t count = static_cast<int32_t>(VirtualTokens(start));
  if (asked.num_virtual_tokens && asked.num_virtual_tokens != count) {
    return Differs(absl::StrCat(method, ".num_virtual_tokens"), absl::StrCat(count));
  }
  asked.num_virtual_tokens = count;
  return asked;
}
absl::StatusOr<MethodSpec> Merge(SoftPromptSpec asked, const SoftPromptSpec& start) {
  return MergeVirtualTokens(asked, start, "soft_prompt");
}
absl::StatusOr<MethodSpec> Merge(PrefixSpec asked, const PrefixSpec& start) {
  return MergeVirtualTokens(asked, start, "prefix");
}

absl::StatusOr<MethodSpec> Merge(PartialSpec asked, const PartialSpec& start) {
  if (asked == start) return asked;
  return InvalidField("tuning_job.partial",
                      "must select what start_from's checkpoint holds: the same settings as its job's");
}
absl::StatusOr<MethodSpec> Merge(FullSpec asked, const FullSpec&) { return asked; }
absl::StatusOr<MethodSpec> Merge(TextPromptSpec, const TextPromptSpec&) {
  return InvalidField(kField, "must be unset with text_prompt");
}

absl::Status OtherMethod(absl::string_view of_start, const MethodSpec& asked) {
  return InvalidField("tuning_job.method",
                      absl::StrCat("must be ", of_start, ", as of start_from, not ", MethodName(asked)));
}

absl::Status CheckBase(const std::string& of_start, const JobSpec& spec) {
  if (of_start == spec.base_model) return absl::OkStatus();
  return InvalidField("tuning_job.base_model",
                      absl::StrCat("must be models/", of_start, ", which start_from was tuned over"));
}

void Copy(const at::Tensor& from, const at::Tensor& to) {
  if (to.defined()) at::Tensor(to).copy_(from);
}

void CopyModule(const LoraModule& from, const LoraModule& to) {
  Copy(from.a_RI, to.a_RI);
  Copy(from.b_OR, to.b_OR);
  Copy(from.magnitude_O, to.magnitude_O);
}

// Both of one shape.
void CopyAdapter(const Adapter& from, const Adapter& to) {
  at::NoGradGuard no_grad;
  if (to.lora) {
    for (size_t i = 0; i < to.lora->layers.size(); ++i) {
      for (int p = 0; p < kProjections; ++p) {
        CopyModule(from.lora->layers[i][p], to.lora->layers[i][p]);
      }
    }
    CopyModule(from.lora->embedding, to.lora->embedding);
    CopyModule(from.lora->head, to.lora->head);
    Copy(from.lora->embedding_VD, to.lora->embedding_VD);
    Copy(from.lora->head_VD, to.lora->head_VD);
  }
  if (to.soft_prompt) Copy(from.soft_prompt->embeddings_ND, to.soft_prompt->embeddings_ND);
  if (to.prefix) Copy(from.prefix->keys_values_LNE, to.prefix->keys_values_LNE);
  if (to.ia3) {
    for (size_t i = 0; i < to.ia3->layers.size(); ++i) {
      Copy(from.ia3->layers[i].inner_I, to.ia3->layers[i].inner_I);
      for (int p = 0; p < kProjections; ++p) Copy(from.ia3->layers[i].output[p], to.ia3->layers[i].output[p]);
    }
  }
}

absl::StatusOr<StartValues> FromAdapter(const TuningRunnerDeps& deps, const JobSpec& spec, const ModelInfo& info,
                                        const BaseModel& base) {
  // The values as they were trained, whatever the device computes in.
  ComputeTarget on_host;
  on_host.type = ComputeTarget::Type::kFloat32;
  ATTUNE_ASSIGN_OR_RETURN(
      std::shared_ptr<Adapter> adapter,
      LoadPeft(deps.registry->Directory(info.id), base.config, on_host, MakeRopeTables(base.config)));
  if (adapter->lora) {
    ATTUNE_RETURN_IF_ERROR(CatchTorch([&] {
      LetGoOfTablesBeneath(base, adapter->lora.get());
      return absl::OkStatus();
    }));
  }
  ATTUNE_ASSIGN_OR_RETURN(const MethodSpec has, MethodOf(*adapter));
  StartValues start;
  ATTUNE_ASSIGN_OR_RETURN(start.method, MergeMethods(spec.method, has));
  start.put = [adapter](Method* method) {
    CopyAdapter(*adapter, *method->adapter());
    return absl::OkStatus();
  };
  return start;
}

// A model that differs from its base model where nothing trains would not be what was named.
absl::Status PutWeights(const BaseModel& start, const BaseModel& base, Method* method) {
  at::NoGradGuard no_grad;
  const std::vector<NamedParameter> values = NamedParameters(start.config, start.weights);
  const std::vector<NamedParameter> frozen = NamedParameters(base.config, base.weights);
  if (values.size() != frozen.size()) return InvalidField(kField, "is a network of another shape");
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].tensor.sizes() != frozen[i].tensor.sizes())
      return InvalidField(kField, "is a network of another shape");
    const auto& trained = method->parameters();
    const auto found = std::find_if(trained.begin(), trained.end(),
                                    [&](const Parameter& parameter) { return parameter.name == values[i].name; });
    if (found != trained.end()) {
      Copy(values[i].tensor, found->leaf);
    } else if (!at::equal(values[i].tensor, frozen[i].tensor)) {
      return InvalidField("tuning_job.partial", absl::StrCat("must train '", values[i].name,
                                                             "', in which start_from differs from the base "
                                                             "model; or make start_from the base model"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StartValues> FromModel(const TuningRunnerDeps& deps, const JobSpec& spec, const BaseModel& base,
                                      bool loads) {
  const std::string& id = spec.start_from->model;
  ATTUNE_ASSIGN_OR_RETURN(const ModelInfo info, deps.registry->Get(id));
  if (info.kind == ModelKind::kBase || info.kind == ModelKind::kTextPrompt) {
    return InvalidField(kField, info.kind == ModelKind::kBase ? "must be a tuned model; this one is a base model"
                                                              : "must hold trained values; this one is a text prompt");
  }
  ATTUNE_RETURN_IF_ERROR(CheckBase(info.base_model, spec));
  if (info.kind != ModelKind::kFullWeights) return FromAdapter(deps, spec, info, base);
  if (!TrainsWeights(spec.method)) return OtherMethod("full or partial", spec.method);
  StartValues start{spec.method, nullptr};
  if (!loads) return start;
  ATTUNE_ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, deps.residency->Acquire(id));
  start.put = [model, &base](Method* method) { return PutWeights(*model->base, base, method); };
  return start;
}

absl::StatusOr<StartValues> FromCheckpoint(const TuningRunnerDeps& deps, const JobSpec& spec) {
  const std::string name = absl::StrCat(spec.start_from->job, "/", spec.start_from->step);
  const std::string directory = absl::StrCat(deps.checkpoint_directory, "/", name);
  if (!std::filesystem::exists(directory)) {
    return MakeError(
        absl::StatusCode::kNotFound, "CHECKPOINT_NOT_FOUND",
        absl::StrCat("there is no tuningJobs/", spec.start_from->job, "/checkpoints/", spec.start_from->step,
                     " that training could start from; attune jobs checkpoints lists those there are"));
  }
  ATTUNE_ASSIGN_OR_RETURN(const TrainingState state, ReadTrainingState(directory));
  if (!state.method) {
    return InvalidField(
        kField, "is a checkpoint of an older version, which does not tell its shape; start from the job's model");
  }
  ATTUNE_RETURN_IF_ERROR(CheckBase(state.base_model, spec));
  StartValues start;
  ATTUNE_ASSIGN_OR_RETURN(start.method, MergeMethods(spec.method, *state.method));
  start.put = [directory](Method* method) { return LoadParameters(directory, method); };
  return start;
}

}  // namespace

absl::StatusOr<MethodSpec> MethodOf(const Adapter& adapter) {
  if (adapter.lora) return MethodOf(*adapter.lora);
  if (adapter.ia3) return MethodOf(*adapter.ia3);
  const int32_t tokens = static_cast<int32_t>(adapter.virtual_tokens());
  if (adapter.prefix) return PrefixSpec{.num_virtual_tokens = tokens};
  return SoftPromptSpec{.num_virtual_tokens = tokens};
}

absl::StatusOr<MethodSpec> MergeMethods(const MethodSpec& asked, const MethodSpec& start) {
  if (asked.index() != start.index()) return OtherMethod(MethodName(start), asked);
  return std::visit([&](const auto& spec) { return Merge(spec, std::get<std::decay_t<decltype(spec)>>(start)); },
                    asked);
}

absl::StatusOr<StartValues> FindStartValues(const TuningRunnerDeps& deps, const JobSpec& spec, const BaseModel& base,
                                            bool loads) {
  return spec.start_from->model.empty() ? FromCheckpoint(deps, spec) : FromModel(deps, spec, base, loads);
}

}  // namespace attune
