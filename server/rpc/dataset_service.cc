#include "server/rpc/dataset_service.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "server/data/preference.h"
#include "server/rpc/check.h"
#include "server/rpc/convert_dataset.h"
#include "server/rpc/paging.h"

namespace attune {
namespace {

constexpr absl::string_view kService = "DatasetService";
constexpr size_t kMostChunkBytes = 1 << 20;
constexpr int64_t kDefaultSequenceTokens = 2048;
// A broken connection ends the stream like its proper end does, and is known as broken
// only a moment later.
constexpr absl::Duration kBrokenConnectionNotice = absl::Milliseconds(50);

absl::StatusOr<std::string> DatasetId(Call& call, const std::string& name) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, ParseName(kDatasets, name, "name"));
  call.Note("dataset", name);
  return id;
}

// As a job would render the rows.
RenderOptions ToRenderOptions(const v1::DataOptions& data, const DatasetInfo& info, const ServedModel& model) {
  RenderOptions out;
  out.kind = info.kind;
  out.prompt_template = data.prompt_template().empty() ? info.prompt_template : data.prompt_template();
  out.completion_template = data.completion_template().empty() ? info.completion_template : data.completion_template();
  out.train_on_prompt = data.train_on_prompt();
  out.max_tokens = std::min(model.context_tokens(), kDefaultSequenceTokens);
  out.split_long_texts = data.split_long_texts();
  if (data.max_sequence_tokens() > 0) out.max_tokens = data.max_sequence_tokens();
  return out;
}

absl::Status CheckPreview(const v1::PreviewDatasetRequest& request) {
  ATTUNE_RETURN_IF_ERROR(CheckRangeOrUnset(request.count(), 1, 100, "count"));
  ATTUNE_RETURN_IF_ERROR(CheckRange(request.offset(), 0, std::numeric_limits<int64_t>::max(), "offset"));
  return CheckDataOptions(request.data(), "data");
}

}  // namespace

absl::Status DatasetService::DoUpload(Call& call, grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                                      v1::Dataset* response) {
  v1::UploadDatasetRequest message;
  if (!reader->Read(&message) || !message.has_header()) {
    return InvalidField("header", "must be the first message of the stream");
  }
  ATTUNE_ASSIGN_OR_RETURN(DatasetStore::UploadOptions options, ToUploadOptions(message.header()));
  const bool has_checksum = !options.sha256.empty();
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<DatasetStore::Upload> upload, deps_.datasets->BeginUpload(options));
  while (reader->Read(&message)) {
    if (message.has_header()) return InvalidField("header", "must come once, first");
    if (message.chunk().size() > kMostChunkBytes) {
      return InvalidField("chunk", absl::StrCat("must be at most ", kMostChunkBytes, " bytes"));
    }
    ATTUNE_RETURN_IF_ERROR(upload->Append(message.chunk()));
  }
  if (!has_checksum) absl::SleepFor(kBrokenConnectionNotice);
  if (call.cancelled()) return call.CancelledStatus();
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, upload->Commit());
  deps_.metrics->DatasetStored(info.row_count, info.skipped_row_count);
  *response = ToProto(info);
  call.Note("dataset", response->name());
  return absl::OkStatus();
}

grpc::Status DatasetService::UploadDataset(grpc::ServerContext* context,
                                           grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                                           v1::Dataset* response) {
  return ServeCall(context, deps_.metrics, kService, "UploadDataset",
                   [&](Call& call) { return DoUpload(call, reader, response); });
}

grpc::Status DatasetService::GetDataset(grpc::ServerContext* context, const v1::GetDatasetRequest* request,
                                        v1::Dataset* response) {
  return ServeCall(context, deps_.metrics, kService, "GetDataset", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, DatasetId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, deps_.datasets->Get(id));
    *response = ToProto(info);
    return absl::OkStatus();
  });
}

grpc::Status DatasetService::ListDatasets(grpc::ServerContext* context, const v1::ListDatasetsRequest* request,
                                          v1::ListDatasetsResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "ListDatasets", [&](Call&) -> absl::Status {
    std::string next;
    ATTUNE_ASSIGN_OR_RETURN(std::vector<DatasetInfo> datasets,
                            ListPage(kDatasets, *request, [&](int limit, int64_t before) {
                              return deps_.datasets->List(limit, before);
                            }, &next));
    for (const DatasetInfo& info : datasets) *response->add_datasets() = ToProto(info);
    response->set_next_page_token(next);
    return absl::OkStatus();
  });
}

