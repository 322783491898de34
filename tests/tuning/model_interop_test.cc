// Compares logits, greedy answers and optimizer steps on a real model with what
// transformers and PEFT compute (tests/interop/model_reference.py, in the folder that
// ATTUNE_TEST_REFERENCES names; the model is ATTUNE_TEST_MODEL).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/packed_ops.h"
#include "server/adapters/perplexity.h"
#include "server/engine/engine.h"
#include "server/model/weights/safetensors.h"
#include "server/tuning/defaults.h"
#include "server/tuning/trainer.h"
#include "tests/testing/gpu.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

constexpr double kLogitTolerance = 2e-3;
constexpr double kStepTolerance = 1e-3;  // relative
// The soft prompt's gradient swings with its large steps, so that rounding shows in it first: of ten
// steps' losses the last still agrees to 5e-6, its gradient norm to 2e-3.
constexpr double kSwingingNormTolerance = 1e-2;

at::Tensor Values(const SafetensorsTensor& tensor) {
  at::Tensor values = at::empty(tensor.shape, tensor.type == SafetensorsType::kI64 ? at::kLong : at::kFloat);
  std::memcpy(values.mutable_data_ptr(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

class ModelInteropTest : public ::testing::Test {
 protected:
  void SetUp() override { Load(ComputeTarget{}); }
  void Load(const ComputeTarget& target) {
    const char* model = std::getenv("ATTUNE_TEST_MODEL");
    const char* references = std::getenv("ATTUNE_TEST_REFERENCES");
    if (model == nullptr || references == nullptr) {
      GTEST_SKIP() << "ATTUNE_TEST_MODEL and ATTUNE_TEST_REFERENCES are not set";
    }
    references_ = references;
    if (!std::filesystem::exists(references_ + "/model_greedy.json")) GTEST_SKIP() << "no references of the model";
    std::filesystem::create_symlink(model, temp_.File("model.gguf"));
    auto base = LoadBaseModel(temp_.path(), temp_.path(), target);
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }

  std::unique_ptr<SafetensorsFile> Tensors(const std::string& name) {
    auto file = SafetensorsFile::Open(absl::StrCat(references_, "/", name));
    EXPECT_TRUE(file.ok()) << file.status();
    return std::move(*file);
  }
  nlohmann::json Json(const std::string& name) {
    return nlohmann::json::parse(ReadFile(absl::StrCat(references_, "/", name)).value());
  }

  void StartEngine() {
    Arbiter::Options options;
    options.memory_bytes = int64_t{8} << 30;
    arbiter_ = std::make_unique<Arbiter>(&Clock::Real(), options);
    EngineOptions engine_options;
    engine_options.kv_tokens = 2048;
    engine_ = MakeEngine(engine_options, base_->target, arbiter_.get(), &Clock::Real(), nullptr);
    auto model = std::make_shared<ServedModel>();
    model->base = base_;
    model_ = std::move(model);
  }

  std::unique_ptr<Generation> Submit(const nlohmann::json& given, GenerateParams params) {
    params.model = model_;
    params.prompt = given.at("prompt").get<std::vector<int32_t>>();
    auto generation = engine_->Generate(std::move(params));
    EXPECT_TRUE(generation.ok()) << generation.status();
    return generation.ok() ? std::move(*generation) : nullptr;
  }

  // The file's greedy answers, side by side.
  std::vector<std::vector<int32_t>> GreedyAnswers(const nlohmann::json& cases) {
    StartEngine();
    std::vector<std::unique_ptr<Generation>> running;
    for (const nlohmann::json& given : cases) {
      GenerateParams params;
      params.max_tokens = static_cast<int>(given.at("continuation").size());
      params.ignore_eos = true;
      // Some guess ahead, which changes nothing.
      params.draft_tokens = running.size() % 2 == 0 ? 0 : 8;
      running.push_back(Submit(given, std::move(params)));
    }
    std::vector<std::vector<int32_t>> answers(running.size());
    for (size_t i = 0; i < running.size(); ++i) {
      GenerationUpdate update;
      while (running[i] && running[i]->Next(&update)) {
        if (update.has_token) answers[i].push_back(update.token.id);
      }
      EXPECT_TRUE(running[i] && running[i]->status().ok());
    }
    return answers;
  }
  void ExpectLogits(double tolerance) {
    auto file = Tensors("model.safetensors");
    int texts = 0;
    double worst = 0;
    for (; file->Find(absl::StrCat("tokens_", texts)) != nullptr; ++texts) {
      const at::Tensor tokens = Values(*file->Find(absl::StrCat("tokens_", texts)));
      const at::Tensor expected = Values(*file->Find(absl::StrCat("logits_", texts)));
      const int64_t* ids = tokens.const_data_ptr<int64_t>();
      const at::Tensor logits = AllLogits(*base_, nullptr, std::vector<int32_t>(ids, ids + tokens.numel())).cpu();
      const at::Tensor last = logits.narrow(0, logits.size(0) - expected.size(0), expected.size(0));
      const double difference = (last - expected).abs().max().item<double>();
      EXPECT_LT(difference, tolerance) << "text " << texts;
      worst = std::max(worst, difference);
    }
    EXPECT_EQ(texts, 8);
    RecordProperty("largest_difference", absl::StrCat(worst));
    std::cout << "largest difference of a logit " << worst << "\n";
  }

  TempFolder temp_;
  std::string references_;
  std::shared_ptr<const BaseModel> base_;
  std::unique_ptr<Arbiter> arbiter_;
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<const ServedModel> model_;
};

TEST_F(ModelInteropTest, LogitsAgree) { ExpectLogits(kLogitTolerance); }

TEST_F(ModelInteropTest, GreedyAnswersAgree) {
  const nlohmann::json cases = Json("model_greedy.json");
  const std::vector<std::vector<int32_t>> answers = GreedyAnswers(cases);
  // Where two tokens are as likely as each other, the order of summation decides.
  int same = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    same += answers[i] == cases[i].at("continuation").get<std::vector<int32_t>>();
  }
  EXPECT_EQ(answers.size(), 8u);
  EXPECT_GE(same, 7);
}

TEST_F(ModelInteropTest, BeamSearchesAgree) {
  const nlohmann::json cases = Json("model_beams.json");
  StartEngine();
  std::vector<std::unique_ptr<Generation>> running;
  for (const nlohmann::json& given : cases) {
    GenerateParams params;
    params.max_tokens = given.at("max_tokens").get<int>();
    params.beams = given.at("beams").get<int>();
    params.n = static_cast<int>(given.at("answers").size());
    params.length_penalty = given.at("length_penalty").get<double>();
    params.early_stopping = given.at("early_stopping").get<bool>();
    ASSERT_EQ(base_->end_ids, given.at("ends").get<std::vector<int32_t>>());
    running.push_back(Submit(given, std::move(params)));
    ASSERT_NE(running.back(), nullptr);
  }
  int same = 0;
  for (size_t i = 0; i < running.size(); ++i) {
    std::vector<std::vector<int32_t>> answers(cases[i].at("answers").size());
    std::vector<double> scores(answers.size());
    GenerationUpdate update;
    while (running[i]->Next(&update)) {
      if (update.has_token) answers[update.index].push_back(update.token.id);
      if (update.finish != FinishReason::kNone) scores[update.index] = update.score;
    }
    ASSERT_TRUE(running[i]->status().ok()) << running[i]->status();
    same += answers == cases[i].at("answers").get<std::vector<std::vector<int32_t>>>();
    for (size_t j = 0; j < scores.size(); ++j) {
      EXPECT_NEAR(scores[j], cases[i].at("scores")[j].get<double>(), 1e-3) << "case " << i << ", answer " << j;
    }
  }
  EXPECT_EQ(running.size(), 24u);
  EXPECT_GE(same, 23) << "where two are as likely as each other, the order of summation decides";
}

// As a model that comes in full precision decodes from blocks: a little worse, less so in 8 bits.
TEST_F(ModelInteropTest, DecodingFromBlocksCostsLittle) {
  TempFolder full;
  ASSERT_TRUE(SaveWeights(full.path(), base_->config, base_->weights, *base_->tokenizer).ok());
  std::map<std::string, PerplexityPair> found;
  found["as-loaded"] = MeasurePerplexity(*base_);
  for (const std::string format : {"int8", "int4"}) {
    ComputeTarget target;
    target.decode_weights = ParseDecodeWeights(format);
    auto base = LoadBaseModel(full.path(), temp_.path(), target);
    ASSERT_TRUE(base.ok()) << base.status();
    EXPECT_NE((*base)->weights.packed_head, nullptr);
    found[format] = MeasurePerplexity(**base);
    EXPECT_NEAR(found[format].dense, found["as-loaded"].dense, 1e-3);
    RecordProperty("perplexity_" + format, absl::StrCat(found[format].decoding));
  }
  EXPECT_GT(found["as-loaded"].dense, 5);
  EXPECT_LT(found["as-loaded"].dense, 60);
  EXPECT_NEAR(found["as-loaded"].decoding, found["as-loaded"].dense, 1e-3);
  EXPECT_NEAR(found["int8"].decoding / found["int8"].dense, 1, 0.01);
  EXPECT_NEAR(found["int4"].decoding / found["int4"].dense, 1, 0.15);
  EXPECT_NE(found["int4"].decoding, found["int4"].dense);
}

class GpuModelInteropTest : public ModelInteropTest {
 protected:
  void SetUp() override {
    if (!FindGpu()) GTEST_SKIP() << "no GPU";
    ModelInteropTest::SetUp();
    on_host_ = base_;
  }
  // The file's model, or one that holds the same values in no blocks.
  void LoadOnGpu(ComputeTarget::Type type, bool from_file = true, const std::string& decode_weights = "as-loaded",
                 bool batch_invariant = false) {
    ComputeTarget gpu = *FindGpu(type);
    gpu.decode_weights = ParseDecodeWeights(decode_weights);
    gpu.batch_invariant = batch_invariant;
    TempFolder full;
    if (!from_file) {
      ASSERT_TRUE(SaveWeights(full.path(), on_host_->config, on_host_->weights, *on_host_->tokenizer).ok());
    }
    auto base = LoadBaseModel(from_file ? temp_.path() : full.path(), temp_.path(), gpu);
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }
  // How far an answer's tokens are below the likeliest by the model in float32, at most, in logits.
  double Shortfall(const nlohmann::json& given, const std::vector<int32_t>& answer) const {
    std::vector<int32_t> all = given.at("prompt").get<std::vector<int32_t>>();
    const int64_t prompt = static_cast<int64_t>(all.size());
    all.insert(all.end(), answer.begin(), answer.end());
    const at::Tensor logits = AllLogits(*on_host_, nullptr, all);
    double worst = 0;
    for (int64_t at = prompt; at < static_cast<int64_t>(all.size()); ++at) {
      worst = std::max(worst, (logits[at - 1].max() - logits[at - 1][all[at]]).item<double>());
    }
    return worst;
  }
  static int CountSame(const nlohmann::json& cases, const std::vector<std::vector<int32_t>>& answers) {
    int same = 0;
    for (size_t i = 0; i < answers.size(); ++i) {
      same += answers[i] == cases[i].at("continuation").get<std::vector<int32_t>>();
    }
    return same;
  }

  std::shared_ptr<const BaseModel> on_host_;
};

TEST_F(GpuModelInteropTest, LogitsAndAnswersAgreeInFloat32) {
  LoadOnGpu(ComputeTarget::Type::kFloat32);
  ExpectLogits(5e-3);
  const nlohmann::json cases = Json("model_greedy.json");
  EXPECT_GE(CountSame(cases, GreedyAnswers(cases)), 7);
}

// What the kernels answer in bf16, by dense weights and by blocks: each token is about as likely as transformers' likeliest
// after the same text, within what bf16, or the blocks, round; and perplexity tells what the blocks cost.
TEST_F(GpuModelInteropTest, AnswersAreLikelyInBfloat16) {
  struct Case {
    const char* weights;
    bool from_file, is_alike;
    double shortfall, perplexity;  // logits; relative
  };
  const nlohmann::json cases = Json("model_greedy.json");
  for (const Case& c : {Case{"as-loaded", true, false, 0.4, 0.01}, Case{"as-loaded", true, true, 0.4, 0.01},
                        Case{"int8", false, false, 0.6, 0.01}, Case{"fp8", false, false, 1, 0.03},
                        Case{"int4", true, false, 0.6, 0.01}, Case{"int4", false, false, 3, 0.15}}) {
    SCOPED_TRACE(c.weights);
    LoadOnGpu(ComputeTarget::Type::kBfloat16, c.from_file, c.weights, c.is_alike);
    const PerplexityPair perplexity = MeasurePerplexity(*base_);
    EXPECT_NEAR(perplexity.decoding / perplexity.dense, 1, c.perplexity);
    const std::vector<std::vector<int32_t>> answers = GreedyAnswers(cases);
    engine_.reset();
    double worst = 0;
    for (size_t i = 0; i < answers.size(); ++i) worst = std::max(worst, Shortfall(cases[i], answers[i]));
    EXPECT_LT(worst, c.shortfall);
    const int same = CountSame(cases, answers);
    // Roundings part an answer's ways for good, where two tokens are about as likely.
    EXPECT_GE(same, std::string(c.weights) == "as-loaded" ? 2 : 0);
    std::cout << c.weights << (c.from_file ? "" : ", quantised here") << (c.is_alike ? ", batch-invariant" : "") << ": " << same
              << " of 8 answers are transformers' in float32, no token more than " << worst
              << " below the likeliest; perplexity " << perplexity.decoding << ", dense " << perplexity.dense << "\n";
  }
}

// One batch, ten steps from the reference's start values, at a constant learning rate.
class StepInteropTest : public ModelInteropTest {
 protected:
  void SetUp() override {
    ModelInteropTest::SetUp();
    if (IsSkipped()) return;
    reference_ = Json("model_steps.json");
    for (const nlohmann::json& given : reference_.at("examples")) {
      Example example;
      example.tokens = given.at(0).get<std::vector<int32_t>>();
      example.has_loss.assign(example.tokens.size(), 1);
      std::fill_n(example.has_loss.begin(), given.at(1).get<size_t>(), 0);
      examples_.push_back(std::move(example));
    }
  }

  Hyperparameters Settings(const nlohmann::json& expected) const {
    Hyperparameters h;
    h.learning_rate = expected.at("learning_rate").get<double>();
    h.schedule = LearningRateSchedule::kConstant;
    h.warmup_ratio = 0;
    h.weight_decay = 0.01;
    h.batch_size = static_cast<int32_t>(examples_.size());
    h.max_steps = static_cast<int64_t>(expected.at("losses").size());
    return h;
  }

  void StartFrom(const std::string& file, Method* method) {
    at::NoGradGuard no_grad;
    auto start = Tensors(file);
    for (const Parameter& parameter : method->parameters()) {
      const SafetensorsTensor* values = start->Find(parameter.name);
      ASSERT_NE(values, nullptr) << parameter.name;
      at::Tensor(parameter.leaf).copy_(Values(*values));
    }
  }

  void ExpectSameSteps(const std::string& name, const MethodSpec& spec, bool starts_from_file) {
    const nlohmann::json& expected = reference_.at("methods").at(name);
    const bool swings = std::holds_alternative<SoftPromptSpec>(spec);
    const double norm_tolerance = swings ? kSwingingNormTolerance : kStepTolerance;
    auto method = MakeMethod(spec, base_, 1);
    ASSERT_TRUE(method.ok()) << method.status();
    if (starts_from_file) StartFrom(absl::StrCat("model_steps_", name, ".safetensors"), method->get());
    const Hyperparameters h = ResolveHyperparameters(spec, Settings(expected), {base_->config.Parameters(), 4, 1, 0, {}});
    Batcher batcher(&examples_, h.batch_size, h.micro_batch_tokens, (*method)->virtual_tokens(), 1);
    Trainer trainer(base_.get(), method->get(), &batcher, h, nullptr);
    for (int64_t step = 0; step < h.max_steps; ++step) {
      auto result = trainer.Step(step);
      ASSERT_TRUE(result.ok()) << result.status();
      const double loss = expected.at("losses")[step].get<double>();
      const double norm = expected.at("gradient_norms")[step].get<double>();
      EXPECT_NEAR(result->loss, loss, kStepTolerance * loss) << name << ", step " << step;
      EXPECT_NEAR(result->gradient_norm, norm, norm_tolerance * norm) << name << ", step " << step;
    }
    // Ten steps that changed nothing would agree, too.
    EXPECT_LT(expected.at("losses").back().get<double>(), 0.99 * expected.at("losses").front().get<double>());
  }

  nlohmann::json reference_;
  std::vector<Example> examples_;
};

TEST_F(StepInteropTest, LoraAgrees) {
  LoraSpec spec;
  spec.rank = 8;
  spec.alpha = 16;
  spec.dropout = 0;
  ExpectSameSteps("lora", spec, true);
}

TEST_F(StepInteropTest, SoftPromptAgrees) {
  SoftPromptSpec spec;
  spec.num_virtual_tokens = 8;
  spec.init = SoftPromptSpec::Init::kRandom;
  ExpectSameSteps("soft_prompt", spec, true);
}

TEST_F(StepInteropTest, Ia3Agrees) { ExpectSameSteps("ia3", Ia3Spec{}, true); }

TEST_F(StepInteropTest, FullAgrees) { ExpectSameSteps("full", FullSpec{}, false); }

}  // namespace
}  // namespace attune
