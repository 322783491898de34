#include "server/rpc/alias_service.h"

#include <memory>

#include "server/rpc/generation_service.h"
#include "server/rpc/model_service.h"
#include "server/rpc/route_key.h"
#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

using ::testing::HasSubstr;

class AliasServiceTest : public RpcFixture {
 protected:
  AliasServiceTest()
      : service_({aliases_.get(), job_store_.get(), &metrics_}), stub_(v1::AliasService::NewStub(Serve(&service_))) {
    for (const char* id : {"old", "new"}) {
      AddModel(id);
      AddServed(id);
    }
  }

  grpc::Status Set(const std::string& name, const std::vector<std::pair<std::string, int>>& targets,
                   v1::Alias* alias = nullptr, const std::string& etag = "", const std::string& request_id = "") {
    v1::SetAliasRequest request;
    request.mutable_alias()->set_name(name);
    request.mutable_alias()->set_etag(etag);
    request.set_request_id(request_id);
    for (const auto& [model, weight] : targets) {
      auto* target = request.mutable_alias()->add_targets();
      target->set_model(model);
      target->set_weight(weight);
    }
    v1::Alias ignored;
    grpc::ClientContext context;
    return stub_->SetAlias(&context, request, alias != nullptr ? alias : &ignored);
  }
  grpc::Status RollBack(const std::string& name, v1::Alias* alias) {
    v1::RollBackAliasRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    return stub_->RollBackAlias(&context, request, alias);
  }
  grpc::Status Delete(const std::string& name) {
    v1::DeleteAliasRequest request;
    request.set_name(name);
    google::protobuf::Empty empty;
    grpc::ClientContext context;
    return stub_->DeleteAlias(&context, request, &empty);
  }

  AliasService service_;
  std::unique_ptr<v1::AliasService::Stub> stub_;
};

TEST_F(AliasServiceTest, SetsShowsRollsBackAndDeletes) {
  v1::Alias alias;
  grpc::Status status = Set("aliases/tickets", {{"models/old", 0}}, &alias);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(alias.name(), "aliases/tickets");
  ASSERT_EQ(alias.targets_size(), 1);
  EXPECT_EQ(alias.targets(0).weight(), 1);
  EXPECT_TRUE(alias.has_create_time());
  const std::string etag = alias.etag();
  ASSERT_TRUE(Set("aliases/tickets", {{"models/old", 9}, {"models/new", 1}}, &alias, etag).ok());
  EXPECT_EQ(alias.history_size(), 2);
  EXPECT_EQ(Reason(Set("aliases/tickets", {{"models/new", 1}}, nullptr, etag)), "ETAG_MISMATCH");

  v1::GetAliasRequest get;
  get.set_name("aliases/tickets");
  v1::Alias got;
  grpc::ClientContext get_context;
  ASSERT_TRUE(stub_->GetAlias(&get_context, get, &got).ok());
  EXPECT_EQ(got.SerializeAsString(), alias.SerializeAsString());

  ASSERT_TRUE(RollBack("aliases/tickets", &alias).ok());
  EXPECT_EQ(alias.targets_size(), 1);
  EXPECT_EQ(alias.history_size(), 3);
  EXPECT_EQ(alias.history(0).revision(), 3);
  EXPECT_EQ(Reason(RollBack("aliases/tickets", &alias)), "NO_EARLIER_SETTING");

  v1::ListAliasesResponse list;
  grpc::ClientContext list_context;
  ASSERT_TRUE(stub_->ListAliases(&list_context, {}, &list).ok());
  ASSERT_EQ(list.aliases_size(), 1);
  EXPECT_EQ(list.aliases(0).name(), "aliases/tickets");
  EXPECT_EQ(list.next_page_token(), "");

  ASSERT_TRUE(Delete("aliases/tickets").ok());
  EXPECT_EQ(Reason(Delete("aliases/tickets")), "ALIAS_NOT_FOUND");
}

TEST_F(AliasServiceTest, NamesWrongFields) {
  EXPECT_EQ(Field(Set("models/tickets", {{"models/old", 1}})), "alias.name");
  EXPECT_EQ(Field(Set("aliases/t", {})), "alias.targets");
  EXPECT_EQ(Field(Set("aliases/t", {{"old", 1}})), "alias.targets[0].model");
  EXPECT_EQ(Field(Set("aliases/t", {{"models/old", 1}, {"models/new", 0}})), "alias.targets[1].weight");
  EXPECT_EQ(Field(Set("aliases/t", {{"models/old", 1}, {"models/old", 1}})), "alias.targets[1]");
  EXPECT_EQ(Field(Set("aliases/t", {{"models/old", 1}}, nullptr, "", std::string(129, 'x'))), "request_id");
  EXPECT_EQ(Reason(Set("aliases/t", {{"models/none", 1}})), "MODEL_NOT_FOUND");
}

