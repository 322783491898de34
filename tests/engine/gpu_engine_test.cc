// The engine on a GPU in bf16, over kernels of its own: graphs, grouped LoRA, paged attention,
// steps that are launched before the last one's tokens are known. Rounding differs between
// batches, so an answer is checked token by token: each must be about as likely as the likeliest
// by a plain forward pass over what came before it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "server/adapters/packed_ops.h"
#include "server/engine/engine.h"
#include "server/engine/gpu_runner.h"
#include "server/grammar/grammar.h"
#include "tests/testing/gpu.h"
#include "tests/testing/random_adapter.h"
#include "tests/testing/random_model.h"
#include "tests/testing/word_tokenizer.h"

namespace attune {
namespace {

using Ids = std::vector<int32_t>;

struct Shape {
  const char* name;
  int64_t heads, kv_heads, head_dim;
  bool has_biases = false, has_norms = false;
  int64_t window = 0;  // of every other layer
};

// Bytes that went to the host and came back.
class SwapCount final : public EngineObserver {
 public:
  void OnSwapped(int64_t, int64_t out, int64_t in) override {
    bytes_out += out;
    bytes_in += in;
  }
  std::atomic<int64_t> bytes_out = 0, bytes_in = 0;
};

class GpuEngineTest : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    const std::optional<ComputeTarget> gpu = FindGpu(ComputeTarget::Type::kBfloat16);
    if (!gpu) GTEST_SKIP() << "no GPU";
    at::manual_seed(5);
    base_ = MakeBase(*gpu, 3);
    ASSERT_TRUE(GpuRunner::Serves(*base_));
    Arbiter::Options options;
    options.memory_bytes = int64_t{4} << 30;
    arbiter_ = std::make_unique<Arbiter>(&Clock::Real(), options);
    options_.kv_tokens = 16384;
  }
  static std::shared_ptr<const BaseModel> MakeBase(const ComputeTarget& gpu, int64_t layers) {
    ModelConfig c;
    c.family = "llama";
    c.layers = layers;
    c.heads = GetParam().heads;
    c.kv_heads = GetParam().kv_heads;
    c.head_dim = GetParam().head_dim;
    c.qkv_bias = c.output_bias = c.mlp_bias = GetParam().has_biases;
    c.qk_norm = GetParam().has_norms;
    c.hidden = c.heads * c.head_dim;
    c.intermediate = 2 * c.hidden + 8;
    c.vocab = 1003;
    c.context = 2048;
    for (int64_t i = 0; i < layers && GetParam().window > 0; ++i) c.windows.push_back(i % 2 == 0 ? GetParam().window : 0);
    c.tied_head = false;
    return MakeRandomModel(c, gpu);
  }
  void Start() { engine_ = MakeEngine(options_, base_->target, arbiter_.get(), &Clock::Real(), nullptr); }

  std::shared_ptr<const ServedModel> Model(std::shared_ptr<const Adapter> adapter = nullptr) {
    auto model = std::make_shared<ServedModel>();
    model->base = base_;
    model->adapter = std::move(adapter);
    model->uid = ++uid_;
    return model;
  }
  // On all projections, or on some.
  std::shared_ptr<const Adapter> Lora(int64_t rank, bool all = true) {
    return RandomLoraOfRank(base_->config, rank, base_->weights.embedding_VD.options(), all);
  }
  std::shared_ptr<const Adapter> Prompt(int64_t tokens) {
    auto adapter = std::make_shared<Adapter>();
    adapter->soft_prompt = std::make_unique<SoftPrompt>();
    adapter->soft_prompt->embeddings_ND =
        (at::randn({tokens, base_->config.hidden}) * 0.05).to(base_->weights.embedding_VD.options());
    return adapter;
  }

  std::shared_ptr<const Adapter> Prefix(int64_t tokens) {
    return RandomPrefix(base_->config, tokens, base_->weights.embedding_VD.options(), 0.5);
  }
  std::shared_ptr<const Adapter> Ia3() { return RandomIa3(base_->config, base_->weights.embedding_VD.options()); }
  std::shared_ptr<const Adapter> Dora() { return RandomDora(*base_, 8, base_->weights.embedding_VD.options()); }

