#include "server/rpc/model_service.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/adapters/publish_text_prompt.h"
#include "server/evaluation/example_retrieval.h"
#include "server/rpc/check.h"
#include "server/rpc/convert_model.h"
#include "server/rpc/convert_text_prompt.h"
#include "server/rpc/paging.h"

namespace attune {
namespace {

constexpr absl::string_view kService = "ModelService";

absl::StatusOr<std::string> ModelId(Call& call, const std::string& name, absl::string_view field = "name") {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ParseName(kModels, name, field));
  call.Note("model", name);
  return id;
}

// Whether a path stays below the folder that it is relative to.
bool StaysBelow(absl::string_view path) {
  if (path.empty() || path.front() == '/' || path.find('\0') != absl::string_view::npos) return false;
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

}  // namespace

grpc::Status ModelService::ImportModel(grpc::ServerContext* context, const v1::ImportModelRequest* request,
                                       v1::Model* response) {
  return ServeCall(context, deps_.metrics, kService, "ImportModel", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(ModelRegistry::ImportOptions options, ToImportOptions(*request));
    ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, deps_.models->Import(options));
    *response = ToProto(info);
    call.Note("model", response->name());
    return absl::OkStatus();
  });
}

grpc::Status ModelService::GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                                    v1::Model* response) {
  return ServeCall(context, deps_.metrics, kService, "GetModel", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, ModelId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, deps_.models->Get(id));
    *response = ToProto(info);
    return absl::OkStatus();
  });
}

grpc::Status ModelService::ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                                      v1::ListModelsResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "ListModels", [&](Call&) -> absl::Status {
    std::string next;
    ATTUNE_ASSIGN_OR_RETURN(std::vector<ModelInfo> models,
                            ListPage(kModels, *request, [&](int limit, int64_t before) {
                              return deps_.models->List(limit, before);
                            }, &next));
    for (const ModelInfo& info : models) *response->add_models() = ToProto(info);
    response->set_next_page_token(next);
    return absl::OkStatus();
  });
}

absl::Status ModelService::DoUpdate(Call& call, const v1::UpdateModelRequest& request, v1::Model* response) {
  const v1::Model& model = request.model();
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ModelId(call, model.name(), "model.name"));
  ATTUNE_RETURN_IF_ERROR(CheckModelText(model, "model"));
  if (request.update_mask().paths().empty()) return InvalidField("update_mask", "must name at least one field");
  const std::map<std::string, std::string> labels = ToMap(model.labels());
  ModelRegistry::Changes changes;
  for (const std::string& path : request.update_mask().paths()) {
    const bool all = path == "*";
    if (!all && path != "display_name" && path != "description" && path != "labels") {
      return InvalidField("update_mask", absl::StrCat("'", path, "' cannot be updated; display_name, description and "
                                                                 "labels can"));
    }
    if (all || path == "display_name") changes.display_name = &model.display_name();
    if (all || path == "description") changes.description = &model.description();
    if (all || path == "labels") changes.labels = &labels;
  }
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, deps_.models->Update(id, changes, model.etag()));
  *response = ToProto(info);
  return absl::OkStatus();
}

grpc::Status ModelService::UpdateModel(grpc::ServerContext* context, const v1::UpdateModelRequest* request,
                                       v1::Model* response) {
  return ServeCall(context, deps_.metrics, kService, "UpdateModel",
                   [&](Call& call) { return DoUpdate(call, *request, response); });
}

absl::Status ModelService::DoDelete(Call& call, const v1::DeleteModelRequest& request) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ModelId(call, request.name()));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> users, deps_.job_store->ActiveUsersOfModel(id));
  ATTUNE_RETURN_IF_ERROR(CheckUnused("model", "MODEL_IN_USE", "tuning_jobs", users));
  ATTUNE_ASSIGN_OR_RETURN(users, deps_.comparison_store->ActiveUsersOfModel(id));
  ATTUNE_RETURN_IF_ERROR(CheckUnused("model", "MODEL_IN_USE", "comparisons", users));
  ATTUNE_RETURN_IF_ERROR(deps_.models->Delete(id, request.etag()));
  deps_.drop(id);
  deps_.metrics->ForgetModel(id);
  return absl::OkStatus();
}

grpc::Status ModelService::DeleteModel(grpc::ServerContext* context, const v1::DeleteModelRequest* request,
                                       google::protobuf::Empty*) {
  return ServeCall(context, deps_.metrics, kService, "DeleteModel",
                   [&](Call& call) { return DoDelete(call, *request); });
}

