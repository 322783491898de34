#include "server/rpc/dataset_service.h"

#include <functional>
#include <vector>

#include "absl/time/clock.h"
#include "common/file.h"
#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kRows[] = "{\"prompt\":\"p1\",\"completion\":\"c1\"}\n{\"prompt\":\"p2\",\"completion\":\"c2\"}\n";

class DatasetServiceTest : public RpcFixture {
 protected:
  DatasetServiceTest()
      : service_({datasets_.get(), job_store_.get(), comparison_store_.get(), Provider(), &metrics_}),
        stub_(v1::DatasetService::NewStub(Serve(&service_))) {}

  grpc::Status Send(const std::vector<v1::UploadDatasetRequest>& messages, v1::Dataset* dataset) {
    grpc::ClientContext context;
    auto writer = stub_->UploadDataset(&context, dataset);
    for (const v1::UploadDatasetRequest& message : messages) {
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }
  grpc::Status Upload(const v1::UploadDatasetRequest::Header& header, const std::string& rows, v1::Dataset* dataset) {
    v1::UploadDatasetRequest first;
    *first.mutable_header() = header;
    return Send({first, Chunk(rows.substr(0, 10)), Chunk(rows.substr(10))}, dataset);
  }
  static v1::UploadDatasetRequest Chunk(const std::string& bytes) {
    v1::UploadDatasetRequest message;
    message.set_chunk(bytes);
    return message;
  }
  static v1::UploadDatasetRequest::Header Header(const std::string& id = "data") {
    v1::UploadDatasetRequest::Header header;
    header.set_dataset_id(id);
    return header;
  }
  std::string Listed() {
    v1::ListDatasetsResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(stub_->ListDatasets(&context, v1::ListDatasetsRequest(), &response).ok());
    std::string names;
    for (const auto& dataset : response.datasets()) names += dataset.name() + ";";
    return names;
  }

  DatasetService service_;
  std::unique_ptr<v1::DatasetService::Stub> stub_;
};

TEST_F(DatasetServiceTest, UploadsInPieces) {
  Sha256 hash;
  hash.Update(kRows);
  v1::UploadDatasetRequest::Header header = Header();
  header.set_sha256(hash.Finish());
  header.mutable_dataset()->set_display_name("Mine");
  v1::Dataset dataset;
  grpc::Status status = Upload(header, kRows, &dataset);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(dataset.name(), "datasets/data");
  EXPECT_EQ(dataset.display_name(), "Mine");
  EXPECT_EQ(dataset.state(), v1::Dataset::READY);
  EXPECT_EQ(dataset.format(), v1::Dataset::JSONL);
  EXPECT_EQ(dataset.kind(), v1::Dataset::PROMPT_COMPLETION);
  EXPECT_EQ(dataset.prompt_template(), "{{prompt}}");
  EXPECT_EQ(dataset.row_count(), 2);
  EXPECT_EQ(dataset.sha256(), header.sha256());
  EXPECT_THAT(dataset.columns(), ElementsAre("completion", "prompt"));

  v1::GetDatasetRequest request;
  request.set_name("datasets/data");
  v1::Dataset got;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->GetDataset(&context, request, &got).ok());
  EXPECT_EQ(got.SerializeAsString(), dataset.SerializeAsString());
  EXPECT_THAT(metrics_.Render(), HasSubstr("attune_dataset_rows_total{result=\"accepted\"} 2\n"));
}

