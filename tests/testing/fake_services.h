#ifndef ATTUNE_TESTS_TESTING_FAKE_SERVICES_H_
#define ATTUNE_TESTS_TESTING_FAKE_SERVICES_H_

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "attune/v1/advice_service.grpc.pb.h"
#include "attune/v1/alias_service.grpc.pb.h"
#include "attune/v1/comparison_service.grpc.pb.h"
#include "attune/v1/dataset_service.grpc.pb.h"
#include "attune/v1/evaluation_service.grpc.pb.h"
#include "attune/v1/generation_service.grpc.pb.h"
#include "attune/v1/model_service.grpc.pb.h"
#include "attune/v1/tuning_service.grpc.pb.h"
#include "common/error.h"
#include "common/file.h"
#include "common/status.h"

// A server for tests of the client: keeps resources in memory, fails on
// request, and records what it was asked.
namespace attune::testing {

// What the services share. Thread-safe where it says so; the plain members are
// set up by a test before its calls.
class FakeState {
 public:
  // The next `count` calls of `method` fail with `status`.
  void FailNext(const std::string& method, int count, grpc::Status status) {
    absl::MutexLock lock(&mutex_);
    for (int i = 0; i < count; ++i) failures_[method].push_back(status);
  }
  // Calls of `method` so far, failed ones included.
  int Calls(const std::string& method) const {
    absl::MutexLock lock(&mutex_);
    auto it = requests_.find(method);
    return it == requests_.end() ? 0 : static_cast<int>(it->second.size());
  }
  // The request of the `index`-th call of `method`.
  template <typename Request>
  Request RequestOf(const std::string& method, int index = 0) const {
    absl::MutexLock lock(&mutex_);
    Request request;
    request.ParseFromString(requests_.at(method).at(index));
    return request;
  }
  // Notes a call; the status it must fail with, or OK.
  grpc::Status Enter(const std::string& method, const google::protobuf::Message& request) {
    absl::MutexLock lock(&mutex_);
    requests_[method].push_back(request.SerializeAsString());
    auto& failures = failures_[method];
    if (failures.empty()) return grpc::Status::OK;
    grpc::Status status = failures.front();
    failures.pop_front();
    return status;
  }