grpc::Status DatasetService::DeleteDataset(grpc::ServerContext* context, const v1::DeleteDatasetRequest* request,
                                           google::protobuf::Empty*) {
  return ServeCall(context, deps_.metrics, kService, "DeleteDataset", [&](Call& call) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(std::string id, DatasetId(call, request->name()));
    ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> users, deps_.job_store->ActiveUsersOfDataset(id));
    ATTUNE_RETURN_IF_ERROR(CheckUnused("data set", "DATASET_IN_USE", "tuning_jobs", users));
    ATTUNE_ASSIGN_OR_RETURN(users, deps_.comparison_store->ActiveUsersOfDataset(id));
    ATTUNE_RETURN_IF_ERROR(CheckUnused("data set", "DATASET_IN_USE", "comparisons", users));
    return deps_.datasets->Delete(id);
  });
}

namespace {

// What training makes of a row: one example, the parts of a long text, or the two of a preference.
using PreviewRenderer = std::function<absl::StatusOr<std::vector<Example>>(const Row&, int64_t)>;

absl::StatusOr<PreviewRenderer> MakePreviewRenderer(const Tokenizer& tokenizer, const ChatTemplate* chat,
                                                    const RenderOptions& options) {
  if (IsPreference(options.kind)) {
    ATTUNE_ASSIGN_OR_RETURN(PreferenceRenderer renderer, PreferenceRenderer::Create(&tokenizer, chat, options));
    return [renderer](const Row& row, int64_t index) -> absl::StatusOr<std::vector<Example>> {
      ATTUNE_ASSIGN_OR_RETURN(PreferenceExamples pair, renderer.Render(row, index));
      return std::vector<Example>{std::move(pair.chosen), std::move(pair.rejected)};
    };
  }
  ATTUNE_ASSIGN_OR_RETURN(ExampleRenderer renderer, ExampleRenderer::Create(&tokenizer, chat, options));
  return [renderer](const Row& row, int64_t index) -> absl::StatusOr<std::vector<Example>> {
    return renderer.RenderAll(row, index);
  };
}

}  // namespace

absl::Status DatasetService::DoPreview(Call& call, const v1::PreviewDatasetRequest& request,
                                       v1::PreviewDatasetResponse* response) {
  ATTUNE_ASSIGN_OR_RETURN(std::string id, DatasetId(call, request.name()));
  ATTUNE_ASSIGN_OR_RETURN(std::string model_id, ParseName(kModels, request.model(), "model"));
  ATTUNE_RETURN_IF_ERROR(CheckPreview(request));
  ATTUNE_ASSIGN_OR_RETURN(DatasetInfo info, deps_.datasets->Get(id));
  ATTUNE_ASSIGN_OR_RETURN(std::shared_ptr<const ServedModel> model, deps_.models(model_id, ""));
  ATTUNE_RETURN_IF_ERROR(CheckRangeOrUnset(request.data().max_sequence_tokens(), 8, model->context_tokens(),
                                           "data.max_sequence_tokens"));
  const RenderOptions options = ToRenderOptions(request.data(), info, *model);
  ATTUNE_ASSIGN_OR_RETURN(const PreviewRenderer render,
                          MakePreviewRenderer(model->tokenizer(), model->chat_template(), options));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Row> rows, deps_.datasets->ReadRows(id));
  const int count = request.count() > 0 ? request.count() : 3;
  const int64_t end = static_cast<int64_t>(rows.size());
  for (int64_t i = request.offset(); i < end && response->examples_size() < count; ++i) {
    const absl::StatusOr<std::vector<Example>> examples = render(rows[i], i);
    if (absl::IsOutOfRange(examples.status())) continue;  // training drops it too
    ATTUNE_RETURN_IF_ERROR(examples.status());
    for (const Example& example : *examples) *response->add_examples() = ToProto(example, model->tokenizer());
  }
  return absl::OkStatus();
}

grpc::Status DatasetService::PreviewDataset(grpc::ServerContext* context, const v1::PreviewDatasetRequest* request,
                                            v1::PreviewDatasetResponse* response) {
  return ServeCall(context, deps_.metrics, kService, "PreviewDataset",
                   [&](Call& call) { return DoPreview(call, *request, response); });
}

}  // namespace attune
