// Compares with transformers and PEFT: their files here (tests/interop/peft_reference.py,
// in the folder that ATTUNE_TEST_REFERENCES names), and ours there
// (tests/interop/peft_check.py, run by the interpreter that ATTUNE_PYTHON names).
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/dora.h"
#include "server/adapters/exporter.h"
#include "server/adapters/packed_ops.h"
#include "server/adapters/residency.h"
#include "server/adapters/tokenizer_files.h"
#include "server/adapters/vocabulary.h"
#include "server/tokenizer/load.h"
#include "tests/adapters/adapters_fixture.h"
#include "tests/testing/random_adapter.h"
#include "tests/testing/reference_tensors.h"

namespace attune {
namespace {

constexpr double kTolerance = 1e-3;

const std::vector<std::string>& Texts() {
  static const auto* const texts =
      new std::vector<std::string>{"hello the world",
                                   "  two  spaces\n\n\ttab",
                                   "x = {'a': 1234567, \"b\": [3.14]}  # code",
                                   "I'm you're THEY'LL",
                                   "caf\xC3\xA9 na\xC3\xAFve \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80\xF0\x9F\x91\x8D",
                                   "a\xC2\xA0"
                                   "b\xE2\x80\x83"
                                   "c",
                                   "<|im_start|>user\nhi<|im_end|>\n",
                                   "\x01\x02 control",
                                   "0123 456 7",
                                   ""};
  return *texts;
}

class PeftReferenceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("ATTUNE_TEST_REFERENCES");
    if (folder == nullptr) GTEST_SKIP() << "ATTUNE_TEST_REFERENCES is not set";
    folder_ = absl::StrCat(folder, "/peft");
    if (!std::filesystem::exists(folder_)) GTEST_SKIP() << "no references of PEFT in " << folder;
    auto base = LoadBaseModel(folder_ + "/base", folder_ + "/base", {});
    ASSERT_TRUE(base.ok()) << base.status();
    base_ = *base;
    auto logits = SafetensorsFile::Open(folder_ + "/logits.safetensors");
    ASSERT_TRUE(logits.ok()) << logits.status();
    logits_ = std::move(*logits);
  }

  void ExpectSame(const Adapter* adapter, const std::string& name) {
    for (int i = 0; logits_->Find(absl::StrCat("tokens_", i)) != nullptr; ++i) {
      const at::Tensor expected = Values(*logits_, absl::StrCat(name, "_", i));
      const at::Tensor logits = AllLogits(*base_, adapter, Ids(Values(*logits_, absl::StrCat("tokens_", i))));
      ASSERT_EQ(logits.sizes(), expected.sizes());
      EXPECT_LT((logits - expected).abs().max().item<float>(), kTolerance) << name << " " << i;
    }
  }
  void ExpectSameWithAdapter(const std::string& name) {
    auto adapter = LoadPeft(absl::StrCat(folder_, "/", name), base_->config, {}, {base_->rope_cos_PH, base_->rope_sin_PH});
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    ExpectSame(adapter->get(), name);
    if (!(*adapter)->lora || !(*adapter)->lora->use_dora) return;
    PrepareDora(*base_, (*adapter)->lora.get());  // as what serves has it
    ExpectSame(adapter->get(), name);
  }

  std::string folder_;
  std::shared_ptr<const BaseModel> base_;
  std::unique_ptr<SafetensorsFile> logits_;
};

TEST_F(PeftReferenceTest, BaseModelAgrees) { ExpectSame(nullptr, "base"); }
TEST_F(PeftReferenceTest, LoraAgrees) { ExpectSameWithAdapter("lora"); }
TEST_F(PeftReferenceTest, DoraAgrees) { ExpectSameWithAdapter("dora"); }
TEST_F(PeftReferenceTest, PromptTuningAgrees) { ExpectSameWithAdapter("prompt"); }
TEST_F(PeftReferenceTest, PrefixTuningAgrees) { ExpectSameWithAdapter("prefix"); }
TEST_F(PeftReferenceTest, Ia3Agrees) {
  ExpectSameWithAdapter("ia3");
  ExpectSameWithAdapter("ia3_outputs");
}

// Embeddings and heads that are the adapter's own, over an untied and a tied model.
constexpr const char* kVocabularyKinds[] = {"saved",   "saved_head",   "saved_embedding",   "saved_tying",  "adapted",
                                            "adapted_head", "adapted_embedding", "adapted_tying", "mixed"};