  std::shared_ptr<const Adapter> OwnVocabulary(const VocabularyKind& kind) {
    auto adapter = RandomLoraOfRank(base_->config, 4, base_->weights.embedding_VD.options());
    AddRandomVocabulary(base_->config, kind, adapter->lora.get(), base_->weights.embedding_VD.options());
    return adapter;
  }

  static Ids MakePrompt(int length, int start) {
    Ids ids;
    for (int i = 0; i < length; ++i) ids.push_back(3 + (start * 131 + i * 17) % 997);
    return ids;
  }
  std::unique_ptr<Generation> Submit(std::shared_ptr<const ServedModel> model, Ids prompt, int max_tokens) {
    GenerateParams params;
    params.model = std::move(model);
    params.prompt = std::move(prompt);
    params.max_tokens = max_tokens;
    params.ignore_eos = true;
    auto generation = engine_->Generate(std::move(params));
    EXPECT_TRUE(generation.ok()) << generation.status();
    return generation.ok() ? std::move(*generation) : nullptr;
  }
  static Ids Collect(Generation* generation) {
    Ids tokens;
    GenerationUpdate update;
    while (generation->Next(&update)) {
      if (update.has_token) tokens.push_back(update.token.id);
    }
    return tokens;
  }
  // How far each token of the answer is below the likeliest, at most, in standard deviations of the logits.
  double Shortfall(const ServedModel& model, const Ids& prompt, const Ids& answer) const {
    Ids all = prompt;
    all.insert(all.end(), answer.begin(), answer.end());
    const at::Tensor logits = AllLogits(*model.base, model.adapter.get(), all);
    double worst = 0;
    for (size_t i = 0; i < answer.size(); ++i) {
      const at::Tensor row = logits[static_cast<int64_t>(prompt.size() + i) - 1];
      const double gap = (row.max() - row[answer[i]]).item<double>() / row.std().item<double>();
      worst = std::max(worst, gap);
    }
    return worst;
  }
  void AwaitNoPagesInUse() const {
    while (engine_->stats().kv_pages_used != 0 || engine_->stats().swap_bytes_used != 0) std::this_thread::yield();
  }

  struct Asked {
    std::shared_ptr<const ServedModel> model;
    Ids prompt;
    int tokens;
    std::unique_ptr<Generation> generation;
  };
  // All of them at once.
  void ExpectLikelyAnswers(std::vector<Asked> asked) {
    for (Asked& request : asked) request.generation = Submit(request.model, request.prompt, request.tokens);
    for (size_t i = 0; i < asked.size(); ++i) {
      const Ids answer = Collect(asked[i].generation.get());
      ASSERT_TRUE(asked[i].generation->status().ok()) << asked[i].generation->status();
      EXPECT_EQ(answer.size(), static_cast<size_t>(asked[i].tokens)) << "request " << i;
      EXPECT_LT(Shortfall(*asked[i].model, asked[i].prompt, answer), 0.1) << "request " << i;
    }
    asked.clear();
    AwaitNoPagesInUse();
  }
  std::vector<Asked> Mixed(int count) {
    const std::vector<std::shared_ptr<const ServedModel>> models = {Model(), Model(Lora(4)), Model(Prompt(5)),
                                                                    Model(Lora(16)), Model(Lora(3, false)),
                                                                    Model(Prefix(20)), Model(Ia3()), Model(Dora())};
    std::vector<Asked> asked;
    for (int i = 0; i < count; ++i) {
      asked.push_back({models[i % models.size()], MakePrompt(1 + (i * 37) % 150, i), 20 + i % 7, nullptr});
    }
    return asked;
  }

  std::shared_ptr<const BaseModel> base_;
  std::unique_ptr<Arbiter> arbiter_;
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;
  uint64_t uid_ = 0;
};

TEST_P(GpuEngineTest, OneAnswerWithGraphs) {
  Start();
  std::vector<Asked> asked;
  asked.push_back({Model(), MakePrompt(30, 1), 100, nullptr});
  ExpectLikelyAnswers(std::move(asked));
}

TEST_P(GpuEngineTest, ManyModelsInOneBatch) {
  Start();
  ExpectLikelyAnswers(Mixed(37));
}

