#ifndef ATTUNE_CLIENT_ATTUNE_H_
#define ATTUNE_CLIENT_ATTUNE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "attune/v1/alias_service.pb.h"
#include "attune/v1/advice_service.pb.h"
#include "attune/v1/comparison_service.pb.h"
#include "attune/v1/dataset_service.pb.h"
#include "attune/v1/evaluation_service.pb.h"
#include "attune/v1/generation_service.pb.h"
#include "attune/v1/model_service.pb.h"
#include "attune/v1/tuning_service.pb.h"
#include "client/cancellation.h"
#include "client/options.h"

// Attune's client library: one object for every service. Errors are
// absl::Status with the server's reason and wrong fields (common/error.h).
namespace attune {

struct Stubs;
struct ByteSource;

// A connection to one server. Thread-safe: calls may run at the same time.
//
// Calls that are safe to repeat are retried when the server is UNAVAILABLE:
// everything that only reads, creations (they carry a request_id, made here if
// the caller gives none), updates without an etag, and deletions (where
// NOT_FOUND after a retry means that the lost attempt had worked). Cancel,
// Pause, Resume and Export are not.
class Client {
 public:
  // Called with each message of a stream; false ends the call.
  template <typename Message>
  using OnMessage = std::function<bool(const Message&)>;
  // Bytes sent, and bytes in all.
  using OnUpload = std::function<void(int64_t sent, int64_t total)>;

  // `target` is "host:port" or any other gRPC name. Does not wait for the
  // server: the first call, or WaitForReady, says whether it is there.
  // INVALID_ARGUMENT if `target` is empty.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& target, ClientOptions options = {});
  ~Client();

  // Waits until the connection stands. UNAVAILABLE after `timeout`.
  absl::Status WaitForReady(absl::Duration timeout);

  // Models.
  absl::StatusOr<v1::Model> ImportModel(v1::ImportModelRequest request);
  absl::StatusOr<v1::Model> GetModel(const v1::GetModelRequest& request);
  absl::StatusOr<v1::ListModelsResponse> ListModels(const v1::ListModelsRequest& request);
  absl::StatusOr<v1::Model> UpdateModel(const v1::UpdateModelRequest& request);
  absl::Status DeleteModel(const v1::DeleteModelRequest& request);
  absl::StatusOr<v1::ExportModelResponse> ExportModel(const v1::ExportModelRequest& request);
  absl::StatusOr<v1::TextPrompt> GetTextPrompt(const v1::GetTextPromptRequest& request);
  absl::StatusOr<v1::Model> CreateTextPrompt(v1::CreateTextPromptRequest request);

  // Datasets.
  // The file is read twice: for its checksum, then to send it.
  absl::StatusOr<v1::Dataset> UploadDatasetFile(v1::UploadDatasetRequest::Header header, const std::string& path,
                                                const OnUpload& progress = nullptr);
  absl::StatusOr<v1::Dataset> UploadDatasetBytes(v1::UploadDatasetRequest::Header header, absl::string_view bytes,
                                                 const OnUpload& progress = nullptr);
  absl::StatusOr<v1::Dataset> GetDataset(const v1::GetDatasetRequest& request);
  absl::StatusOr<v1::ListDatasetsResponse> ListDatasets(const v1::ListDatasetsRequest& request);
  absl::Status DeleteDataset(const v1::DeleteDatasetRequest& request);
  absl::StatusOr<v1::PreviewDatasetResponse> PreviewDataset(const v1::PreviewDatasetRequest& request);

  // Tuning jobs.
  absl::StatusOr<v1::TuningJob> CreateTuningJob(v1::CreateTuningJobRequest request);
  absl::StatusOr<v1::TuningJob> GetTuningJob(const v1::GetTuningJobRequest& request);
  absl::StatusOr<v1::ListTuningJobsResponse> ListTuningJobs(const v1::ListTuningJobsRequest& request);
  absl::StatusOr<v1::TuningJob> CancelTuningJob(const v1::CancelTuningJobRequest& request);
  absl::StatusOr<v1::TuningJob> PauseTuningJob(const v1::PauseTuningJobRequest& request);
  absl::StatusOr<v1::TuningJob> ResumeTuningJob(const v1::ResumeTuningJobRequest& request);
  absl::Status DeleteTuningJob(const v1::DeleteTuningJobRequest& request);
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(const v1::ListCheckpointsRequest& request);
  absl::StatusOr<v1::EstimateTuningJobResponse> EstimateTuningJob(const v1::EstimateTuningJobRequest& request);
  // Every event after `request.after_sequence`, once and in order, across
  // broken connections and restarts of the server, until the job has ended.
  // OK then; CANCELLED if `on_event` or `cancellation` ended it. No deadline.
  absl::Status WatchTuningJob(v1::WatchTuningJobRequest request, const OnMessage<v1::JobEvent>& on_event,
                              Cancellation* cancellation = nullptr);

