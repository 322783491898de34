// The engine over a small real model: what it generates is what the plain forward pass says.
#include "server/engine/engine.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "common/error.h"
#include "tests/engine/engine_fixture.h"
#include "tests/testing/gpu.h"

namespace attune {
namespace {

// Of a page of the tiny model in fp32.
constexpr int64_t kPageBytes = TinyModel::kLayers * 2 * 16 * TinyModel::kKvHeads * TinyModel::kHeadDim * 4;

// Counts what went to the host and came back.
class SwapLog final : public EngineObserver {
 public:
  void OnPreempted() override { ++preempted; }
  void OnSwapped(int64_t count, int64_t out, int64_t in) override {
    sequences += count;
    bytes_out += out;
    bytes_in += in;
  }
  std::atomic<int64_t> preempted = 0, sequences = 0, bytes_out = 0, bytes_in = 0;
};

// Different models and lengths together; also where prompts are read in pieces, where
// few run at once, and where the cache is too small for all, with swap space and without.
struct Squeeze {
  const char* name;
  int max_batch_tokens, max_sequences;
  int64_t kv_tokens;
  bool gpu = false;
  int64_t swap_pages = 0;
  bool prefix_cache = true;
};
class MixedBatchTest : public EngineTest, public ::testing::WithParamInterface<Squeeze> {};

TEST_P(MixedBatchTest, EveryRequestGetsWhatItWouldGetAlone) {
  if (GetParam().gpu) {
    const std::optional<ComputeTarget> gpu = FindGpu();
    if (!gpu) GTEST_SKIP() << "no GPU";
    Load(*gpu);
  }
  options_.max_batch_tokens = GetParam().max_batch_tokens;
  options_.max_sequences = GetParam().max_sequences;
  options_.kv_tokens = GetParam().kv_tokens;
  options_.swap_bytes = GetParam().swap_pages * kPageBytes;
  options_.prefix_cache = GetParam().prefix_cache;
  SwapLog log;
  Start(&log);
  const std::vector<std::shared_ptr<const ServedModel>> models = {Model(), Model(Lora()), Model(Prompt(5)), Model(Lora()),
                                                                  Model(Prefix(6)), Model(Ia3()), Model(Dora()),
                                                                  Model(OwnVocabulary(kRandomVocabularies[0])),
                                                                  Model(OwnVocabulary(kRandomVocabularies[3])),
                                                                  Model(OwnVocabulary(kRandomVocabularies[4]))};
  std::vector<std::unique_ptr<Generation>> running;
  std::vector<GenerateParams> asked;
  std::vector<Ids> expected;
  for (int i = 0; i < 21; ++i) {
    const auto& model = models[i % models.size()];
    const Ids prompt = MakePrompt(1 + (i * 11) % 40, i);
    expected.push_back(Greedy(*model, prompt, 12));
    asked.push_back(Params(model, prompt, 12));
  }
  for (const GenerateParams& params : asked) running.push_back(Submit(params));
  for (size_t i = 0; i < running.size(); ++i) {
    const Answers answers = Collect(running[i].get());
    EXPECT_TRUE(running[i]->status().ok()) << running[i]->status();
    EXPECT_EQ(answers.tokens[0], expected[i]) << "request " << i;
    EXPECT_EQ(answers.finish[0], FinishReason::kLength);
  }
  running.clear();
  AwaitNoPagesInUse();
  EXPECT_EQ(log.preempted > 0, GetParam().kv_tokens < 1024);
  EXPECT_EQ(log.sequences > 0, GetParam().swap_pages > 0);
  EXPECT_GE(log.bytes_out, log.sequences * kPageBytes);
  EXPECT_LE(log.bytes_in, log.bytes_out);
  EXPECT_EQ(log.bytes_out % kPageBytes, 0);
  if (!GetParam().prefix_cache) {
    EXPECT_EQ(log.bytes_in > 0, GetParam().swap_pages > 0);
  }
  engine_.reset();
}

INSTANTIATE_TEST_SUITE_P(Limits, MixedBatchTest,
                         ::testing::Values(Squeeze{"Roomy", 2048, 64, 1024}, Squeeze{"Pieces", 7, 64, 1024},
                                           Squeeze{"FewAtOnce", 2048, 3, 1024}, Squeeze{"SmallCache", 64, 64, 128},
                                           Squeeze{"SmallCacheSwap", 64, 64, 128, false, 100},
                                           Squeeze{"SmallCacheSwapAlone", 64, 64, 128, false, 100, false},
                                           Squeeze{"SmallCacheLittleSwap", 64, 64, 128, false, 3, false},
                                           Squeeze{"PiecesSwap", 14, 64, 96, false, 100, false},
                                           Squeeze{"GpuSmallCacheSwap", 64, 64, 128, true, 100, false},
                                           Squeeze{"GpuRoomy", 2048, 64, 1024, true},
                                           Squeeze{"GpuPieces", 7, 64, 1024, true},
                                           Squeeze{"GpuSmallCache", 64, 64, 128, true}),
                         [](const auto& info) { return info.param.name; });

// Counts what the prefix cache had.
class PrefixLog final : public EngineObserver {
 public:
  void OnLetIn(int64_t tokens, int64_t cached) override {
    tokens_ += tokens;
    cached_ += cached;
  }
  int64_t tokens() const { return tokens_; }
  int64_t cached() const { return cached_; }