// Steps of as many rows and tiles, of LoRAs that rows share and that none do: a graph of the one is not for the other.
TEST_P(GpuEngineTest, LorasOfSingleRowsAndOfSeveralTakeTurns) {
  Start();
  constexpr int kRows = 24;
  std::vector<std::shared_ptr<const ServedModel>> models;
  for (int i = 0; i < kRows; ++i) models.push_back(Model(Lora(1 + i)));
  for (int round = 0; round < 4; ++round) {
    std::vector<Asked> asked;
    for (int i = 0; i < kRows; ++i) {
      const bool is_second = round % 2 == 1 && i + 1 == kRows;  // under the LoRA of the one before
      asked.push_back({models[is_second ? i - 1 : i], MakePrompt(20 + i, i), 24, nullptr});
    }
    ExpectLikelyAnswers(std::move(asked));
  }
}

// Steps of theirs are apart, beside those that are launched ahead.
TEST_P(GpuEngineTest, OwnEmbeddingsAndHeadsBesideOthers) {
  Start();
  std::vector<Asked> asked = Mixed(16);
  for (int i = 0; i < 10; ++i) {
    asked.push_back({Model(OwnVocabulary(kRandomVocabularies[i % 5])), MakePrompt(1 + i * 9, i), 12 + 8 * i, nullptr});
  }
  ExpectLikelyAnswers(std::move(asked));
}

TEST_P(GpuEngineTest, PromptsInPiecesBesideAnswers) {
  options_.max_batch_tokens = 48;
  options_.max_sequences = 16;
  Start();
  ExpectLikelyAnswers(Mixed(24));
}

// Computed anew, copied to the host and back, and, in little swap space, both.
TEST_P(GpuEngineTest, LittleCacheThatPushesSequencesOut) {
  const ModelConfig& c = base_->config;
  const int64_t page_bytes = c.layers * 2 * 16 * c.kv_heads * c.head_dim * 2;
  for (const int64_t swap_pages : {0, 1000, 12}) {
    for (const bool has_prefix_cache : {true, false}) {
      SCOPED_TRACE(testing::Message() << swap_pages << " pages of swap space");
      options_.kv_tokens = 400;
      options_.swap_bytes = swap_pages * page_bytes;
      options_.prefix_cache = has_prefix_cache;
      SwapCount count;
      engine_ = MakeEngine(options_, base_->target, arbiter_.get(), &Clock::Real(), &count);
      ExpectLikelyAnswers(Mixed(16));
      EXPECT_EQ(count.bytes_out > 0, swap_pages > 0);
      if (!has_prefix_cache) {
        EXPECT_EQ(count.bytes_in > 0, swap_pages > 0);
      }
      engine_.reset();
    }
  }
}

class KnownCount final : public EngineObserver {
 public:
  void OnKnownPrompt() override { ++known; }
  std::atomic<int> known = 0;
};

// The second time the host chooses the first token, of the same logits as the device did; the rest is read with the next one.
TEST_P(GpuEngineTest, KnownPromptsBeginWithTheSameToken) {
  KnownCount count;
  engine_ = MakeEngine(options_, base_->target, arbiter_.get(), &Clock::Real(), &count);
  SamplingParams drawn;
  drawn.temperature = 1;
  drawn.seed = 11;
  SamplingParams penalised;
  penalised.repetition_penalty = 1.5;
  int expected = 0;
  for (const auto& model : {Model(), Model(Lora(16)), Model(Prompt(5)), Model(Prefix(20)), Model(Ia3()),
                            Model(OwnVocabulary(kRandomVocabularies[0]))}) {
    for (const int length : {9, 64, 77}) {
      for (const SamplingParams& sampling : {SamplingParams{}, drawn, penalised}) {
        GenerateParams params;
        params.model = model;
        params.prompt = MakePrompt(length, 4);
        params.prompt[0] = expected;  // none is like another
        params.max_tokens = 20;
        params.ignore_eos = true;
        params.sampling = sampling;
        std::vector<Ids> answers;
        for (int time = 0; time < 2; ++time) {
          auto generation = engine_->Generate(params);
          ASSERT_TRUE(generation.ok());
          answers.push_back(Collect(generation->get()));
          ASSERT_EQ(answers.back().size(), 20u);
          AwaitNoPagesInUse();
          EXPECT_EQ(count.known, expected + time);
        }
        ++expected;
        EXPECT_EQ(answers[1][0], answers[0][0]);
        if (sampling.temperature == 0 && sampling.repetition_penalty == 1) {
          for (const Ids& answer : answers) EXPECT_LT(Shortfall(*model, params.prompt, answer), 0.1);
        }
      }
    }
  }
}