  std::map<std::string, v1::Model> models;
  std::map<std::string, v1::TextPrompt> text_prompts;  // by model
  std::map<std::string, v1::Dataset> datasets;
  std::map<std::string, v1::TuningJob> jobs;
  std::map<std::string, v1::Comparison> comparisons;
  std::vector<v1::Comparison> versions;  // of the one that is watched
  std::map<std::string, v1::Alias> aliases;
  // Runs after the work is done but before the answer: OK, or the loss of the answer.
  grpc::Status after_delete = grpc::Status::OK;
  // Sizes of the chunks of each upload.
  std::vector<std::vector<size_t>> upload_chunks;
  std::string uploaded;
  // The events of every job. A watch's n-th connection ends after legs[n]
  // events with leg_status, or stays open then if hold_legs is set; connections
  // beyond send everything. Each begins with an event that was asked not to come.
  std::vector<v1::JobEvent> events;
  std::vector<int> legs;
  grpc::Status leg_status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection lost");
  bool hold_legs = false;
  // Pieces of every generated answer; endless repeats the last until the call is cancelled.
  std::vector<std::string> pieces = {"Hello", ", ", "world"};
  bool endless = false;
  absl::Notification* generation_cancelled = nullptr;
  bool evaluation_without_result = false;
  v1::Advice advice;

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, std::vector<std::string>> requests_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::deque<grpc::Status>> failures_ ABSL_GUARDED_BY(mutex_);
};

#define FAKE_ENTER(method) \
  if (grpc::Status entered = state_->Enter(method, *request); !entered.ok()) return entered

// Copies the item called `name` into `response`.
template <typename Item>
grpc::Status Find(const std::map<std::string, Item>& items, const std::string& name, Item* response) {
  auto it = items.find(name);
  if (it == items.end()) return ToGrpcStatus(NotFound(name));
  *response = it->second;
  return grpc::Status::OK;
}

// Two items a page, so that every list has several.
template <typename Item, typename Request, typename Add, typename Response>
grpc::Status ListPage(const std::map<std::string, Item>& items, const Request& request, Response* response, Add add) {
  size_t from = request.page_token().empty() ? 0 : std::stoul(request.page_token());
  size_t index = 0;
  for (const auto& [name, item] : items) {
    if (index >= from && index < from + 2) *add(response) = item;
    ++index;
  }
  if (from + 2 < items.size()) response->set_next_page_token(absl::StrCat(from + 2));
  return grpc::Status::OK;
}

class FakeModels : public v1::ModelService::Service {
 public:
  explicit FakeModels(FakeState* state) : state_(state) {}
  grpc::Status ImportModel(grpc::ServerContext*, const v1::ImportModelRequest* request, v1::Model* response) override {
    FAKE_ENTER("ImportModel");
    *response = request->model();
    response->set_name(absl::StrCat("models/", request->model_id()));
    response->set_kind(request->base_model().empty() ? v1::Model::BASE : v1::Model::LORA);
    response->set_base_model(request->base_model());
    if (!state_->models.emplace(response->name(), *response).second) {
      return ToGrpcStatus(MakeError(absl::StatusCode::kAlreadyExists, "MODEL_EXISTS", "There is one already."));
    }
    return grpc::Status::OK;
  }
  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest* request, v1::Model* response) override {
    FAKE_ENTER("GetModel");
    return Find(state_->models, request->name(), response);
  }
  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override {
    FAKE_ENTER("ListModels");
    return ListPage(state_->models, *request, response, [](auto* r) { return r->add_models(); });
  }
  grpc::Status UpdateModel(grpc::ServerContext*, const v1::UpdateModelRequest* request, v1::Model* response) override {
    FAKE_ENTER("UpdateModel");
    return Find(state_->models, request->model().name(), response);
  }
  grpc::Status DeleteModel(grpc::ServerContext*, const v1::DeleteModelRequest* request,
                           google::protobuf::Empty*) override {
    FAKE_ENTER("DeleteModel");
    if (state_->models.erase(request->name()) == 0) return ToGrpcStatus(NotFound(request->name()));
    return std::exchange(state_->after_delete, grpc::Status::OK);
  }
  grpc::Status ExportModel(grpc::ServerContext*, const v1::ExportModelRequest* request,
                           v1::ExportModelResponse* response) override {
    FAKE_ENTER("ExportModel");
    response->set_path("/exports/m");
    response->add_files("adapter_config.json");
    response->set_size_bytes(2048);
    return grpc::Status::OK;
  }
  grpc::Status GetTextPrompt(grpc::ServerContext*, const v1::GetTextPromptRequest* request,
                             v1::TextPrompt* response) override {
    FAKE_ENTER("GetTextPrompt");
    return Find(state_->text_prompts, request->name(), response);
  }
  grpc::Status CreateTextPrompt(grpc::ServerContext*, const v1::CreateTextPromptRequest* request,
                                v1::Model* response) override {
    FAKE_ENTER("CreateTextPrompt");
    response->set_name(absl::StrCat("models/", request->model_id()));
    response->set_kind(v1::Model::TEXT_PROMPT);
    response->set_base_model(request->base_model());
    return grpc::Status::OK;
  }

 private:
  FakeState* const state_;
};

