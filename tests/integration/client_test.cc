// The client library against the real server: import, upload, tune, watch, generate, measure.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/attune.h"
#include "common/error.h"
#include "common/log.h"
#include "server/server.h"
#include "tests/testing/run_cli.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace attune {
namespace {

using ::testing::HasSubstr;

class ClientIntegrationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogLevel(LogLevel::kError);
    options_.data_dir = folder_.File("data");
    options_.listen = options_.http_listen = "127.0.0.1:0";
    options_.device = "cpu";
    options_.kv_tokens = 1024;
    options_.import_roots = {folder_.path()};
    TinyModel::WriteGguf(folder_.File("tiny.gguf"));
    auto server = Server::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    target_ = absl::StrCat("127.0.0.1:", server_->grpc_port());
    auto client = Client::Connect(target_);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  void ImportAndUpload() {
    v1::ImportModelRequest import;
    import.set_source_path(folder_.File("tiny.gguf"));
    import.set_model_id("tiny");
    const auto model = client_->ImportModel(import);
    ASSERT_TRUE(model.ok()) << model.status();
    std::string rows;
    for (int i = 0; i < 40; ++i) {
      absl::StrAppend(&rows, "{\"text\": \"w", i, "\", \"label\": \"", i % 2 ? "yes" : "no", "\"}\n");
    }
    v1::UploadDatasetRequest::Header header;
    header.set_dataset_id("rows");
    header.mutable_dataset()->set_prompt_template("{{text}}:");
    header.mutable_dataset()->set_completion_template("{{label}}");
    const auto dataset = client_->UploadDatasetBytes(header, rows);
    ASSERT_TRUE(dataset.ok()) << dataset.status();
  }

  absl::StatusOr<v1::TuningJob> Tune(const std::string& id) {
    v1::CreateTuningJobRequest request;
    request.set_tuning_job_id(id);
    v1::TuningJob& job = *request.mutable_tuning_job();
    job.set_base_model("models/tiny");
    job.set_dataset("datasets/rows");
    job.set_tuned_model_id(id);
    job.mutable_lora()->set_rank(2);
    job.mutable_hyperparameters()->set_max_steps(6);
    return client_->CreateTuningJob(request);
  }

  TempFolder folder_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
  std::string target_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientIntegrationTest, TunesWatchesGeneratesAndMeasures) {
  ImportAndUpload();
  const auto job = Tune("tuned");
  ASSERT_TRUE(job.ok()) << job.status();

  v1::WatchTuningJobRequest watch;
  watch.set_name(job->name());
  std::vector<v1::JobEvent> events;
  const absl::Status watched = client_->WatchTuningJob(watch, [&](const v1::JobEvent& event) {
    events.push_back(event);
    return true;
  });
  ASSERT_TRUE(watched.ok()) << watched;
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence(), static_cast<int64_t>(i + 1));
  v1::GetTuningJobRequest get;
  get.set_name(job->name());
  const auto ended = client_->GetTuningJob(get);
  ASSERT_TRUE(ended.ok()) << ended.status();
  EXPECT_EQ(ended->state(), v1::TuningJob::SUCCEEDED) << ended->DebugString();
  EXPECT_EQ(ended->progress().step(), 6);

  // The tuned model and its base answer, streamed and whole.
  for (const char* name : {"models/tuned", "models/tiny"}) {
    v1::GenerateRequest request;
    request.set_model(name);
    request.mutable_prompt()->set_text("hello the");
    request.set_max_tokens(8);
    request.set_ignore_eos(true);
    const auto whole = client_->Generate(request);
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_EQ(whole->usage().completion_tokens(), 8);
    std::string text;
    ASSERT_TRUE(client_->StreamGenerate(request, [&](const v1::StreamGenerateResponse& piece) {
                         text += piece.text();
                         return true;
                       }).ok());
    EXPECT_EQ(text, whole->completions(0).text()) << name;
  }

  v1::EvaluateRequest evaluate;
  evaluate.set_model("models/tuned");
  evaluate.set_dataset("datasets/rows");
  const auto result = client_->Evaluate(evaluate);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->examples(), 40);
  EXPECT_EQ(result->label_accuracy().count(), 40);
  EXPECT_GT(result->loss(), 0);
}

TEST_F(ClientIntegrationTest, ErrorsKeepTheirReasons) {
  const auto refused = Tune("early");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GetErrorDetails(refused.status()).reason, "MODEL_NOT_FOUND");
}

TEST_F(ClientIntegrationTest, TheCommandDrivesTheSameServer) {
  ImportAndUpload();
  const std::vector<std::string> server = {"--server", target_};
  auto run = [&](std::vector<std::string> words) {
    words.insert(words.begin(), server.begin(), server.end());
    return testing::RunAttune(std::move(words));
  };
  const auto tuned = run({"tune", "--base", "tiny", "--data", "rows", "--method", "soft-prompt", "--virtual-tokens", "3",
                          "--max-steps", "4", "--name", "prompt", "--output", "prompt", "--watch"});
  EXPECT_EQ(tuned.code, 0) << tuned.err;
  const auto listed = run({"models", "list"});
  EXPECT_EQ(listed.code, 0) << listed.err;
  EXPECT_THAT(listed.out, HasSubstr("prompt"));
  const auto generated = run({"generate", "prompt", "--var", "text=w1", "--max-tokens", "3", "--ignore-eos"});
  EXPECT_EQ(generated.code, 0) << generated.err;
  EXPECT_NE(run({"generate", "nobody", "x"}).code, 0);
}

}  // namespace
}  // namespace attune