absl::Status ModelService::DoExport(Call& call, const v1::ExportModelRequest& request,
                                    v1::ExportModelResponse* response) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ModelId(call, request.name()));
  if (!v1::ExportModelRequest::Format_IsValid(request.format())) return InvalidField("format", "is no known format");
  if (!request.destination().empty() && !StaysBelow(request.destination())) {
    return InvalidField("destination", "must be a path below the export root, without '..'");
  }
  ExportRequest options;
  options.model = id;
  options.format = static_cast<ExportRequest::Format>(request.format());
  options.destination = request.destination().empty() ? id : request.destination();
  ATTUNE_ASSIGN_OR_RETURN(ExportOutcome outcome, deps_.export_model(options));
  response->set_path(outcome.path);
  for (const std::string& file : outcome.files) response->add_files(file);
  response->set_size_bytes(outcome.size_bytes);
  return absl::OkStatus();
}

grpc::Status ModelService::ExportModel(grpc::ServerContext* context, const v1::ExportModelRequest* request,
                                       v1::ExportModelResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "ExportModel",
                   [&](Call& call) { return DoExport(call, *request, response); });
}

absl::Status ModelService::DoGetTextPrompt(Call& call, const v1::GetTextPromptRequest& request,
                                           v1::TextPrompt* response) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ModelId(call, request.name()));
  ATTUNE_ASSIGN_OR_RETURN(ModelInfo info, deps_.models->Get(id));
  if (info.kind != ModelKind::kTextPrompt) {
    return MakeError(absl::StatusCode::kFailedPrecondition, "NOT_A_TEXT_PROMPT",
                     absl::StrCat("'models/", id, "' is no text prompt."));
  }
  ATTUNE_ASSIGN_OR_RETURN(TextPrompt prompt, ReadTextPrompt(deps_.models->Directory(id)));
  *response = ToProto(prompt);
  return absl::OkStatus();
}

grpc::Status ModelService::GetTextPrompt(grpc::ServerContext* context, const v1::GetTextPromptRequest* request,
                                         v1::TextPrompt* response) {
  return ServeCall(context, deps_.metrics, kService, "GetTextPrompt",
                   [&](Call& call) { return DoGetTextPrompt(call, *request, response); });
}

absl::Status ModelService::FillPool(Call& call, const std::string& base, const std::string& id, TextPrompt* prompt) {
  if (!prompt->pool || !prompt->pool->embeddings.empty()) return absl::OkStatus();
  // What publishing refuses, or has done already, is not worth the work.
  const absl::StatusOr<ModelInfo> info = deps_.models->Get(base);
  if (!info.ok() || IsAdapter(info->kind) || deps_.models->Get(id).ok()) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, deps_.served(base, ""));
  absl::StatusOr<std::shared_ptr<const ExamplePool>> pool = MakePool(
      deps_.engine, std::move(model), *prompt, prompt->pool->rows, [&](int64_t, int64_t) { return !call.cancelled(); });
  if (call.cancelled()) return call.CancelledStatus();
  if (!pool.ok()) return pool.status();
  prompt->pool = *std::move(pool);
  return absl::OkStatus();
}

absl::Status ModelService::DoCreateTextPrompt(Call& call, const v1::CreateTextPromptRequest& request,
                                              v1::Model* response) {
  ModelInfo info;
  ATTUNE_ASSIGN_OR_RETURN(info.base_model, ParseName(kModels, request.base_model(), "base_model"));
  if (!request.has_text_prompt()) return InvalidField("text_prompt", "is required");
  if (!request.model_id().empty()) ATTUNE_RETURN_IF_ERROR(CheckId(request.model_id(), "model_id"));
  ATTUNE_RETURN_IF_ERROR(CheckLength(request.request_id(), 128, "request_id"));
  ATTUNE_RETURN_IF_ERROR(CheckModelText(request.model(), "model"));
  ATTUNE_ASSIGN_OR_RETURN(TextPrompt prompt, ToTextPrompt(request.text_prompt()));
  info.id =
      request.model_id().empty() ? RandomId(MakeId(absl::StrCat(info.base_model, "-prompt"))) : request.model_id();
  info.display_name = request.model().display_name();
  info.description = request.model().description();
  info.labels = ToMap(request.model().labels());
  ATTUNE_RETURN_IF_ERROR(FillPool(call, info.base_model, info.id, &prompt));
  ATTUNE_ASSIGN_OR_RETURN(info, PublishTextPrompt(deps_.models, std::move(info), prompt, request.request_id()));
  *response = ToProto(info);
  call.Note("model", response->name());
  return absl::OkStatus();
}

grpc::Status ModelService::CreateTextPrompt(grpc::ServerContext* context, const v1::CreateTextPromptRequest* request,
                                            v1::Model* response) {
  return ServeCall(context, deps_.metrics, kService, "CreateTextPrompt",
                   [&](Call& call) { return DoCreateTextPrompt(call, *request, response); });
}

}  // namespace attune
