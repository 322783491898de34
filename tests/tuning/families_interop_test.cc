// Compares each model family with what transformers and PEFT compute for a small random model of it
// (tests/interop/families_reference.py, in the folder that ATTUNE_TEST_REFERENCES names), and has transformers open
// what is saved (tests/interop/peft_check.py, run by the interpreter that ATTUNE_PYTHON names).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/formats/peft.h"
#include "server/adapters/gguf_export.h"
#include "server/adapters/merge_adapter.h"
#include "server/adapters/packed_ops.h"
#include "server/engine/engine.h"
#include "server/model/weights/safetensors.h"
#include "server/tuning/defaults.h"
#include "server/tuning/direct_pass.h"
#include "server/tuning/trainer.h"
#include "tests/testing/gpu.h"
#include "tests/testing/reference_tensors.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

constexpr double kLogitTolerance = 1e-4;
constexpr double kGradientTolerance = 1e-4;  // of the norm, a parameter
constexpr double kStepTolerance = 1e-4;      // relative
// Adam's first steps are as long for the smallest gradients as for the largest, so that rounding shows.
constexpr double kChangeTolerance = 1e-2;

// The folder with this family's references; empty if there is none.
std::string Folder(const std::string& name) {
  const char* references = std::getenv("ATTUNE_TEST_REFERENCES");
  const std::string folder = absl::StrCat(references ? references : "", "/families/", name);
  return references != nullptr && std::filesystem::exists(folder) ? folder : "";
}

class FamilyTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = Folder(GetParam());
    if (folder_.empty()) GTEST_SKIP() << "no references of " << GetParam() << " where ATTUNE_TEST_REFERENCES says";
    base_ = Load("base");
    logits_ = Tensors("logits");
  }

  std::shared_ptr<const BaseModel> Load(const std::string& name) {
    const std::string path = absl::StrCat(folder_, "/", name);
    auto base = LoadBaseModel(path, path, ComputeTarget{});
    EXPECT_TRUE(base.ok()) << base.status();
    return base.ok() ? *base : nullptr;
  }
  std::unique_ptr<SafetensorsFile> Tensors(const std::string& name) {
    auto file = SafetensorsFile::Open(absl::StrCat(folder_, "/", name, ".safetensors"));
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? std::move(*file) : nullptr;
  }
  nlohmann::json Json(const std::string& name) {
    return nlohmann::json::parse(ReadFile(absl::StrCat(folder_, "/", name, ".json")).value());
  }

  void ExpectLogits(const BaseModel& base, const Adapter* adapter, const std::string& name) {
    double worst = 0;
    for (int i = 0; logits_->Find(absl::StrCat("tokens_", i)) != nullptr; ++i) {
      const at::Tensor expected = Values(*logits_, absl::StrCat(name, "_", i));
      const at::Tensor logits = AllLogits(base, adapter, Ids(Values(*logits_, absl::StrCat("tokens_", i))));
      ASSERT_EQ(logits.sizes(), expected.sizes());
      worst = std::max(worst, (logits - expected).abs().max().item<double>());
    }
    EXPECT_LT(worst, kLogitTolerance) << name;
    RecordProperty(absl::StrCat("largest_difference_", name), absl::StrCat(worst));
  }
  std::shared_ptr<const Adapter> LoadAdapter(const std::string& name) {
    auto adapter = LoadPeft(absl::StrCat(folder_, "/", name), base_->config, {}, RopeTablesOf(*base_));
    EXPECT_TRUE(adapter.ok()) << name << ": " << adapter.status();
    return adapter.ok() ? std::shared_ptr<const Adapter>(std::move(*adapter)) : nullptr;
  }

  // Runs the checker; its message goes to the test's output.
  bool PythonAgrees(const std::string& what, const at::Tensor& tokens, const at::Tensor& logits) {
    auto view = [](const char* name, const at::Tensor& t, SafetensorsType type) {
      return SafetensorsTensor{name, t.sizes().vec(), type,
                               absl::string_view(static_cast<const char*>(t.const_data_ptr()), t.nbytes())};
    };
    const std::string expected = temp_.File("expected.st");
    EXPECT_TRUE(WriteSafetensors(expected, {view("tokens", tokens, SafetensorsType::kI64),
                                            view("logits", logits, SafetensorsType::kF32)}, {}).ok());
    const std::string script = absl::StrCat(ATTUNE_SOURCE_DIR, "/tests/interop/peft_check.py");
    return std::system(absl::StrCat("OMP_NUM_THREADS=1 '", std::getenv("ATTUNE_PYTHON"), "' '", script, "' ", what, " ",
                                    expected).c_str()) == 0;
  }

  TempFolder temp_;
  std::string folder_;
  std::shared_ptr<const BaseModel> base_;
  std::unique_ptr<SafetensorsFile> logits_;
};