class FakeDatasets : public v1::DatasetService::Service {
 public:
  explicit FakeDatasets(FakeState* state) : state_(state) {}
  grpc::Status UploadDataset(grpc::ServerContext*, grpc::ServerReader<v1::UploadDatasetRequest>* reader,
                             v1::Dataset* response) override {
    v1::UploadDatasetRequest message;
    reader->Read(&message);
    const v1::UploadDatasetRequest::Header header = message.header();
    if (grpc::Status entered = state_->Enter("UploadDataset", header); !entered.ok()) return entered;
    state_->upload_chunks.emplace_back();
    state_->uploaded.clear();
    Sha256 hash;
    while (reader->Read(&message)) {
      state_->upload_chunks.back().push_back(message.chunk().size());
      state_->uploaded += message.chunk();
      hash.Update(message.chunk());
    }
    if (hash.Finish() != header.sha256()) {
      return ToGrpcStatus(MakeError(absl::StatusCode::kDataLoss, "CHECKSUM_MISMATCH", "The bytes are others."));
    }
    *response = header.dataset();
    response->set_name(absl::StrCat("datasets/", header.dataset_id()));
    response->set_sha256(header.sha256());
    response->set_size_bytes(static_cast<int64_t>(state_->uploaded.size()));
    return grpc::Status::OK;
  }
  grpc::Status GetDataset(grpc::ServerContext*, const v1::GetDatasetRequest* request, v1::Dataset* response) override {
    FAKE_ENTER("GetDataset");
    return Find(state_->datasets, request->name(), response);
  }
  grpc::Status ListDatasets(grpc::ServerContext*, const v1::ListDatasetsRequest* request,
                            v1::ListDatasetsResponse* response) override {
    FAKE_ENTER("ListDatasets");
    return ListPage(state_->datasets, *request, response, [](auto* r) { return r->add_datasets(); });
  }
  grpc::Status DeleteDataset(grpc::ServerContext*, const v1::DeleteDatasetRequest* request,
                             google::protobuf::Empty*) override {
    FAKE_ENTER("DeleteDataset");
    return state_->datasets.erase(request->name()) > 0 ? grpc::Status::OK : ToGrpcStatus(NotFound(request->name()));
  }
  grpc::Status PreviewDataset(grpc::ServerContext*, const v1::PreviewDatasetRequest* request,
                              v1::PreviewDatasetResponse* response) override {
    FAKE_ENTER("PreviewDataset");
    auto* example = response->add_examples();
    example->set_prompt("Text: a\nLabel:");
    example->set_completion(" b");
    example->add_tokens()->set_text("Text");
    auto* token = example->add_tokens();
    token->set_text(" b");
    token->set_has_loss(true);
    return grpc::Status::OK;
  }

 private:
  FakeState* const state_;
};

