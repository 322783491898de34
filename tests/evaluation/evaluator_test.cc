#include "server/evaluation/evaluator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/database.h"
#include "common/error.h"
#include "server/data/text_prompt.h"
#include "server/tokenizer/chat_template.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/fake_tokenizer.h"
#include "tests/testing/manual_clock.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Tokens = std::vector<int32_t>;

constexpr char kChatMl[] =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

class EvaluatorTest : public ::testing::Test {
 protected:
  EvaluatorTest() {
    database_ = *Database::Open(":memory:");
    datasets_ = *DatasetStore::Open(folder_.File("datasets"), database_.get(), &clock_);
    model_ = std::make_shared<ServedModel>();
    model_->info.id = "m";
    model_->tokenizer_view = &tokenizer_;
    model_->context = 100;
    options_.dataset = "data";
  }

  void AddDataset(const std::string& rows, const std::string& prompt = "{{prompt}}",
                  const std::string& completion = "{{completion}}") {
    DatasetStore::UploadOptions options;
    options.info.id = "data";
    options.info.prompt_template = prompt;
    options.info.completion_template = completion;
    auto upload = datasets_->BeginUpload(options);
    ASSERT_TRUE(upload.ok()) << upload.status();
    ASSERT_TRUE((*upload)->Append(rows).ok());
    auto info = (*upload)->Commit();
    ASSERT_TRUE(info.ok()) << info.status();
  }

  absl::StatusOr<EvaluationResult> Run() {
    done_ = 0;
    return Evaluate(&engine_, model_, *datasets_, options_, [this](int64_t done, int64_t total) {
      EXPECT_GE(done, done_);
      done_ = done;
      total_ = total;
      return done < stop_at_;
    });
  }
  EvaluationResult MustRun() {
    absl::StatusOr<EvaluationResult> result = Run();
    EXPECT_TRUE(result.ok()) << result.status();
    return result.value_or(EvaluationResult());
  }

  TempFolder folder_;
  ManualClock clock_;
  FakeTokenizer tokenizer_;
  FakeEngine engine_;
  std::unique_ptr<Database> database_;
  std::unique_ptr<DatasetStore> datasets_;
  std::shared_ptr<ServedModel> model_;
  EvaluationOptions options_;
  int64_t done_ = 0, total_ = 0, stop_at_ = INT64_MAX;
};

std::string Row(const std::string& text, const std::string& label) {
  return absl::StrCat("{\"text\":\"", text, "\",\"label\":\"", label, "\"}\n");
}

// The character that a prompt "Q:x A:" asks about, and whether `tokens` answer it.
bool Answers(const ScoreParams& params, const Tokens& tokens) { return params.prompt[3] == tokens[1]; }

TEST_F(EvaluatorTest, CountsLabelsLossAndTokens) {
  AddDataset(Row("x", "x") + Row("y", "y") + Row("y", "y") + Row("y", "x"), "Q:{{text}} A:", " {{label}}");
  engine_.SetScorer([](const ScoreParams& params, const Tokens& tokens) {
    return FakeEngine::Uniform(tokens, Answers(params, tokens) ? -0.25 : -1.25, Answers(params, tokens));
  });
  EvaluationResult result = MustRun();
  EXPECT_EQ(result.examples, 4);
  ASSERT_TRUE(result.has_label_accuracy);
  EXPECT_DOUBLE_EQ(result.label_accuracy.value, 0.75);
  EXPECT_EQ(result.label_accuracy.count, 4);
  EXPECT_NEAR(result.label_accuracy.lower, WilsonInterval(3, 4).lower, 1e-12);
  // Each answer has three tokens: the space, the label and the end token.
  EXPECT_NEAR(result.loss, (3 * 0.25 + 1.25) / 4, 1e-6);
  EXPECT_NEAR(result.perplexity, std::exp(result.loss), 1e-9);
  EXPECT_DOUBLE_EQ(result.token_accuracy, 0.75);
  EXPECT_FALSE(result.has_exact_match);
  ASSERT_EQ(result.labels.size(), 2);
  EXPECT_EQ(result.labels[0].label, "x");
  EXPECT_EQ(result.labels[0].count, 2);
  EXPECT_EQ(result.labels[0].correct, 1);
  EXPECT_EQ(result.labels[0].predicted, 1);
  EXPECT_EQ(result.labels[1].predicted, 3);
  EXPECT_EQ(done_, 4);
  EXPECT_EQ(total_, 4);
}

