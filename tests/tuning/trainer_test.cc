#include "server/tuning/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "server/tuning/checkpoint.h"
#include "server/tuning/defaults.h"
#include "tests/testing/gpu.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace attune {
namespace {

LoraSpec SmallLora() {
  LoraSpec spec;
  spec.rank = 4;
  return spec;
}

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    TinyModel::WriteGguf(temp_.File("model.gguf"));
    Load(ComputeTarget{});
    std::mt19937 random(1);
    for (int i = 0; i < 12; ++i) {
      Example example;
      const int length = 4 + static_cast<int>(random() % 12);
      for (int t = 0; t < length; ++t) {
        example.tokens.push_back(3 + static_cast<int32_t>(random() % 250));
        example.has_loss.push_back(t >= length - 1 - i % 3);
      }
      examples_.push_back(example);
    }
  }

  void Load(const ComputeTarget& target) {
    auto base = LoadBaseModel(temp_.path(), temp_.path(), target);
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }

  // A run: everything that a job would hold.
  struct Run {
    std::unique_ptr<Method> method;
    std::unique_ptr<Batcher> batcher;
    std::unique_ptr<Trainer> trainer;
  };
  Run Make(const MethodSpec& spec, int64_t micro_batch_tokens = 1000, int32_t batch_size = 6, double rate = 0) {
    Hyperparameters given;
    given.max_steps = 20;
    given.batch_size = batch_size;
    given.micro_batch_tokens = micro_batch_tokens;
    given.learning_rate = rate;
    given.optimizer_state = optimizer_state_;
    const Hyperparameters h = ResolveHyperparameters(spec, given, {base_->config.Parameters(), 12, 100, 0, base_->target});
    Run run;
    auto method = MakeMethod(spec, base_, *h.seed);
    EXPECT_TRUE(method.ok()) << method.status();
    run.method = std::move(*method);
    run.batcher = std::make_unique<Batcher>(&examples_, h.batch_size, h.micro_batch_tokens,
                                            run.method->virtual_tokens(), *h.seed, group_size_);
    PassOptions options = options_;
    options.noise_alpha = noise_alpha_;
    run.trainer = std::make_unique<Trainer>(base_.get(), run.method.get(), run.batcher.get(), h, arbiter_, 0, nullptr, options);
    return run;
  }

  static StepResult Step(Run* run, int64_t step) {
    auto result = run->trainer->Step(step);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : StepResult{};
  }
  static std::vector<at::Tensor> Values(const Run& run) {
    std::vector<at::Tensor> values;
    for (const Parameter& parameter : run.method->parameters()) values.push_back(parameter.leaf.detach().clone());
    return values;
  }
  static void ExpectIdentical(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << "parameter " << i;
  }

  TempFolder temp_;
  std::shared_ptr<const BaseModel> base_;
  std::vector<Example> examples_;
  std::string optimizer_state_;
  double noise_alpha_ = 0;
  int64_t group_size_ = 1;
  PassOptions options_;
  Arbiter* arbiter_ = nullptr;
};

// Generation gets in between the layers of one micro-batch, and nothing changes for the job.
TEST_F(TrainerTest, APassPausesForGenerationAndGoesOnAsIfItHadNot) {
  Arbiter arbiter(&Clock::Real(), {.training_share = 0.5, .handover_gap = absl::ZeroDuration()});
  arbiter_ = &arbiter;
  Run run = Make(SmallLora());
  const int64_t before = arbiter.Turns(WorkClass::kTraining);
  std::atomic<bool> ended = false;
  std::thread generation([&] {
    while (!ended) arbiter.Acquire(WorkClass::kGeneration).Release();
  });
  // A step takes two turns, for its pass and for the optimizer, and one more for each pause.
  int64_t steps = 0;
  while (steps < 19 || (arbiter.Turns(WorkClass::kTraining) - before <= 2 * steps && steps < 2000)) Step(&run, steps++);
  ended = true;
  generation.join();
  EXPECT_GT(arbiter.Turns(WorkClass::kTraining) - before, 2 * steps);
  arbiter_ = nullptr;
  Run undisturbed = Make(SmallLora());
  for (int64_t i = 0; i < steps; ++i) Step(&undisturbed, i);
  ExpectIdentical(Values(undisturbed), Values(run));
}