TEST_P(FamilyTest, LogitsAgree) {
  ExpectLogits(*base_, nullptr, "base");
  EXPECT_EQ(WeightBytes(base_->config, base_->target, WeightFormat::kDense), base_->bytes);
  const auto config = LoadConfig(folder_ + "/base");
  EXPECT_TRUE(config.ok()) << config.status();
}

TEST_P(FamilyTest, GgufLogitsAgree) {
  if (!std::filesystem::exists(folder_ + "/gguf")) GTEST_SKIP() << "no GGUF file says this";
  const auto base = Load("gguf");
  ASSERT_NE(base, nullptr);
  EXPECT_EQ(base->tokenizer->Encode("the <|endoftext|>", true), base_->tokenizer->Encode("the <|endoftext|>", true));
  ExpectLogits(*base, nullptr, "base");
}

// Every tensor comes out where the gguf package had put it, biases, norms, fused and reordered rows among them.
TEST_P(FamilyTest, GgufIsExportedAsItCame) {
  if (!std::filesystem::exists(folder_ + "/gguf")) GTEST_SKIP() << "no GGUF file says this";
  const auto base = Load("gguf");
  ASSERT_NE(base, nullptr);
  auto values = [](const GgufTensor& tensor) {
    at::Tensor out = at::empty({tensor.elements()}, at::kFloat);
    EXPECT_TRUE(Dequantize(tensor.type, tensor.bytes, tensor.elements(), out.mutable_data_ptr<float>()).ok());
    return out;
  };
  for (const GgmlType type : {GgmlType::kF16, GgmlType::kQ8_0}) {
    const std::string path = temp_.File("model.gguf");
    ASSERT_TRUE(ExportGguf(folder_ + "/gguf", base->config, base->weights, type, path).ok());
    const auto before = GgufFile::Open(folder_ + "/gguf/model.gguf"), after = GgufFile::Open(path);
    ASSERT_TRUE(before.ok() && after.ok()) << after.status();
    ASSERT_EQ((*before)->tensors().size(), (*after)->tensors().size());
    for (const GgufTensor& tensor : (*before)->tensors()) {
      const GgufTensor* written = (*after)->Find(tensor.name);
      ASSERT_NE(written, nullptr) << tensor.name;
      EXPECT_EQ(written->shape, tensor.shape);
      const at::Tensor expected = values(tensor), found = values(*written);
      const double tolerance = written->type == GgmlType::kF32 ? 0 : written->type == GgmlType::kF16 ? 1e-3 : 1e-2;
      EXPECT_LE((found - expected).abs().max().item<double>(), tolerance * expected.abs().max().item<double>()) << tensor.name;
    }
    EXPECT_TRUE(LoadBaseModel(temp_.path(), temp_.path(), ComputeTarget{}).ok());
  }
}