 private:
  std::atomic<int64_t> tokens_ = 0, cached_ = 0;
};

TEST_F(EngineTest, PromptsThatBeginAlikeAreReadOnceAndAnswerTheSame) {
  for (bool has_cache : {true, false}) {
    options_.prefix_cache = has_cache;
    PrefixLog log;
    engine_ = MakeEngine(options_, base_->target, arbiter_.get(), &Clock::Real(), &log);
    const std::vector<std::shared_ptr<const ServedModel>> models = {Model(), Model(Lora()), Model(Prompt(5)),
                                                                    Model(Prefix(5)), Model(Ia3()), Model(Dora())};
    for (const auto& model : models) {
      for (int last : {7, 7, 9}) {  // the same again, and one that ends differently
        Ids tokens = MakePrompt(40, 3);
        tokens.push_back(last);
        auto running = Submit(Params(model, tokens, 8));
        EXPECT_EQ(Collect(running.get()).tokens[0], Greedy(*model, tokens, 8));
      }
      // A continuation is scored from the prompt's last token on, whatever is known.
      Ids tokens = MakePrompt(40, 3);
      auto scored = engine_->Score({model, tokens, {{5, 6, 7}, {8, 9}}});
      ASSERT_TRUE(scored.ok());
      Ids all = tokens;
      all.insert(all.end(), {5, 6});
      const at::Tensor expected = at::log_softmax(AllLogits(*base_, model->adapter.get(), all), -1);
      for (int i = 0; i < 3; ++i) {
        EXPECT_NEAR(scored->continuations[0].tokens[i].logprob, expected[39 + i][5 + i].item<float>(), 1e-3);
      }
    }
    // Of each model two answers that begin as one before, and the scored prompt: two full pages each.
    EXPECT_EQ(log.cached(), has_cache ? static_cast<int64_t>(models.size()) * 3 * 2 * 16 : 0);
    engine_.reset();
  }
}

TEST_F(EngineTest, StopsAtAnEndToken) {
  Start();
  const auto model = Model();
  const Ids prompt = MakePrompt(6, 1);
  const Ids expected = Greedy(*model, prompt, 5);
  // Whatever the third token is, it now ends answers.
  auto changed = std::make_shared<BaseModel>();
  changed->config = base_->config;
  changed->weights = base_->weights;
  changed->rope_cos_PH = base_->rope_cos_PH;
  changed->rope_sin_PH = base_->rope_sin_PH;
  changed->end_ids = {expected[2]};
  const size_t end = std::find(expected.begin(), expected.end(), expected[2]) - expected.begin();
  auto ending = std::make_shared<ServedModel>(*model);
  ending->base = changed;
  GenerateParams params = Params(ending, prompt, 5);
  params.ignore_eos = false;
  auto generation = Submit(std::move(params));
  const Answers answers = Collect(generation.get());
  EXPECT_EQ(answers.tokens[0], Ids(expected.begin(), expected.begin() + end));
  EXPECT_EQ(answers.finish[0], FinishReason::kStop);
}

TEST_F(EngineTest, StopTokensEndAnswersAndMinTokensKeepsThemGoing) {
  Start();
  const auto model = Model();
  const Ids prompt = MakePrompt(6, 1), expected = Greedy(*model, prompt, 8);
  const size_t end = std::find(expected.begin(), expected.end(), expected[3]) - expected.begin();
  GenerateParams params = Params(model, prompt, 8);
  params.stop_tokens = {expected[3]};
  auto stopped = Submit(params);
  Answers answers = Collect(stopped.get());
  EXPECT_EQ(answers.tokens[0], Ids(expected.begin(), expected.begin() + end));
  EXPECT_EQ(answers.finish[0], FinishReason::kStop);

  params.min_tokens = 6;
  auto longer = Submit(params);
  answers = Collect(longer.get());
  ASSERT_GE(answers.tokens[0].size(), 6u);
  for (int i = 0; i < 6; ++i) EXPECT_NE(answers.tokens[0][i], expected[3]);
  EXPECT_TRUE(std::equal(expected.begin(), expected.begin() + end, answers.tokens[0].begin()));
}

TEST_F(EngineTest, ABiasMakesATokenCertainOrImpossible) {
  Start();
  const auto model = Model();
  const Ids prompt = MakePrompt(6, 1), expected = Greedy(*model, prompt, 1);
  GenerateParams params = Params(model, prompt, 5);
  params.sampling.logit_bias = {{42, 100.0f}};
  auto certain = Submit(params);
  EXPECT_EQ(Collect(certain.get()).tokens[0], Ids(5, 42));
  params.sampling.logit_bias = {{expected[0], -100.0f}};
  auto impossible = Submit(params);
  const Answers answers = Collect(impossible.get());
  EXPECT_EQ(answers.tokens[0].size(), 5u);
  for (int32_t token : answers.tokens[0]) EXPECT_NE(token, expected[0]);
}

TEST_F(EngineTest, AnswersOfOneRequestAreThoseOfSingleRequestsWithRisingSeeds) {
  Start();
  const auto model = Model();
  GenerateParams params = Params(model, MakePrompt(9, 2), 8);
  params.sampling.temperature = 1.5;
  params.sampling.seed = 40;
  params.n = 3;
  auto together = Submit(params);
  const Answers answers = Collect(together.get(), 3);
  for (int i = 0; i < 3; ++i) {
    params.n = 1;
    params.sampling.seed = 40 + i;
    auto alone = Submit(params);
    EXPECT_EQ(answers.tokens[i], Collect(alone.get()).tokens[0]) << "answer " << i;
  }
  EXPECT_NE(answers.tokens[0], answers.tokens[1]);
}

TEST_F(EngineTest, LogprobsAreTheModels) {
  Start();
  const auto model = Model();
  const Ids prompt = MakePrompt(5, 3);
  GenerateParams params = Params(model, prompt, 1);
  params.logprobs = true;
  params.top_logprobs = 3;
  auto generation = Submit(params);
  const Answers answers = Collect(generation.get());
  const at::Tensor expected = AllLogits(*base_, nullptr, prompt)[4].log_softmax(-1);
  ASSERT_EQ(answers.infos.size(), 1u);
  EXPECT_NEAR(answers.infos[0].logprob, expected.max().item<float>(), 1e-4);
  ASSERT_EQ(answers.infos[0].alternatives.size(), 3u);
  EXPECT_EQ(answers.infos[0].alternatives[0].first, answers.infos[0].id);
  const auto sorted = std::get<0>(expected.sort(-1, true));
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(answers.infos[0].alternatives[i].second, sorted[i].item<float>(), 1e-4);
}

TEST_F(EngineTest, ScoresContinuationsAsTheWholeForwardPassDoes) {
  options_.max_batch_tokens = 16;
  Start();
  for (const auto& model : {Model(), Model(Lora()), Model(Prompt(3)), Model(Prefix(3)), Model(Ia3())}) {
    ScoreParams params;
    params.model = model;
    params.prompt = MakePrompt(20, 4);
    params.continuations = {{7}, {8, 9, 10}, Greedy(*model, params.prompt, 4), MakePrompt(30, 5)};
    const auto result = engine_->Score(params);
    ASSERT_TRUE(result.ok()) << result.status();
    for (size_t i = 0; i < params.continuations.size(); ++i) {
      Ids all = params.prompt;
      all.insert(all.end(), params.continuations[i].begin(), params.continuations[i].end());
      const at::Tensor logprobs = AllLogits(*base_, model->adapter.get(), all).log_softmax(-1);
      double sum = 0;
      for (size_t t = 0; t < params.continuations[i].size(); ++t) {
        const double expected = logprobs[19 + t][params.continuations[i][t]].item<float>();
        EXPECT_NEAR(result->continuations[i].tokens[t].logprob, expected, 1e-3);
        sum += expected;
      }
      EXPECT_NEAR(result->continuations[i].logprob, sum, 1e-2);
      EXPECT_EQ(result->continuations[i].is_greedy, i == 2) << "continuation " << i;
    }
  }
  AwaitNoPagesInUse();
}

// On the CPU generation computes in fp32 over weights in bf16: the fp32 model's answers, to the
// rounding of the weights.
TEST_F(EngineTest, WeightsInBfloat16ScoreAlmostAsInFloat) {
  at::manual_seed(5);
  const Ids prompt = MakePrompt(20, 4), continuation = MakePrompt(30, 5);
  Ids all = prompt;
  all.insert(all.end(), continuation.begin(), continuation.end());
  std::vector<at::Tensor> exact;
  for (const auto& model : {Model(), Model(Lora()), Model(Prompt(3)), Model(Prefix(3)), Model(Ia3())}) {
    exact.push_back(AllLogits(*base_, model->adapter.get(), all).log_softmax(-1));
  }
  ComputeTarget target;
  target.type = ComputeTarget::Type::kBfloat16;
  Load(target);
  Start();
  at::manual_seed(5);
  int i = 0;
  for (const auto& model : {Model(), Model(Lora()), Model(Prompt(3)), Model(Prefix(3)), Model(Ia3())}) {
    ScoreParams params;
    params.model = model;
    params.prompt = prompt;
    params.continuations = {continuation};
    const auto result = engine_->Score(params);
    ASSERT_TRUE(result.ok()) << result.status();
    for (size_t t = 0; t < continuation.size(); ++t) {
      const double expected = exact[i][19 + t][continuation[t]].item<float>();
      EXPECT_NEAR(result->continuations[0].tokens[t].logprob, expected, 0.06) << "model " << i << ", token " << t;
    }
    ++i;
  }
  AwaitNoPagesInUse();
}

TEST_F(EngineTest, ACancelledRequestFreesItsPlace) {
  options_.max_sequences = 1;
  Start();
  const auto model = Model();
  auto first = Submit(Params(model, MakePrompt(4, 1), 100));
  GenerationUpdate update;
  ASSERT_TRUE(first->Next(&update));
  auto second = Submit(Params(model, MakePrompt(4, 2), 2));
  first->Cancel();
  EXPECT_EQ(Collect(second.get()).tokens[0].size(), 2u);
  while (first->Next(&update)) {
  }
}

TEST_F(EngineTest, CancelledRequestsLeaveTheSwapSpace) {
  options_.kv_tokens = 128;
  options_.prefix_cache = false;
  options_.swap_bytes = 100 * kPageBytes;
  SwapLog log;
  Start(&log);
  const auto model = Model();
  std::vector<std::unique_ptr<Generation>> running;
  for (int i = 0; i < 6; ++i) running.push_back(Submit(Params(model, MakePrompt(20, i), 90)));
  while (engine_->stats().swap_bytes_used == 0) std::this_thread::yield();
  for (auto& generation : running) generation->Cancel();
  AwaitNoPagesInUse();
  EXPECT_GT(log.sequences, 0);
  running.clear();
  // Also on the CPU, where it is the cache's own memory, what it took stays counted.
  EXPECT_GT(arbiter_->memory().used(), options_.kv_tokens / 16 * kPageBytes);
  engine_.reset();
  EXPECT_EQ(arbiter_->memory().used(), 0);
}

// Answers that came before grow and take the pages of what is scored. Rows that were scored before a sequence was
// pushed out are not scored again.
TEST_F(EngineTest, ScoresAreTheSameWhoeverIsPushedOut) {
  for (const int64_t swap_pages : {0, 100}) {
    options_.kv_tokens = 160;
    options_.max_batch_tokens = 7;
    options_.swap_bytes = swap_pages * kPageBytes;
    options_.prefix_cache = false;
    SwapLog log;
    Start(&log);
    const std::vector<std::shared_ptr<const ServedModel>> models = {Model(), Model(Lora()), Model(Prefix(3))};
    std::vector<std::unique_ptr<Generation>> before;
    for (int i = 0; i < 3; ++i) before.push_back(Submit(Params(models[i], MakePrompt(10, i), 60)));
    std::vector<ScoreParams> asked;
    for (int i = 0; i < 6; ++i) {
      asked.push_back({models[i % 3], MakePrompt(20, i), {MakePrompt(40, i + 5), MakePrompt(30, i + 7)}});
    }
    std::vector<absl::StatusOr<ScoreResult>> results(asked.size(), absl::UnknownError(""));
    absl::BlockingCounter left(static_cast<int>(asked.size()));
    for (size_t i = 0; i < asked.size(); ++i) {
      engine_->ScoreAsync(asked[i], [&, i](absl::StatusOr<ScoreResult> result) {
        results[i] = std::move(result);
        left.DecrementCount();
      });
    }
    left.Wait();
    for (size_t i = 0; i < asked.size(); ++i) {
      ASSERT_TRUE(results[i].ok()) << results[i].status();
      for (size_t c = 0; c < asked[i].continuations.size(); ++c) {
        const Ids& continuation = asked[i].continuations[c];
        const std::vector<TokenInfo>& scored = results[i]->continuations[c].tokens;
        Ids all = asked[i].prompt;
        all.insert(all.end(), continuation.begin(), continuation.end());
        const at::Tensor logprobs = AllLogits(*base_, asked[i].model->adapter.get(), all).log_softmax(-1);
        ASSERT_EQ(scored.size(), continuation.size());
        for (size_t t = 0; t < continuation.size(); ++t) {
          EXPECT_NEAR(scored[t].logprob, logprobs[19 + t][continuation[t]].item<float>(), 1e-3);
        }
      }
    }
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(Collect(before[i].get()).tokens[0], Greedy(*models[i], MakePrompt(10, i), 60));
    }
    EXPECT_GT(log.preempted, 0);
    EXPECT_EQ(log.bytes_in > 0, swap_pages > 0);
    AwaitNoPagesInUse();
    engine_.reset();
  }
}

TEST_F(EngineTest, DestroyingAHandleCancels) {
  options_.max_sequences = 1;
  Start();
  const auto model = Model();
  Submit(Params(model, MakePrompt(4, 1), 100)).reset();
  auto second = Submit(Params(model, MakePrompt(4, 2), 2));
  EXPECT_EQ(Collect(second.get()).tokens[0].size(), 2u);
}

TEST_F(EngineTest, StoppingOneAnswerLeavesTheOthers) {
  Start();
  GenerateParams params = Params(Model(), MakePrompt(4, 1), 60);
  params.n = 2;
  auto generation = Submit(std::move(params));
  GenerationUpdate update;
  ASSERT_TRUE(generation->Next(&update));
  generation->StopAnswer(0);
  const Answers answers = Collect(generation.get(), 2);
  EXPECT_TRUE(answers.tokens[0].empty()) << "no update after the stop";
  EXPECT_EQ(answers.finish[1], FinishReason::kLength);
}

TEST_F(EngineTest, RefusesWhatCannotFit) {
  options_.kv_tokens = 64;
  Start();
  const auto result = engine_->Generate(Params(Model(), MakePrompt(60, 1), 10));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetErrorDetails(result.status()).reason, "PROMPT_TOO_LONG");
}

