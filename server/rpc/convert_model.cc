#include "server/rpc/convert_model.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/rpc/check.h"

namespace attune {

absl::Status CheckModelText(const v1::Model& model, absl::string_view field) {
  ATTUNE_RETURN_IF_ERROR(CheckLength(model.display_name(), 200, absl::StrCat(field, ".display_name")));
  ATTUNE_RETURN_IF_ERROR(CheckLength(model.description(), 4096, absl::StrCat(field, ".description")));
  return CheckLabels(model.labels(), absl::StrCat(field, ".labels"));
}

absl::StatusOr<ModelRegistry::ImportOptions> ToImportOptions(const v1::ImportModelRequest& request) {
  if (request.source_path().empty()) return InvalidField("source_path", "is required");
  if (!request.model_id().empty()) ATTUNE_RETURN_IF_ERROR(CheckId(request.model_id(), "model_id"));
  ATTUNE_RETURN_IF_ERROR(CheckLength(request.request_id(), 128, "request_id"));
  ATTUNE_RETURN_IF_ERROR(CheckModelText(request.model(), "model"));
  ModelRegistry::ImportOptions out;
  out.source_path = request.source_path();
  out.id = request.model_id();
  if (!request.base_model().empty()) {
    ATTUNE_ASSIGN_OR_RETURN(out.base_model, ParseName(kModels, request.base_model(), "base_model"));
  }
  out.display_name = request.model().display_name();
  out.description = request.model().description();
  out.labels = ToMap(request.model().labels());
  out.request_id = request.request_id();
  return out;
}

v1::Model ToProto(const ModelInfo& info) {
  v1::Model out;
  out.set_name(absl::StrCat(kModels, "/", info.id));
  out.set_display_name(info.display_name);
  out.set_description(info.description);
  out.mutable_labels()->insert(info.labels.begin(), info.labels.end());
  out.set_state(v1::Model::READY);
  out.set_kind(static_cast<v1::Model::Kind>(info.kind));
  if (IsAdapter(info.kind)) out.set_base_model(absl::StrCat(kModels, "/", info.base_model));
  if (!info.tuning_job.empty()) out.set_tuning_job(absl::StrCat(kTuningJobs, "/", info.tuning_job));
  out.set_prompt_template(info.prompt_template);
  out.set_completion_template(info.completion_template);
  out.set_dataset_kind(static_cast<v1::Dataset::Kind>(info.dataset_kind));
  v1::Architecture* shape = out.mutable_architecture();
  shape->set_family(info.architecture.family);
  shape->set_layers(info.architecture.layers);
  shape->set_hidden_size(info.architecture.hidden_size);
  shape->set_intermediate_size(info.architecture.intermediate_size);
  shape->set_attention_heads(info.architecture.attention_heads);
  shape->set_key_value_heads(info.architecture.key_value_heads);
  shape->set_vocabulary_size(info.architecture.vocabulary_size);
  shape->set_context_tokens(info.architecture.context_tokens);
  shape->set_parameters(info.architecture.parameters);
  out.set_size_bytes(info.size_bytes);
  out.mutable_metrics()->insert(info.metrics.begin(), info.metrics.end());
  *out.mutable_create_time() = ToTimestamp(info.create_time);
  out.set_etag(info.etag);
  return out;
}

}  // namespace attune