constexpr double kVocabularyTolerance = 1e-4;  // logits reach some tens

TEST_F(PeftReferenceTest, OwnEmbeddingsAndHeadsAgree) {
  for (const std::string base : {"base", "tied"}) {
    base_ = LoadBaseModel(absl::StrCat(folder_, "/", base), absl::StrCat(folder_, "/", base), {}).value();
    ASSERT_EQ(base_->config.tied_head, base == "tied");
    for (const char* kind : kVocabularyKinds) {
      const std::string name = absl::StrCat(base, "_", kind);
      auto adapter = LoadPeft(absl::StrCat(folder_, "/", name), base_->config, {});
      ASSERT_TRUE(adapter.ok()) << name << ": " << adapter.status();
      ASSERT_TRUE((*adapter)->changes_vocabulary());
      const int64_t bytes = (*adapter)->bytes;
      for (int time = 0; time < 2; ++time) {
        for (int i = 0; logits_->Find(absl::StrCat("tokens_", i)) != nullptr; ++i) {
          const at::Tensor expected = Values(*logits_, absl::StrCat(name, "_", i));
          const at::Tensor logits = AllLogits(*base_, adapter->get(), Ids(Values(*logits_, absl::StrCat("tokens_", i))));
          EXPECT_LT((logits - expected).abs().max().item<float>(), kVocabularyTolerance) << name << " " << i;
        }
        ASSERT_TRUE(PrepareVocabulary(*base_, adapter->get()).ok());  // as what serves has it
      }
      // Tables beneath a LoRA are the base model's; they are let go.
      const LoraAdapter& lora = *(*adapter)->lora;
      if (lora.embedding.defined()) EXPECT_FALSE(lora.embedding_VD.defined()) << name;
      if (lora.head.defined()) EXPECT_FALSE(lora.head_VD.defined()) << name;
      if (lora.embedding.defined() || lora.head.defined()) EXPECT_LT((*adapter)->bytes, bytes) << name;
    }
  }
}

// Adapters that PEFT has written, brought in as a user does.
class PeftImportTest : public PeftReferenceTest {
 protected:
  void SetUp() override {
    PeftReferenceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ModelRegistry::Options options;
    options.import_roots = {folder_, temp_.path()};
    options.export_root = temp_.File("exports");
    options.inspect = InspectModel;
    options.inspect_adapter = InspectAdapter;
    registry_ = ModelRegistry::Open(temp_.File("models"), database_.get(), &clock_, options).value();
    ASSERT_TRUE(Import("base", "").ok());
    residency_ = std::make_unique<Residency>(registry_.get(), ComputeTarget{}, int64_t{1} << 40);
  }

  absl::StatusOr<ModelInfo> Import(const std::string& name, const std::string& base) {
    return registry_->Import({.source_path = absl::StrCat(folder_, "/", name), .id = name == "ia3_outputs" ? "ia3-outputs" : name,
                              .base_model = base});
  }

  TempFolder temp_;
  ManualClock clock_;
  std::unique_ptr<Database> database_ = Database::Open(":memory:").value();
  std::unique_ptr<ModelRegistry> registry_;
  std::unique_ptr<Residency> residency_;
};

TEST_F(PeftImportTest, EveryKindServesWithPeftsLogits) {
  const std::map<std::string, ModelKind> kinds = {{"lora", ModelKind::kLora},
                                                  {"dora", ModelKind::kLora},
                                                  {"prompt", ModelKind::kSoftPrompt},
                                                  {"prefix", ModelKind::kPrefix},
                                                  {"ia3", ModelKind::kIa3},
                                                  {"ia3_outputs", ModelKind::kIa3}};
  for (const auto& [name, kind] : kinds) {
    const auto info = Import(name, "base");
    ASSERT_TRUE(info.ok()) << name << ": " << info.status();
    EXPECT_EQ(info->kind, kind);
    EXPECT_EQ(info->base_model, "base");
    EXPECT_EQ(info->architecture.layers, base_->config.layers);
    const auto served = residency_->Acquire(info->id);
    ASSERT_TRUE(served.ok()) << served.status();
    ExpectSame((*served)->adapter.get(), name);
  }
  EXPECT_EQ(GetErrorDetails(registry_->Delete("base", "")).reason, "MODEL_IN_USE");
}