TEST_F(EngineTest, ARequestWhoseDeadlineHasPassedIsNotStarted) {
  Start();
  GenerateParams params = Params(Model(), MakePrompt(4, 1), 4);
  params.deadline = absl::InfinitePast();
  auto generation = Submit(std::move(params));
  EXPECT_TRUE(Collect(generation.get()).tokens[0].empty());
  EXPECT_EQ(generation->status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(EngineTest, ShutdownRefusesNewRequestsAndEndsRunningOnes) {
  Start();
  const auto model = Model();
  auto running = Submit(Params(model, MakePrompt(4, 1), 120));
  GenerationUpdate update;
  ASSERT_TRUE(running->Next(&update));
  engine_->Shutdown(absl::ZeroDuration());
  EXPECT_NE(Collect(running.get()).finish[0], FinishReason::kNone);
  EXPECT_EQ(GetErrorDetails(engine_->Generate(Params(model, {4}, 1)).status()).reason, "SHUTTING_DOWN");
}

TEST_F(EngineTest, ShutdownLetsRunningRequestsFinishWithinTheGracePeriod) {
  Start();
  auto running = Submit(Params(Model(), MakePrompt(4, 1), 50));
  engine_->Shutdown(absl::Minutes(5));
  const Answers answers = Collect(running.get());
  EXPECT_EQ(answers.tokens[0].size(), 50u);
  EXPECT_EQ(answers.finish[0], FinishReason::kLength);
}

}  // namespace
}  // namespace attune
