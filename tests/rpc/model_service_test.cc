#include "server/rpc/model_service.h"

#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

using ::testing::ElementsAre;

class ModelServiceTest : public RpcFixture {
 protected:
  ModelServiceTest() : service_(MakeDeps()), stub_(v1::ModelService::NewStub(Serve(&service_))) {}

  ModelService::Deps MakeDeps() {
    ModelService::Deps deps;
    deps.models = models_.get();
    deps.job_store = job_store_.get();
    deps.metrics = &metrics_;
    deps.drop = [this](absl::string_view id) { dropped_.push_back(std::string(id)); };
    deps.export_model = [this](const ExportRequest& request) -> absl::StatusOr<ExportOutcome> {
      exported_ = request;
      return ExportOutcome{"/exports/x", {"a", "b"}, 7};
    };
    return deps;
  }

  grpc::Status Import(const std::string& path, v1::Model* model) {
    v1::ImportModelRequest request;
    request.set_source_path(path);
    request.set_model_id("imported");
    request.mutable_model()->set_description("words");
    grpc::ClientContext context;
    return stub_->ImportModel(&context, request, model);
  }
  grpc::Status Update(const v1::UpdateModelRequest& request, v1::Model* model) {
    grpc::ClientContext context;
    return stub_->UpdateModel(&context, request, model);
  }
  grpc::Status Delete(const std::string& name, const std::string& etag = "") {
    v1::DeleteModelRequest request;
    request.set_name(name);
    request.set_etag(etag);
    google::protobuf::Empty empty;
    grpc::ClientContext context;
    return stub_->DeleteModel(&context, request, &empty);
  }
  grpc::Status Export(const std::string& destination, int format, v1::ExportModelResponse* response) {
    v1::ExportModelRequest request;
    request.set_name("models/base");
    request.set_destination(destination);
    request.set_format(static_cast<v1::ExportModelRequest::Format>(format));
    grpc::ClientContext context;
    return stub_->ExportModel(&context, request, response);
  }

  std::vector<std::string> dropped_;
  ExportRequest exported_;
  ModelService service_;
  std::unique_ptr<v1::ModelService::Stub> stub_;
};

TEST_F(ModelServiceTest, ImportsFromUnderARootOnly) {
  v1::Model model;
  EXPECT_EQ(Field(Import("", &model)), "source_path");
  EXPECT_EQ(Reason(Import("/etc/passwd", &model)), "OUTSIDE_IMPORT_ROOT");
  grpc::Status status = Import(folder_.Write("m.gguf", "GGUF"), &model);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(model.name(), "models/imported");
  EXPECT_EQ(model.description(), "words");
  EXPECT_EQ(model.kind(), v1::Model::BASE);
  EXPECT_EQ(model.state(), v1::Model::READY);
  EXPECT_EQ(model.architecture().family(), "llama");
  EXPECT_EQ(model.architecture().context_tokens(), 64);
  EXPECT_GT(model.size_bytes(), 0);

  v1::GetModelRequest request;
  request.set_name("models/imported");
  v1::Model got;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->GetModel(&context, request, &got).ok());
  EXPECT_EQ(got.etag(), model.etag());
}

TEST_F(ModelServiceTest, UpdatesWhatTheMaskNames) {
  AddModel("base");
  v1::UpdateModelRequest request;
  request.mutable_model()->set_name("models/base");
  request.mutable_model()->set_display_name("New");
  request.mutable_model()->set_description("ignored");
  v1::Model model;
  EXPECT_EQ(Field(Update(request, &model)), "update_mask");
  request.mutable_update_mask()->add_paths("state");
  EXPECT_EQ(Field(Update(request, &model)), "update_mask");
  request.mutable_update_mask()->set_paths(0, "display_name");
  ASSERT_TRUE(Update(request, &model).ok());
  EXPECT_EQ(model.display_name(), "New");
  EXPECT_EQ(model.description(), "");
  const std::string etag = model.etag();
  request.mutable_update_mask()->set_paths(0, "*");
  request.mutable_model()->set_etag(etag);
  (*request.mutable_model()->mutable_labels())["k"] = "v";
  ASSERT_TRUE(Update(request, &model).ok());
  EXPECT_EQ(model.description(), "ignored");
  EXPECT_EQ(model.labels().at("k"), "v");
  EXPECT_NE(model.etag(), etag);
  grpc::Status status = Update(request, &model);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(Reason(status), "ETAG_MISMATCH");
  request.mutable_model()->set_description(std::string(4097, 'x'));
  EXPECT_EQ(Field(Update(request, &model)), "model.description");
}

TEST_F(ModelServiceTest, ListsNewestFirst) {
  AddModel("base");
  AddModel("lora", ModelKind::kLora, "base");
  v1::ListModelsResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->ListModels(&context, v1::ListModelsRequest(), &response).ok());
  ASSERT_EQ(response.models_size(), 2);
  EXPECT_EQ(response.models(0).name(), "models/lora");
  EXPECT_EQ(response.models(0).base_model(), "models/base");
  EXPECT_EQ(response.models(0).kind(), v1::Model::LORA);
}

TEST_F(ModelServiceTest, DeletesAndForgetsUnlessNeeded) {
  AddModel("base");
  AddModel("lora", ModelKind::kLora, "base");
  EXPECT_EQ(Reason(Delete("models/base")), "MODEL_IN_USE");
  EXPECT_EQ(Reason(Delete("models/lora", "stale")), "ETAG_MISMATCH");
  EXPECT_TRUE(dropped_.empty());
  metrics_.InterToken("lora", 0.1);
  ASSERT_TRUE(Delete("models/lora").ok());
  EXPECT_THAT(dropped_, ElementsAre("lora"));
  EXPECT_THAT(metrics_.Render(), testing::Not(testing::HasSubstr("model_name=\"lora\"")));

  runner_.SetScript("job", &FakeRunner::RunUntilStopped);
  JobSpec spec;
  spec.id = "job";
  spec.base_model = "base";
  spec.dataset = "data";
  spec.method = LoraSpec();
  ASSERT_TRUE(jobs_->Create(spec, "").ok());
  grpc::Status status = Delete("models/base");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Reason(status), "MODEL_IN_USE");
}

TEST_F(ModelServiceTest, ExportsBelowTheRootOnly) {
  v1::ExportModelResponse response;
  for (const char* destination : {"/abs", "../x", "a/../b", "a//b", "."}) {
    EXPECT_EQ(Field(Export(destination, 0, &response)), "destination") << destination;
  }
  EXPECT_EQ(Field(Export("x", 9, &response)), "format");
  ASSERT_TRUE(Export("", v1::ExportModelRequest::PEFT, &response).ok());
  EXPECT_EQ(exported_.model, "base");
  EXPECT_EQ(exported_.destination, "base");
  EXPECT_EQ(exported_.format, ExportRequest::Format::kPeft);
  EXPECT_EQ(response.path(), "/exports/x");
  EXPECT_THAT(response.files(), ElementsAre("a", "b"));
  EXPECT_EQ(response.size_bytes(), 7);
}

}  // namespace
}  // namespace attune
