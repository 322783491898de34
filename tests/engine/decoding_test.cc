// Ways to decode: answers forked off one prompt, forms, guessing ahead, beams. Each gives what the
// plain way says it must.
#include <atomic>
#include <functional>
#include <map>
#include <set>

#include "absl/synchronization/notification.h"
#include "common/error.h"
#include "server/engine/beam_search.h"
#include "tests/engine/engine_fixture.h"
#include "tests/testing/random_model.h"

namespace attune {
namespace {

class CountingObserver final : public EngineObserver {
 public:
  void OnStep(int, int prompt_tokens, int, double) override { prompt += prompt_tokens; ++steps; }
  void OnDrafts(int64_t count, int64_t right) override {
    drafted += count;
    accepted += right;
  }
  void OnFinished(const ServedModel&, FinishReason reason, int, int generated, const RequestTimings&) override {
    ++finished[static_cast<int>(reason)];
    tokens += generated;
  }
  void OnPreempted() override { ++preempted; }
  void OnKnownPrompt() override { ++known; }
  void OnSwapped(int64_t sequences_out, int64_t, int64_t in) override {
    swapped_out += sequences_out;
    bytes_in += in;
  }
  void OnPutOff(double late_seconds) override {
    EXPECT_GE(late_seconds, 0);
    ++put_off;
  }
  std::atomic<int64_t> prompt = 0, steps = 0, drafted = 0, accepted = 0, tokens = 0, preempted = 0, put_off = 0;
  std::atomic<int64_t> swapped_out = 0, bytes_in = 0, known = 0;
  std::array<std::atomic<int>, 4> finished = {};
};

class DecodingTest : public EngineTest {
 protected:
  // A form of the tiny model's tokenizer.
  std::shared_ptr<const Grammar> Form(AnswerForm form) {
    if (!compiler_) compiler_ = std::make_unique<GrammarCompiler>(*base_->tokenizer, 1 << 20);
    auto grammar = compiler_->Compile(form);
    EXPECT_TRUE(grammar.ok()) << grammar.status();
    return grammar.ok() ? *grammar : nullptr;
  }
  // Another model with the same vocabulary, with a prefix of layers' shapes: random weights of its own.
  std::shared_ptr<const ServedModel> Other(uint32_t seed) {
    TempFolder folder;
    TinyModel::WriteGguf(folder.File("model.gguf"), seed);
    auto base = LoadBaseModel(folder.path(), folder.path(), ComputeTarget{});
    EXPECT_TRUE(base.ok());
    auto model = std::make_shared<ServedModel>();
    model->base = *base;
    model->uid = ++uid_;
    return model;
  }
  std::string TextOf(const Ids& tokens) { return base_->tokenizer->Decode(tokens, true); }