TEST_F(PeftImportTest, WhatIsExportedComesBackTheSame) {
  ASSERT_TRUE(Import("lora", "base").ok());
  const auto exported = ExportModel(*registry_, residency_.get(), "lora", ExportFormat::kPeft, "lora");
  ASSERT_TRUE(exported.ok()) << exported.status();
  const auto again = registry_->Import({.source_path = exported->path, .id = "again", .base_model = "base"});
  ASSERT_TRUE(again.ok()) << again.status();
  const auto served = residency_->Acquire("again");
  ASSERT_TRUE(served.ok()) << served.status();
  ExpectSame((*served)->adapter.get(), "lora");
}

TEST_F(PeftImportTest, RefusesWhatDoesNotFit) {
  EXPECT_EQ(GetErrorDetails(Import("lora", "").status()).reason, "INVALID_FIELD");
  EXPECT_TRUE(absl::IsNotFound(Import("lora", "none").status()));
  ASSERT_TRUE(Import("prompt", "base").ok());
  EXPECT_EQ(GetErrorDetails(Import("lora", "prompt").status()).reason, "BASE_IS_ADAPTER");
  EXPECT_EQ(GetErrorDetails(registry_->Import({.source_path = folder_ + "/base", .id = "x", .base_model = "base"}).status()).reason,
            "INVALID_FIELD");
  // A base model of another shape.
  ASSERT_TRUE(TinyModel::WriteHuggingFace(temp_.File("tiny"), 1).ok());
  ASSERT_TRUE(registry_->Import({.source_path = temp_.File("tiny"), .id = "tiny"}).ok());
  EXPECT_EQ(GetErrorDetails(Import("lora", "tiny").status()).reason, "BAD_ADAPTER");
  // Pickled weights.
  std::filesystem::create_directories(temp_.File("pickled"));
  std::filesystem::copy_file(folder_ + "/lora/adapter_config.json", temp_.File("pickled/adapter_config.json"));
  temp_.Write("pickled/adapter_model.bin", "weights");
  EXPECT_EQ(GetErrorDetails(registry_->Import({.source_path = temp_.File("pickled"), .base_model = "base"}).status()).reason,
            "PICKLE_REFUSED");
}

class PeftCheckTest : public AdaptersFixture {
 protected:
  void SetUp() override {
    const char* python = std::getenv("ATTUNE_PYTHON");
    if (python == nullptr) GTEST_SKIP() << "ATTUNE_PYTHON is not set";
    python_ = python;
    AdaptersFixture::SetUp();
    residency_ = std::make_unique<Residency>(registry_.get(), ComputeTarget{}, int64_t{1} << 40);
  }

  // Runs the checker; its message goes to the test's output.
  bool Check(const std::string& arguments) {
    const std::filesystem::path script = std::filesystem::path(ATTUNE_SOURCE_DIR) / "tests" / "interop" / "peft_check.py";
    return std::system(absl::StrCat("OMP_NUM_THREADS=1 '", python_, "' '", script.string(), "' ", arguments).c_str()) ==
           0;
  }
  std::string WriteLogits(const std::string& id) {
    auto model = residency_->Acquire(id).value();
    const at::Tensor tokens = at::randint(TinyModel::Vocabulary(), {30}, at::kLong);
    const at::Tensor logits = AllLogits(*model->base, model->adapter.get(), Ids(tokens)).contiguous();
    auto view = [](const char* name, const at::Tensor& t, SafetensorsType type) {
      return SafetensorsTensor{name, t.sizes().vec(), type,
                               absl::string_view(static_cast<const char*>(t.const_data_ptr()), t.nbytes())};
    };
    const std::string path = temp_.File(id + ".safetensors");
    EXPECT_TRUE(WriteSafetensors(path, {view("tokens", tokens, SafetensorsType::kI64),
                                        view("logits", logits, SafetensorsType::kF32)}, {}).ok());
    return path;
  }
  std::string Export(const std::string& id, ExportFormat format, const std::string& destination) {
    auto result = ExportModel(*registry_, residency_.get(), id, format, destination);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->path : "";
  }
  std::string WriteIds(const Tokenizer& tokenizer) {
    nlohmann::json cases = nlohmann::json::array();
    for (const std::string& text : Texts()) cases.push_back({{"text", text}, {"ids", tokenizer.Encode(text, true)}});
    return temp_.Write("ids.json", cases.dump());
  }

  std::string python_;
  std::unique_ptr<Residency> residency_;
};