class FakeTuning : public v1::TuningService::Service {
 public:
  explicit FakeTuning(FakeState* state) : state_(state) {}
  grpc::Status CreateTuningJob(grpc::ServerContext*, const v1::CreateTuningJobRequest* request,
                               v1::TuningJob* response) override {
    FAKE_ENTER("CreateTuningJob");
    *response = request->tuning_job();
    response->set_name(absl::StrCat("tuningJobs/", request->tuning_job_id()));
    response->set_state(v1::TuningJob::QUEUED);
    state_->jobs.emplace(response->name(), *response);
    return grpc::Status::OK;
  }
  grpc::Status GetTuningJob(grpc::ServerContext*, const v1::GetTuningJobRequest* request,
                            v1::TuningJob* response) override {
    FAKE_ENTER("GetTuningJob");
    return Find(state_->jobs, request->name(), response);
  }
  grpc::Status ListTuningJobs(grpc::ServerContext*, const v1::ListTuningJobsRequest* request,
                              v1::ListTuningJobsResponse* response) override {
    FAKE_ENTER("ListTuningJobs");
    return ListPage(state_->jobs, *request, response, [](auto* r) { return r->add_tuning_jobs(); });
  }
  grpc::Status CancelTuningJob(grpc::ServerContext*, const v1::CancelTuningJobRequest* request,
                               v1::TuningJob* response) override {
    FAKE_ENTER("CancelTuningJob");
    return Find(state_->jobs, request->name(), response);
  }
  grpc::Status PauseTuningJob(grpc::ServerContext*, const v1::PauseTuningJobRequest* request,
                              v1::TuningJob* response) override {
    FAKE_ENTER("PauseTuningJob");
    return Find(state_->jobs, request->name(), response);
  }
  grpc::Status ResumeTuningJob(grpc::ServerContext*, const v1::ResumeTuningJobRequest* request,
                               v1::TuningJob* response) override {
    FAKE_ENTER("ResumeTuningJob");
    return Find(state_->jobs, request->name(), response);
  }
  grpc::Status DeleteTuningJob(grpc::ServerContext*, const v1::DeleteTuningJobRequest* request,
                               google::protobuf::Empty*) override {
    FAKE_ENTER("DeleteTuningJob");
    return state_->jobs.erase(request->name()) > 0 ? grpc::Status::OK : ToGrpcStatus(NotFound(request->name()));
  }
  grpc::Status WatchTuningJob(grpc::ServerContext* context, const v1::WatchTuningJobRequest* request,
                              grpc::ServerWriter<v1::JobEvent>* writer) override {
    FAKE_ENTER("WatchTuningJob");
    const size_t leg = state_->Calls("WatchTuningJob") - 1;
    const bool cut = leg < state_->legs.size();
    int left = cut ? state_->legs[leg] : static_cast<int>(state_->events.size());
    for (const v1::JobEvent& event : state_->events) {
      if (event.sequence() < request->after_sequence()) continue;
      const bool unwanted = event.sequence() == request->after_sequence();
      if (!unwanted && left-- <= 0) break;
      if (!writer->Write(event)) return grpc::Status::CANCELLED;
    }
    while (cut && state_->hold_legs && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    return cut ? state_->leg_status : grpc::Status::OK;
  }
  grpc::Status ListCheckpoints(grpc::ServerContext*, const v1::ListCheckpointsRequest* request,
                               v1::ListCheckpointsResponse* response) override {
    FAKE_ENTER("ListCheckpoints");
    auto* checkpoint = response->add_checkpoints();
    checkpoint->set_step(40);
    checkpoint->set_validation_loss(0.5);
    checkpoint->set_best(true);
    return grpc::Status::OK;
  }
  grpc::Status EstimateTuningJob(grpc::ServerContext*, const v1::EstimateTuningJobRequest* request,
                                 v1::EstimateTuningJobResponse* response) override {
    FAKE_ENTER("EstimateTuningJob");
    response->set_total_steps(400);
    response->set_peak_memory_bytes(3 << 20);
    response->set_duration_seconds(92);
    response->set_admissible(true);
    return grpc::Status::OK;
  }

 private:
  FakeState* const state_;
};

class FakeGeneration : public v1::GenerationService::Service {
 public:
  explicit FakeGeneration(FakeState* state) : state_(state) {}
  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                        v1::GenerateResponse* response) override {
    FAKE_ENTER("Generate");
    for (int i = 0; i < std::max(1, request->n()); ++i) {
      auto* completion = response->add_completions();
      completion->set_index(i);
      for (const std::string& piece : state_->pieces) completion->mutable_text()->append(piece);
    }
    return grpc::Status::OK;
  }
  grpc::Status StreamGenerate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                              grpc::ServerWriter<v1::StreamGenerateResponse>* writer) override {
    FAKE_ENTER("StreamGenerate");
    v1::StreamGenerateResponse message;
    for (const std::string& piece : state_->pieces) {
      for (int i = 0; i < std::max(1, request->n()); ++i) {
        message.set_index(i);
        message.set_text(piece);
        writer->Write(message);
      }
    }
    while (state_->endless && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    if (state_->generation_cancelled != nullptr) state_->generation_cancelled->Notify();
    message.Clear();
    message.set_finish_reason(v1::STOP);
    message.mutable_usage()->set_completion_tokens(3);
    writer->Write(message);
    return grpc::Status::OK;
  }
  grpc::Status Classify(grpc::ServerContext*, const v1::ClassifyRequest* request,
                        v1::ClassifyResponse* response) override {
    FAKE_ENTER("Classify");
    response->set_label(request->choices(0));
    for (const std::string& label : request->choices()) {
      auto* choice = response->add_choices();
      choice->set_label(label);
      choice->set_probability(0.5);
    }
    return grpc::Status::OK;
  }
  grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest* request, v1::ScoreResponse* response) override {
    FAKE_ENTER("Score");
    for (int i = 0; i < request->continuations_size(); ++i) response->add_scores()->set_logprob(-1.5);
    return grpc::Status::OK;
  }
  grpc::Status Embed(grpc::ServerContext*, const v1::EmbedRequest* request, v1::EmbedResponse* response) override {
    FAKE_ENTER("Embed");
    for (int i = 0; i < request->inputs_size(); ++i) {
      auto* embedding = response->add_embeddings();
      embedding->add_values(0.5f);
      embedding->add_values(static_cast<float>(i));
    }
    return grpc::Status::OK;
  }
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    FAKE_ENTER("Tokenize");
    response->add_token_ids(7);
    response->add_pieces(request->prompt().text());
    return grpc::Status::OK;
  }
  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    FAKE_ENTER("Detokenize");
    response->set_text(absl::StrCat(request->token_ids_size(), " tokens"));
    return grpc::Status::OK;
  }

 private:
  FakeState* const state_;
};

