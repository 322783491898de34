#include "server/rpc/generation_service.h"

#include <chrono>
#include <functional>
#include <limits>
#include <optional>
#include <thread>

#include "absl/time/clock.h"
#include "server/data/text_prompt.h"
#include "server/tokenizer/chat_template.h"
#include "tests/rpc/rpc_fixture.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Tokens = std::vector<int32_t>;

constexpr char kChatMl[] =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

class GenerationServiceTest : public RpcFixture {
 protected:
  GenerationServiceTest()
      : service_({Provider(), &engine_, &watcher_, &metrics_}),
        stub_(v1::GenerationService::NewStub(Serve(&service_))) {
    AddServed("base");
    ServedModel* tuned = AddServed("tuned");
    tuned->info.kind = ModelKind::kLora;
    tuned->info.dataset_kind = DatasetKind::kPromptCompletion;
    tuned->info.prompt_template = "Text: {{text}}\nLabel:";
    tuned->info.completion_template = "={{label}}";
    request_.set_model("models/base");
    request_.mutable_prompt()->set_text("hi");
  }

  grpc::Status Generate(const v1::GenerateRequest& request, v1::GenerateResponse* response) {
    grpc::ClientContext context;
    return stub_->Generate(&context, request, response);
  }

  struct Streamed {
    std::vector<v1::StreamGenerateResponse> pieces;
    std::map<int, std::string> texts;
    grpc::Status status;
  };
  Streamed Stream(const v1::GenerateRequest& request) {
    Streamed out;
    grpc::ClientContext context;
    auto reader = stub_->StreamGenerate(&context, request);
    for (v1::StreamGenerateResponse piece; reader->Read(&piece);) {
      out.texts[piece.index()] += piece.text();
      out.pieces.push_back(piece);
    }
    out.status = reader->Finish();
    return out;
  }

  // What a request with a template's variables, or a chat, comes to.
  v1::TokenizeResponse Tokenize(const std::string& model, const v1::Prompt& prompt, grpc::Status* status) {
    v1::TokenizeRequest request;
    request.set_model(model);
    *request.mutable_prompt() = prompt;
    v1::TokenizeResponse response;
    grpc::ClientContext context;
    *status = stub_->Tokenize(&context, request, &response);
    return response;
  }

  static std::string Text(const v1::TokenizeResponse& response) {
    std::string text;
    for (const std::string& piece : response.pieces()) text += piece;
    return text;
  }

  GenerationService service_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;
  v1::GenerateRequest request_;
};

TEST_F(GenerationServiceTest, AnswersWithTextUsageAndReason) {
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  ASSERT_EQ(response.completions_size(), 1);
  EXPECT_EQ(response.completions(0).text(), "ok");
  EXPECT_EQ(response.completions(0).finish_reason(), v1::STOP);
  EXPECT_THAT(response.completions(0).token_ids(), ElementsAre('o', 'k'));
  EXPECT_TRUE(response.completions(0).logprobs().empty());
  EXPECT_EQ(response.model(), "models/base");
  EXPECT_EQ(response.usage().prompt_tokens(), 3);
  EXPECT_EQ(response.usage().completion_tokens(), 2);
  EXPECT_DOUBLE_EQ(response.usage().queue_seconds(), 0.25);
  EXPECT_DOUBLE_EQ(response.usage().time_to_first_token_seconds(), 0.5);
  EXPECT_DOUBLE_EQ(response.usage().total_seconds(), 1.5);
  EXPECT_EQ(response.usage().cached_prompt_tokens(), 2);
  EXPECT_EQ(response.usage().draft_tokens(), 20);
  EXPECT_EQ(response.usage().accepted_draft_tokens(), 12);
}

TEST_F(GenerationServiceTest, DefaultsAreGreedyAndFitTheContext) {
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  GenerateParams params = engine_.last_generate();
  EXPECT_EQ(params.prompt, (Tokens{FakeTokenizer::kBos, 'h', 'i'}));
  EXPECT_EQ(params.max_tokens, 61);  // 256, cut to the context of 64
  EXPECT_EQ(params.sampling.temperature, 0);
  EXPECT_EQ(params.sampling.top_p, 1);
  EXPECT_EQ(params.sampling.repetition_penalty, 1);
  EXPECT_FALSE(params.logprobs);
  const uint64_t first_seed = params.sampling.seed;
  ASSERT_TRUE(Generate(request_, &response).ok());
  EXPECT_NE(engine_.last_generate().sampling.seed, first_seed);
}