TEST_F(EvaluatorTest, ScoresTheSameTokensAsTrainingSees) {
  AddDataset(Row("x", "x") + Row("y", "y"), "Q:{{text}} A:", " {{label}}");
  options_.max_examples = 1;
  MustRun();
  ScoreParams params = engine_.last_score();
  EXPECT_EQ(params.prompt, (Tokens{FakeTokenizer::kBos, 'Q', ':', 'x', ' ', 'A', ':'}));
  ASSERT_EQ(params.continuations.size(), 3);
  EXPECT_EQ(params.continuations[0], (Tokens{' ', 'x', FakeTokenizer::kEos}));
  EXPECT_EQ(params.continuations[1], (Tokens{' ', 'x'}));
  EXPECT_EQ(params.continuations[2], (Tokens{' ', 'y'}));
}

TEST_F(EvaluatorTest, TheModelsTemplatesGoBeforeTheDatasets) {
  AddDataset(Row("x", "x") + Row("y", "y"), "Q:{{text}}", " {{label}}");
  options_.max_examples = 1;
  model_->info.dataset_kind = DatasetKind::kPromptCompletion;
  model_->info.prompt_template = "T{{text}}";
  model_->info.completion_template = "={{label}}";
  MustRun();
  EXPECT_EQ(engine_.last_score().prompt, (Tokens{FakeTokenizer::kBos, 'T', 'x'}));
  EXPECT_EQ(engine_.last_score().continuations[1], (Tokens{'=', 'x'}));
  options_.prompt_template = "O{{text}}";
  MustRun();
  EXPECT_EQ(engine_.last_score().prompt, (Tokens{FakeTokenizer::kBos, 'O', 'x'}));
  options_.prompt_template.clear();
  model_->info.dataset_kind = DatasetKind::kChat;  // its templates are for other rows
  MustRun();
  EXPECT_EQ(engine_.last_score().prompt, (Tokens{FakeTokenizer::kBos, 'Q', ':', 'x'}));
}

TEST_F(EvaluatorTest, ATextPromptsCalibrationCountsUnderItsOwnTemplates) {
  AddDataset(Row("x", "x") + Row("y", "y"), "Q:{{text}} A:", " {{label}}");
  // Of the right label a little more than of others, of x much more than of y.
  engine_.SetScorer([](const ScoreParams& params, const Tokens& tokens) {
    const double right = Answers(params, tokens) ? 0.25 : 0, bias = tokens[1] == 'x' ? 1 : 0;
    return FakeEngine::Uniform(tokens, -2 + right + bias, false);
  });
  model_->info.dataset_kind = DatasetKind::kPromptCompletion;
  EXPECT_DOUBLE_EQ(MustRun().label_accuracy.value, 0.5);
  model_->label_offsets = {{"x", 0}, {"y", 2}};
  EXPECT_DOUBLE_EQ(MustRun().label_accuracy.value, 1);
  options_.prompt_template = "O:{{text}} A:";
  EXPECT_DOUBLE_EQ(MustRun().label_accuracy.value, 0.5);
  options_.prompt_template.clear();
  options_.choices = {"x", "y", "z"};  // z has no offset
  EXPECT_DOUBLE_EQ(MustRun().label_accuracy.value, 0.5);
}