struct MethodCase {
  const char* name;
  int method;
  bool gpu;
};

class EveryMethodTest : public TrainerTest, public ::testing::WithParamInterface<MethodCase> {
 protected:
  void SetUp() override {
    const std::optional<ComputeTarget> gpu = FindGpu();
    if (GetParam().gpu && !gpu) GTEST_SKIP() << "no GPU";
    TrainerTest::SetUp();
    if (GetParam().gpu) Load(*gpu);
  }
  MethodSpec Spec() const {
    PartialSpec last;
    last.last_layers = 1;
    LoraSpec plus = SmallLora();
    plus.learning_rate_ratio = 4;
    PartialSpec norms;
    norms.biases_and_norms = true;
    SoftPromptSpec prompt;
    prompt.num_virtual_tokens = 5;
    PrefixSpec prefix;
    prefix.num_virtual_tokens = 5;
    LoraSpec saved = SmallLora(), adapted = SmallLora();
    saved.modules_to_save = {TargetModule::kEmbedTokens, TargetModule::kLmHead};
    adapted.target_modules = {TargetModule::kQProj, TargetModule::kEmbedTokens, TargetModule::kLmHead};
    return std::vector<MethodSpec>{FullSpec{}, last,      norms, SmallLora(), prompt,
                                   prefix,     Ia3Spec{}, plus,  saved,       adapted}[GetParam().method];
  }
};

TEST_P(EveryMethodTest, LearnsItsExamplesAndOnlyWhatItShould) {
  const at::Tensor q = base_->weights.layers[0].linear[0].clone(), embedding = base_->weights.embedding_VD.clone();
  Run run = Make(Spec(), 1000, 12, 0.02);
  const StepResult first = Step(&run, 0);
  StepResult last;
  for (int64_t step = 1; step < 20; ++step) last = Step(&run, step);
  EXPECT_LT(last.loss, 0.95 * first.loss);
  EXPECT_GT(first.gradient_norm, 0);
  int64_t tokens = 0, loss_tokens = 0;
  for (const Example& example : examples_) {
    tokens += example.tokens.size() + run.method->virtual_tokens();
    for (uint8_t flag : example.has_loss) loss_tokens += flag;
  }
  EXPECT_EQ(first.tokens, tokens);
  EXPECT_EQ(first.loss_tokens, loss_tokens);
  EXPECT_TRUE(at::equal(base_->weights.layers[0].linear[0], q)) << "the base model changed";
  EXPECT_TRUE(at::equal(base_->weights.embedding_VD, embedding)) << "the base model changed";
}

// A large batch taken in pieces has the same loss and gradient.
TEST_P(EveryMethodTest, GradientAccumulationGivesTheLargeBatchsStep) {
  MethodSpec spec = Spec();
  if (auto* lora = std::get_if<LoraSpec>(&spec)) lora->dropout = 0;  // masks differ between packings
  Run whole = Make(spec, 1000, 12), pieces = Make(spec, 20, 12);
  ASSERT_GT(pieces.batcher->Step(0).size(), 3u);
  for (int64_t step = 0; step < 3; ++step) {
    const StepResult a = Step(&whole, step), b = Step(&pieces, step);
    EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss);
    EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-4 * a.gradient_norm);
  }
}

