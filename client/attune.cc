#include "client/attune.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <utility>

#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "client/stubs.h"
#include "common/error.h"

namespace attune {
namespace {

bool IsLocal(const std::string& target) {
  return absl::StartsWith(target, "127.") || absl::StartsWith(target, "localhost") ||
         absl::StartsWith(target, "[::1]") || absl::StartsWith(target, "unix:");
}

grpc::ChannelArguments ChannelSettings(const std::string& target) {
  grpc::ChannelArguments args;
  args.SetUserAgentPrefix("attune-client");
  // Large previews and log-probabilities go beyond gRPC's 4 MiB.
  args.SetMaxReceiveMessageSize(64 << 20);
  // The retries here set the pace, so the channel itself must try again soon.
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // Notices a dead peer under a silent watch; gRPC servers allow one ping in five minutes.
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 310'000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  if (IsLocal(target)) args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return args;
}

// For deletions: NOT_FOUND after a retry is the work of the attempt whose answer was lost.
absl::Status DeletionStatus(const absl::Status& status, int retries) {
  return absl::IsNotFound(status) && retries > 0 ? absl::OkStatus() : status;
}

template <typename Request, typename Response, typename Item>
absl::Status ForEach(Client* client, Request request,
                     absl::StatusOr<Response> (Client::*list)(const Request&),
                     const google::protobuf::RepeatedPtrField<Item>& (Response::*items)() const,
                     const Client::OnMessage<Item>& on_item) {
  while (true) {
    ATTUNE_ASSIGN_OR_RETURN(Response page, (client->*list)(request));
    for (const Item& item : (page.*items)()) {
      if (!on_item(item)) return absl::OkStatus();
    }
    if (page.next_page_token().empty()) return absl::OkStatus();
    request.set_page_token(page.next_page_token());
  }
}

template <typename Request>
void EnsureRequestId(Request* request) {
  if (request->request_id().empty()) request->set_request_id(NewRequestId());
}

}  // namespace

bool IsFinal(v1::TuningJob::State state) {
  return state == v1::TuningJob::SUCCEEDED || state == v1::TuningJob::FAILED || state == v1::TuningJob::CANCELLED;
}

bool IsFinal(v1::Comparison::State state) {
  return state == v1::Comparison::SUCCEEDED || state == v1::Comparison::FAILED || state == v1::Comparison::CANCELLED;
}

std::string NewRequestId() {
  absl::BitGen random;
  return absl::StrFormat("%016x%016x", absl::Uniform<uint64_t>(random), absl::Uniform<uint64_t>(random));
}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& target, ClientOptions options) {
  if (target.empty()) return InvalidField("target", "name the server as host:port");
  auto stubs = std::make_unique<Stubs>();
  stubs->channel = grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), ChannelSettings(target));
  stubs->models = v1::ModelService::NewStub(stubs->channel);
  stubs->datasets = v1::DatasetService::NewStub(stubs->channel);
  stubs->tuning = v1::TuningService::NewStub(stubs->channel);
  stubs->generation = v1::GenerationService::NewStub(stubs->channel);
  stubs->evaluation = v1::EvaluationService::NewStub(stubs->channel);
  stubs->comparisons = v1::ComparisonService::NewStub(stubs->channel);
  stubs->aliases = v1::AliasService::NewStub(stubs->channel);
  stubs->advice = v1::AdviceService::NewStub(stubs->channel);
  return std::unique_ptr<Client>(new Client(std::move(stubs), options));
}

Client::Client(std::unique_ptr<Stubs> stubs, ClientOptions options) : stubs_(std::move(stubs)), options_(options) {}
Client::~Client() = default;

absl::Status Client::WaitForReady(absl::Duration timeout) {
  if (stubs_->channel->WaitForConnected(absl::ToChronoTime(absl::Now() + timeout))) return absl::OkStatus();
  return absl::UnavailableError("the server did not answer in time");
}