class FakeEvaluation : public v1::EvaluationService::Service {
 public:
  explicit FakeEvaluation(FakeState* state) : state_(state) {}
  grpc::Status Evaluate(grpc::ServerContext*, const v1::EvaluateRequest* request,
                        grpc::ServerWriter<v1::EvaluateResponse>* writer) override {
    FAKE_ENTER("Evaluate");
    v1::EvaluateResponse message;
    message.set_done(250);
    message.set_total(500);
    writer->Write(message);
    if (state_->evaluation_without_result) return grpc::Status::OK;
    message.set_done(500);
    auto* accuracy = message.mutable_result()->mutable_label_accuracy();
    accuracy->set_value(0.912);
    accuracy->set_lower(0.884);
    accuracy->set_upper(0.934);
    auto* label = message.mutable_result()->add_labels();
    label->set_label("earn");
    label->set_count(4);
    label->set_correct(3);
    label->set_predicted(6);
    writer->Write(message);
    return grpc::Status::OK;
  }

 private:
  FakeState* const state_;
};

// Comparisons that a test has put there.
class FakeComparisons : public v1::ComparisonService::Service {
 public:
  explicit FakeComparisons(FakeState* state) : state_(state) {}
  // As FakeTuning watches: state by state of `versions`, each leg cut as `legs` says.
  grpc::Status WatchComparison(grpc::ServerContext*, const v1::WatchComparisonRequest* request,
                               grpc::ServerWriter<v1::Comparison>* writer) override {
    FAKE_ENTER("WatchComparison");
    const size_t leg = state_->Calls("WatchComparison") - 1;
    const bool cut = leg < state_->legs.size();
    int left = cut ? state_->legs[leg] : static_cast<int>(state_->versions.size());
    for (const v1::Comparison& comparison : state_->versions) {
      if (comparison.version() <= request->after_version()) continue;
      if (left-- <= 0) break;
      if (!writer->Write(comparison)) return grpc::Status::CANCELLED;
    }
    return cut ? state_->leg_status : grpc::Status::OK;
  }
  // As asked for, with a name.
  grpc::Status CreateComparison(grpc::ServerContext*, const v1::CreateComparisonRequest* request,
                                v1::Comparison* response) override {
    FAKE_ENTER("CreateComparison");
    *response = request->comparison();
    response->set_name(absl::StrCat("comparisons/", request->comparison_id()));
    state_->comparisons[response->name()] = *response;
    return grpc::Status::OK;
  }
  grpc::Status GetComparison(grpc::ServerContext*, const v1::GetComparisonRequest* request,
                             v1::Comparison* response) override {
    FAKE_ENTER("GetComparison");
    return Find(state_->comparisons, request->name(), response);
  }

 private:
  FakeState* const state_;
};

// Keeps each alias's settings; a roll-back drops the newest.
class FakeAdvice : public v1::AdviceService::Service {
 public:
  explicit FakeAdvice(FakeState* state) : state_(state) {}
  grpc::Status Advise(grpc::ServerContext*, const v1::AdviseRequest* request,
                      grpc::ServerWriter<v1::AdviseResponse>* writer) override {
    FAKE_ENTER("Advise");
    v1::AdviseResponse message;
    message.set_progress("asking the base model 120 rows");
    writer->Write(message);
    *message.mutable_advice() = state_->advice;
    writer->Write(message);
    return grpc::Status::OK;
  }
  grpc::Status Retrospect(grpc::ServerContext*, const v1::RetrospectRequest* request,
                          v1::Retrospective* response) override {
    FAKE_ENTER("Retrospect");
    response->set_comparison(request->comparison());
    response->set_text("That was right.");
    return grpc::Status::OK;
  }

 private:
  FakeState* const state_;
};