// Of the folder, what llama.cpp's converter would write: read back, it is the model, but for rounding to F16 (of a weight 2^-11;
// logits here reach some tens). What such files cannot say is refused, and no file says otherwise.
TEST_P(FamilyTest, FolderIsExportedAsGguf) {
  const std::string name = GetParam(), path = temp_.File("model.gguf");
  const absl::Status status = ExportGguf(folder_ + "/base", base_->config, base_->weights, GgmlType::kF16, path);
  for (const char* unsaid : {"llama_yarn", "mistral_window", "qwen2_window", "qwen3_window", "gemma3_scaled"}) {
    if (name != unsaid) continue;
    EXPECT_EQ(GetErrorDetails(status).reason, "EXPORT_UNSUPPORTED") << status;
    return;
  }
  ASSERT_TRUE(status.ok()) << status;
  const auto read = LoadBaseModel(temp_.path(), temp_.path(), ComputeTarget{});
  ASSERT_TRUE(read.ok()) << read.status();
  const std::vector<int32_t> tokens = Ids(Values(*logits_, "tokens_3"));
  const at::Tensor expected = Values(*logits_, "base_3"), logits = AllLogits(**read, nullptr, tokens);
  const double difference = (logits - expected).abs().max().item<double>() / expected.abs().max().item<double>();
  EXPECT_LT(difference, 0.02);
  RecordProperty("largest_difference", absl::StrCat(difference));
  if (!std::filesystem::exists(folder_ + "/gguf")) return;
  // The tensors of the file that the gguf package wrote.
  const auto theirs = GgufFile::Open(folder_ + "/gguf/model.gguf"), ours = GgufFile::Open(path);
  ASSERT_TRUE(theirs.ok() && ours.ok());
  ASSERT_EQ((*theirs)->tensors().size(), (*ours)->tensors().size());
  for (const GgufTensor& tensor : (*theirs)->tensors()) {
    const GgufTensor* const found = (*ours)->Find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(found->shape, tensor.shape) << tensor.name;
  }
}

TEST_P(FamilyTest, AdaptersAgree) {
  for (const char* name : {"lora", "prompt", "prefix", "ia3", "ia3_outputs"}) {
    const auto adapter = LoadAdapter(name);
    ASSERT_NE(adapter, nullptr);
    ExpectLogits(*base_, adapter.get(), name);
  }
}

// What PEFT has written, read, and written again.
TEST_P(FamilyTest, AdaptersAreWrittenAsTheyWereRead) {
  for (const char* name : {"lora", "prefix", "ia3", "ia3_outputs"}) {
    const auto adapter = LoadAdapter(name);
    ASSERT_NE(adapter, nullptr);
    const RopeTables rope = RopeTablesOf(*base_);
    ASSERT_TRUE(SavePeft(temp_.path(), *adapter, base_->config, "base", rope).ok());
    const std::string file = "/adapter_model.safetensors";
    const auto ours = SafetensorsFile::Open(temp_.path() + file), theirs = SafetensorsFile::Open(absl::StrCat(folder_, "/", name, file));
    ASSERT_TRUE(ours.ok() && theirs.ok());
    EXPECT_EQ((*ours)->tensors().size(), (*theirs)->tensors().size()) << name;
    for (const SafetensorsTensor& tensor : (*theirs)->tensors()) {
      EXPECT_TRUE(at::allclose(Values(**ours, tensor.name), Values(**theirs, tensor.name), 1e-5, 1e-6)) << tensor.name;
    }
    const auto again = LoadPeft(temp_.path(), base_->config, {}, rope);
    ASSERT_TRUE(again.ok()) << again.status();
    ExpectLogits(*base_, again->get(), name);
  }
}