TEST_F(EvaluatorTest, ATextPromptWithAPoolGetsExamplesByRowUnderItsOwnTemplates) {
  // The pool has texts of 1 to 3 letters, and the engine tells texts by their length.
  auto prompt = std::make_shared<TextPrompt>();
  prompt->input_template = "Q:{{text}} A:";
  prompt->output_template = " {{label}}";
  prompt->retrieved = 1;
  auto pool = std::make_shared<ExamplePool>();
  for (int length : {1, 2, 3}) {
    pool->rows.push_back({{"text", std::string(length, 'p')}, {"label", std::string(length, 'l')}});
    Normalize(&pool->embeddings.emplace_back(std::vector<float>{static_cast<float>(length + 6), 1}));
  }
  prompt->pool = pool;
  model_->info.dataset_kind = DatasetKind::kPromptCompletion;
  model_->info.prompt_template = *MakePromptTemplate(*prompt);
  model_->info.completion_template = prompt->output_template;
  model_->retrieving_prompt = prompt;
  std::string rows;
  for (int i = 0; i < 40; ++i) rows += Row(std::string(1 + i % 3, 'x'), i % 2 ? "a" : "b");
  AddDataset(rows, "Q:{{text}} A:", " {{label}}");
  std::vector<std::string> prompts;
  engine_.SetScorer([&](const ScoreParams& params, const Tokens& tokens) {
    const std::string text = tokenizer_.Decode(params.prompt, true);
    if (prompts.empty() || prompts.back() != text) prompts.push_back(text);
    return FakeEngine::Uniform(tokens, -1, false);
  });
  int64_t told = 0;
  options_.on_example = [&](const ExampleOutcome& outcome) {
    told += outcome.prompt_tokens == static_cast<int64_t>(prompts[outcome.row].size()) + 1;  // and the begin token
  };
  EXPECT_EQ(MustRun().examples, 40);
  ASSERT_EQ(prompts.size(), 40);
  EXPECT_EQ(prompts[0], "Q:p A: l\n\nQ:x A:");
  EXPECT_EQ(prompts[1], "Q:pp A: ll\n\nQ:xx A:");
  EXPECT_EQ(prompts[38], "Q:ppp A: lll\n\nQ:xxx A:");
  EXPECT_EQ(told, 40);
  EXPECT_EQ(engine_.embedded().size(), 40);
  const std::vector<std::string> before = std::exchange(prompts, {});
  MustRun();
  EXPECT_EQ(prompts, before);
  // Another template's prompts get none.
  prompts.clear();
  options_.on_example = nullptr;
  options_.prompt_template = "O:{{text}}";
  MustRun();
  EXPECT_EQ(prompts[0], "O:x");
  options_.prompt_template.clear();
  engine_.HoldEmbeddings();
  stop_at_ = 0;
  EXPECT_TRUE(absl::IsCancelled(Run().status()));
}

TEST_F(EvaluatorTest, GivenChoicesCountUnknownAnswersAsWrong) {
  AddDataset(Row("x", "x") + Row("z", "z"), "Q:{{text}} A:", " {{label}}");
  options_.choices = {"x", "y"};
  EvaluationResult result = MustRun();
  EXPECT_EQ(result.label_accuracy.count, 2);
  ASSERT_EQ(result.labels.size(), 2);  // x as the first of two equals, and z
  EXPECT_EQ(result.labels[0].correct, 1);
  EXPECT_EQ(result.labels[1].label, "z");
  EXPECT_EQ(result.labels[1].correct, 0);
}

TEST_F(EvaluatorTest, TooManyDistinctAnswersAreNoLabels) {
  std::string rows;
  for (int i = 0; i < 101; ++i) rows += Row("x", absl::StrCat("l", i));
  AddDataset(rows, "Q:{{text}}", " {{label}}");
  options_.max_examples = 3;
  EvaluationResult result = MustRun();
  EXPECT_FALSE(result.has_label_accuracy);
  EXPECT_THAT(result.labels, IsEmpty());
  EXPECT_EQ(result.examples, 3);
}

TEST_F(EvaluatorTest, ExactMatchIgnoresWhiteSpaceAtTheEnds) {
  AddDataset(Row("x", "yes") + Row("y", "no"), "Q:{{text}} A:", " {{label}}");
  options_.exact_match = true;
  options_.max_tokens = 5;
  engine_.SetGenerator([](const GenerateParams& params, int) {
    EXPECT_EQ(params.sampling.temperature, 0);
    EXPECT_EQ(params.max_tokens, 5);
    return FakeEngine::Say(" yes\n");
  });
  EvaluationResult result = MustRun();
  ASSERT_TRUE(result.has_exact_match);
  EXPECT_DOUBLE_EQ(result.exact_match.value, 0.5);
  EXPECT_EQ(result.exact_match.count, 2);
}

