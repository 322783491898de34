#include "server/rpc/model_service.h"

#include <cmath>
#include <functional>

#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

class ModelServiceTest : public RpcFixture {
 protected:
  ModelServiceTest() : service_(MakeDeps()), stub_(v1::ModelService::NewStub(Serve(&service_))) {}

  ModelService::Deps MakeDeps() {
    ModelService::Deps deps;
    deps.models = models_.get();
    deps.job_store = job_store_.get();
    deps.comparison_store = comparison_store_.get();
    deps.metrics = &metrics_;
    deps.served = Provider();
    deps.engine = &engine_;
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

  grpc::Status CreateTextPrompt(const v1::CreateTextPromptRequest& request, v1::Model* model) {
    grpc::ClientContext context;
    return stub_->CreateTextPrompt(&context, request, model);
  }
  grpc::Status GetTextPrompt(const std::string& name, v1::TextPrompt* prompt) {
    v1::GetTextPromptRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    return stub_->GetTextPrompt(&context, request, prompt);
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

TEST_F(ModelServiceTest, IsNotDeletedWhileAComparisonNeedsIt) {
  v1::Model model;
  ASSERT_TRUE(Import(folder_.Write("judge.gguf", "weights"), &model).ok());
  ComparisonSpec spec;
  spec.id = "c";
  spec.base_model = "base";
  spec.judge_model = "imported";
  ASSERT_TRUE(comparison_store_->Create(spec, "").ok());
  const grpc::Status status = Delete("models/imported");
  EXPECT_EQ(Reason(status), "MODEL_IN_USE");
  EXPECT_THAT(status.error_message(), testing::HasSubstr("comparisons"));
  ASSERT_TRUE(comparison_store_->Update("c", [](Comparison& comparison) {
    comparison.state = ComparisonState::kCancelled;
    return absl::OkStatus();
  }).ok());
  EXPECT_TRUE(Delete("models/imported").ok());
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

// A prompt over "base" with every part set.
v1::CreateTextPromptRequest MoodRequest() {
  v1::CreateTextPromptRequest request;
  request.set_base_model("models/base");
  request.set_model_id("mood");
  request.mutable_model()->set_display_name("Mood");
  v1::TextPrompt* prompt = request.mutable_text_prompt();
  prompt->set_instruction("{{Glad}} or sad?");
  prompt->set_input_template("Text: {{text}}\nMood:");
  prompt->set_output_template(" {{label}}");
  auto& columns = *prompt->add_examples()->mutable_columns();
  columns["text"] = "sunny";
  columns["label"] = "glad";
  (*prompt->mutable_label_offsets())["glad"] = 0.5;
  prompt->set_edited_from("models/older");
  return request;
}

TEST_F(ModelServiceTest, ATextPromptIsMadeShownAndServed) {
  AddModel("base");
  v1::CreateTextPromptRequest request = MoodRequest();
  request.set_request_id("once");
  v1::Model model;
  grpc::Status status = CreateTextPrompt(request, &model);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(model.name(), "models/mood");
  EXPECT_EQ(model.kind(), v1::Model::TEXT_PROMPT);
  EXPECT_EQ(model.base_model(), "models/base");
  EXPECT_EQ(model.display_name(), "Mood");
  EXPECT_EQ(model.prompt_template(), "\\{{Glad}} or sad?\n\nText: sunny\nMood: glad\n\nText: {{text}}\nMood:");
  EXPECT_EQ(model.completion_template(), " {{label}}");
  EXPECT_EQ(model.dataset_kind(), v1::Dataset::PROMPT_COMPLETION);
  v1::TextPrompt shown;
  ASSERT_TRUE(GetTextPrompt("models/mood", &shown).ok());
  EXPECT_EQ(shown.SerializeAsString().size(), request.text_prompt().SerializeAsString().size());
  EXPECT_EQ(shown.DebugString(), request.text_prompt().DebugString());
  // The same request is the same model; another one may not have its id.
  ASSERT_TRUE(CreateTextPrompt(request, &model).ok());
  EXPECT_EQ(model.name(), "models/mood");
  request.set_request_id("twice");
  EXPECT_EQ(Reason(CreateTextPrompt(request, &model)), "MODEL_EXISTS");
  request.clear_model_id();
  ASSERT_TRUE(CreateTextPrompt(request, &model).ok());
  EXPECT_THAT(model.name(), testing::StartsWith("models/base-prompt-"));
}

v1::CreateTextPromptRequest PoolRequest() {
  v1::CreateTextPromptRequest request = MoodRequest();
  request.clear_request_id();
  auto* pool = request.mutable_text_prompt()->mutable_pool();
  pool->set_retrieved_examples(1);
  for (const char* text : {"rain", "a long sunny day"}) {
    auto& columns = *pool->add_examples()->mutable_columns();
    columns["text"] = text;
    columns["label"] = "x";
  }
  return request;
}

TEST_F(ModelServiceTest, APoolIsEmbeddedOnceAndKeptAsItIs) {
  AddModel("base");
  AddServed("base");
  v1::CreateTextPromptRequest request = PoolRequest();
  v1::Model model;
  ASSERT_TRUE(CreateTextPrompt(request, &model).ok());
  // The examples that are retrieved are no part of the template.
  EXPECT_EQ(model.prompt_template().find("rain"), std::string::npos);
  ASSERT_EQ(engine_.embedded().size(), 2);
  EXPECT_EQ(tokenizer_.Decode(engine_.embedded()[0], true), "Text: rain\nMood:");
  v1::TextPrompt shown;
  ASSERT_TRUE(GetTextPrompt("models/mood", &shown).ok());
  ASSERT_EQ(shown.pool().examples_size(), 2);
  EXPECT_EQ(shown.pool().retrieved_examples(), 1);
  EXPECT_EQ(shown.pool().examples(1).columns().at("text"), "a long sunny day");
  ASSERT_EQ(shown.pool().examples(1).embedding_size(), 2);
  EXPECT_NEAR(std::hypot(shown.pool().examples(1).embedding(0), shown.pool().examples(1).embedding(1)), 1, 1e-6);
  // An edited prompt comes with its embeddings: nothing is embedded again.
  *request.mutable_text_prompt() = shown;
  request.mutable_text_prompt()->set_instruction("Another.");
  request.set_model_id("mood-v2");
  ASSERT_TRUE(CreateTextPrompt(request, &model).ok());
  EXPECT_EQ(engine_.embedded().size(), 2);
  v1::TextPrompt edited;
  ASSERT_TRUE(GetTextPrompt("models/mood-v2", &edited).ok());
  EXPECT_EQ(edited.pool().SerializeAsString().size(), shown.pool().SerializeAsString().size());
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(edited.pool().examples(i).embedding(), ElementsAreArray(shown.pool().examples(i).embedding()));
  }
}

TEST_F(ModelServiceTest, PoolsAreChecked) {
  AddModel("base");
  AddServed("base");
  const auto field = [&](const std::function<void(v1::TextPrompt::ExamplePool*)>& change) {
    v1::CreateTextPromptRequest request = PoolRequest();
    change(request.mutable_text_prompt()->mutable_pool());
    v1::Model model;
    return Field(CreateTextPrompt(request, &model));
  };
  using Pool = v1::TextPrompt::ExamplePool;
  EXPECT_EQ(field([](Pool* pool) { pool->clear_examples(); }), "text_prompt.pool.examples");
  EXPECT_EQ(field([](Pool* pool) {
              while (pool->examples_size() < 513) *pool->add_examples() = pool->examples(0);
            }),
            "text_prompt.pool.examples");
  EXPECT_EQ(field([](Pool* pool) { pool->clear_retrieved_examples(); }), "text_prompt.pool.retrieved_examples");
  EXPECT_EQ(field([](Pool* pool) { pool->set_retrieved_examples(65); }), "text_prompt.pool.retrieved_examples");
  EXPECT_EQ(field([](Pool* pool) { pool->mutable_examples(1)->clear_columns(); }),
            "text_prompt.pool.examples[1].columns");
  EXPECT_EQ(field([](Pool* pool) { pool->mutable_examples(1)->add_embedding(1); }), "text_prompt.pool");
  EXPECT_EQ(field([](Pool* pool) {
              pool->mutable_examples(0)->add_embedding(1);
              for (int i = 0; i < 2; ++i) pool->mutable_examples(1)->add_embedding(1);
            }),
            "text_prompt.pool.examples[1].embedding");
  EXPECT_EQ(field([](Pool* pool) {
              for (int i = 0; i < 2; ++i) pool->mutable_examples(i)->add_embedding(NAN);
            }),
            "text_prompt.pool.examples[0].embedding");
  EXPECT_TRUE(engine_.embedded().empty());
}

TEST_F(ModelServiceTest, TextPromptsAreChecked) {
  AddModel("base");
  AddModel("lora", ModelKind::kLora, "base");
  v1::Model model;
  const auto field = [&](const std::function<void(v1::CreateTextPromptRequest*)>& change) {
    v1::CreateTextPromptRequest request = MoodRequest();
    change(&request);
    return Field(CreateTextPrompt(request, &model));
  };
  using Request = v1::CreateTextPromptRequest;
  EXPECT_EQ(field([](Request* r) { r->clear_base_model(); }), "base_model");
  EXPECT_EQ(field([](Request* r) { r->clear_text_prompt(); }), "text_prompt");
  EXPECT_EQ(field([](Request* r) { r->set_model_id("No Id"); }), "model_id");
  EXPECT_EQ(field([](Request* r) { r->mutable_text_prompt()->set_input_template("{{x"); }),
            "text_prompt.input_template");
  EXPECT_EQ(field([](Request* r) { r->mutable_text_prompt()->set_output_template("{{}}"); }),
            "text_prompt.output_template");
  EXPECT_EQ(field([](Request* r) { r->mutable_text_prompt()->add_examples(); }), "text_prompt.examples[1].columns");
  EXPECT_EQ(field([](Request* r) { r->mutable_text_prompt()->set_instruction(std::string(65537, 'x')); }),
            "text_prompt.instruction");
  EXPECT_EQ(field([](Request* r) { (*r->mutable_text_prompt()->mutable_label_offsets())["x"] = NAN; }),
            "text_prompt.label_offsets");
  EXPECT_EQ(field([](Request* r) { r->set_base_model("models/none"); }), "reason MODEL_NOT_FOUND");
  EXPECT_EQ(field([](Request* r) { r->set_base_model("models/lora"); }), "reason BASE_IS_ADAPTER");
  v1::TextPrompt shown;
  EXPECT_EQ(Reason(GetTextPrompt("models/lora", &shown)), "NOT_A_TEXT_PROMPT");
  EXPECT_EQ(Reason(GetTextPrompt("models/none", &shown)), "MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace attune