// A LoRA of Attune's own, whose projections each have an A, with some left out.
TEST_P(FamilyTest, PeftOpensATrainedLora) {
  const char* python = std::getenv("ATTUNE_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "ATTUNE_PYTHON is not set";
  LoraSpec spec;
  spec.rank = 4;
  spec.target_modules = {TargetModule::kQProj, TargetModule::kVProj, TargetModule::kOProj, TargetModule::kUpProj};
  auto method = MakeMethod(spec, base_, 5);
  ASSERT_TRUE(method.ok()) << method.status();
  at::NoGradGuard no_grad;
  for (const Parameter& p : (*method)->parameters()) at::Tensor(p.leaf).add_(at::randn_like(p.leaf) * 0.1);
  ASSERT_TRUE((*method)->Save(temp_.path(), "base").ok());
  const at::Tensor tokens = Values(*logits_, "tokens_3");
  const at::Tensor logits = AllLogits(*base_, (*method)->adapter(), Ids(tokens)).contiguous();
  EXPECT_TRUE(PythonAgrees(absl::StrCat("adapter ", temp_.path(), " ", folder_, "/base"), tokens, logits));
}

TEST_P(FamilyTest, MergedAdaptersAgree) {
  for (const char* name : {"lora", "ia3", "ia3_outputs"}) {
    const auto adapter = LoadAdapter(name);
    ASSERT_NE(adapter, nullptr);
    const std::string merged = temp_.File(name);
    std::filesystem::copy(folder_ + "/base", merged);
    const DecoderWeights weights = MergeAdapter(base_->config, base_->weights, *adapter);
    ASSERT_TRUE(SaveWeights(merged, base_->config, weights, *base_->tokenizer).ok());
    auto base = LoadBaseModel(merged, merged, ComputeTarget{});
    ASSERT_TRUE(base.ok()) << base.status();
    ExpectLogits(**base, nullptr, name);
  }
}

// What was saved, transformers opens, and gives the same logits.
TEST_P(FamilyTest, TransformersOpensWhatIsSaved) {
  const char* python = std::getenv("ATTUNE_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "ATTUNE_PYTHON is not set";
  ASSERT_TRUE(SaveWeights(temp_.path(), base_->config, base_->weights, *base_->tokenizer).ok());
  EXPECT_TRUE(PythonAgrees(absl::StrCat("model ", temp_.path()), Values(*logits_, "tokens_3"), Values(*logits_, "base_3")));
}

// Greedy answers of an engine of its own.
class Answering {
 public:
  explicit Answering(int max_batch_tokens, const ComputeTarget& target = {}) : arbiter_(&Clock::Real(), Budget()) {
    EngineOptions options;
    options.kv_tokens = 256;
    options.max_batch_tokens = max_batch_tokens;
    engine_ = MakeEngine(options, target, &arbiter_, &Clock::Real(), nullptr);
  }

  struct Answer {
    std::vector<int32_t> tokens;
    int64_t cached = 0;  // tokens of the prompt that were known
  };
  Answer To(std::shared_ptr<const BaseModel> base, std::shared_ptr<const Adapter> adapter,
            const std::vector<int32_t>& prompt, size_t tokens) {
    auto model = std::make_shared<ServedModel>();
    model->base = std::move(base);
    model->uid = adapter ? ++adapters_ : 0;  // of the base model one, whose prefixes are found again
    model->adapter = std::move(adapter);
    GenerateParams params;
    params.model = model;
    params.prompt = prompt;
    params.max_tokens = static_cast<int>(tokens);
    params.ignore_eos = true;
    auto generation = engine_->Generate(std::move(params));
    EXPECT_TRUE(generation.ok()) << generation.status();
    Answer answer;
    if (!generation.ok()) return answer;
    GenerationUpdate update;
    while ((*generation)->Next(&update)) {
      if (update.has_token) answer.tokens.push_back(update.token.id);
    }
    answer.cached = (*generation)->timings().cached_tokens;
    return answer;
  }

 private:
  static Arbiter::Options Budget() {
    Arbiter::Options options;
    options.memory_bytes = int64_t{8} << 30;
    return options;
  }
  Arbiter arbiter_;
  std::unique_ptr<Engine> engine_;
  uint64_t adapters_ = 0;
};

// Through the paged cache, a token at a time: the prompt whole, in pieces, and behind a beginning that was read before.
TEST_P(FamilyTest, GreedyAnswersAgree) {
  const nlohmann::json given = Json("greedy");
  const auto prompt = given.at("prompt").get<std::vector<int32_t>>();
  const auto expected = given.at("continuation").get<std::vector<int32_t>>();
  for (const int max_batch_tokens : {2048, 7}) {
    Answering answering(max_batch_tokens);
    EXPECT_EQ(answering.To(base_, nullptr, prompt, expected.size()).tokens, expected) << max_batch_tokens;
    const Answering::Answer again = answering.To(base_, nullptr, prompt, expected.size());
    EXPECT_EQ(again.tokens, expected) << "behind cached pages; " << max_batch_tokens;
    EXPECT_GT(again.cached, 0);
  }
}

// Every kind of adapter is served as the plain path has it, which AdaptersAgree compares with PEFT.
TEST_P(FamilyTest, AdaptersServeWhatThePlainPathSays) {
  const auto prompt = Json("greedy").at("prompt").get<std::vector<int32_t>>();
  constexpr size_t kTokens = 8;
  Answering answering(16);
  for (const char* name : {"lora", "prompt", "prefix", "ia3"}) {
    const auto adapter = LoadAdapter(name);
    ASSERT_NE(adapter, nullptr);
    std::vector<int32_t> tokens = prompt;
    for (size_t i = 0; i < kTokens; ++i) {
      tokens.push_back(static_cast<int32_t>(AllLogits(*base_, adapter.get(), tokens)[-1].argmax().item<int64_t>()));
    }
    EXPECT_EQ(answering.To(base_, adapter, prompt, kTokens).tokens,
              std::vector<int32_t>(tokens.begin() + static_cast<int64_t>(prompt.size()), tokens.end()))
        << name;
  }
}

// On a GPU, where the engine's own kernels do not take heads so narrow: through ATen.
class GpuFamilyTest : public FamilyTest {
 protected:
  void SetUp() override {
    if (!FindGpu()) GTEST_SKIP() << "no GPU";
    FamilyTest::SetUp();
  }
  void LoadOnGpu(ComputeTarget::Type type) {
    const std::string path = folder_ + "/base";
    auto base = LoadBaseModel(path, path, *FindGpu(type));
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
  }
};

TEST_P(GpuFamilyTest, LogitsAndAnswersAgreeInFloat32) {
  LoadOnGpu(ComputeTarget::Type::kFloat32);
  for (int i = 0; logits_->Find(absl::StrCat("tokens_", i)) != nullptr; ++i) {
    const at::Tensor expected = Values(*logits_, absl::StrCat("base_", i));
    const at::Tensor logits = AllLogits(*base_, nullptr, Ids(Values(*logits_, absl::StrCat("tokens_", i)))).cpu();
    EXPECT_LT((logits - expected).abs().max().item<double>(), 1e-2);
  }
  const nlohmann::json given = Json("greedy");
  const auto expected = given.at("continuation").get<std::vector<int32_t>>();
  Answering answering(7, base_->target);
  EXPECT_EQ(answering.To(base_, nullptr, given.at("prompt").get<std::vector<int32_t>>(), expected.size()).tokens, expected);
}

// What bf16 rounds is small beside a logit's deviation.
TEST_P(GpuFamilyTest, LogitsInBfloat16AreNear) {
  LoadOnGpu(ComputeTarget::Type::kBfloat16);
  for (int i = 0; logits_->Find(absl::StrCat("tokens_", i)) != nullptr; ++i) {
    const at::Tensor expected = Values(*logits_, absl::StrCat("base_", i));
    const at::Tensor logits = AllLogits(*base_, nullptr, Ids(Values(*logits_, absl::StrCat("tokens_", i)))).cpu();
    EXPECT_LT((logits - expected).norm().item<double>(), 0.1 * expected.norm().item<double>());
  }
}

// One batch, from the reference's start values.
class FamilyStepsTest : public FamilyTest {
 protected:
  void SetUp() override {
    FamilyTest::SetUp();
    if (IsSkipped() || base_ == nullptr) return;
    reference_ = Json("steps");
    for (const nlohmann::json& given : reference_.at("examples")) {
      Example example;
      example.tokens = given.at(0).get<std::vector<int32_t>>();
      example.has_loss.assign(example.tokens.size(), 1);
      std::fill_n(example.has_loss.begin(), given.at(1).get<size_t>(), 0);
      examples_.push_back(std::move(example));
    }
  }

  void Check(const std::string& name, const MethodSpec& spec) {
    if (!reference_.at("methods").contains(name)) GTEST_SKIP() << "PEFT trains other parameters";
    const auto tensors = Tensors("steps_" + name);
    ExpectSameGradients(*Start(spec, *tensors), name, *tensors);
    ExpectSameSteps(Start(spec, *tensors).get(), spec, name, *tensors);
  }

  std::unique_ptr<Method> Start(const MethodSpec& spec, const SafetensorsFile& tensors) {
    auto method = MakeMethod(spec, base_, 1);
    EXPECT_TRUE(method.ok()) << method.status();
    at::NoGradGuard no_grad;
    size_t parameters = 0;
    for (const Parameter& parameter : (*method)->parameters()) {
      at::Tensor(parameter.leaf).copy_(Values(tensors, "start." + parameter.name));
      ++parameters;
    }
    EXPECT_EQ(3 * parameters, tensors.tensors().size()) << "not the same parameters train";
    return std::move(*method);
  }

  void ExpectSameGradients(const Method& method, const std::string& name, const SafetensorsFile& tensors) {
    const FlatParameters flat(method.parameters(), at::kFloat);
    DirectPass pass(base_.get(), &method, &flat, at::kFloat, 0);
    const MicroBatch batch = Batcher(&examples_, examples_.size(), 1 << 20, 0, 1).Step(0)[0];
    const int64_t loss_tokens = static_cast<int64_t>(batch.targets.size());
    for (Keep keep : {Keep::kAll, Keep::kInput}) {
      const PassShape shape = ExactShape(batch);
      const at::Tensor packed = PackBatch(batch, shape, 1, loss_tokens, false);
      const DirectPass::Result result =
          pass.Run(ViewBatch(packed, shape, packed), std::vector<Keep>(base_->config.layers, keep), true);
      const double loss = reference_.at("methods").at(name).at("losses")[0].get<double>();
      EXPECT_NEAR(result.loss_sum.item<double>() / static_cast<double>(loss_tokens), loss, 1e-5 * loss);
      double worst = 0;
      for (const Parameter& parameter : method.parameters()) {
        const at::Tensor expected = Values(tensors, "gradient." + parameter.name);
        const double norm = expected.norm().item<double>();
        const double difference = (flat.Gradient(parameter.leaf) - expected).norm().item<double>();
        EXPECT_GT(norm, 0) << parameter.name;
        EXPECT_LT(difference, kGradientTolerance * norm) << name << ": " << parameter.name;
        worst = std::max(worst, difference / norm);
      }
      RecordProperty("largest_gradient_difference_" + name, absl::StrCat(worst));
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

  void ExpectSameSteps(Method* method, const MethodSpec& spec, const std::string& name,
                       const SafetensorsFile& tensors) {
    const nlohmann::json& expected = reference_.at("methods").at(name);
    const Hyperparameters h = ResolveHyperparameters(spec, Settings(expected), {base_->config.Parameters(), 4, 1, 0, {}});
    Batcher batcher(&examples_, h.batch_size, h.micro_batch_tokens, 0, 1);
    Trainer trainer(base_.get(), method, &batcher, h, nullptr);
    for (int64_t step = 0; step < h.max_steps; ++step) {
      auto result = trainer.Step(step);
      ASSERT_TRUE(result.ok()) << result.status();
      const double loss = expected.at("losses")[step].get<double>();
      const double norm = expected.at("gradient_norms")[step].get<double>();
      EXPECT_NEAR(result->loss, loss, kStepTolerance * loss) << name << ", step " << step;
      EXPECT_NEAR(result->gradient_norm, norm, kStepTolerance * norm) << name << ", step " << step;
    }
    double worst = 0;
    for (const Parameter& parameter : method->parameters()) {
      const at::Tensor start = Values(tensors, "start." + parameter.name), after = Values(tensors, "after." + parameter.name);
      const double change = (after - start).norm().item<double>();
      const double difference = (parameter.leaf.detach() - after).norm().item<double>();
      EXPECT_GT(change, 0) << parameter.name;
      EXPECT_LT(difference, kChangeTolerance * change) << name << ": " << parameter.name;
      worst = std::max(worst, difference / change);
    }
    RecordProperty("largest_difference_after_ten_steps_" + name, absl::StrCat(worst));
  }

  nlohmann::json reference_;
  std::vector<Example> examples_;
};

TEST_P(FamilyStepsTest, FullAgrees) { Check("full", FullSpec{}); }

TEST_P(FamilyStepsTest, BiasesAndNormsAgree) {
  PartialSpec spec;
  spec.biases_and_norms = true;
  Check("biases_and_norms", spec);
}

TEST_P(FamilyStepsTest, LoraAgrees) {
  LoraSpec spec;
  spec.rank = 4;
  spec.alpha = 8;
  spec.dropout = 0;
  Check("lora", spec);
}

// Embedding and head that train whole or are adapted, beside the layers' LoRA or alone.
TEST_P(FamilyStepsTest, OwnEmbeddingsAndHeadsAgree) {
  if (!reference_.at("methods").contains("lora_saved")) GTEST_SKIP() << "no references of this family";
  constexpr TargetModule kEmbedding = TargetModule::kEmbedTokens, kHead = TargetModule::kLmHead;
  struct Case {
    const char* name;
    std::vector<TargetModule> target_modules, modules_to_save;
    bool use_rslora = false, use_dora = false;
  };
  const Case cases[] = {{"lora_saved", {}, {kEmbedding, kHead}},
                        {"lora_saved_embedding", {}, {kEmbedding}},
                        {"lora_saved_head", {}, {kHead}},
                        {"lora_adapted", {TargetModule::kQProj, TargetModule::kDownProj, kEmbedding, kHead}, {}, true},
                        {"lora_adapted_embedding", {kEmbedding}, {}},
                        {"lora_adapted_head", {kHead}, {}},
                        {"lora_mixed", {TargetModule::kVProj, kHead}, {kEmbedding}},
                        {"lora_dora_saved", {}, {kEmbedding, kHead}, false, true}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Check(c.name, LoraSpec{.rank = 4,
                           .alpha = 8,
                           .dropout = 0,
                           .target_modules = c.target_modules,
                           .use_rslora = c.use_rslora,
                           .use_dora = c.use_dora,
                           .modules_to_save = c.modules_to_save});
  }
}

constexpr const char* kFamilies[] = {"mistral",      "qwen2",        "qwen3",          "phi3",         "qwen2_yarn",
                                     "llama_yarn",   "llama_biases", "mistral_window", "qwen2_window", "qwen3_window",
                                     "phi3_window",  "gemma3",       "gemma3_scaled",  "gemma2",
                                     "phi3_longrope"};
auto NameOf = [](const ::testing::TestParamInfo<const char*>& info) { return std::string(info.param); };

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest, ::testing::ValuesIn(kFamilies), NameOf);
INSTANTIATE_TEST_SUITE_P(Families, GpuFamilyTest, ::testing::ValuesIn(kFamilies), NameOf);
INSTANTIATE_TEST_SUITE_P(Families, FamilyStepsTest, ::testing::ValuesIn(kFamilies), NameOf);

}  // namespace
}  // namespace attune