TEST_F(EvaluatorTest, AChatIsMeasuredOnItsLastAnswer) {
  auto chat = ChatTemplate::Parse(kChatMl, "<s>", "</s>");
  ASSERT_TRUE(chat.ok()) << chat.status();
  model_->chat_view = chat->get();
  FakeTokenizer chat_tokenizer(/*add_bos=*/true, /*add_space=*/false, FakeTokenizer::kEnd);
  model_->tokenizer_view = &chat_tokenizer;
  AddDataset(
      "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"r\"},"
      "{\"role\":\"user\",\"content\":\"v\"},{\"role\":\"assistant\",\"content\":\"s\"}]}\n");
  options_.exact_match = true;
  engine_.SetGenerator([](const GenerateParams&, int) { return FakeEngine::Say("s"); });
  EvaluationResult result = MustRun();
  EXPECT_DOUBLE_EQ(result.exact_match.value, 1);
  EXPECT_FALSE(result.has_label_accuracy);  // one distinct answer is no choice
  ScoreParams params = engine_.last_score();
  EXPECT_EQ(tokenizer_.Decode(params.prompt, false),
            "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\nr<|im_end|>\n<|im_start|>user\nv<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(params.continuations[0], (Tokens{'s', FakeTokenizer::kEnd}));
}

TEST_F(EvaluatorTest, PlainTextGivesLossOnly) {
  AddDataset("{\"text\":\"bcd\"}\n{\"text\":\"efg\"}\n");
  EvaluationResult result = MustRun();
  EXPECT_NEAR(result.loss, 1, 1e-6);
  EXPECT_FALSE(result.has_label_accuracy);
  EXPECT_EQ(engine_.last_score().prompt, (Tokens{FakeTokenizer::kBos}));
  EXPECT_EQ(engine_.last_score().continuations[0], (Tokens{'e', 'f', 'g', FakeTokenizer::kEos}));
}

TEST_F(EvaluatorTest, WaitsWhenTheQueueIsFull) {
  AddDataset(Row("x", "x") + Row("y", "y"), "Q:{{text}} A:", " {{label}}");
  options_.exact_match = true;
  engine_.RefuseNext(3);
  EXPECT_EQ(MustRun().examples, 2);
}

TEST_F(EvaluatorTest, PromptsThatDoNotFitBesideTheLongestChoiceAreCut) {
  model_->context = 20;
  AddDataset(Row(std::string(40, 'b'), "x") + Row("y", "0123456789"), "Q:{{text}} A:", " {{label}}");
  options_.max_examples = 1;
  MustRun();
  EXPECT_EQ(engine_.last_score().prompt.size(), 9);  // 20 less the 11 of " 0123456789"
}

TEST_F(EvaluatorTest, StopsWhenTold) {
  AddDataset(Row("x", "x") + Row("y", "y"), "Q:{{text}} A:", " {{label}}");
  stop_at_ = 1;
  EXPECT_TRUE(absl::IsCancelled(Run().status()));
  EXPECT_EQ(done_, 1);
}

TEST_F(EvaluatorTest, NothingThatFitsIsAnError) {
  model_->context = 8;
  AddDataset(Row("x", std::string(30, 'x')) + Row("x", std::string(31, 'x')), "Q:{{text}} A:", " {{label}}");
  absl::Status status = Run().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(GetErrorDetails(status).reason, "NO_USABLE_EXAMPLES");
  options_.dataset = "none";
  EXPECT_EQ(GetErrorDetails(Run().status()).reason, "DATASET_NOT_FOUND");
}

TEST(ChoiceContinuationsTest, TheEndTokenComesOnlyWhereAChoiceBeginsAnother) {
  FakeTokenizer tokenizer;
  EXPECT_THAT(ChoiceContinuations(tokenizer, {"bc", "b", "d", "bcd"}),
              ElementsAre(Tokens{'b', 'c', FakeTokenizer::kEos}, Tokens{'b', FakeTokenizer::kEos}, Tokens{'d'},
                          Tokens{'b', 'c', 'd'}));
}

TEST(ChoiceContinuationsTest, AnAddedSpaceIsNotPartOfAChoice) {
  FakeTokenizer tokenizer(/*add_bos=*/true, /*add_space=*/true);
  EXPECT_THAT(ChoiceContinuations(tokenizer, {"x", "y"}), ElementsAre(Tokens{'x'}, Tokens{'y'}));
}

}  // namespace
}  // namespace attune