  // Generation. Streams end with CANCELLED if the callback or `cancellation`
  // ended them; they are tried again only while nothing has arrived.
  absl::StatusOr<v1::GenerateResponse> Generate(const v1::GenerateRequest& request);
  absl::Status StreamGenerate(const v1::GenerateRequest& request,
                              const OnMessage<v1::StreamGenerateResponse>& on_piece,
                              Cancellation* cancellation = nullptr);
  absl::StatusOr<v1::ClassifyResponse> Classify(const v1::ClassifyRequest& request);
  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request);
  absl::StatusOr<v1::EmbedResponse> Embed(const v1::EmbedRequest& request);
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request);
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request);

  // Evaluation. `on_progress` (may be null) sees every message, the last too.
  absl::StatusOr<v1::EvaluationResult> Evaluate(const v1::EvaluateRequest& request,
                                                const OnMessage<v1::EvaluateResponse>& on_progress = nullptr,
                                                Cancellation* cancellation = nullptr);

  // Comparisons.
  absl::StatusOr<v1::Comparison> CreateComparison(v1::CreateComparisonRequest request);
  absl::StatusOr<v1::Comparison> GetComparison(const v1::GetComparisonRequest& request);
  absl::StatusOr<v1::ListComparisonsResponse> ListComparisons(const v1::ListComparisonsRequest& request);
  absl::StatusOr<v1::Comparison> CancelComparison(const v1::CancelComparisonRequest& request);
  absl::Status DeleteComparison(const v1::DeleteComparisonRequest& request);
  absl::StatusOr<v1::GetComparisonReportResponse> GetComparisonReport(const v1::GetComparisonReportRequest& request);
  // Every state that the server tells of, after `request.after_version`, across broken connections and restarts of the
  // server, until the comparison has ended. OK then; CANCELLED if `on_change` or `cancellation` ended it. No deadline.
  absl::Status WatchComparison(v1::WatchComparisonRequest request, const OnMessage<v1::Comparison>& on_change,
                               Cancellation* cancellation = nullptr);

  // Aliases. A change carries a request_id, made here if the caller gives none: repeated, it is made once.
  absl::StatusOr<v1::Alias> SetAlias(v1::SetAliasRequest request);
  absl::StatusOr<v1::Alias> GetAlias(const v1::GetAliasRequest& request);
  absl::StatusOr<v1::ListAliasesResponse> ListAliases(const v1::ListAliasesRequest& request);
  absl::StatusOr<v1::Alias> RollBackAlias(v1::RollBackAliasRequest request);
  absl::Status DeleteAlias(const v1::DeleteAliasRequest& request);

  // Advice. `on_progress` (may be null) sees every message, the last too.
  absl::StatusOr<v1::Advice> Advise(const v1::AdviseRequest& request,
                                    const OnMessage<v1::AdviseResponse>& on_progress = nullptr,
                                    Cancellation* cancellation = nullptr);
  absl::StatusOr<v1::Retrospective> Retrospect(const v1::RetrospectRequest& request);

  // Every item of a list, page after page, until `on_item` returns false.
  absl::Status ForEachModel(v1::ListModelsRequest request, const OnMessage<v1::Model>& on_item);
  absl::Status ForEachDataset(v1::ListDatasetsRequest request, const OnMessage<v1::Dataset>& on_item);
  absl::Status ForEachTuningJob(v1::ListTuningJobsRequest request, const OnMessage<v1::TuningJob>& on_item);
  absl::Status ForEachComparison(v1::ListComparisonsRequest request, const OnMessage<v1::Comparison>& on_item);
  absl::Status ForEachAlias(v1::ListAliasesRequest request, const OnMessage<v1::Alias>& on_item);

 private:
  Client(std::unique_ptr<Stubs> stubs, ClientOptions options);
  absl::StatusOr<v1::Dataset> Upload(v1::UploadDatasetRequest::Header header, const ByteSource& source,
                                     const OnUpload& progress);

  const std::unique_ptr<Stubs> stubs_;
  const ClientOptions options_;
};

// Whether a job in this state stays in it.
bool IsFinal(v1::TuningJob::State state);
bool IsFinal(v1::Comparison::State state);

// 128 random bits in hex, for request_id fields.
std::string NewRequestId();

}  // namespace attune

#endif  // ATTUNE_CLIENT_ATTUNE_H_