TEST_F(GenerationServiceTest, WhatIsUnsetIsTheModelsGenerationConfig) {
  AddServed("sampler")->generation = {0.6, 0.9, 20, 1.1};
  request_.set_model("models/sampler");
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  SamplingParams sampling = engine_.last_generate().sampling;
  EXPECT_EQ(sampling.temperature, 0.6);
  EXPECT_EQ(sampling.top_p, 0.9);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_EQ(sampling.repetition_penalty, 1.1);
  request_.mutable_sampling()->set_temperature(0);
  request_.mutable_sampling()->set_top_p(0.5);
  request_.mutable_sampling()->set_top_k(0);
  request_.mutable_sampling()->set_repetition_penalty(1);
  ASSERT_TRUE(Generate(request_, &response).ok());
  sampling = engine_.last_generate().sampling;
  EXPECT_EQ(sampling.temperature, 0);
  EXPECT_EQ(sampling.top_p, 0.5);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.repetition_penalty, 1);
}

TEST_F(GenerationServiceTest, BiasesBansAndStopTokensReachTheEngine) {
  request_.set_max_tokens(9);
  request_.set_min_tokens(4);
  request_.add_stop_token_ids(7);
  (*request_.mutable_sampling()->mutable_logit_bias())[3] = -2.5;
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  const GenerateParams params = engine_.last_generate();
  EXPECT_EQ(params.min_tokens, 4);
  EXPECT_EQ(params.stop_tokens, Tokens{7});
  EXPECT_EQ(params.sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{3, -2.5f}}));
}

TEST_F(GenerationServiceTest, SpecialTokensOfRawTextAreParsedAndTheBeginTokenComesOnce) {
  request_.mutable_prompt()->set_text("<s>x<|im_end|>");
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  EXPECT_EQ(engine_.last_generate().prompt, (Tokens{FakeTokenizer::kBos, 'x', FakeTokenizer::kEnd}));
}

TEST_F(GenerationServiceTest, NamesTheWrongField) {
  using Change = std::function<void(v1::GenerateRequest&)>;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::pair<std::string, Change>> cases = {
      {"model", [](auto& r) { r.set_model("datasets/base"); }},
      {"prompt", [](auto& r) { r.clear_prompt(); }},
      {"prompt.token_ids.ids", [](auto& r) { r.mutable_prompt()->mutable_token_ids(); }},
      {"prompt.token_ids.ids[1]",
       [](auto& r) {
         r.mutable_prompt()->mutable_token_ids()->add_ids(1);
         r.mutable_prompt()->mutable_token_ids()->add_ids(FakeTokenizer::kSize);
       }},
      {"prompt.chat.messages", [](auto& r) { r.mutable_prompt()->mutable_chat(); }},
      {"prompt.chat.messages[0].role",
       [](auto& r) { r.mutable_prompt()->mutable_chat()->add_messages()->set_role("robot"); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(10.5); }},
      {"sampling.temperature", [&](auto& r) { r.mutable_sampling()->set_temperature(nan); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(0); }},
      {"sampling.top_k", [](auto& r) { r.mutable_sampling()->set_top_k(-1); }},
      {"sampling.min_p", [](auto& r) { r.mutable_sampling()->set_min_p(1.1); }},
      {"sampling.repetition_penalty", [](auto& r) { r.mutable_sampling()->set_repetition_penalty(0); }},
      {"sampling.frequency_penalty", [](auto& r) { r.mutable_sampling()->set_frequency_penalty(-2.1); }},
      {"sampling.presence_penalty", [](auto& r) { r.mutable_sampling()->set_presence_penalty(2.1); }},
      {"max_tokens", [](auto& r) { r.set_max_tokens(-1); }},
      {"max_tokens", [](auto& r) { r.set_max_tokens(65); }},
      {"stop[0]", [](auto& r) { r.add_stop(""); }},
      {"stop[1]", [](auto& r) { r.add_stop("x"), r.add_stop(std::string(257, 'x')); }},
      {"stop", [](auto& r) { for (int i = 0; i < 17; ++i) r.add_stop("x"); }},
      {"n", [](auto& r) { r.set_n(17); }},
      {"n", [](auto& r) { r.set_n(-1); }},
      {"top_logprobs", [](auto& r) { r.set_top_logprobs(21); }},
      {"min_tokens", [](auto& r) { r.set_min_tokens(-1); }},
      {"min_tokens", [](auto& r) { r.set_max_tokens(5), r.set_min_tokens(6); }},
      {"stop_token_ids[0]", [](auto& r) { r.add_stop_token_ids(FakeTokenizer::kSize); }},
      {"stop_token_ids", [](auto& r) { for (int i = 0; i < 65; ++i) r.add_stop_token_ids(1); }},
      {"sampling.logit_bias[-1]", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[-1] = 1; }},
      {"sampling.logit_bias[2]", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[2] = 101; }},
  };
  for (const auto& [field, change] : cases) {
    v1::GenerateRequest request = request_;
    change(request);
    v1::GenerateResponse response;
    grpc::Status status = Generate(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_EQ(Field(status), field);
  }
}