  std::unique_ptr<GrammarCompiler> compiler_;
  CountingObserver observer_;
};

TEST_F(DecodingTest, AnswersShareOneReadingOfThePrompt) {
  options_.prefix_cache = false;
  Start(&observer_);
  GenerateParams params = Params(Model(Lora()), MakePrompt(40, 2), 10);
  params.sampling.temperature = 1.2;
  params.n = 6;
  auto generation = Submit(params);
  const Answers answers = Collect(generation.get(), 6);
  EXPECT_EQ(std::set<Ids>(answers.tokens.begin(), answers.tokens.end()).size(), 6u);
  AwaitNoPagesInUse();
  EXPECT_EQ(observer_.prompt, 40);
  EXPECT_EQ(observer_.finished[static_cast<int>(FinishReason::kLength)], 6);
}

TEST_F(DecodingTest, ForkedAnswersSurviveASmallCache) {
  for (const int64_t swap_bytes : {0, 1 << 20}) {
    options_.kv_tokens = 128;  // six times 44 tokens do not fit, not even with the prompt shared
    options_.prefix_cache = false;
    options_.swap_bytes = swap_bytes;
    CountingObserver observer;
    Start(&observer);
    GenerateParams params = Params(Model(), MakePrompt(20, 2), 30);
    params.sampling.temperature = 1.2;
    params.sampling.seed = 3;
    params.n = 6;
    auto generation = Submit(params);
    const Answers answers = Collect(generation.get(), 6);
    for (int i = 0; i < 6; ++i) {
      params.n = 1;
      params.sampling.seed = 3 + i;
      auto alone = Submit(params);
      EXPECT_EQ(answers.tokens[i], Collect(alone.get()).tokens[0]) << "answer " << i;
    }
    EXPECT_GT(observer.preempted, 0);
    EXPECT_EQ(observer.bytes_in > 0, swap_bytes > 0);
    AwaitNoPagesInUse();
    engine_.reset();
  }
}

TEST_F(DecodingTest, AnEndIsCountedBeforeItsReaderSeesIt) {
  Start(&observer_);
  for (int i = 1; i <= 20; ++i) {
    auto generation = Submit(Params(Model(), MakePrompt(4, i), 3));
    Collect(generation.get());
    ASSERT_EQ(observer_.tokens, 3 * i);
  }
}

TEST_F(DecodingTest, ShutdownEndsAnswersThatAreNotForkedYet) {
  options_.max_sequences = 1;
  Start();
  auto running = Submit(Params(Model(), MakePrompt(4, 1), 120));
  GenerateParams params = Params(Model(), MakePrompt(4, 2), 10);
  params.n = 3;
  auto waiting = Submit(params);
  GenerationUpdate update;
  ASSERT_TRUE(running->Next(&update));
  engine_->Shutdown(absl::ZeroDuration());
  const Answers answers = Collect(waiting.get(), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(answers.finish[i], FinishReason::kCancelled) << "answer " << i;
}

// Everything an answer of a given form says is of that form, whatever the model would rather say.
TEST_F(DecodingTest, AnswersKeepToTheirForm) {
  Start();
  const auto base = Model(), lora = Model(Lora());
  std::vector<std::unique_ptr<Generation>> running;
  const std::vector<std::string> choices = {"hello", "the hell", "x"};
  for (int i = 0; i < 8; ++i) {
    GenerateParams params = Params(i % 2 ? lora : base, MakePrompt(5 + i, i), 60);
    params.ignore_eos = false;
    params.sampling.temperature = i < 4 ? 0 : 1.5;
    params.sampling.seed = i;
    params.n = 1 + i % 3;
    params.grammar = i % 4 < 2 ? Form({AnswerForm::Kind::kChoice, "", choices})
                               : Form({AnswerForm::Kind::kRegex, "[0-9]{4}(-[a-c]{2})?", {}});
    running.push_back(Submit(std::move(params)));
  }
  for (int i = 0; i < 8; ++i) {
    const Answers answers = Collect(running[i].get(), 1 + i % 3);
    ASSERT_TRUE(running[i]->status().ok()) << running[i]->status();
    for (int j = 0; j <= i % 3; ++j) {
      const std::string text = TextOf(answers.tokens[j]);
      EXPECT_EQ(answers.finish[j], FinishReason::kStop) << text;
      if (i % 4 < 2) {
        EXPECT_EQ(std::count(choices.begin(), choices.end(), text), 1) << text;
      } else {
        EXPECT_TRUE(text.size() == 4 || text.size() == 7) << text;
        EXPECT_EQ(text.find_first_not_of("0123456789-abc"), std::string::npos) << text;
      }
    }
  }
}

// Among the tokens that the form allows, the likeliest: by whole forward passes.
TEST_F(DecodingTest, AFormLeavesTheLikeliestOfWhatItAllows) {
  Start();
  const auto model = Model();
  Ids tokens = MakePrompt(9, 4);
  GenerateParams params = Params(model, tokens, 12);
  params.ignore_eos = false;
  params.grammar = Form({AnswerForm::Kind::kRegex, "[a-z]{12}", {}});
  auto generation = Submit(params);
  const Ids answer = Collect(generation.get()).tokens[0];
  ASSERT_FALSE(answer.empty());
  auto state = params.grammar->Start(base_->end_ids);
  for (int32_t token : answer) {
    const at::Tensor row = AllLogits(*base_, nullptr, tokens)[tokens.size() - 1];
    int32_t best = -1;
    for (int32_t t = 0; t < TinyModel::Vocabulary(); ++t) {
      if (!(state->Allowed()[t / 32] >> (t % 32) & 1)) continue;
      if (best < 0 || row[t].item<float>() > row[best].item<float>()) best = t;
    }
    EXPECT_EQ(token, best);
    ASSERT_TRUE(state->Accept(token));
    tokens.push_back(token);
  }
}

// Guessing ahead changes steps, not texts.
struct Speculation {
  const char* name;
  bool draft_model;
  double temperature;
  int64_t kv_tokens;
  int max_batch_tokens;
  int64_t swap_bytes = 0;
};
class SpeculationTest : public DecodingTest, public ::testing::WithParamInterface<Speculation> {};

TEST_P(SpeculationTest, TheTextIsTheSame) {
  options_.kv_tokens = GetParam().kv_tokens;
  options_.max_batch_tokens = GetParam().max_batch_tokens;
  options_.swap_bytes = GetParam().swap_bytes;
  // Or whichever of two equal prompts comes second would take another's pages sooner.
  options_.prompt_logits_bytes = 0;
  // A draft model that is the model itself guesses all right, another one hardly anything.
  for (const bool knows : {true, false}) {
    if (knows && !GetParam().draft_model) continue;
    CountingObserver observer;
    Start(&observer);
    const std::vector<std::shared_ptr<const ServedModel>> models = {Model(), Model(Lora()), Model(Prompt(3)), Model(Prefix(3)),
                                                                  Model(Ia3())};
    std::vector<std::unique_ptr<Generation>> plain, ahead;
    for (int i = 0; i < 6; ++i) {
      // Prompts that repeat themselves, so that there is something to look up.
      Ids prompt = MakePrompt(8, i);
      const Ids once = prompt;
      for (int j = 0; j < 3; ++j) prompt.insert(prompt.end(), once.begin(), once.end());
      GenerateParams params = Params(models[i % 3], prompt, 40);
      params.sampling.temperature = GetParam().temperature;
      params.sampling.seed = 11 + i;
      params.ignore_eos = i % 2 == 0;
      params.n = 1 + i % 2;
      params.min_tokens = i == 3 ? 6 : 0;
      plain.push_back(Submit(params));
      params.draft_tokens = 5;
      if (GetParam().draft_model) params.draft_model = knows ? Model() : Other(7);
      ahead.push_back(Submit(params));
    }
    for (int i = 0; i < 6; ++i) {
      const Answers expected = Collect(plain[i].get(), 1 + i % 2), got = Collect(ahead[i].get(), 1 + i % 2);
      ASSERT_TRUE(ahead[i]->status().ok()) << ahead[i]->status();
      EXPECT_EQ(got.tokens, expected.tokens) << "request " << i;
      EXPECT_EQ(got.finish, expected.finish);
    }
    EXPECT_GT(observer.drafted, 0);
    if (knows) {
      EXPECT_GT(observer.accepted, 10);
    }
    EXPECT_EQ(observer.swapped_out > 0, GetParam().swap_bytes > 0);
    plain.clear();
    ahead.clear();
    AwaitNoPagesInUse();
    EXPECT_EQ(engine_->stats().running + engine_->stats().waiting, 0);
    engine_.reset();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ways, SpeculationTest,
    ::testing::Values(Speculation{"Lookup", false, 0, 2048, 2048}, Speculation{"LookupDrawn", false, 0.1, 2048, 2048},
                      Speculation{"LookupInPieces", false, 0, 2048, 7},
                      Speculation{"LookupSmallCache", false, 0, 160, 64},
                      Speculation{"LookupSmallCacheSwap", false, 0, 160, 64, 1 << 20},
                      Speculation{"LookupDrawnInPiecesSwap", false, 0.1, 160, 7, 1 << 20},
                      Speculation{"Draft", true, 0, 2048, 2048}, Speculation{"DraftDrawn", true, 0.7, 2048, 2048},
                      Speculation{"DraftInPieces", true, 0, 2048, 7}, Speculation{"DraftSmallCache", true, 0, 208, 64},
                      Speculation{"DraftSmallCacheSwap", true, 0, 208, 64, 1 << 20},
                      Speculation{"DraftDrawnSmallCacheSwap", true, 0.7, 208, 64, 1 << 20}),
    [](const auto& info) { return info.param.name; });

// What was computed for a guess that was wrong must not be found by others that begin alike.
TEST_F(DecodingTest, WrongGuessesLeaveNothingInThePrefixCache) {
  Start(&observer_);
  const auto model = Model();
  const auto guesser = Other(7);
  for (int length = 20; length < 52; ++length) {
    GenerateParams params = Params(model, MakePrompt(length, length), 12);
    params.draft_tokens = 6;
    params.draft_model = guesser;
    auto ahead = Submit(params);
    const Ids answer = Collect(ahead.get()).tokens[0];
    Ids longer = params.prompt;
    longer.insert(longer.end(), answer.begin(), answer.end());
    longer.push_back(5);
    auto after = Submit(Params(model, longer, 3));
    EXPECT_EQ(Collect(after.get()).tokens[0], Greedy(*model, longer, 3)) << "behind " << length;
  }
  EXPECT_GT(observer_.drafted, observer_.accepted);
}

TEST_F(DecodingTest, RightGuessesSaveSteps) {
  CountingObserver plain, ahead;
  for (CountingObserver* observer : {&plain, &ahead}) {
    Start(observer);
    GenerateParams params = Params(Model(), MakePrompt(6, 1), 60);
    if (observer == &ahead) {
      params.draft_tokens = 4;
      params.draft_model = Model();
    }
    auto generation = Submit(std::move(params));
    EXPECT_EQ(Collect(generation.get()).tokens[0].size(), 60u);
    engine_.reset();
  }
  EXPECT_EQ(ahead.accepted, ahead.drafted) << "the model itself is never wrong";
  EXPECT_GT(ahead.accepted, 40);
}

TEST_F(DecodingTest, GuessesKeepToAForm) {
  Start(&observer_);
  GenerateParams params = Params(Model(), MakePrompt(6, 1), 60);
  params.ignore_eos = false;
  params.grammar = Form({AnswerForm::Kind::kRegex, "(ab){20}", {}});
  params.draft_tokens = 6;
  auto generation = Submit(std::move(params));
  const Answers answers = Collect(generation.get());
  std::string expected;
  for (int i = 0; i < 20; ++i) expected += "ab";
  EXPECT_EQ(TextOf(answers.tokens[0]), expected);
  EXPECT_EQ(answers.finish[0], FinishReason::kStop);
  EXPECT_GT(observer_.accepted, 20);
}

// The same search over whole forward passes.
std::vector<BeamSearch::Answer> Reference(const BaseModel& base, const Adapter* adapter, const Ids& prompt,
                                          const BeamSearch::Options& options, int count) {
  BeamSearch search(options);
  std::vector<Ids> running = {prompt};
  while (!running.empty()) {
    std::vector<std::vector<BeamSearch::Candidate>> candidates;
    for (const Ids& tokens : running) {
      const at::Tensor row = AllLogits(base, adapter, tokens)[tokens.size() - 1].log_softmax(-1);
      const auto [values, ids] = row.topk(search.CandidatesPerBeam());
      candidates.emplace_back();
      for (int64_t i = 0; i < ids.size(0); ++i) {
        candidates.back().push_back({static_cast<int32_t>(ids[i].item<int64_t>()), values[i].item<float>()});
      }
    }
    std::vector<Ids> next;
    for (const BeamSearch::Step& step : search.Advance(candidates)) {
      next.push_back(running[step.parent]);
      next.back().push_back(step.token);
    }
    running = std::move(next);
  }
  return search.Best(count);
}

TEST_F(DecodingTest, BeamsFindWhatASearchOverWholePassesFinds) {
  struct Room {
    int64_t kv_tokens, swap_bytes;
  };
  for (const Room& room :
       {Room{1024, 0}, Room{176, 0}, Room{176, 1 << 20}}) {  // but in the first, beams have to give way
    options_.kv_tokens = room.kv_tokens;
    options_.swap_bytes = room.swap_bytes;
    Start(&observer_);
    const std::vector<std::shared_ptr<const ServedModel>> models = {Model(), Model(Lora()), Model(Prompt(4)), Model(Prefix(3)),
                                                                  Model(Ia3())};
    std::vector<std::unique_ptr<Generation>> running;
    std::vector<GenerateParams> all;
    for (int i = 0; i < 3; ++i) {
      GenerateParams params = Params(models[i], MakePrompt(10 + i, i), 12);
      params.ignore_eos = false;
      params.beams = 4;
      params.n = 2;
      params.length_penalty = i == 1 ? 2.0 : 1.0;
      params.early_stopping = i == 2;
      all.push_back(params);
      running.push_back(Submit(params));
    }
    for (int i = 0; i < 3; ++i) {
      std::vector<double> scores(2);
      std::vector<Ids> tokens(2);
      std::vector<FinishReason> finish(2);
      GenerationUpdate update;
      while (running[i]->Next(&update)) {
        if (update.has_token) tokens[update.index].push_back(update.token.id);
        if (update.finish == FinishReason::kNone) continue;
        finish[update.index] = update.finish;
        scores[update.index] = update.score;
      }
      const auto expected = Reference(*base_, models[i]->adapter.get(), all[i].prompt,
                                      {4, 12, all[i].length_penalty, all[i].early_stopping, base_->end_ids}, 2);
      for (int j = 0; j < 2; ++j) {
        EXPECT_EQ(tokens[j], expected[j].tokens) << "request " << i << ", answer " << j;
        EXPECT_NEAR(scores[j], expected[j].score, 1e-3);
        EXPECT_EQ(finish[j], expected[j].ended ? FinishReason::kStop : FinishReason::kLength);
      }
    }
    running.clear();
    AwaitNoPagesInUse();
    engine_.reset();
    EXPECT_EQ(observer_.preempted > 0, room.kv_tokens < 1024);
    EXPECT_EQ(observer_.swapped_out > 0, room.swap_bytes > 0);
  }
}

TEST_F(DecodingTest, ACancelledSearchFreesAllItsPages) {
  Start(&observer_);
  GenerateParams params = Params(Model(), MakePrompt(10, 1), 100);
  params.beams = 6;
  auto search = Submit(params);
  while (observer_.steps < 5) std::this_thread::yield();
  search->Cancel();
  GenerationUpdate update;
  EXPECT_FALSE(search->Next(&update));
  AwaitNoPagesInUse();
  EXPECT_EQ(observer_.finished[static_cast<int>(FinishReason::kCancelled)], 1);
}

TEST_F(DecodingTest, ASearchThatCannotFitIsRefused) {
  options_.kv_tokens = 256;
  Start();
  GenerateParams params = Params(Model(), MakePrompt(20, 1), 40);
  params.beams = 5;
  EXPECT_EQ(GetErrorDetails(engine_->Generate(params).status()).reason, "PROMPT_TOO_LONG");
  params.beams = 4;
  EXPECT_TRUE(engine_->Generate(params).ok());
}

// Whatever else is asked for at the same time, an embedding is what the whole forward pass gives.
TEST_F(DecodingTest, EmbeddingsAreTheHiddenStates) {
  options_.max_batch_tokens = 16;  // so that they are computed in parts
  Start(&observer_);
  auto beside = Submit(Params(Model(), MakePrompt(4, 1), 60));
  for (const auto& model : {Model(), Model(Lora()), Model(Prompt(3)), Model(Prefix(3)), Model(Ia3())}) {
    for (const bool is_mean : {true, false}) {
      EmbedParams params;
      params.model = model;
      params.pooling = is_mean ? EmbedParams::Pooling::kMean : EmbedParams::Pooling::kLast;
      params.normalize = !is_mean;
      for (int i = 0; i < 5; ++i) params.inputs.push_back(MakePrompt(3 + 7 * i, i));
      absl::Notification done;
      absl::StatusOr<EmbedResult> result;
      engine_->EmbedAsync(params, [&](auto r) {
        result = std::move(r);
        done.Notify();
      });
      done.WaitForNotification();
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_EQ(result->embeddings.size(), 5u);
      for (int i = 0; i < 5; ++i) {
        const Ids& input = params.inputs[i];
        at::Tensor hidden = AllHidden(*base_, model->adapter.get(), absl::MakeConstSpan(&input, 1));
        hidden = hidden.narrow(0, hidden.size(0) - static_cast<int64_t>(input.size()), input.size());
        at::Tensor expected = is_mean ? hidden.mean(0) : hidden[input.size() - 1];
        if (!is_mean) expected = expected / expected.norm();
        const at::Tensor got = at::tensor(result->embeddings[i]);
        EXPECT_LT((got - expected).abs().max().item<float>(), 1e-4) << "input " << i;
      }
    }
  }
  EXPECT_EQ(Collect(beside.get()).tokens[0], Greedy(*Model(), MakePrompt(4, 1), 60));
  engine_->Shutdown(absl::ZeroDuration());
  absl::Status refused;
  engine_->EmbedAsync({Model(), {{1, 2}}}, [&](auto r) { refused = r.status(); });
  EXPECT_EQ(GetErrorDetails(refused).reason, "SHUTTING_DOWN");
}

TEST_F(DecodingTest, EmbeddingsThatCannotBeMadeAreNoFinishedRequests) {
  Start(&observer_);
  const auto reason_of = [&](EmbedParams params) {
    absl::Notification done;
    absl::Status status;
    engine_->EmbedAsync(std::move(params), [&](auto result) {
      status = result.status();
      done.Notify();
    });
    done.WaitForNotification();
    return GetErrorDetails(status).reason;
  };
  EXPECT_EQ(reason_of({Model(), {MakePrompt(4, 1), MakePrompt(129, 1)}}), "PROMPT_TOO_LONG");
  EXPECT_EQ(reason_of({Model(Prompt(5)), {MakePrompt(124, 1)}}), "PROMPT_TOO_LONG") << "with the soft prompt";
  EmbedParams late{Model(), {MakePrompt(4, 1)}};
  late.deadline = absl::InfinitePast();
  EXPECT_EQ(reason_of(late), "DEADLINE_EXCEEDED");
  EXPECT_EQ(observer_.finished[static_cast<int>(FinishReason::kStop)], 0);
}

// With a target, and a job that would have nothing otherwise: steps wait for it, and the answers are the same.
TEST_F(DecodingTest, ATargetLetsTrainingInBetween) {
  for (const bool has_target : {true, false}) {
    options_.inter_token_target = has_target ? absl::Milliseconds(100) : absl::ZeroDuration();
    arbiter_ =
        std::make_unique<Arbiter>(&Clock::Real(), Arbiter::Options{.training_share = 0, .memory_bytes = 1 << 30});
    CountingObserver observer;
    Start(&observer);
    std::atomic<bool> ended = false;
    std::thread training([&] {
      while (!ended) {
        Arbiter::Turn turn = arbiter_->Acquire(WorkClass::kTraining);
        while (!ended && !turn.ShouldPause()) std::this_thread::yield();
      }
    });
    const auto model = Model();
    auto generation = Submit(Params(model, MakePrompt(9, 3), 12));
    EXPECT_EQ(Collect(generation.get()).tokens[0], Greedy(*model, MakePrompt(9, 3), 12));
    ended = true;
    training.join();
    // All steps, as far as they are faster than the target.
    EXPECT_LE(observer.put_off, has_target ? 12 : 0);
    EXPECT_EQ(observer.put_off > 0, has_target);
    engine_.reset();
  }
}

// Dense weights, LoRAs and soft prompts, prompts in pieces and known beginnings; blocks of a file: services_test.py.
TEST_F(DecodingTest, AnswersAreTheSameBitsWhateverIsBesideThem) {
  for (const ComputeTarget::Type type : {ComputeTarget::Type::kFloat32, ComputeTarget::Type::kBfloat16}) {
    ModelConfig config = base_->config;
    config.heads = 6;
    config.kv_heads = 2;
    config.head_dim = 32;
    config.hidden = 192;
    config.intermediate = 520;
    config.tied_head = false;
    ComputeTarget target;
    target.type = type;
    target.batch_invariant = true;
    base_ = MakeRandomModel(config, target);
    options_.max_batch_tokens = 40;
    Start();
    auto lora = std::make_shared<Adapter>();
    lora->lora = std::make_unique<LoraAdapter>();
    lora->lora->layers.resize(config.layers);
    for (auto& layer : lora->lora->layers) {
      for (int p = 0; p < kProjections; ++p) {
        const ProjectionSlice slice = SliceOf(config, static_cast<Projection>(p));
        const at::TensorOptions options = base_->weights.embedding_VD.options();
        layer[p] = {(at::randn({5, InputSize(config, slice.linear)}) * 0.1).to(options),
                    (at::randn({slice.rows, 5}) * 0.1).to(options), 1.0};
      }
    }
    auto prompt = std::make_shared<Adapter>();
    prompt->soft_prompt = std::make_unique<SoftPrompt>();
    prompt->soft_prompt->embeddings_ND =
        (at::randn({3, config.hidden}) * 0.1).to(base_->weights.embedding_VD.options());
    const std::vector<std::shared_ptr<const ServedModel>> models = {Model(), Model(lora), Model(prompt)};
    auto ask = [&](int number) {
      GenerateParams params = Params(models[number % 3], MakePrompt(3 + number * 11, number / 3), 12);
      params.sampling.temperature = 1;
      params.sampling.seed = number;
      params.logprobs = true;
      return Submit(std::move(params));
    };
    auto read = [](Generation* generation) {
      std::vector<std::pair<int32_t, float>> out;
      for (const TokenInfo& info : Collect(generation).infos) out.emplace_back(info.id, info.logprob);
      return out;
    };
    std::vector<std::vector<std::pair<int32_t, float>>> alone;
    for (int i = 0; i < 7; ++i) alone.push_back(read(ask(i).get()));
    std::vector<std::unique_ptr<Generation>> together;
    for (int i = 0; i < 7; ++i) together.push_back(ask(i));
    for (int i = 0; i < 7; ++i) EXPECT_EQ(read(together[i].get()), alone[i]) << i;
    engine_.reset();
  }
}

// Ways to ask for something that the engine has read before.
struct Again {
  const char* name;
  int prompt_tokens = 41;
  std::function<void(GenerateParams*)> ask = [](GenerateParams*) {};
  bool has_form = false;
};
class KnownPromptTest : public DecodingTest, public ::testing::WithParamInterface<Again> {};

TEST_P(KnownPromptTest, AnswersAreThoseOfReadingItAgain) {
  for (const auto& model : {Model(), Model(Lora()), Model(Prompt(5)), Model(Prefix(7)), Model(OwnVocabulary(kRandomVocabularies[0]))}) {
    GenerateParams params = Params(model, MakePrompt(GetParam().prompt_tokens, 3), 8);
    GetParam().ask(&params);
    if (GetParam().has_form) {
      params.ignore_eos = false;
      params.grammar = Form({AnswerForm::Kind::kRegex, "[a-f]{3,9}", {}});
    }
    // The first time with it, the second, and without it.
    std::vector<Answers> answers;
    for (const int64_t bytes : {int64_t{1} << 20, int64_t{0}}) {
      options_.prompt_logits_bytes = bytes;
      observer_.known = 0;
      Start(&observer_);
      for (int time = 0; time < (bytes > 0 ? 2 : 1); ++time) {
        auto generation = Submit(params);
        answers.push_back(Collect(generation.get(), params.n));
        EXPECT_TRUE(generation->status().ok()) << generation->status();
        // Several answers would each read the rest of the prompt.
        const int64_t tokens = params.prompt.size() + (model->adapter ? model->adapter->virtual_tokens() : 0);
        EXPECT_EQ(observer_.known, params.n == 1 || tokens % 16 == 0 ? time : 0);
        EXPECT_GE(generation->timings().first_token_seconds, generation->timings().queue_seconds);
        AwaitNoPagesInUse();
      }
      engine_.reset();
    }
    ASSERT_FALSE(answers[0].tokens[0].empty());
    for (size_t i : {1, 2}) {
      EXPECT_EQ(answers[i].tokens, answers[0].tokens);
      EXPECT_EQ(answers[i].finish, answers[0].finish);
      ASSERT_EQ(answers[i].infos.size(), answers[0].infos.size());
      for (size_t t = 0; t < answers[i].infos.size(); ++t) {
        EXPECT_NEAR(answers[i].infos[t].logprob, answers[0].infos[t].logprob, 1e-4);
        EXPECT_EQ(answers[i].infos[t].alternatives.size(), answers[0].infos[t].alternatives.size());
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ways, KnownPromptTest,
    ::testing::Values(Again{"Likeliest"}, Again{"WholePages", 32}, Again{"LessThanAPage", 3}, Again{"AToken", 1},
                      Again{"OneTokenIsAsked", 32, [](GenerateParams* p) { p->max_tokens = 1; }},
                      Again{"Drawn", 41, [](GenerateParams* p) { p->sampling.temperature = 1.5; p->sampling.seed = 9; }},
                      Again{"SeveralAnswers", 41, [](GenerateParams* p) { p->sampling.temperature = 1.5; p->n = 4; }},
                      Again{"SeveralOfWholePages", 48, [](GenerateParams* p) { p->sampling.temperature = 1.5; p->n = 4; }},
                      Again{"Penalties", 41, [](GenerateParams* p) { p->sampling.repetition_penalty = 1.7; }},
                      Again{"Logprobs", 41, [](GenerateParams* p) { p->logprobs = true; p->top_logprobs = 3; }},
                      Again{"Guesses", 41, [](GenerateParams* p) { p->draft_tokens = 4; }},
                      Again{"Form", 41, [](GenerateParams*) {}, true},
                      Again{"FormsOfSeveral", 32, [](GenerateParams* p) { p->sampling.temperature = 1; p->n = 3; }, true}),
    [](const auto& info) { return info.param.name; });

TEST_F(DecodingTest, AKnownPromptNeedsNoPassForItsFirstToken) {
  Start(&observer_);
  const GenerateParams params = Params(Model(), MakePrompt(64, 3), 1);
  const Ids first = Collect(Submit(params).get()).tokens[0];
  EXPECT_EQ(Collect(Submit(params).get()).tokens[0], first);
  EXPECT_EQ(observer_.known, 1);
  // Another model knows nothing of it, nor does the same one of another prompt.
  Collect(Submit(Params(Model(), MakePrompt(64, 3), 1)).get());
  Collect(Submit(Params(params.model, MakePrompt(63, 3), 1)).get());
  EXPECT_EQ(observer_.known, 1);
  engine_->Shutdown(absl::InfiniteDuration());  // a step is counted after its tokens are handed out
  EXPECT_EQ(observer_.prompt, 64 + 64 + (63 - 48)) << "and nothing for the second";
  EXPECT_EQ(observer_.steps, 3);
}

TEST_F(DecodingTest, OfEqualPromptsThatComeTogetherTheLaterOnesAreKnown) {
  options_.max_sequences = 1;
  Start(&observer_);
  const GenerateParams params = Params(Model(), MakePrompt(40, 3), 3);
  std::vector<std::unique_ptr<Generation>> running;
  for (int i = 0; i < 3; ++i) running.push_back(Submit(params));
  const Ids first = Collect(running[0].get()).tokens[0];
  for (int i : {1, 2}) EXPECT_EQ(Collect(running[i].get()).tokens[0], first);
  EXPECT_EQ(observer_.known, 2);
}

TEST_F(DecodingTest, AKnownPromptWhosePagesWentIsReadAgain) {
  options_.kv_tokens = 128;
  Start(&observer_);
  const GenerateParams params = Params(Model(), MakePrompt(50, 3), 8);
  const Ids first = Collect(Submit(params).get()).tokens[0];
  Collect(Submit(Params(Model(), MakePrompt(110, 5), 8)).get());  // takes all pages
  AwaitNoPagesInUse();
  EXPECT_EQ(Collect(Submit(params).get()).tokens[0], first);
  EXPECT_EQ(observer_.known, 0);
  EXPECT_EQ(Collect(Submit(params).get()).tokens[0], first);
  EXPECT_EQ(observer_.known, 1);
}

TEST_F(DecodingTest, WithoutThePrefixCacheNoPromptIsKnown) {
  options_.prefix_cache = false;
  Start(&observer_);
  const GenerateParams params = Params(Model(), MakePrompt(50, 3), 4);
  EXPECT_EQ(Collect(Submit(params).get()).tokens[0], Collect(Submit(params).get()).tokens[0]);
  EXPECT_EQ(observer_.known, 0);
}

TEST_F(DecodingTest, CachedTokensAreReported) {
  Start();
  const auto model = Model();
  for (const int64_t expected : {0, 32}) {
    auto generation = Submit(Params(model, MakePrompt(40, 2), 3));
    Collect(generation.get());
    EXPECT_EQ(generation->timings().cached_tokens, expected);
  }
}

TEST_F(DecodingTest, AnUrgentRequestOvertakes) {
  options_.max_sequences = 1;
  // Of an answer that takes so long that it is under way when the other request comes, however busy the machine is.
  ModelConfig config = base_->config;
  config.context = options_.kv_tokens = 4096;
  base_ = MakeRandomModel(config, {});
  Start(&observer_);
  const auto model = Model();
  auto slow = Submit(Params(model, MakePrompt(4, 1), 4000));
  GenerationUpdate update;
  ASSERT_TRUE(slow->Next(&update));
  GenerateParams params = Params(model, MakePrompt(4, 2), 3);
  params.priority = 1;
  auto urgent = Submit(params);
  EXPECT_EQ(Collect(urgent.get()).tokens[0], Greedy(*model, params.prompt, 3));
  EXPECT_EQ(observer_.tokens, 3) << "the other one has not ended";
  Ids rest = {update.token.id};
  while (rest.size() < 100 && slow->Next(&update)) rest.push_back(update.token.id);
  slow->Cancel();
  EXPECT_EQ(rest, Greedy(*model, MakePrompt(4, 1), 100));
}

}  // namespace
}  // namespace attune