TEST_P(EveryMethodTest, ResumesToBitIdenticalParameters) {
  noise_alpha_ = 3;  // which is drawn from the seed, as dropout is
  Run straight = Make(Spec()), before = Make(Spec()), after = Make(Spec());
  for (int64_t step = 0; step < 8; ++step) Step(&straight, step);
  for (int64_t step = 0; step < 5; ++step) Step(&before, step);
  TrainingState state;
  state.step = 5;
  state.best_step = 3;
  state.best_validation_loss = 1.25;
  const std::string folder = temp_.File("checkpoint");
  ASSERT_TRUE(SaveCheckpoint(folder, state, *before.method, &before.trainer->optimizer()).ok());
  auto loaded = LoadCheckpoint(folder, after.method.get(), &after.trainer->optimizer());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->step, 5);
  EXPECT_EQ(loaded->best_step, 3);
  EXPECT_EQ(loaded->best_validation_loss, 1.25);
  for (int64_t step = 5; step < 8; ++step) Step(&after, step);
  ExpectIdentical(Values(straight), Values(after));
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryMethodTest,
                         ::testing::Values(MethodCase{"Full", 0, false}, MethodCase{"LastLayer", 1, false},
                                           MethodCase{"Norms", 2, false}, MethodCase{"Lora", 3, false},
                                           MethodCase{"SoftPrompt", 4, false}, MethodCase{"Prefix", 5, false},
                                           MethodCase{"Ia3", 6, false}, MethodCase{"LoraPlus", 7, false},
                                           MethodCase{"SavedVocabulary", 8, false}, MethodCase{"AdaptedVocabulary", 9, false},
                                           MethodCase{"GpuSavedVocabulary", 8, true},
                                           MethodCase{"GpuAdaptedVocabulary", 9, true},
                                           MethodCase{"GpuLoraPlus", 7, true}, MethodCase{"GpuFull", 0, true},
                                           MethodCase{"GpuLastLayer", 1, true}, MethodCase{"GpuNorms", 2, true},
                                           MethodCase{"GpuLora", 3, true}, MethodCase{"GpuSoftPrompt", 4, true},
                                           MethodCase{"GpuPrefix", 5, true}, MethodCase{"GpuIa3", 6, true}),
                         [](const auto& info) { return std::string(info.param.name); });