// Each wrapper below is one line: which stub and method, how long, and whether it may be repeated.
#define ATTUNE_CALL(stub, Service, Method, limit, retry) \
  CallUnary(options_, {options_.limit, retry}, stubs_->stub.get(), &v1::Service::StubInterface::Method, request)
#define ATTUNE_DELETE(stub, Service, Method)                                                                     \
  int retries = 0;                                                                                               \
  auto deleted = CallUnary(options_, {options_.deadline, true}, stubs_->stub.get(),                              \
                           &v1::Service::StubInterface::Method, request, &retries);                              \
  return DeletionStatus(deleted.status(), retries)

absl::StatusOr<v1::Model> Client::ImportModel(v1::ImportModelRequest request) {
  EnsureRequestId(&request);
  return ATTUNE_CALL(models, ModelService, ImportModel, long_deadline, true);
}

absl::StatusOr<v1::Model> Client::GetModel(const v1::GetModelRequest& request) {
  return ATTUNE_CALL(models, ModelService, GetModel, deadline, true);
}

absl::StatusOr<v1::ListModelsResponse> Client::ListModels(const v1::ListModelsRequest& request) {
  return ATTUNE_CALL(models, ModelService, ListModels, deadline, true);
}

absl::StatusOr<v1::Model> Client::UpdateModel(const v1::UpdateModelRequest& request) {
  return ATTUNE_CALL(models, ModelService, UpdateModel, deadline, request.model().etag().empty());
}

absl::Status Client::DeleteModel(const v1::DeleteModelRequest& request) {
  ATTUNE_DELETE(models, ModelService, DeleteModel);
}

absl::StatusOr<v1::ExportModelResponse> Client::ExportModel(const v1::ExportModelRequest& request) {
  return ATTUNE_CALL(models, ModelService, ExportModel, long_deadline, false);
}

absl::StatusOr<v1::TextPrompt> Client::GetTextPrompt(const v1::GetTextPromptRequest& request) {
  return ATTUNE_CALL(models, ModelService, GetTextPrompt, deadline, true);
}

absl::StatusOr<v1::Model> Client::CreateTextPrompt(v1::CreateTextPromptRequest request) {
  EnsureRequestId(&request);
  return ATTUNE_CALL(models, ModelService, CreateTextPrompt, deadline, true);
}

absl::StatusOr<v1::Dataset> Client::GetDataset(const v1::GetDatasetRequest& request) {
  return ATTUNE_CALL(datasets, DatasetService, GetDataset, deadline, true);
}

absl::StatusOr<v1::ListDatasetsResponse> Client::ListDatasets(const v1::ListDatasetsRequest& request) {
  return ATTUNE_CALL(datasets, DatasetService, ListDatasets, deadline, true);
}

absl::Status Client::DeleteDataset(const v1::DeleteDatasetRequest& request) {
  ATTUNE_DELETE(datasets, DatasetService, DeleteDataset);
}

absl::StatusOr<v1::PreviewDatasetResponse> Client::PreviewDataset(const v1::PreviewDatasetRequest& request) {
  return ATTUNE_CALL(datasets, DatasetService, PreviewDataset, long_deadline, true);
}

absl::StatusOr<v1::TuningJob> Client::CreateTuningJob(v1::CreateTuningJobRequest request) {
  EnsureRequestId(&request);
  return ATTUNE_CALL(tuning, TuningService, CreateTuningJob, deadline, true);
}

absl::StatusOr<v1::TuningJob> Client::GetTuningJob(const v1::GetTuningJobRequest& request) {
  return ATTUNE_CALL(tuning, TuningService, GetTuningJob, deadline, true);
}

absl::StatusOr<v1::ListTuningJobsResponse> Client::ListTuningJobs(const v1::ListTuningJobsRequest& request) {
  return ATTUNE_CALL(tuning, TuningService, ListTuningJobs, deadline, true);
}

absl::StatusOr<v1::TuningJob> Client::CancelTuningJob(const v1::CancelTuningJobRequest& request) {
  return ATTUNE_CALL(tuning, TuningService, CancelTuningJob, deadline, false);
}

