#ifndef ATTUNE_TESTS_RPC_RPC_FIXTURE_H_
#define ATTUNE_TESTS_RPC_RPC_FIXTURE_H_

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/database.h"
#include "common/error.h"
#include "common/log.h"
#include "common/status.h"
#include "server/adapters/alias_store.h"
#include "server/adapters/registry.h"
#include "server/comparison/comparison_store.h"
#include "server/data/dataset_store.h"
#include "server/jobs/job_store.h"
#include "server/jobs/manager.h"
#include "server/metrics/metrics.h"
#include "server/rpc/cancel_watcher.h"
#include "server/rpc/model_provider.h"
#include "tests/jobs/fake_runner.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/manual_clock.h"
#include "tests/testing/temp_folder.h"

namespace attune {

// Real stores in a temporary folder, a fake engine, tokenizer and runner, and one
// service behind a real gRPC server on a free port.
class RpcFixture : public ::testing::Test {
 protected:
  RpcFixture() : metrics_(Metrics::Options()) {
    SetLogLevel(LogLevel::kError);
    database_ = *Database::Open(":memory:");
    datasets_ = *DatasetStore::Open(folder_.File("datasets"), database_.get(), &clock_);
    job_store_ = *JobStore::Open(database_.get(), &clock_);
    ModelRegistry::Options registry;
    registry.import_roots = {folder_.path()};
    registry.inspect = [](const std::string&) -> absl::StatusOr<Architecture> {
      Architecture shape;
      shape.family = "llama";
      shape.context_tokens = 64;
      return shape;
    };
    models_ = *ModelRegistry::Open(folder_.File("models"), database_.get(), &clock_, registry);
    comparison_store_ = *ComparisonStore::Open(database_.get(), &clock_);
    aliases_ = *AliasStore::Open(database_.get(), &clock_);
    jobs_ = std::make_unique<JobManager>(job_store_.get(), &runner_, &clock_, JobManager::Options());
    EXPECT_TRUE(jobs_->Start().ok());
  }

  // Before the test's own members, the service among them, go.
  void TearDown() override {
    jobs_->Shutdown();
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  std::shared_ptr<grpc::Channel> Serve(grpc::Service* service) {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service);
    server_ = builder.BuildAndStart();
    return grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
  }

  ModelProvider Provider() {
    return MakeModelProvider(aliases_.get(), &metrics_,
                             [this](absl::string_view id) -> absl::StatusOr<std::shared_ptr<const ServedModel>> {
                               auto it = served_.find(std::string(id));
                               if (it == served_.end()) return NotFound(absl::StrCat("models/", id));
                               return std::shared_ptr<const ServedModel>(it->second);
                             });
  }

  // A model in memory, of FakeTokenizer's vocabulary; change it before use.
  ServedModel* AddServed(const std::string& id, int64_t context = 64) {
    auto model = std::make_shared<ServedModel>();
    model->info.id = id;
    model->info.kind = ModelKind::kBase;
    model->info.architecture.context_tokens = context;
    model->tokenizer_view = &tokenizer_;
    model->context = context;
    served_[id] = model;
    return model.get();
  }

  // A data set on disk.
  void AddDataset(const std::string& id, const std::string& jsonl) {
    DatasetStore::UploadOptions options;
    options.info.id = id;
    options.info.prompt_template = kDefaultPromptTemplate;
    options.info.completion_template = kDefaultCompletionTemplate;
    auto upload = datasets_->BeginUpload(options);
    ASSERT_TRUE(upload.ok()) << upload.status();
    ASSERT_TRUE((*upload)->Append(jsonl).ok());
    auto info = (*upload)->Commit();
    ASSERT_TRUE(info.ok()) << info.status();
  }

  // A model in the registry.
  void AddModel(const std::string& id, ModelKind kind = ModelKind::kBase, const std::string& base = "") {
    auto staging = models_->NewStagingDirectory();
    ASSERT_TRUE(staging.ok()) << staging.status();
    std::ofstream(*staging + "/model.gguf") << "weights";
    ModelInfo info;
    info.id = id;
    info.kind = kind;
    info.base_model = base;
    auto published = models_->Publish(info, *staging);
    ASSERT_TRUE(published.ok()) << published.status();
  }

  // The reason of a failed call.
  static std::string Reason(const grpc::Status& status) { return GetErrorDetails(FromGrpcStatus(status)).reason; }
  // The field that a failed call names; the reason if it names none.
  static std::string Field(const grpc::Status& status) {
    const ErrorDetails details = GetErrorDetails(FromGrpcStatus(status));
    return details.violations.empty() ? absl::StrCat("reason ", details.reason) : details.violations[0].field;
  }

  TempFolder folder_;
  ManualClock clock_;
  FakeTokenizer tokenizer_;
  FakeRunner runner_;
  FakeEngine engine_;
  Metrics metrics_;
  CancelWatcher watcher_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<DatasetStore> datasets_;
  std::unique_ptr<ModelRegistry> models_;
  std::unique_ptr<ComparisonStore> comparison_store_;
  std::unique_ptr<AliasStore> aliases_;
  std::unique_ptr<JobStore> job_store_;
  std::unique_ptr<JobManager> jobs_;
  std::map<std::string, std::shared_ptr<ServedModel>> served_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_RPC_RPC_FIXTURE_H_