// On streams of their own, in shared turns: nothing of one reaches the other.
TEST_F(TrainerTest, GpuJobsSideBySideGiveWhatTheyGiveAlone) {
  const std::optional<ComputeTarget> gpu = FindGpu(ComputeTarget::Type::kBfloat16);
  if (!gpu) GTEST_SKIP() << "no GPU";
  Load(*gpu);
  constexpr int kJobs = 6, kSteps = 30;
  auto spec = [](int job) -> MethodSpec {
    SoftPromptSpec prompt;
    prompt.num_virtual_tokens = 5;
    LoraSpec lora = SmallLora();
    lora.rank = 2 + job;
    return job % 3 == 2 ? MethodSpec(prompt) : MethodSpec(lora);
  };
  std::vector<Run> alone, together;
  Arbiter arbiter(&Clock::Real(), {});
  arbiter_ = &arbiter;
  for (int job = 0; job < kJobs; ++job) {
    alone.push_back(Make(spec(job)));
    together.push_back(Make(spec(job)));
  }
  for (Run& run : alone) {
    for (int64_t step = 0; step < kSteps; ++step) Step(&run, step % 20);
  }
  std::vector<std::thread> threads;
  for (Run& run : together) {
    threads.emplace_back([&run] {
      for (int64_t step = 0; step < kSteps; ++step) Step(&run, step % 20);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int job = 0; job < kJobs; ++job) ExpectIdentical(Values(alone[job]), Values(together[job]));
}

TEST_F(TrainerTest, EightBitOptimizerStateResumesToo) {
  optimizer_state_ = "int8";
  Run straight = Make(SmallLora()), before = Make(SmallLora()), after = Make(SmallLora());
  for (int64_t step = 0; step < 6; ++step) Step(&straight, step);
  for (int64_t step = 0; step < 3; ++step) Step(&before, step);
  const std::string folder = temp_.File("checkpoint");
  TrainingState state;
  state.step = 3;
  ASSERT_TRUE(SaveCheckpoint(folder, state, *before.method, &before.trainer->optimizer()).ok());
  ASSERT_TRUE(LoadCheckpoint(folder, after.method.get(), &after.trainer->optimizer()).ok());
  for (int64_t step = 3; step < 6; ++step) Step(&after, step);
  ExpectIdentical(Values(straight), Values(after));
  // State of the other kind is no state of this one.
  optimizer_state_ = "";
  Run other = Make(SmallLora());
  EXPECT_EQ(GetErrorDetails(LoadCheckpoint(folder, other.method.get(), &other.trainer->optimizer()).status()).reason,
            "BAD_CHECKPOINT");
}

TEST_F(TrainerTest, ThreadsDoNotChangeTheStep) {
  LoraSpec spec = SmallLora();
  spec.dropout = 0;
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  Run one = Make(spec);
  const StepResult a = Step(&one, 0);
  at::set_num_threads(3);
  Run three = Make(spec);
  const StepResult b = Step(&three, 0);
  at::set_num_threads(threads);
  EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss);
  EXPECT_NEAR(a.gradient_norm, b.gradient_norm, 1e-4 * a.gradient_norm);
}

TEST_F(TrainerTest, DropoutMakesTheSameStepEachTime) {
  LoraSpec spec = SmallLora();
  spec.dropout = 0.5;
  Run a = Make(spec), b = Make(spec);
  for (int64_t step = 0; step < 3; ++step) EXPECT_EQ(Step(&a, step).loss, Step(&b, step).loss);
  spec.dropout = 0;
  Run without = Make(spec);
  Step(&without, 0);  // B starts at zero: the first step is the base model's either way
  EXPECT_NE(Step(&without, 1).loss, Step(&a, 1).loss);
}

TEST_F(TrainerTest, NoiseMakesTheSameStepEachTimeAndNoneInEvaluation) {
  LoraSpec spec = SmallLora();
  spec.dropout = 0;
  Run quiet = Make(spec);
  noise_alpha_ = 5;
  Run a = Make(spec), b = Make(spec);
  const double evaluated = a.trainer->Evaluate(*a.batcher, {})->loss;
  EXPECT_EQ(evaluated, quiet.trainer->Evaluate(*quiet.batcher, {})->loss);
  for (int64_t step = 0; step < 3; ++step) {
    const double loss = Step(&a, step).loss;
    EXPECT_EQ(loss, Step(&b, step).loss);
    EXPECT_NE(loss, Step(&quiet, step).loss);
  }
}

// Objectives beside the answers' likelihood, over the same examples.
class ObjectiveStepsTest : public TrainerTest, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    TrainerTest::SetUp();
    std::mt19937 random(5);
    if (GetParam()) {
      group_size_ = 2;
      options_.beta = 0.4;
      options_.label_smoothing = 0.1;
      for (Example& example : examples_) example.reference_log_probability = -static_cast<double>(random() % 100) / 10;
      return;
    }
    options_.temperature = 2;
    options_.teacher_weight = 0.6;
    for (Example& example : examples_) {
      const int64_t rows = std::count(example.has_loss.begin(), example.has_loss.end(), 1);
      example.teacher.k = 3;
      for (int64_t i = 0; i < 3 * rows; ++i) {
        example.teacher.ids.push_back(static_cast<int32_t>(80 * (i % 3) + random() % 80));
        example.teacher.log_probabilities.push_back(-1.5f - static_cast<float>(random() % 100) / 50);
      }
    }
  }
  MethodSpec Spec() const {
    LoraSpec spec = SmallLora();
    spec.dropout = 0;
    return spec;
  }
  std::vector<StepResult> Take(Run* run) {
    std::vector<StepResult> results;
    for (int64_t step = 0; step < 8; ++step) results.push_back(Step(run, step));
    return results;
  }
};

TEST_P(ObjectiveStepsTest, MicroBatchesGiveTheLargeBatchsSteps) {
  Run whole = Make(Spec()), pieces = Make(Spec(), 20);
  const std::vector<StepResult> a = Take(&whole), b = Take(&pieces);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i].loss, b[i].loss, 1e-4 * std::abs(a[i].loss));
    EXPECT_NEAR(a[i].gradient_norm, b[i].gradient_norm, 1e-3 * a[i].gradient_norm);
    EXPECT_NEAR(a[i].reward_margin, b[i].reward_margin, 1e-3);
    EXPECT_EQ(a[i].preference_accuracy, b[i].preference_accuracy);
  }
}

TEST_P(ObjectiveStepsTest, EvaluationSeesWhatAStepDoes) {
  Run run = Make(Spec(), 1000, 12);
  const auto evaluated = run.trainer->Evaluate(*run.batcher, {});
  ASSERT_TRUE(evaluated.ok());
  const StepResult step = Step(&run, 0);
  EXPECT_NEAR(evaluated->loss, step.loss, 1e-5 * std::abs(step.loss));
  EXPECT_NEAR(evaluated->reward_margin, step.reward_margin, 1e-5);
  EXPECT_EQ(evaluated->preference_accuracy, step.preference_accuracy);
}