TEST_F(GenerationServiceTest, ATooLongPromptIsRefusedWithNumbers) {
  request_.mutable_prompt()->set_text(std::string(70, 'b'));
  v1::GenerateResponse response;
  grpc::Status status = Generate(request_, &response);
  ErrorDetails details = GetErrorDetails(FromGrpcStatus(status));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(details.reason, "PROMPT_TOO_LONG");
  EXPECT_EQ(details.metadata["prompt_tokens"], "71");
  EXPECT_EQ(details.metadata["context_tokens"], "64");
}

TEST_F(GenerationServiceTest, UnknownModelAndFullQueueKeepTheirReasons) {
  v1::GenerateResponse response;
  request_.set_model("models/none");
  EXPECT_EQ(Reason(Generate(request_, &response)), "MODEL_NOT_FOUND");
  request_.set_model("models/base");
  engine_.RefuseNext(1);
  grpc::Status status = Generate(request_, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Reason(status), "QUEUE_FULL");
}

TEST_F(GenerationServiceTest, AStopStringAcrossTokensEndsTheAnswerAndIsNeverShown) {
  engine_.SetGenerator([](const GenerateParams&, int) {
    FakeEngine::Answer answer = FakeEngine::Say("one EN two END three");
    answer.hangs = true;
    return answer;
  });
  request_.add_stop("END");
  Streamed streamed = Stream(request_);
  ASSERT_TRUE(streamed.status.ok()) << streamed.status.error_message();
  EXPECT_EQ(streamed.texts[0], "one EN two ");
  EXPECT_EQ(streamed.pieces.back().finish_reason(), v1::STOP);
  EXPECT_THAT(engine_.stopped_answers(), ElementsAre(0));
  EXPECT_EQ(streamed.pieces.back().usage().completion_tokens(), 14);  // through the stop string
}

TEST_F(GenerationServiceTest, StreamsSeveralAnswersAndTheirUsageLast) {
  engine_.SetGenerator([](const GenerateParams&, int index) {
    FakeEngine::Answer answer = FakeEngine::Say(index == 0 ? "first" : "second answer");
    if (index == 1) answer.finish = FinishReason::kLength;
    return answer;
  });
  request_.set_n(2);
  Streamed streamed = Stream(request_);
  ASSERT_TRUE(streamed.status.ok());
  EXPECT_EQ(streamed.texts[0], "first");
  EXPECT_EQ(streamed.texts[1], "second answer");
  std::map<int, v1::FinishReason> reasons;
  for (size_t i = 0; i < streamed.pieces.size(); ++i) {
    const v1::StreamGenerateResponse& piece = streamed.pieces[i];
    EXPECT_FALSE(reasons.count(piece.index())) << "a piece after the answer's last";
    if (piece.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) reasons[piece.index()] = piece.finish_reason();
    EXPECT_EQ(piece.has_usage(), i + 1 == streamed.pieces.size());
  }
  EXPECT_EQ(reasons[0], v1::STOP);
  EXPECT_EQ(reasons[1], v1::LENGTH);
  EXPECT_EQ(streamed.pieces.back().usage().completion_tokens(), 18);
}

TEST_F(GenerationServiceTest, NeverStreamsHalfACharacter) {
  engine_.SetGenerator([](const GenerateParams&, int) { return FakeEngine::Say("a\xC3\xA9\xF0\x9F\x98\x80"); });
  Streamed streamed = Stream(request_);
  ASSERT_TRUE(streamed.status.ok());
  std::vector<std::string> texts;
  for (const auto& piece : streamed.pieces) texts.push_back(piece.text());
  EXPECT_THAT(texts, ElementsAre("a", "\xC3\xA9", "\xF0\x9F\x98\x80", ""));
}

TEST_F(GenerationServiceTest, GivesLogprobsOnlyWhenAsked) {
  request_.set_top_logprobs(1);
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  EXPECT_TRUE(engine_.last_generate().logprobs);
  ASSERT_EQ(response.completions(0).logprobs_size(), 2);
  const v1::TokenLogprob& first = response.completions(0).logprobs(0);
  EXPECT_EQ(first.text(), "o");
  EXPECT_DOUBLE_EQ(first.logprob(), -0.5);
  ASSERT_EQ(first.alternatives_size(), 1);
  EXPECT_EQ(first.alternatives(0).text(), "x");
}

TEST_F(GenerationServiceTest, CancellingFreesThePlaceEvenIfNothingComes) {
  engine_.SetGenerator([](const GenerateParams&, int) {
    FakeEngine::Answer answer;
    answer.hangs = true;
    return answer;
  });
  grpc::ClientContext context;
  auto reader = stub_->StreamGenerate(&context, request_);
  while (engine_.last_generate().model == nullptr) absl::SleepFor(absl::Milliseconds(1));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  while (engine_.cancelled() == 0) absl::SleepFor(absl::Milliseconds(1));
}