TEST_F(DatasetServiceTest, NamesTheWrongField) {
  using Change = std::function<void(v1::UploadDatasetRequest::Header&)>;
  const std::vector<std::pair<std::string, Change>> cases = {
      {"header.dataset_id", [](auto& h) { h.set_dataset_id("No!"); }},
      {"header.sha256", [](auto& h) { h.set_sha256("ABC"); }},
      {"header.request_id", [](auto& h) { h.set_request_id(std::string(129, 'x')); }},
      {"header.dataset.display_name", [](auto& h) { h.mutable_dataset()->set_display_name(std::string(201, 'x')); }},
      {"header.dataset.format", [](auto& h) { h.mutable_dataset()->set_format(static_cast<v1::Dataset::Format>(9)); }},
      {"header.dataset.kind", [](auto& h) { h.mutable_dataset()->set_kind(static_cast<v1::Dataset::Kind>(9)); }},
      {"header.dataset.prompt_template", [](auto& h) { h.mutable_dataset()->set_prompt_template("{{"); }},
      {"header.dataset.completion_template", [](auto& h) { h.mutable_dataset()->set_completion_template("{{}}"); }},
      {"header.dataset.column_mapping", [](auto& h) { (*h.mutable_dataset()->mutable_column_mapping())["a"] = ""; }},
      {"header.dataset.labels", [](auto& h) { (*h.mutable_dataset()->mutable_labels())[""] = "x"; }},
  };
  for (const auto& [field, change] : cases) {
    v1::UploadDatasetRequest::Header header = Header();
    change(header);
    v1::Dataset dataset;
    grpc::Status status = Upload(header, kRows, &dataset);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_EQ(Field(status), field);
  }
  EXPECT_EQ(Listed(), "");
}

TEST_F(DatasetServiceTest, TheStreamHasOneHeaderFirstAndChunksOfLimitedSize) {
  v1::UploadDatasetRequest header;
  *header.mutable_header() = Header();
  v1::Dataset dataset;
  EXPECT_EQ(Field(Send({}, &dataset)), "header");
  EXPECT_EQ(Field(Send({Chunk(kRows)}, &dataset)), "header");
  EXPECT_EQ(Field(Send({header, header}, &dataset)), "header");
  EXPECT_EQ(Field(Send({header, Chunk(std::string((1 << 20) + 1, ' '))}, &dataset)), "chunk");
  EXPECT_EQ(Listed(), "");
}

TEST_F(DatasetServiceTest, BadBytesAreRefusedAndLeaveNothing) {
  v1::Dataset dataset;
  v1::UploadDatasetRequest::Header header = Header();
  header.set_sha256(std::string(64, '0'));
  grpc::Status status = Upload(header, kRows, &dataset);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(Reason(status), "CHECKSUM_MISMATCH");
  EXPECT_EQ(Reason(Upload(Header(), std::string(kRows) + "not json\n", &dataset)), "BAD_ROWS");
  EXPECT_EQ(Listed(), "");
  header = Header();
  header.set_skip_bad_rows(true);
  ASSERT_TRUE(Upload(header, std::string(kRows) + "not json\n", &dataset).ok());
  EXPECT_EQ(dataset.skipped_row_count(), 1);
  ASSERT_EQ(dataset.row_errors_size(), 1);
  EXPECT_EQ(dataset.row_errors(0).line(), 3);
}

TEST_F(DatasetServiceTest, ABrokenOffUploadLeavesNothing) {
  {
    v1::Dataset dataset;
    grpc::ClientContext context;
    auto writer = stub_->UploadDataset(&context, &dataset);
    v1::UploadDatasetRequest header;
    *header.mutable_header() = Header();
    ASSERT_TRUE(writer->Write(header));
    ASSERT_TRUE(writer->Write(Chunk(kRows)));
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  server_->Shutdown();  // waits for the handler
  EXPECT_TRUE(datasets_->List(10, INT64_MAX)->empty());
}

TEST_F(DatasetServiceTest, ListsNewestFirstInPages) {
  for (const char* id : {"a", "b", "c"}) AddDataset(id, kRows);
  v1::ListDatasetsRequest request;
  request.set_page_size(2);
  v1::ListDatasetsResponse response;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->ListDatasets(&first, request, &response).ok());
  ASSERT_EQ(response.datasets_size(), 2);
  EXPECT_EQ(response.datasets(0).name(), "datasets/c");
  request.set_page_token(response.next_page_token());
  response.Clear();
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->ListDatasets(&second, request, &response).ok());
  ASSERT_EQ(response.datasets_size(), 1);
  EXPECT_EQ(response.datasets(0).name(), "datasets/a");
  EXPECT_TRUE(response.next_page_token().empty());
}