TEST_P(ObjectiveStepsTest, GpuGivesTheCpusSteps) {
  const std::optional<ComputeTarget> gpu = FindGpu(), fast = FindGpu(ComputeTarget::Type::kBfloat16);
  if (!gpu) GTEST_SKIP() << "no GPU";
  Run on_cpu = Make(Spec());
  const std::vector<StepResult> expected = Take(&on_cpu);
  Load(*gpu);
  Run exact = Make(Spec());
  const std::vector<StepResult> found = Take(&exact);
  // Replayed as graphs from a shape's second batch on, the same each time.
  Load(*fast);
  Run a = Make(Spec(), 40), b = Make(Spec(), 40);
  const std::vector<StepResult> once = Take(&a), again = Take(&b);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(found[i].loss, expected[i].loss, 1e-3 * std::abs(expected[i].loss)) << i;
    EXPECT_NEAR(found[i].reward_margin, expected[i].reward_margin, 1e-2) << i;
    EXPECT_NEAR(once[i].loss, expected[i].loss, 0.05 * std::abs(expected[i].loss) + 0.02) << i;
    EXPECT_EQ(once[i].loss, again[i].loss) << i;
    EXPECT_EQ(once[i].reward_margin, again[i].reward_margin) << i;
  }
  ExpectIdentical(Values(a), Values(b));
}

INSTANTIATE_TEST_SUITE_P(Objectives, ObjectiveStepsTest, ::testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "Preferences" : "Teacher"); });

TEST_F(TrainerTest, PartialTrainsNothingElse) {
  PartialSpec spec;
  spec.parameter_patterns = {".*layers.1.mlp.down_proj.weight"};
  Run run = Make(spec);
  ASSERT_EQ(run.method->parameters().size(), 1u);
  EXPECT_EQ(run.method->parameters()[0].name, "model.layers.1.mlp.down_proj.weight");
  const at::Tensor before = run.method->parameters()[0].leaf.detach().clone();
  Step(&run, 0);
  EXPECT_FALSE(at::equal(run.method->parameters()[0].leaf.detach(), before));
}

TEST_F(TrainerTest, ALossThatIsNoNumberFailsAndChangesNothing) {
  Run run = Make(SmallLora());
  Step(&run, 0);
  {
    at::NoGradGuard no_grad;
    at::Tensor(run.method->parameters()[0].leaf).fill_(std::numeric_limits<float>::infinity());
  }
  const std::vector<at::Tensor> before = Values(run);
  const auto result = run.trainer->Step(1);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(GetErrorDetails(result.status()).reason, "NAN_LOSS");
  ExpectIdentical(Values(run), before);
}

TEST_F(TrainerTest, EvaluatesLossAndAccuracyOfAllExamples) {
  Run run = Make(SmallLora());
  const auto whole = run.trainer->Evaluate(Batcher(&examples_, 12, 1000, 0, 1), {});
  const auto pieces = run.trainer->Evaluate(Batcher(&examples_, 12, 10, 0, 1), {});
  ASSERT_TRUE(whole.ok() && pieces.ok());
  EXPECT_NEAR(whole->loss, pieces->loss, 1e-5 * whole->loss);
  EXPECT_EQ(whole->token_accuracy, pieces->token_accuracy);
  EXPECT_GT(whole->loss, 1);
  EXPECT_TRUE(absl::IsCancelled(run.trainer->Evaluate(*run.batcher, [] { return true; }).status()));
}