TEST_P(GpuEngineTest, LongContextsWhoseKeysAreCut) {
  Start();
  std::vector<Asked> asked;
  for (int i = 0; i < 3; ++i) asked.push_back({Model(), MakePrompt(700 + 400 * i, i), 24, nullptr});
  ExpectLikelyAnswers(std::move(asked));
}

// Log-probabilities come from the device; a task that is scored wants logits, and keeps the others from running ahead.
TEST_P(GpuEngineTest, LogitsAndLikeliestTokensTogether) {
  Start();
  const auto model = Model(Lora(8));
  std::vector<std::unique_ptr<Generation>> greedy;
  for (int i = 0; i < 4; ++i) greedy.push_back(Submit(Model(), MakePrompt(20, i), 30));
  GenerateParams params;
  params.model = model;
  params.prompt = MakePrompt(25, 9);
  params.max_tokens = 12;
  params.ignore_eos = true;
  params.logprobs = true;
  params.top_logprobs = 2;
  auto generation = engine_->Generate(params);
  ASSERT_TRUE(generation.ok());
  GenerationUpdate update;
  Ids answer;
  std::vector<float> logprobs;
  while ((*generation)->Next(&update)) {
    if (!update.has_token) continue;
    answer.push_back(update.token.id);
    logprobs.push_back(update.token.logprob);
    ASSERT_EQ(update.token.alternatives.size(), 2u);
    EXPECT_EQ(update.token.alternatives[0].first, update.token.id);
  }
  ASSERT_EQ(answer.size(), 12u);
  Ids all = params.prompt;
  all.insert(all.end(), answer.begin(), answer.end());
  const at::Tensor expected = at::log_softmax(AllLogits(*base_, model->adapter.get(), all), -1);
  for (size_t i = 0; i < answer.size(); ++i) {
    EXPECT_NEAR(logprobs[i], expected[static_cast<int64_t>(params.prompt.size() + i) - 1][answer[i]].item<float>(), 0.1);
  }
  auto scored = engine_->Score({model, MakePrompt(25, 9), {{5, 6, 7}, {8}}});
  ASSERT_TRUE(scored.ok());
  EXPECT_NEAR(scored->continuations[1].tokens[0].logprob,
              expected[static_cast<int64_t>(params.prompt.size()) - 1][8].item<float>(), 0.1);
  for (auto& one : greedy) EXPECT_EQ(Collect(one.get()).size(), 30u);
}

// The device chooses by the request's rules, also where the last token is not known to the host yet.
TEST_P(GpuEngineTest, TheDeviceChoosesAsAsked) {
  Start();
  std::vector<std::unique_ptr<Generation>> beside;
  for (int i = 0; i < 3; ++i) beside.push_back(Submit(Model(), MakePrompt(20, i), 80));
  auto ask = [&](const SamplingParams& sampling, int min_tokens = 0, Ids stop_tokens = {}) {
    GenerateParams params;
    params.model = Model();
    params.prompt = MakePrompt(25, 9);
    params.max_tokens = 60;
    params.ignore_eos = true;
    params.sampling = sampling;
    params.min_tokens = min_tokens;
    params.stop_tokens = std::move(stop_tokens);
    auto generation = engine_->Generate(params);
    EXPECT_TRUE(generation.ok());
    return Collect(generation->get());
  };
  SamplingParams never_again;
  never_again.frequency_penalty = 1000;
  for (double temperature : {0.0, 1.0}) {
    never_again.temperature = temperature;
    Ids answer = ask(never_again);
    ASSERT_EQ(answer.size(), 60u);
    std::sort(answer.begin(), answer.end());
    EXPECT_EQ(std::unique(answer.begin(), answer.end()), answer.end()) << temperature;
  }
  SamplingParams biased;
  biased.temperature = 1;
  biased.logit_bias = {{17, 1000.0f}};
  EXPECT_EQ(ask(biased), Ids(60, 17));
  // The biased token ends the answer, but not before 20 others.
  const Ids ended = ask(biased, 20, {17});
  EXPECT_EQ(ended.size(), 20u);
  EXPECT_EQ(std::count(ended.begin(), ended.end(), 17), 0);
  for (auto& one : beside) EXPECT_EQ(Collect(one.get()).size(), 80u);
  // Alone, every step has the same kernels.
  AwaitNoPagesInUse();
  SamplingParams drawn, greedy;
  drawn.temperature = 1;
  drawn.seed = 3;
  const Ids first = ask(drawn);
  EXPECT_EQ(first, ask(drawn));
  drawn.seed = 4;
  EXPECT_NE(first, ask(drawn));
  drawn.top_k = 1;
  EXPECT_EQ(ask(drawn), ask(greedy));
}