TEST_F(PeftCheckTest, TheGgufPackageReadsAMergedModel) {
  PublishAdapter("lora", "gguf", *RandomLora(config_));
  const std::string merged = Export("lora", ExportFormat::kSafetensors, "merged");
  EXPECT_TRUE(Check(absl::StrCat("gguf ", Export("lora", ExportFormat::kGgufF16, "f16"), " ", merged)));
  EXPECT_TRUE(Check(absl::StrCat("gguf ", Export("lora", ExportFormat::kGgufQ8, "q8"), " ", merged)));
  EXPECT_FALSE(Check(absl::StrCat("gguf ", Export("gguf", ExportFormat::kGgufF16, "base"), " ", merged)));
}

TEST_F(PeftCheckTest, TransformersOpensAMergedModel) {
  PublishAdapter("lora", "gguf", *RandomLora(config_));
  const std::string path = Export("lora", ExportFormat::kSafetensors, "merged");
  EXPECT_TRUE(Check(absl::StrCat("model ", path, " ", WriteLogits("lora"))));
  EXPECT_TRUE(Check(absl::StrCat("tokenizer ", path, " ", WriteIds(residency_->Acquire("gguf").value()->tokenizer()))));
  PublishAdapter("dora", "gguf", *RandomDora(*residency_->Acquire("gguf").value()->base, 4));
  EXPECT_TRUE(Check(absl::StrCat("model ", Export("dora", ExportFormat::kSafetensors, "dora"), " ", WriteLogits("dora"))));
}

TEST_F(PeftCheckTest, PeftOpensAdapters) {
  auto lora = RandomLora(config_);
  lora->lora->layers[0][2] = LoraModule();  // not the same projections in every layer
  PublishAdapter("lora", "hf", *lora);
  PublishAdapter("dora", "hf", *RandomDora(*residency_->Acquire("hf").value()->base, 4));
  PublishAdapter("prompt", "hf", *RandomSoftPrompt(config_));
  PublishAdapter("prefix", "hf", *RandomPrefix(config_, 5));
  PublishAdapter("ia3", "hf", *RandomIa3(config_));
  const std::string base = Export("hf", ExportFormat::kDefault, "base");
  for (const char* id : {"lora", "dora", "prompt", "prefix", "ia3"}) {
    const std::string path = Export(id, ExportFormat::kPeft, id);
    EXPECT_TRUE(Check(absl::StrCat("adapter ", path, " ", base, " ", WriteLogits(id)))) << id;
  }
}

TEST_F(PeftCheckTest, PeftAndTransformersOpenOwnEmbeddingsAndHeads) {
  const std::string base = Export("hf", ExportFormat::kDefault, "base");
  for (const VocabularyKind& kind : kRandomVocabularies) {
    const std::string id = absl::StrCat("own-", kind.name);
    auto adapter = RandomLora(config_);
    AddRandomVocabulary(config_, kind, adapter->lora.get());
    PublishAdapter(id, "hf", *adapter);
    const std::string logits = WriteLogits(id);
    EXPECT_TRUE(Check(absl::StrCat("adapter ", Export(id, ExportFormat::kPeft, id), " ", base, " ", logits))) << id;
    EXPECT_TRUE(Check(absl::StrCat("model ", Export(id, ExportFormat::kSafetensors, id + "-merged"), " ", logits))) << id;
  }
}

TEST_F(PeftCheckTest, TransformersOpensTheTokenizerOfARealGguf) {
  const char* model = std::getenv("ATTUNE_TEST_MODEL");
  if (model == nullptr) GTEST_SKIP() << "ATTUNE_TEST_MODEL is not set";
  std::filesystem::create_directories(temp_.File("gguf"));
  std::filesystem::create_directories(temp_.File("out"));
  std::filesystem::create_symlink(model, temp_.File("gguf/model.gguf"));
  ASSERT_TRUE(WriteTokenizerFiles(temp_.File("gguf"), temp_.File("out")).ok());
  ASSERT_TRUE(WriteFileDurably(temp_.File("out/config.json"), TinyModel::Config()).ok());
  auto file = GgufFile::Open(model);
  ASSERT_TRUE(file.ok()) << file.status();
  auto tokenizer = LoadTokenizer(**file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE(Check(absl::StrCat("tokenizer ", temp_.File("out"), " ", WriteIds(**tokenizer))));
}

}  // namespace
}  // namespace attune