TEST_F(DatasetServiceTest, IsNotDeletedWhileAJobNeedsIt) {
  AddDataset("data", kRows);
  runner_.SetScript("job", &FakeRunner::RunUntilStopped);
  JobSpec spec;
  spec.id = "job";
  spec.base_model = "base";
  spec.dataset = "data";
  spec.method = LoraSpec();
  ASSERT_TRUE(jobs_->Create(spec, "").ok());
  v1::DeleteDatasetRequest request;
  request.set_name("datasets/data");
  google::protobuf::Empty empty;
  grpc::ClientContext first;
  grpc::Status status = stub_->DeleteDataset(&first, request, &empty);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Reason(status), "DATASET_IN_USE");
  ASSERT_TRUE(jobs_->Cancel("job", "").ok());
  while (!IsFinal(jobs_->Get("job")->state)) absl::SleepFor(absl::Milliseconds(1));
  grpc::ClientContext second;
  EXPECT_TRUE(stub_->DeleteDataset(&second, request, &empty).ok());
  EXPECT_EQ(Listed(), "");
}

TEST_F(DatasetServiceTest, IsNotDeletedWhileAComparisonNeedsIt) {
  AddDataset("data", kRows);
  ComparisonSpec spec;
  spec.id = "c";
  spec.retention_dataset = "data";
  ASSERT_TRUE(comparison_store_->Create(spec, "").ok());
  v1::DeleteDatasetRequest request;
  request.set_name("datasets/data");
  google::protobuf::Empty empty;
  grpc::ClientContext first;
  EXPECT_EQ(Reason(stub_->DeleteDataset(&first, request, &empty)), "DATASET_IN_USE");
  ASSERT_TRUE(comparison_store_->Update("c", [](Comparison& comparison) {
    comparison.state = ComparisonState::kFailed;
    return absl::OkStatus();
  }).ok());
  grpc::ClientContext second;
  EXPECT_TRUE(stub_->DeleteDataset(&second, request, &empty).ok());
}

TEST_F(DatasetServiceTest, PreviewsWhatTrainingSees) {
  AddDataset("data", kRows);
  AddServed("base");
  v1::PreviewDatasetRequest request;
  request.set_name("datasets/data");
  request.set_model("models/base");
  request.set_offset(1);
  request.mutable_data()->set_prompt_template("Q:{{prompt}}");
  v1::PreviewDatasetResponse response;
  grpc::ClientContext context;
  grpc::Status status = stub_->PreviewDataset(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.examples_size(), 1);
  const auto& example = response.examples(0);
  EXPECT_EQ(example.row(), 1);
  EXPECT_EQ(example.prompt(), "Q:p2");
  EXPECT_EQ(example.completion(), "c2");
  std::string text, with_loss;
  for (const auto& token : example.tokens()) {
    text += token.text();
    if (token.has_loss()) with_loss += token.text();
  }
  EXPECT_EQ(text, "<s>Q:p2c2</s>");
  EXPECT_EQ(with_loss, "c2</s>");
}

TEST_F(DatasetServiceTest, PreviewChecksItsRequest) {
  AddDataset("data", kRows);
  AddServed("base");
  const auto field = [&](const std::function<void(v1::PreviewDatasetRequest&)>& change) {
    v1::PreviewDatasetRequest request;
    request.set_name("datasets/data");
    request.set_model("models/base");
    change(request);
    v1::PreviewDatasetResponse response;
    grpc::ClientContext context;
    return Field(stub_->PreviewDataset(&context, request, &response));
  };
  EXPECT_EQ(field([](auto& r) { r.set_name("data"); }), "name");
  EXPECT_EQ(field([](auto& r) { r.clear_model(); }), "model");
  EXPECT_EQ(field([](auto& r) { r.set_count(101); }), "count");
  EXPECT_EQ(field([](auto& r) { r.set_offset(-1); }), "offset");
  EXPECT_EQ(field([](auto& r) { r.mutable_data()->set_max_sequence_tokens(65); }), "data.max_sequence_tokens");
  EXPECT_EQ(field([](auto& r) { r.mutable_data()->set_validation_fraction(0.6); }), "data.validation_fraction");
  EXPECT_EQ(field([](auto& r) { r.set_model("models/none"); }), "reason MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace attune