TEST_F(GenerationServiceTest, ADeadlineFreesThePlace) {
  engine_.SetGenerator([](const GenerateParams&, int) {
    FakeEngine::Answer answer;
    answer.hangs = true;
    return answer;
  });
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  v1::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&context, request_, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  while (engine_.cancelled() == 0) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_LT(engine_.last_generate().deadline, absl::InfiniteFuture());
}

TEST_F(GenerationServiceTest, AChatNeedsATemplateAndCannotForgeControlTokens) {
  v1::Prompt prompt;
  v1::ChatMessage* message = prompt.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("x<|im_end|>");
  grpc::Status status;
  Tokenize("models/base", prompt, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Reason(status), "NO_CHAT_TEMPLATE");

  auto chat = ChatTemplate::Parse(kChatMl, "<s>", "</s>");
  ASSERT_TRUE(chat.ok()) << chat.status();
  AddServed("chatty")->chat_view = chat->get();
  v1::TokenizeResponse response = Tokenize("models/chatty", prompt, &status);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Text(response), "<|im_start|>user\nx<|im_end|><|im_end|>\n<|im_start|>assistant\n");
  int ends = 0;
  for (int32_t id : response.token_ids()) ends += id == FakeTokenizer::kEnd;
  EXPECT_EQ(ends, 1);
}

TEST_F(GenerationServiceTest, VariablesGoThroughTheTunedTemplate) {
  v1::Prompt prompt;
  (*prompt.mutable_template_input()->mutable_variables())["text"] = "hello";
  grpc::Status status;
  EXPECT_EQ(Text(Tokenize("models/tuned", prompt, &status)), "<s>Text: hello\nLabel:");
  Tokenize("models/base", prompt, &status);
  EXPECT_EQ(Reason(status), "NO_PROMPT_TEMPLATE");
  prompt.mutable_template_input()->clear_variables();
  Tokenize("models/tuned", prompt, &status);
  EXPECT_EQ(Field(status), "prompt.template_input.variables");
}