// Answers in forms, drawn and likeliest, beside others, ones in pieces among them, and beside what keeps steps from
// running ahead: all of the form, and under seeds the same as without anything beside.
TEST_P(GpuEngineTest, AnswersKeepToTheirForm) {
  Start();
  const WordTokenizer tokenizer(1003);
  GrammarCompiler compiler(tokenizer, 16 << 20);
  const auto sentence = compiler.Compile({AnswerForm::Kind::kRegex, "([a-z]+( [a-z]+)*[.!?] )*", {}});
  const auto choice = compiler.Compile({AnswerForm::Kind::kChoice, "", {"certainly", "certainly not", "perhaps"}});
  ASSERT_TRUE(sentence.ok() && choice.ok());
  const std::vector<std::shared_ptr<const ServedModel>> models = {Model(), Model(Lora(8)), Model(Prompt(5))};
  auto ask = [&](int i) {
    GenerateParams params;
    params.model = models[i % 3];
    params.prompt = MakePrompt(5 + i * 13, i);
    params.max_tokens = 40;
    params.ignore_eos = true;
    params.grammar = i % 4 == 3 ? *choice : *sentence;
    params.stop_tokens = {0};  // a form has to be able to end; a sentence shall not
    params.sampling.logit_bias = {{0, -1000.0f}};
    params.sampling.temperature = i % 2 ? 1.0 : 0.0;
    params.sampling.seed = i;
    params.sampling.frequency_penalty = i % 3 == 1 ? 5 : 0;
    params.logprobs = i % 5 == 0;
    auto generation = engine_->Generate(std::move(params));
    EXPECT_TRUE(generation.ok()) << generation.status();
    return *std::move(generation);
  };
  const std::regex is_sentence("([a-z]+( [a-z]+)*[.!?] )*([a-z]+( [a-z]*)*[.!?]?)?");
  std::vector<std::unique_ptr<Generation>> asked, beside;
  for (int i = 0; i < 12; ++i) {
    asked.push_back(ask(i));
    beside.push_back(Submit(models[i % 3], MakePrompt(20 + i * 30, i), 60));
    const auto scored = engine_->Score({models[0], MakePrompt(25, 9), {{5, 6, 7}, {8}}});
    EXPECT_TRUE(scored.ok()) << scored.status();
  }
  for (int i = 0; i < 12; ++i) {
    const Ids answer = Collect(asked[i].get());
    ASSERT_TRUE(asked[i]->status().ok()) << asked[i]->status();
    const std::string text = tokenizer.Decode(answer, true);
    if (i % 4 == 3) {
      EXPECT_TRUE(text == "certainly" || text == "certainly not" || text == "perhaps") << text;
    } else {
      EXPECT_EQ(answer.size(), 40u);
      EXPECT_TRUE(std::regex_match(text, is_sentence)) << text;
    }
  }
  for (auto& one : beside) EXPECT_EQ(Collect(one.get()).size(), 60u);
  AwaitNoPagesInUse();
  // Alone, every step has the same kernels.
  for (int i : {1, 3}) EXPECT_EQ(Collect(ask(i).get()), Collect(ask(i).get()));
}