TEST_F(TrainerTest, ACheckpointOfAnotherShapeTouchesNothing) {
  Run saved = Make(SmallLora());
  const std::string folder = temp_.File("checkpoint");
  ASSERT_TRUE(SaveCheckpoint(folder, {}, *saved.method, &saved.trainer->optimizer()).ok());
  LoraSpec other = SmallLora();
  other.rank = 2;
  Run run = Make(other);
  const std::vector<at::Tensor> before = Values(run);
  const auto loaded = LoadCheckpoint(folder, run.method.get(), &run.trainer->optimizer());
  EXPECT_EQ(loaded.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(GetErrorDetails(loaded.status()).reason, "BAD_CHECKPOINT");
  ExpectIdentical(Values(run), before);
}

TEST_F(TrainerTest, ACutCheckpointIsRefused) {
  Run run = Make(SmallLora());
  const std::string folder = temp_.File("checkpoint");
  ASSERT_TRUE(SaveCheckpoint(folder, {}, *run.method, &run.trainer->optimizer()).ok());
  const std::string file = folder + "/tensors.safetensors";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
  EXPECT_FALSE(LoadCheckpoint(folder, run.method.get(), &run.trainer->optimizer()).ok());
  EXPECT_FALSE(LoadCheckpoint(temp_.File("nowhere"), run.method.get(), &run.trainer->optimizer()).ok());
}

// Losses of 200 steps of LoRA on sequences that follow a rule, in means of 20.
class LossCurveTest : public TrainerTest {
 protected:
  static constexpr int kSteps = 200, kWindow = 20, kSeeds = 3;
  using Curve = std::vector<double>;

  void SetUp() override {
    TrainerTest::SetUp();
    std::mt19937 random(2);
    examples_.clear();
    for (int i = 0; i < 64; ++i) {
      Example example;
      int token = static_cast<int>(random() % 250);
      for (int t = 0; t < 24; ++t, token = (token * 7 + 3) % 250) {
        example.tokens.push_back(3 + token);
        example.has_loss.push_back(t > 0);
      }
      examples_.push_back(example);
    }
  }

  Curve Train(int64_t seed, const char* precision) {
    Hyperparameters given;
    given.max_steps = kSteps;
    given.batch_size = 8;
    given.learning_rate = 0.01;
    given.seed = seed;
    given.precision = precision;
    const MethodSpec spec = SmallLora();
    const Hyperparameters h = ResolveHyperparameters(spec, given, {base_->config.Parameters(), 64, 1000, 0, base_->target});
    const std::unique_ptr<Method> method = *MakeMethod(spec, base_, *h.seed);
    const Batcher batches(&examples_, h.batch_size, h.micro_batch_tokens, 0, *h.seed);
    Trainer trainer(base_.get(), method.get(), &batches, h, nullptr);
    Curve curve(kSteps / kWindow);
    for (int step = 0; step < kSteps; ++step) {
      const auto result = trainer.Step(step);
      EXPECT_TRUE(result.ok()) << result.status();
      if (result.ok()) curve[step / kWindow] += result->loss / kWindow;
    }
    return curve;
  }
  std::vector<Curve> TrainSeeds(const char* precision) {
    std::vector<Curve> curves;
    for (int seed = 1; seed <= kSeeds; ++seed) curves.push_back(Train(seed, precision));
    return curves;
  }
};

TEST_F(LossCurveTest, GpuInBfloat16StaysWithinTheSpreadOfSeeds) {
  const std::optional<ComputeTarget> gpu = FindGpu(ComputeTarget::Type::kBfloat16);
  if (!gpu) GTEST_SKIP() << "no GPU";
  const std::vector<Curve> exact = TrainSeeds("float32");  // on the CPU
  Load(*gpu);
  const std::vector<Curve> fused = TrainSeeds("bfloat16");
  double spread = 0, difference = 0;
  for (size_t window = 0; window < exact[0].size(); ++window) {
    double low = exact[0][window], high = low;
    for (int i = 0; i < kSeeds; ++i) {
      low = std::min(low, exact[i][window]);
      high = std::max(high, exact[i][window]);
      difference = std::max(difference, std::abs(fused[i][window] - exact[i][window]));
    }
    spread = std::max(spread, high - low);
  }
  EXPECT_LT(difference, spread);
  EXPECT_LT(exact[0].back(), 0.8 * exact[0].front()) << "nothing was learned: the curves say little";
  std::cout << "spread of seeds " << spread << ", largest difference " << difference << ", loss from "
            << exact[0].front() << " to " << exact[0].back() << "\n";
}

}  // namespace
}  // namespace attune