TEST_F(GenerationServiceTest, ATemplatesPromptIsCutAsInTraining) {
  served_["tuned"]->info.max_sequence_tokens = 40;
  v1::GenerateRequest request;
  request.set_model("models/tuned");
  request.set_max_tokens(4);
  (*request.mutable_prompt()->mutable_template_input()->mutable_variables())["text"] = std::string(100, 'b');
  v1::GenerateResponse response;
  grpc::Status status = Generate(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  GenerateParams params = engine_.last_generate();
  EXPECT_EQ(params.prompt.size(), 36);
  EXPECT_EQ(params.prompt.back(), ':');
}

TEST_F(GenerationServiceTest, SoftPromptTokensCount) {
  ServedModel* soft = AddServed("soft", 64);
  soft->info.kind = ModelKind::kSoftPrompt;
  soft->info.architecture.context_tokens = 84;
  request_.set_model("models/soft");
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  EXPECT_EQ(response.usage().prompt_tokens(), 23);
}

TEST_F(GenerationServiceTest, ClassifiesByTheLikeliestContinuation) {
  engine_.SetScorer([](const ScoreParams&, const Tokens& tokens) {
    return FakeEngine::Uniform(tokens, tokens[1] == 'b' ? -0.1 : -1, false);
  });
  v1::ClassifyRequest request;
  request.set_model("models/tuned");
  request.mutable_prompt()->set_text("p");
  for (const char* choice : {"a", "b", "c"}) request.add_choices(choice);
  v1::ClassifyResponse response;
  grpc::ClientContext context;
  grpc::Status status = stub_->Classify(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.label(), "b");
  ASSERT_EQ(response.choices_size(), 3);
  EXPECT_EQ(response.choices(0).label(), "b");
  EXPECT_EQ(response.choices(1).label(), "a");
  EXPECT_NEAR(response.choices(0).logprob(), -0.2, 1e-9);
  EXPECT_NEAR(response.choices(0).probability(), 1 / (1 + 2 * std::exp(-1.8)), 1e-9);
  EXPECT_EQ(engine_.last_score().continuations[0], (Tokens{'=', 'a'}));
  EXPECT_EQ(response.usage().prompt_tokens(), 2);
}

// A text prompt whose pool has texts of 1, 4 and 9 letters; the engine tells texts by their length alone.
ServedModel* Retrieving(ServedModel* model) {
  model->info.kind = ModelKind::kTextPrompt;
  model->info.dataset_kind = DatasetKind::kPromptCompletion;
  auto prompt = std::make_shared<TextPrompt>();
  prompt->instruction = "Say.";
  prompt->input_template = "T:{{text}}:";
  prompt->output_template = "={{label}}";
  prompt->retrieved = 1;
  auto pool = std::make_shared<ExamplePool>();
  for (int length : {1, 4, 9}) {
    pool->rows.push_back({{"text", std::string(length, 'x')}, {"label", absl::StrCat(length)}});
    Normalize(&pool->embeddings.emplace_back(std::vector<float>{static_cast<float>(length + 4), 1}));
  }
  prompt->pool = pool;
  model->info.prompt_template = *MakePromptTemplate(*prompt);
  model->info.completion_template = prompt->output_template;
  model->retrieving_prompt = prompt;
  return model;
}

TEST_F(GenerationServiceTest, EveryCallWithVariablesGetsTheExamplesNextToItsInput) {
  Retrieving(AddServed("mood"));
  const auto prompt = [&](const std::string& text) {
    v1::Prompt out;
    (*out.mutable_template_input()->mutable_variables())["text"] = text;
    return out;
  };
  grpc::Status status;
  const auto text = [&](const Tokens& tokens) { return tokenizer_.Decode(tokens, /*skip_special=*/true); };
  EXPECT_EQ(Text(Tokenize("models/mood", prompt("abcd"), &status)), "<s>Say.\n\nT:xxxx:=4\n\nT:abcd:");
  EXPECT_EQ(Text(Tokenize("models/mood", prompt("a"), &status)), "<s>Say.\n\nT:x:=1\n\nT:a:");
  EXPECT_EQ(text(engine_.last_embed().inputs.at(0)), "T:a:");
  EXPECT_EQ(engine_.last_embed().model->info.id, "mood");  // its base's weights, no adapter

  request_.set_model("models/mood");
  *request_.mutable_prompt() = prompt("eight888");
  v1::GenerateResponse generated;
  ASSERT_TRUE(Generate(request_, &generated).ok());
  EXPECT_EQ(text(engine_.last_generate().prompt), "Say.\n\nT:xxxxxxxxx:=9\n\nT:eight888:");
  *request_.mutable_prompt() = prompt("bcde");
  ASSERT_TRUE(Stream(request_).status.ok());
  EXPECT_EQ(text(engine_.last_generate().prompt), "Say.\n\nT:xxxx:=4\n\nT:bcde:");

  v1::ClassifyRequest classify;
  classify.set_model("models/mood");
  *classify.mutable_prompt() = prompt("c");
  for (const char* choice : {"1", "4"}) classify.add_choices(choice);
  v1::ClassifyResponse classified;
  grpc::ClientContext classify_context;
  ASSERT_TRUE(stub_->Classify(&classify_context, classify, &classified).ok());
  EXPECT_EQ(text(engine_.last_score().prompt), "Say.\n\nT:x:=1\n\nT:c:");

  v1::ScoreRequest score;
  score.set_model("models/mood");
  *score.mutable_prompt() = prompt("defg");
  score.add_continuations("=4");
  v1::ScoreResponse scored;
  grpc::ClientContext score_context;
  ASSERT_TRUE(stub_->Score(&score_context, score, &scored).ok());
  EXPECT_EQ(text(engine_.last_score().prompt), "Say.\n\nT:xxxx:=4\n\nT:defg:");

  // What is no template's input is left as it is.
  const size_t embedded = engine_.embedded().size();
  request_.mutable_prompt()->set_text("plain");
  ASSERT_TRUE(Generate(request_, &generated).ok());
  EXPECT_EQ(text(engine_.last_generate().prompt), "plain");
  EXPECT_EQ(engine_.embedded().size(), embedded);
  request_.mutable_prompt()->mutable_template_input();
  EXPECT_EQ(Field(Generate(request_, &generated)), "prompt.template_input.variables");
}

TEST_F(GenerationServiceTest, DeadlinesAndCancellingHoldWhileTheInputIsEmbedded) {
  Retrieving(AddServed("mood"));
  engine_.HoldEmbeddings();
  request_.set_model("models/mood");
  (*request_.mutable_prompt()->mutable_template_input()->mutable_variables())["text"] = "x";
  v1::GenerateResponse response;
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  EXPECT_EQ(stub_->Generate(&late, request_, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_LT(engine_.last_embed().deadline, absl::InfiniteFuture());
  grpc::ClientContext cancelled;
  std::thread canceller([&] {
    absl::SleepFor(absl::Milliseconds(100));
    cancelled.TryCancel();
  });
  EXPECT_EQ(stub_->Generate(&cancelled, request_, &response).error_code(), grpc::StatusCode::CANCELLED);
  canceller.join();
  EXPECT_EQ(engine_.last_generate().model, nullptr);  // it came no further
}

TEST_F(GenerationServiceTest, AFullQueueRefusesTheInputAsItWouldThePrompt) {
  Retrieving(AddServed("mood"));
  engine_.RefuseNext(1);
  request_.set_model("models/mood");
  (*request_.mutable_prompt()->mutable_template_input()->mutable_variables())["text"] = "x";
  v1::GenerateResponse response;
  EXPECT_EQ(Reason(Generate(request_, &response)), "QUEUE_FULL");
}

TEST_F(GenerationServiceTest, ClassifyCalibratesATextPromptsOwnTemplate) {
  engine_.SetScorer([](const ScoreParams&, const Tokens& tokens) {
    return FakeEngine::Uniform(tokens, tokens[1] == 'b' ? -0.1 : -0.5, false);
  });
  ServedModel* text = AddServed("text");
  text->info.kind = ModelKind::kTextPrompt;
  text->info.dataset_kind = DatasetKind::kPromptCompletion;
  text->info.prompt_template = "T: {{text}}";
  text->info.completion_template = "={{label}}";
  text->label_offsets = {{"a", 2}, {"b", 0.5}};
  v1::ClassifyRequest request;
  request.set_model("models/text");
  (*request.mutable_prompt()->mutable_template_input()->mutable_variables())["text"] = "x";
  for (const char* choice : {"a", "b"}) request.add_choices(choice);
  const auto classify = [&] {
    v1::ClassifyResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Classify(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  };
  const v1::ClassifyResponse response = classify();
  EXPECT_EQ(response.label(), "a");
  EXPECT_NEAR(response.choices(0).logprob(), -1, 1e-9);  // as the model has it
  EXPECT_NEAR(response.choices(0).probability(), 1 / (1 + std::exp(-0.2 + 0.5 - (-1 + 2))), 1e-9);
  request.set_choice_template("-{{x}}");
  EXPECT_EQ(classify().label(), "b");
  request.clear_choice_template();
  request.add_choices("c");  // without an offset: all are compared as they are
  EXPECT_EQ(classify().label(), "b");
  request.mutable_choices()->RemoveLast();
  request.mutable_prompt()->set_text("something else");
  EXPECT_EQ(classify().label(), "b");
}

TEST_F(GenerationServiceTest, ClassifyChecksItsChoicesAndTemplate) {
  const auto field = [&](std::vector<std::string> choices, const std::string& choice_template) {
    v1::ClassifyRequest request;
    request.set_model("models/base");
    request.mutable_prompt()->set_text("p");
    for (const std::string& choice : choices) request.add_choices(choice);
    request.set_choice_template(choice_template);
    v1::ClassifyResponse response;
    grpc::ClientContext context;
    return Field(stub_->Classify(&context, request, &response));
  };
  EXPECT_EQ(field({"a"}, ""), "choices");
  EXPECT_EQ(field({"a", "b", "a"}, ""), "choices[2]");
  EXPECT_EQ(field({"a", ""}, ""), "choices[1]");
  EXPECT_EQ(field({"a", "b"}, "no variable"), "choice_template");
  EXPECT_EQ(field({"a", "b"}, "{{x}} {{y}}"), "choice_template");
  EXPECT_EQ(field({"a", "b"}, "{{x"), "choice_template");
  EXPECT_EQ(field({"a", std::string(70, 'b')}, ""), "prompt");
}

TEST_F(GenerationServiceTest, ScoresContinuationsInOrder) {
  v1::ScoreRequest request;
  request.set_model("models/base");
  request.mutable_prompt()->set_text("p");
  request.add_continuations("xyz");
  request.add_continuations("q");
  v1::ScoreResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Score(&context, request, &response).ok());
  ASSERT_EQ(response.scores_size(), 2);
  EXPECT_DOUBLE_EQ(response.scores(0).logprob(), -3);
  EXPECT_TRUE(response.scores(0).is_greedy());
  ASSERT_EQ(response.scores(0).tokens_size(), 3);
  EXPECT_EQ(response.scores(0).tokens(2).text(), "z");
  request.add_continuations("");
  grpc::ClientContext again;
  EXPECT_EQ(Field(stub_->Score(&again, request, &response)), "continuations[2]");
}

TEST_F(GenerationServiceTest, AScoreThatNobodyWaitsForIsGivenUp) {
  engine_.HoldScores();
  v1::ScoreRequest request;
  request.set_model("models/base");
  request.mutable_prompt()->set_text("p");
  request.add_continuations("q");
  v1::ScoreResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  EXPECT_EQ(stub_->Score(&context, request, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  server_->Shutdown();  // would hang if the handler still waited
}

TEST_F(GenerationServiceTest, DetokenizesAndChecksTheVocabulary) {
  v1::DetokenizeRequest request;
  request.set_model("models/base");
  for (int32_t id : Tokens{'h', 'i', FakeTokenizer::kEnd}) request.add_token_ids(id);
  v1::DetokenizeResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Detokenize(&context, request, &response).ok());
  EXPECT_EQ(response.text(), "hi<|im_end|>");
  request.add_token_ids(-1);
  grpc::ClientContext again;
  EXPECT_EQ(Field(stub_->Detokenize(&again, request, &response)), "token_ids[3]");
}

TEST_F(GenerationServiceTest, TheBestOfManyAreReturnedBestFirst) {
  engine_.SetGenerator([](const GenerateParams&, int index) {
    FakeEngine::Answer answer = FakeEngine::Say(std::string(1, static_cast<char>('a' + index)));
    answer.logprob = index == 2 ? -0.1f : index == 4 ? -0.2f : -3.0f;
    if (index == 3) answer.tokens.clear();
    return answer;
  });
  request_.set_n(2);
  request_.set_best_of(5);
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  EXPECT_EQ(engine_.last_generate().n, 5);
  ASSERT_EQ(response.completions_size(), 2);
  EXPECT_EQ(response.completions(0).text(), "c");
  EXPECT_EQ(response.completions(1).text(), "e");
  EXPECT_NEAR(response.completions(0).score(), -0.1, 1e-6);
  EXPECT_TRUE(response.completions(0).logprobs().empty());
  EXPECT_EQ(response.usage().completion_tokens(), 4);
  const Streamed streamed = Stream(request_);
  ASSERT_TRUE(streamed.status.ok());
  EXPECT_EQ(streamed.texts, (std::map<int, std::string>{{0, "c"}, {1, "e"}}));
  EXPECT_NEAR(streamed.pieces[1].score(), -0.2, 1e-6);
  EXPECT_TRUE(streamed.pieces.back().has_usage());
}

TEST_F(GenerationServiceTest, SearchSpeculationAndRankReachTheEngine) {
  v1::GenerateResponse response;
  request_.set_priority(7);
  request_.set_tenant("team-a");
  request_.mutable_speculative()->set_draft_model("models/tuned");
  ASSERT_TRUE(Generate(request_, &response).ok());
  GenerateParams params = engine_.last_generate();
  EXPECT_EQ(params.priority, 7);
  EXPECT_EQ(params.tenant, "team-a");
  EXPECT_EQ(params.draft_tokens, 5);
  EXPECT_EQ(params.draft_model, served_["tuned"]);
  EXPECT_EQ(params.beams, 0);

  AddServed("sampler")->generation = {0.6, 0.9, 20, 1.1};
  request_.set_model("models/sampler");
  request_.clear_speculative();
  request_.set_n(3);
  request_.mutable_beam_search()->set_beams(4);
  request_.mutable_beam_search()->set_length_penalty(0);
  ASSERT_TRUE(Generate(request_, &response).ok());
  params = engine_.last_generate();
  EXPECT_EQ(params.beams, 4);
  EXPECT_EQ(params.n, 3);
  EXPECT_EQ(params.length_penalty, 0);
  EXPECT_EQ(params.sampling.temperature, 0) << "whatever the model's default";
  EXPECT_EQ(params.sampling.repetition_penalty, 1);
}

TEST_F(GenerationServiceTest, FormsAreCompiledForTheTokenizer) {
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  EXPECT_EQ(engine_.last_generate().grammar, nullptr);
  request_.mutable_structured_output()->mutable_choice()->add_choices("aab");
  ASSERT_TRUE(Generate(request_, &response).ok());
  const std::shared_ptr<const Grammar> grammar = engine_.last_generate().grammar;
  ASSERT_NE(grammar, nullptr);
  auto state = grammar->Start({FakeTokenizer::kEos});
  EXPECT_TRUE(state->Accept(FakeTokenizer::kDoubleA));
  EXPECT_TRUE(state->Accept('b'));
  EXPECT_FALSE(state->Accept('b'));
  EXPECT_TRUE(state->Accept(FakeTokenizer::kEos));
}

TEST_F(GenerationServiceTest, WhatDoesNotGoTogetherIsRefusedByField) {
  const std::vector<std::pair<std::function<void(v1::GenerateRequest*)>, std::string>> wrong = {
      {[](auto* r) { r->mutable_structured_output(); }, "structured_output"},
      {[](auto* r) { r->mutable_structured_output()->set_regex("[a"); }, "structured_output"},
      {[](auto* r) { r->mutable_structured_output()->set_json_schema("{"); }, "structured_output"},
      {[](auto* r) { r->mutable_structured_output()->set_json_object(false); }, "structured_output.json_object"},
      {[](auto* r) { r->mutable_structured_output()->set_regex("a"); r->set_ignore_eos(true); }, "ignore_eos"},
      {[](auto* r) { r->mutable_structured_output()->set_regex("a"); r->set_min_tokens(2); }, "min_tokens"},
      {[](auto* r) { r->mutable_structured_output()->set_regex("a"); r->mutable_beam_search()->set_beams(2); }, "structured_output"},
      {[](auto* r) { r->set_best_of(17); }, "best_of"},
      {[](auto* r) { r->set_n(3); r->set_best_of(2); }, "best_of"},
      {[](auto* r) { r->set_best_of(2); r->mutable_beam_search()->set_beams(2); }, "best_of"},
      {[](auto* r) { r->mutable_beam_search()->set_beams(1); }, "beam_search.beams"},
      {[](auto* r) { r->mutable_beam_search()->set_beams(4); r->set_n(5); }, "beam_search.beams"},
      {[](auto* r) { r->mutable_beam_search()->set_beams(4); r->mutable_beam_search()->set_length_penalty(1.0 / 0); }, "beam_search.length_penalty"},
      {[](auto* r) { r->mutable_beam_search()->set_beams(4); r->mutable_sampling()->set_temperature(1); }, "sampling.temperature"},
      {[](auto* r) { r->mutable_beam_search()->set_beams(4); r->mutable_speculative(); }, "speculative"},
      {[](auto* r) { r->mutable_speculative()->set_draft_tokens(17); }, "speculative.draft_tokens"},
      {[](auto* r) { r->mutable_speculative()->set_draft_model("tuned"); }, "speculative.draft_model"},
      {[](auto* r) { r->set_priority(101); }, "priority"},
      {[](auto* r) { r->set_tenant("Team A"); }, "tenant"},
  };
  for (const auto& [change, field] : wrong) {
    v1::GenerateRequest request = request_;
    change(&request);
    v1::GenerateResponse response;
    const grpc::Status status = Generate(request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field << ": " << status.error_message();
    EXPECT_EQ(Field(status), field) << status.error_message();
  }
}

TEST_F(GenerationServiceTest, ADraftModelMustHaveTheSameVocabulary) {
  class Longer final : public FakeTokenizer {
   public:
    int vocab_size() const override { return kSize + 1; }
  };
  Longer longer;
  FakeTokenizer same;
  AddServed("longer")->tokenizer_view = &longer;
  AddServed("same")->tokenizer_view = &same;
  served_["longer"]->uid = 5;
  served_["same"]->uid = 6;
  v1::GenerateResponse response;
  for (int i = 0; i < 2; ++i) {
    request_.mutable_speculative()->set_draft_model("models/same");
    EXPECT_TRUE(Generate(request_, &response).ok());
    request_.mutable_speculative()->set_draft_model("models/longer");
    EXPECT_EQ(Field(Generate(request_, &response)), "speculative.draft_model");
  }
  request_.mutable_speculative()->set_draft_model("models/none");
  EXPECT_EQ(Generate(request_, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GenerationServiceTest, EmbedsEachInput) {
  v1::EmbedRequest request;
  request.set_model("models/base");
  request.add_inputs()->set_text("hello");
  request.add_inputs()->mutable_token_ids()->add_ids('x');
  request.set_pooling(v1::LAST);
  request.set_normalize(true);
  v1::EmbedResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Embed(&context, request, &response).ok());
  }
  ASSERT_EQ(response.embeddings_size(), 2);
  EXPECT_THAT(response.embeddings(0).values(), ElementsAre(6, 1));  // with the begin token
  EXPECT_THAT(response.embeddings(1).values(), ElementsAre(1, 1));
  EXPECT_EQ(response.usage().prompt_tokens(), 7);
  EXPECT_EQ(engine_.last_embed().pooling, EmbedParams::Pooling::kLast);
  EXPECT_TRUE(engine_.last_embed().normalize);

  auto field_of = [&](const std::function<void(v1::EmbedRequest*)>& change) {
    v1::EmbedRequest wrong = request;
    change(&wrong);
    grpc::ClientContext context;
    return Field(stub_->Embed(&context, wrong, &response));
  };
  EXPECT_EQ(field_of([](auto* r) { r->clear_inputs(); }), "inputs");
  EXPECT_EQ(field_of([](auto* r) { for (int i = 0; i < 256; ++i) r->add_inputs()->set_text("x"); }), "inputs");
  EXPECT_EQ(field_of([](auto* r) { r->mutable_inputs(1)->set_text(std::string(99, 'x')); }), "inputs[1]");
  EXPECT_EQ(field_of([](auto* r) { r->mutable_inputs(1)->mutable_token_ids()->add_ids(-4); }),
            "inputs[1].token_ids.ids[1]");
  EXPECT_EQ(field_of([](auto* r) { r->set_pooling(static_cast<v1::Pooling>(9)); }), "pooling");
}

TEST_F(GenerationServiceTest, CountsCallsByCode) {
  v1::GenerateResponse response;
  ASSERT_TRUE(Generate(request_, &response).ok());
  request_.set_n(99);
  EXPECT_FALSE(Generate(request_, &response).ok());
  const std::string text = metrics_.Render();
  EXPECT_THAT(text, HasSubstr("code=\"OK\""));
  EXPECT_THAT(text, HasSubstr("code=\"INVALID_ARGUMENT\""));
}

}  // namespace
}  // namespace attune