// What the host, which has all logits, would choose of what the form allows.
TEST_P(GpuEngineTest, AFormLeavesTheLikeliestOfWhatItAllows) {
  Start();
  const WordTokenizer tokenizer(1003);
  GrammarCompiler compiler(tokenizer, 16 << 20);
  const auto form = compiler.Compile({AnswerForm::Kind::kRegex, "[a-m ]*", {}});
  ASSERT_TRUE(form.ok());
  GenerateParams params;
  params.model = Model();
  params.prompt = MakePrompt(25, 9);
  params.max_tokens = 50;
  params.ignore_eos = true;
  params.grammar = *form;
  params.stop_tokens = {0};
  params.sampling.logit_bias = {{0, -1000.0f}};
  auto generation = engine_->Generate(params);
  ASSERT_TRUE(generation.ok());
  const Ids answer = Collect(generation->get());
  ASSERT_EQ(answer.size(), 50u);
  at::Tensor allowed = at::zeros({1003}, at::kBool);
  for (int id = 0; id < 1003; ++id) {
    const std::string text = tokenizer.TokenBytes(id);
    allowed[id] = std::all_of(text.begin(), text.end(), [](char c) { return c == ' ' || (c >= 'a' && c <= 'm'); });
  }
  Ids all = params.prompt;
  all.insert(all.end(), answer.begin(), answer.end());
  const at::Tensor logits = AllLogits(*base_, nullptr, all).cpu();
  for (size_t i = 0; i < answer.size(); ++i) {
    ASSERT_TRUE(allowed[answer[i]].item<bool>()) << tokenizer.TokenBytes(answer[i]);
    const at::Tensor row = logits[static_cast<int64_t>(params.prompt.size() + i) - 1];
    EXPECT_GT(row[answer[i]].item<float>(), row.masked_select(allowed).max().item<float>() - 0.1 * row.std().item<float>());
  }
}

// Models of two shapes: the lane that has kept the device's turn gives it up for the other.
TEST_P(GpuEngineTest, TwoShapesTakeTurns) {
  Start();
  auto other = std::make_shared<ServedModel>();
  other->base = MakeBase(base_->target, 2);
  other->uid = 1000;
  std::vector<Asked> asked;
  for (int i = 0; i < 12; ++i) {
    asked.push_back({i % 3 == 1 ? std::shared_ptr<const ServedModel>(other) : Model(), MakePrompt(20 + i, i), 30 + 20 * (i % 2), nullptr});
  }
  ExpectLikelyAnswers(std::move(asked));
}

// Answers that are stopped while a step with them is on its way leave nothing behind.
TEST_P(GpuEngineTest, StoppedAndCancelledOnTheWay) {
  Start();
  for (int round = 0; round < 8; ++round) {
    std::vector<std::unique_ptr<Generation>> running;
    for (int i = 0; i < 6; ++i) running.push_back(Submit(Model(), MakePrompt(10 + i, i), 200));
    GenerationUpdate update;
    for (int i = 0; i <= round; ++i) ASSERT_TRUE(running[0]->Next(&update));
    running[1]->Cancel();
    running[2]->StopAnswer(0);
    running.clear();
  }
  AwaitNoPagesInUse();
  std::vector<Asked> asked;
  asked.push_back({Model(), MakePrompt(30, 1), 20, nullptr});
  ExpectLikelyAnswers(std::move(asked));
}

INSTANTIATE_TEST_SUITE_P(Shapes, GpuEngineTest,
                         ::testing::Values(Shape{"Grouped", 8, 2, 64}, Shape{"OneToOne", 4, 4, 128},
                                           Shape{"ThreeToOne", 9, 3, 64}, Shape{"SevenToOne", 7, 1, 64}, Shape{"Biased", 8, 2, 64, true},
                                           Shape{"Normed", 4, 2, 128, false, true},
                                           Shape{"Windows", 8, 2, 64, false, false, 100},
                                           Shape{"ShortWindows", 4, 4, 128, false, false, 5},
                                           Shape{"Wide", 32, 4, 64}),  // large enough for batches' own product
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace attune