absl::StatusOr<v1::TuningJob> Client::PauseTuningJob(const v1::PauseTuningJobRequest& request) {
  return ATTUNE_CALL(tuning, TuningService, PauseTuningJob, deadline, false);
}

absl::StatusOr<v1::TuningJob> Client::ResumeTuningJob(const v1::ResumeTuningJobRequest& request) {
  return ATTUNE_CALL(tuning, TuningService, ResumeTuningJob, deadline, false);
}

absl::Status Client::DeleteTuningJob(const v1::DeleteTuningJobRequest& request) {
  ATTUNE_DELETE(tuning, TuningService, DeleteTuningJob);
}

absl::StatusOr<v1::ListCheckpointsResponse> Client::ListCheckpoints(const v1::ListCheckpointsRequest& request) {
  return ATTUNE_CALL(tuning, TuningService, ListCheckpoints, deadline, true);
}

absl::StatusOr<v1::EstimateTuningJobResponse> Client::EstimateTuningJob(const v1::EstimateTuningJobRequest& request) {
  return ATTUNE_CALL(tuning, TuningService, EstimateTuningJob, long_deadline, true);
}

absl::StatusOr<v1::Comparison> Client::CreateComparison(v1::CreateComparisonRequest request) {
  EnsureRequestId(&request);
  return ATTUNE_CALL(comparisons, ComparisonService, CreateComparison, deadline, true);
}

absl::StatusOr<v1::Comparison> Client::GetComparison(const v1::GetComparisonRequest& request) {
  return ATTUNE_CALL(comparisons, ComparisonService, GetComparison, deadline, true);
}

absl::StatusOr<v1::ListComparisonsResponse> Client::ListComparisons(const v1::ListComparisonsRequest& request) {
  return ATTUNE_CALL(comparisons, ComparisonService, ListComparisons, deadline, true);
}

absl::StatusOr<v1::Comparison> Client::CancelComparison(const v1::CancelComparisonRequest& request) {
  return ATTUNE_CALL(comparisons, ComparisonService, CancelComparison, deadline, false);
}

absl::Status Client::DeleteComparison(const v1::DeleteComparisonRequest& request) {
  ATTUNE_DELETE(comparisons, ComparisonService, DeleteComparison);
}

absl::StatusOr<v1::Retrospective> Client::Retrospect(const v1::RetrospectRequest& request) {
  return ATTUNE_CALL(advice, AdviceService, Retrospect, deadline, true);
}

absl::StatusOr<v1::GetComparisonReportResponse> Client::GetComparisonReport(
    const v1::GetComparisonReportRequest& request) {
  return ATTUNE_CALL(comparisons, ComparisonService, GetComparisonReport, deadline, true);
}

absl::StatusOr<v1::Alias> Client::SetAlias(v1::SetAliasRequest request) {
  EnsureRequestId(&request);
  return ATTUNE_CALL(aliases, AliasService, SetAlias, deadline, true);
}

absl::StatusOr<v1::Alias> Client::GetAlias(const v1::GetAliasRequest& request) {
  return ATTUNE_CALL(aliases, AliasService, GetAlias, deadline, true);
}

absl::StatusOr<v1::ListAliasesResponse> Client::ListAliases(const v1::ListAliasesRequest& request) {
  return ATTUNE_CALL(aliases, AliasService, ListAliases, deadline, true);
}

absl::StatusOr<v1::Alias> Client::RollBackAlias(v1::RollBackAliasRequest request) {
  EnsureRequestId(&request);
  return ATTUNE_CALL(aliases, AliasService, RollBackAlias, deadline, true);
}

absl::Status Client::DeleteAlias(const v1::DeleteAliasRequest& request) {
  ATTUNE_DELETE(aliases, AliasService, DeleteAlias);
}

absl::StatusOr<v1::GenerateResponse> Client::Generate(const v1::GenerateRequest& request) {
  return ATTUNE_CALL(generation, GenerationService, Generate, long_deadline, true);
}