class FakeAliases : public v1::AliasService::Service {
 public:
  explicit FakeAliases(FakeState* state) : state_(state) {}
  grpc::Status SetAlias(grpc::ServerContext*, const v1::SetAliasRequest* request, v1::Alias* response) override {
    FAKE_ENTER("SetAlias");
    *response = request->alias();
    response->add_history()->mutable_targets()->CopyFrom(response->targets());
    for (const auto& setting : state_->aliases[response->name()].history()) *response->add_history() = setting;
    response->set_etag(absl::StrCat(response->history_size()));
    state_->aliases[response->name()] = *response;
    return grpc::Status::OK;
  }
  grpc::Status GetAlias(grpc::ServerContext*, const v1::GetAliasRequest* request, v1::Alias* response) override {
    FAKE_ENTER("GetAlias");
    return Find(state_->aliases, request->name(), response);
  }
  grpc::Status ListAliases(grpc::ServerContext*, const v1::ListAliasesRequest* request,
                           v1::ListAliasesResponse* response) override {
    FAKE_ENTER("ListAliases");
    return ListPage(state_->aliases, *request, response, [](auto* r) { return r->add_aliases(); });
  }
  grpc::Status RollBackAlias(grpc::ServerContext*, const v1::RollBackAliasRequest* request,
                             v1::Alias* response) override {
    FAKE_ENTER("RollBackAlias");
    if (grpc::Status found = Find(state_->aliases, request->name(), response); !found.ok()) return found;
    response->mutable_history()->DeleteSubrange(0, 1);
    *response->mutable_targets() = response->history(0).targets();
    state_->aliases[request->name()] = *response;
    return grpc::Status::OK;
  }
  grpc::Status DeleteAlias(grpc::ServerContext*, const v1::DeleteAliasRequest* request,
                           google::protobuf::Empty*) override {
    FAKE_ENTER("DeleteAlias");
    if (state_->aliases.erase(request->name()) == 0) return ToGrpcStatus(NotFound(request->name()));
    return grpc::Status::OK;
  }

 private:
  FakeState* const state_;
};

#undef FAKE_ENTER

// All of it on a free port of this machine.
class FakeServer {
 public:
  FakeServer() { Start(); }
  ~FakeServer() { Stop(); }
  std::string target() const { return absl::StrCat("127.0.0.1:", port_); }
  FakeState& state() { return state_; }
  // Cuts every connection.
  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }
  // Starts again, on the same port. Not while it runs.
  void Start() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port_), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&models_).RegisterService(&datasets_).RegisterService(&tuning_);
    builder.RegisterService(&generation_).RegisterService(&evaluation_).RegisterService(&advice_);
    builder.RegisterService(&comparisons_).RegisterService(&aliases_);
    server_ = builder.BuildAndStart();
  }

 private:
  int port_ = 0;
  FakeState state_;
  FakeModels models_{&state_};
  FakeDatasets datasets_{&state_};
  FakeTuning tuning_{&state_};
  FakeGeneration generation_{&state_};
  FakeEvaluation evaluation_{&state_};
  FakeAdvice advice_{&state_};
  FakeComparisons comparisons_{&state_};
  FakeAliases aliases_{&state_};
  std::unique_ptr<grpc::Server> server_;
};

// A plain UNAVAILABLE, as a connection that breaks gives it.
inline grpc::Status Unavailable() { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection lost"); }

// A job's life: QUEUED, RUNNING, `steps` steps, then `end`; sequence numbers from 1.
inline std::vector<v1::JobEvent> JobLife(int steps, v1::TuningJob::State end) {
  std::vector<v1::JobEvent> events;
  auto add = [&](v1::JobEvent::Type type, v1::TuningJob::State state) -> v1::JobEvent& {
    v1::JobEvent& event = events.emplace_back();
    event.set_sequence(static_cast<int64_t>(events.size()));
    event.set_type(type);
    event.set_state(state);
    return event;
  };
  add(v1::JobEvent::STATE_CHANGED, v1::TuningJob::QUEUED);
  add(v1::JobEvent::STATE_CHANGED, v1::TuningJob::RUNNING);
  for (int i = 1; i <= steps; ++i) {
    v1::JobProgress& progress = *add(v1::JobEvent::PROGRESS, v1::TuningJob::RUNNING).mutable_progress();
    progress.set_step(i);
    progress.set_total_steps(steps);
    progress.set_train_loss(0.5);
    progress.set_eta_seconds(-1);
  }
  add(v1::JobEvent::STATE_CHANGED, end);
  return events;
}

}  // namespace attune::testing

#endif  // ATTUNE_TESTS_TESTING_FAKE_SERVICES_H_