TEST_F(AliasServiceTest, ModelsAndAliasesShareNoId) {
  EXPECT_EQ(Set("aliases/old", {{"models/new", 1}}).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Reason(Set("aliases/old", {{"models/new", 1}})), "MODEL_EXISTS");
  ASSERT_TRUE(Set("aliases/tickets", {{"models/old", 1}}).ok());
  ModelInfo info;
  info.id = "tickets";
  const absl::Status published = models_->Publish(info, *models_->NewStagingDirectory()).status();
  EXPECT_EQ(published.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(GetErrorDetails(published).reason, "ALIAS_EXISTS");
  ModelRegistry::ImportOptions import;
  import.id = "tickets";
  import.source_path = folder_.Write("m.gguf", "GGUF");
  EXPECT_EQ(GetErrorDetails(models_->Import(import).status()).reason, "ALIAS_EXISTS");
}

TEST_F(AliasServiceTest, WaitsForAJobThatWillPublishTheId) {
  AddDataset("data", "{\"prompt\":\"p\",\"completion\":\"c\"}\n");
  Job job;
  job.spec.id = "job";
  job.spec.base_model = "old";
  job.spec.dataset = "data";
  job.spec.tuned_model_id = "tickets";
  ASSERT_TRUE(job_store_->Create(job, "").ok());
  EXPECT_EQ(Reason(Set("aliases/tickets", {{"models/old", 1}})), "ID_RESERVED");
}

TEST_F(AliasServiceTest, AModelCallSaysThatItIsAnAlias) {
  ASSERT_TRUE(Set("aliases/tickets", {{"models/old", 1}, {"models/new", 1}}).ok());
  for (const absl::Status& status : {models_->Get("tickets").status(), models_->Delete("tickets", ""),
                                     models_->Update("tickets", {}, "").status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(GetErrorDetails(status).reason, "MODEL_IS_ALIAS");
    EXPECT_THAT(std::string(status.message()), HasSubstr("an alias of models/old, models/new"));
  }
}

TEST_F(AliasServiceTest, ATargetCannotBeDeleted) {
  ASSERT_TRUE(Set("aliases/tickets", {{"models/old", 1}}).ok());
  const absl::Status deleted = models_->Delete("old", "");
  EXPECT_EQ(deleted.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetErrorDetails(deleted).reason, "MODEL_IN_USE");
  EXPECT_EQ(GetErrorDetails(deleted).metadata.at("alias"), "aliases/tickets");
  ASSERT_TRUE(Set("aliases/tickets", {{"models/new", 1}}).ok());
  EXPECT_TRUE(models_->Delete("old", "").ok());
  v1::Alias alias;
  EXPECT_EQ(Reason(RollBack("aliases/tickets", &alias)), "TARGET_DELETED");
}

// Requests that name an alias; the alias service's own calls go to the store.
class AliasedRequestsTest : public RpcFixture {
 protected:
  AliasedRequestsTest()
      : service_({Provider(), &engine_, &watcher_, &metrics_}),
        stub_(v1::GenerationService::NewStub(Serve(&service_))) {
    for (const char* id : {"old", "new"}) {
      AddModel(id);
      AddServed(id);
    }
    SetAlias({{"old", 1}, {"new", 1}});
  }
  void SetAlias(const std::vector<AliasTarget>& targets) {
    ASSERT_TRUE(aliases_->Set("tickets", targets, "", "").ok());
  }
  v1::GenerateResponse Generate(const std::string& text, const std::string& tenant = "") {
    v1::GenerateRequest request;
    request.set_model("models/tickets");
    request.mutable_prompt()->set_text(text);
    request.set_tenant(tenant);
    v1::GenerateResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Generate(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  GenerationService service_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;
};

TEST_F(AliasedRequestsTest, EveryAnswerSaysWhichModelItIsOf) {
  SetAlias({{"new", 1}});
  EXPECT_EQ(Generate("hi").model(), "models/new");
  v1::Prompt prompt;
  prompt.set_text("hi");
  {
    v1::GenerateRequest request;
    request.set_model("models/tickets");
    *request.mutable_prompt() = prompt;
    grpc::ClientContext context;
    auto reader = stub_->StreamGenerate(&context, request);
    std::vector<std::string> models;
    for (v1::StreamGenerateResponse piece; reader->Read(&piece);) models.push_back(piece.model());
    EXPECT_TRUE(reader->Finish().ok());
    ASSERT_FALSE(models.empty());
    EXPECT_EQ(models[0], "models/new");
    for (size_t i = 1; i < models.size(); ++i) EXPECT_EQ(models[i], "");
  }
  const auto ask = [&](auto request, auto response, auto method) {
    request.set_model("models/tickets");
    grpc::ClientContext context;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.model(), "models/new") << response.GetTypeName();
  };
  using Stub = v1::GenerationService::Stub;
  v1::ClassifyRequest classify;
  *classify.mutable_prompt() = prompt;
  classify.add_choices("a");
  classify.add_choices("b");
  ask(classify, v1::ClassifyResponse(), &Stub::Classify);
  v1::ScoreRequest score;
  *score.mutable_prompt() = prompt;
  score.add_continuations("x");
  ask(score, v1::ScoreResponse(), &Stub::Score);
  v1::EmbedRequest embed;
  *embed.add_inputs() = prompt;
  ask(embed, v1::EmbedResponse(), &Stub::Embed);
  v1::TokenizeRequest tokenize;
  *tokenize.mutable_prompt() = prompt;
  ask(tokenize, v1::TokenizeResponse(), &Stub::Tokenize);
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids('x');
  ask(detokenize, v1::DetokenizeResponse(), &Stub::Detokenize);
}

TEST_F(AliasedRequestsTest, APromptOrATenantKeepsItsModel) {
  std::map<std::string, int> by_prompt, by_tenant;
  for (int i = 0; i < 40; ++i) {
    const std::string prompt = absl::StrCat("prompt ", i), tenant = absl::StrCat("tenant-", i);
    const std::string model = Generate(prompt).model();
    EXPECT_EQ(Generate(prompt).model(), model);
    ++by_prompt[model];
    const std::string tenants = Generate("one", tenant).model();
    EXPECT_EQ(Generate("another", tenant).model(), tenants);
    ++by_tenant[tenants];
  }
  EXPECT_EQ(by_prompt.size(), 2u);
  EXPECT_EQ(by_tenant.size(), 2u);
}

TEST_F(AliasedRequestsTest, CountsByAliasAndModel) {
  SetAlias({{"old", 1}});
  Generate("a");
  Generate("b");
  SetAlias({{"new", 1}});
  Generate("c");
  std::string text = metrics_.Render();
  EXPECT_THAT(text, HasSubstr("attune_alias_requests_total{alias=\"tickets\",model_name=\"old\"} 2"));
  EXPECT_THAT(text, HasSubstr("attune_alias_requests_total{alias=\"tickets\",model_name=\"new\"} 1"));
  metrics_.ForgetAlias("tickets");
  text = metrics_.Render();
  EXPECT_THAT(text, ::testing::Not(HasSubstr("alias=\"tickets\"")));
}

TEST_F(AliasedRequestsTest, ARequestKeepsItsModelWhenTheAliasMovesOn) {
  SetAlias({{"old", 1}});
  const absl::StatusOr<std::shared_ptr<const ServedModel>> pinned = Provider()("tickets", "key");
  ASSERT_TRUE(pinned.ok());
  SetAlias({{"new", 1}});
  EXPECT_EQ((*pinned)->info.id, "old");
  EXPECT_EQ((*Provider()("tickets", "key"))->info.id, "new");
}

TEST(ModelProviderTest, LooksAgainWhereTheModelWentMeanwhile) {
  auto database = *Database::Open(":memory:");
  ManualClock clock;
  ASSERT_TRUE(database->Run("CREATE TABLE models (id TEXT)").ok());
  ASSERT_TRUE(database->Run("INSERT INTO models VALUES ('old'), ('new')").ok());
  auto aliases = *AliasStore::Open(database.get(), &clock);
  ASSERT_TRUE(aliases->Set("tickets", {{"old", 1}}, "", "").ok());
  Metrics metrics{Metrics::Options()};
  std::vector<std::string> asked;
  const ModelProvider provider = MakeModelProvider(
      aliases.get(), &metrics, [&](absl::string_view id) -> absl::StatusOr<std::shared_ptr<const ServedModel>> {
        asked.push_back(std::string(id));
        if (id == "new") return std::make_shared<const ServedModel>();
        EXPECT_TRUE(aliases->Set("tickets", {{"new", 1}}, "", "").ok());
        return NotFound(absl::StrCat("models/", id));
      });
  EXPECT_TRUE(provider("tickets", "key").ok());
  EXPECT_THAT(asked, ::testing::ElementsAre("old", "new"));
}

TEST(RouteKeyTest, AConversationKeepsItsKeyAsItGrows) {
  v1::Prompt begun;
  const auto say = [](v1::Prompt* prompt, const char* role, const char* content) {
    auto* message = prompt->mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content(content);
  };
  say(&begun, "system", "Be kind.");
  say(&begun, "user", "Hello");
  v1::Prompt grown = begun;
  say(&grown, "assistant", "Hi");
  say(&grown, "user", "How are you?");
  EXPECT_EQ(RouteKey(begun), RouteKey(grown));
  v1::Prompt other = begun;
  other.mutable_chat()->mutable_messages(1)->set_content("Good day");
  EXPECT_NE(RouteKey(begun), RouteKey(other));
}

TEST(RouteKeyTest, FormsAndValuesDiffer) {
  v1::Prompt text, variables, tokens;
  text.set_text("1,2");
  tokens.mutable_token_ids()->add_ids(1);
  tokens.mutable_token_ids()->add_ids(2);
  (*variables.mutable_template_input()->mutable_variables())["text"] = "1,2";
  EXPECT_NE(RouteKey(text), RouteKey(tokens));
  EXPECT_NE(RouteKey(text), RouteKey(variables));
  EXPECT_EQ(RouteKey(v1::Prompt()), "");
  v1::GenerateRequest request;
  *request.mutable_prompt() = text;
  EXPECT_EQ(RouteKey(request), RouteKey(text));
  request.set_tenant("acme");
  EXPECT_NE(RouteKey(request), RouteKey(text));
}

}  // namespace
}  // namespace attune