absl::StatusOr<v1::ClassifyResponse> Client::Classify(const v1::ClassifyRequest& request) {
  return ATTUNE_CALL(generation, GenerationService, Classify, long_deadline, true);
}

absl::StatusOr<v1::ScoreResponse> Client::Score(const v1::ScoreRequest& request) {
  return ATTUNE_CALL(generation, GenerationService, Score, long_deadline, true);
}

absl::StatusOr<v1::EmbedResponse> Client::Embed(const v1::EmbedRequest& request) {
  return ATTUNE_CALL(generation, GenerationService, Embed, long_deadline, true);
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request) {
  return ATTUNE_CALL(generation, GenerationService, Tokenize, long_deadline, true);
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(const v1::DetokenizeRequest& request) {
  return ATTUNE_CALL(generation, GenerationService, Detokenize, long_deadline, true);
}

#undef ATTUNE_CALL
#undef ATTUNE_DELETE

absl::Status Client::StreamGenerate(const v1::GenerateRequest& request,
                                    const OnMessage<v1::StreamGenerateResponse>& on_piece,
                                    Cancellation* cancellation) {
  return CallStream(options_, stubs_->generation.get(), &v1::GenerationService::StubInterface::StreamGenerate, request,
                    on_piece, cancellation);
}

absl::StatusOr<v1::EvaluationResult> Client::Evaluate(const v1::EvaluateRequest& request,
                                                      const OnMessage<v1::EvaluateResponse>& on_progress,
                                                      Cancellation* cancellation) {
  v1::EvaluateResponse last;
  OnMessage<v1::EvaluateResponse> keep = [&](const v1::EvaluateResponse& message) {
    last = message;
    return on_progress == nullptr || on_progress(message);
  };
  ATTUNE_RETURN_IF_ERROR(CallStream(options_, stubs_->evaluation.get(), &v1::EvaluationService::StubInterface::Evaluate,
                                    request, keep, cancellation));
  if (!last.has_result()) return absl::InternalError("the evaluation ended without a result");
  return last.result();
}

absl::StatusOr<v1::Advice> Client::Advise(const v1::AdviseRequest& request,
                                          const OnMessage<v1::AdviseResponse>& on_progress,
                                          Cancellation* cancellation) {
  v1::AdviseResponse last;
  OnMessage<v1::AdviseResponse> keep = [&](const v1::AdviseResponse& message) {
    last = message;
    return on_progress == nullptr || on_progress(message);
  };
  ATTUNE_RETURN_IF_ERROR(CallStream(options_, stubs_->advice.get(), &v1::AdviceService::StubInterface::Advise, request,
                                    keep, cancellation));
  if (!last.has_advice()) return absl::InternalError("the advice ended without a result");
  return last.advice();
}

absl::Status Client::ForEachModel(v1::ListModelsRequest request, const OnMessage<v1::Model>& on_item) {
  return ForEach(this, std::move(request), &Client::ListModels, &v1::ListModelsResponse::models, on_item);
}

absl::Status Client::ForEachDataset(v1::ListDatasetsRequest request, const OnMessage<v1::Dataset>& on_item) {
  return ForEach(this, std::move(request), &Client::ListDatasets, &v1::ListDatasetsResponse::datasets, on_item);
}

absl::Status Client::ForEachTuningJob(v1::ListTuningJobsRequest request, const OnMessage<v1::TuningJob>& on_item) {
  return ForEach(this, std::move(request), &Client::ListTuningJobs, &v1::ListTuningJobsResponse::tuning_jobs, on_item);
}

absl::Status Client::ForEachComparison(v1::ListComparisonsRequest request, const OnMessage<v1::Comparison>& on_item) {
  return ForEach(this, std::move(request), &Client::ListComparisons, &v1::ListComparisonsResponse::comparisons, on_item);
}

absl::Status Client::ForEachAlias(v1::ListAliasesRequest request, const OnMessage<v1::Alias>& on_item) {
  return ForEach(this, std::move(request), &Client::ListAliases, &v1::ListAliasesResponse::aliases, on_item);
}

}  // namespace attune
