#include "server/adapters/exporter.h"

#include <gmock/gmock.h>

#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/packed_ops.h"
#include "server/adapters/publish_text_prompt.h"
#include "server/adapters/residency.h"
#include "server/model/weights/gguf.h"
#include "server/tokenizer/load.h"
#include "server/tokenizer/sentencepiece_bridge.h"
#include "tests/adapters/adapters_fixture.h"
#include "tests/testing/random_adapter.h"

namespace attune {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<int32_t> kTokens = {20, 100, 261, 3, 77, 150, 9, 263};

class ExporterTest : public AdaptersFixture {
 protected:
  void SetUp() override {
    AdaptersFixture::SetUp();
    residency_ = std::make_unique<Residency>(registry_.get(), ComputeTarget{}, int64_t{1} << 40);
  }
  absl::StatusOr<ExportResult> Export(const std::string& id, ExportFormat format = ExportFormat::kDefault,
                                      const std::string& destination = "") {
    return ExportModel(*registry_, residency_.get(), id, format, destination);
  }
  std::string Reason(const absl::StatusOr<ExportResult>& result) { return GetErrorDetails(result.status()).reason; }
  at::Tensor Logits(const std::string& id) {
    auto model = residency_->Acquire(id).value();
    return AllLogits(*model->base, model->adapter.get(), kTokens);
  }
  at::Tensor LogitsOfFolder(const std::string& folder) {
    auto base = LoadBaseModel(folder, folder, {});
    EXPECT_TRUE(base.ok()) << base.status();
    return AllLogits(**base, nullptr, kTokens);
  }
  // The file's logits must be the model's within `tolerance`, a share of the largest.
  absl::StatusOr<ExportResult> ExportAsGguf(const std::string& id, ExportFormat format, const std::string& name, double tolerance) {
    const absl::StatusOr<ExportResult> result = Export(id, format, absl::StrCat(id, "-", name));
    if (!result.ok()) return result;
    EXPECT_THAT(result->files, ElementsAre("README.md", "model.gguf"));
    const at::Tensor expected = Logits(id);
    EXPECT_LT((LogitsOfFolder(result->path) - expected).abs().max().item<double>(), tolerance * expected.abs().max().item<double>())
        << id << " as " << name;
    return result;
  }

  std::unique_ptr<Residency> residency_;
};

TEST_F(ExporterTest, MergesLoraOverBothFormats) {
  for (const char* base : {"gguf", "hf"}) {
    const std::string id = std::string("lora-") + base;
    PublishAdapter(id, base, *RandomLora(config_));
    absl::StatusOr<ExportResult> result = Export(id, ExportFormat::kSafetensors, std::string("merged/") + base);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(result->files, ElementsAre("README.md", "config.json", "model.safetensors", "tokenizer.json",
                                           "tokenizer_config.json"));
    EXPECT_EQ(result->size_bytes, SizeOnDisk(result->path));
    const at::Tensor tuned = Logits(id);
    EXPECT_LT((LogitsOfFolder(result->path) - tuned).abs().max().item<float>(), 1e-3);
    EXPECT_GT((Logits(base) - tuned).abs().max().item<float>(), 0.1);
  }
}

// As safetensors but for rounding, in both types; what the file says of itself stays.
TEST_F(ExporterTest, WritesGgufAgain) {
  PublishFullWeights("full", "gguf", 9);
  PublishAdapter("lora", "gguf", *RandomLora(config_));
  for (const char* id : {"gguf", "full", "lora"}) {
    for (const auto& [format, name, tolerance] : {std::tuple{ExportFormat::kGgufF16, "f16", 0.01}, {ExportFormat::kGgufQ8, "q8", 0.2}}) {
      const absl::StatusOr<ExportResult> result = ExportAsGguf(id, format, name, tolerance);
      ASSERT_TRUE(result.ok()) << result.status();
      const auto before = GgufFile::Open(registry_->Directory("gguf") + "/model.gguf"), after = GgufFile::Open(result->path + "/model.gguf");
      ASSERT_TRUE(before.ok() && after.ok());
      EXPECT_EQ(*(*after)->Int("general.file_type", -1), format == ExportFormat::kGgufQ8 ? 7 : 1);
      EXPECT_EQ(*(*after)->Texts("tokenizer.ggml.tokens"), *(*before)->Texts("tokenizer.ggml.tokens"));
      ASSERT_EQ((*after)->tensors().size(), (*before)->tensors().size());
      for (size_t i = 0; i < (*after)->tensors().size(); ++i) {
        EXPECT_EQ((*after)->tensors()[i].name, (*before)->tensors()[i].name);
        EXPECT_EQ((*after)->tensors()[i].shape, (*before)->tensors()[i].shape);
      }
    }
  }
}

// What came as a folder, tuned or not, reads back with the same answers and tokens.
TEST_F(ExporterTest, WritesGgufOfFolders) {
  PublishAdapter("lora", "hf", *RandomLora(config_));
  for (const char* id : {"hf", "lora"}) {
    for (const auto& [format, name, tolerance] : {std::tuple{ExportFormat::kGgufF16, "f16", 0.01}, {ExportFormat::kGgufQ8, "q8", 0.2}}) {
      const absl::StatusOr<ExportResult> result = ExportAsGguf(id, format, name, tolerance);
      ASSERT_TRUE(result.ok()) << result.status();
      auto read = LoadBaseModel(result->path, result->path, {});
      ASSERT_TRUE(read.ok()) << read.status();
      const Tokenizer& original = residency_->Acquire("hf").value()->tokenizer();
      for (const char* text : {"hello the world", "a12 3456", "<|im_start|>hell<|im_end|>", "caf\xC3\xA9 \xE4\xBD\xA0\n\n  x"}) {
        EXPECT_EQ((*read)->tokenizer->Encode(text, true), original.Encode(text, true)) << text;
        EXPECT_EQ((*read)->tokenizer->Encode(text, false), original.Encode(text, false)) << text;
      }
      EXPECT_EQ((*read)->tokenizer->end_ids(), original.end_ids());
    }
  }
}

// As many tokens as the tiny model has rows: <unk>, <s>, </s>, the bytes from 3 on, and five more.
std::vector<SentencePieceToken> MarkedTokens() {
  const std::string mark = "\xE2\x96\x81";
  std::vector<SentencePieceToken> tokens = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back({absl::StrFormat("<0x%02X>", byte), 0, 6});
  for (const std::string& piece : {std::string("ll"), mark + "h", std::string("l"), std::string("h"), mark}) {
    tokens.push_back({piece, -static_cast<float>(tokens.size()), 1});
  }
  return tokens;
}

// The same as tokenizer.json, with merges.
nlohmann::json MarkedJson() {
  using Json = nlohmann::json;
  const std::string mark = "\xE2\x96\x81";
  Json vocabulary = Json::object(), added = Json::array();
  const std::vector<SentencePieceToken> tokens = MarkedTokens();
  for (size_t id = 0; id < tokens.size(); ++id) vocabulary[tokens[id].text] = id;
  for (int id = 0; id < 3; ++id) added.push_back({{"id", id}, {"content", tokens[id].text}, {"special", true}, {"normalized", false}});
  const auto replace = [](const std::string& what, const std::string& by) {
    return Json{{"type", "Replace"}, {"pattern", {{"String", what}}}, {"content", by}};
  };
  const Json prepend = {{"type", "Prepend"}, {"prepend", mark}};
  const Json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  return {{"added_tokens", added},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", Json::array({prepend, replace(" ", mark)})}}},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", {{"type", "Sequence"}, {"decoders", Json::array({replace(mark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}, strip})}}},
          {"model", {{"type", "BPE"}, {"unk_token", "<unk>"}, {"fuse_unk", true}, {"byte_fallback", true}, {"vocab", vocabulary},
                     {"merges", Json::array({Json::array({"l", "l"}), Json::array({mark, "h"})})}}}};
}

// SentencePiece's BPE, as its own file and as tokenizer.json, goes into GGUF files and comes out of them as files.
TEST_F(ExporterTest, WritesSentencePieceAsGgufAndBack) {
  const std::string folder = registry_->Directory("hf");
  ASSERT_TRUE(WriteFileDurably(folder + "/tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})").ok());
  for (const char* file : {"tokenizer.json", "tokenizer.model"}) {
    fs::remove(folder + "/tokenizer.json");
    const bool is_json = file == std::string("tokenizer.json");
    const std::string contents = is_json ? MarkedJson().dump() : SentencePieceBridge::ModelOf(MarkedTokens(), true, false, 1, 2, -1);
    ASSERT_TRUE(WriteFileDurably(folder + "/" + file, contents).ok());
    residency_ = std::make_unique<Residency>(registry_.get(), ComputeTarget{}, int64_t{1} << 40);
    const absl::StatusOr<ExportResult> result = ExportAsGguf("hf", ExportFormat::kGgufF16, file, 0.01);
    ASSERT_TRUE(result.ok()) << result.status();
    const auto original = LoadTokenizer(folder), read = LoadTokenizer(**GgufFile::Open(result->path + "/model.gguf"));
    ASSERT_TRUE(original.ok() && read.ok());
    const std::string id = is_json ? "again-json" : "again-model";
    fs::copy_file(result->path + "/model.gguf", temp_.File("roots/" + id + ".gguf"));
    ModelRegistry::ImportOptions import;
    import.source_path = temp_.File("roots/" + id + ".gguf");
    import.id = id;
    ASSERT_TRUE(registry_->Import(import).ok());
    const absl::StatusOr<ExportResult> files = Export(id, ExportFormat::kSafetensors);
    ASSERT_TRUE(files.ok()) << files.status();
    EXPECT_THAT(files->files, Contains("tokenizer.model"));
    const auto back = LoadTokenizer(files->path);
    ASSERT_TRUE(back.ok()) << back.status();
    fs::remove(files->path + "/tokenizer.json");
    const auto model = LoadTokenizer(files->path);
    ASSERT_TRUE(model.ok()) << model.status();
    for (const char* text : {"hello the  world", " a12", "<s>hell</s> hell", "caf\xC3\xA9 \xE4\xBD\xA0\n\n  x"}) {
      EXPECT_EQ((*read)->Encode(text, true), (*original)->Encode(text, true)) << text;
      EXPECT_EQ((*back)->Encode(text, true), (*original)->Encode(text, true)) << text;
      EXPECT_EQ((*model)->Encode(text, true), (*original)->Encode(text, true)) << text;
      EXPECT_EQ((*back)->Decode((*original)->Encode(text, true), true), (*original)->Decode((*original)->Encode(text, true), true));
    }
    EXPECT_EQ((*read)->add_bos(), (*original)->add_bos());
    EXPECT_EQ((*back)->add_bos(), (*original)->add_bos());
  }
}

// What a GGUF file cannot say of a tokenizer is refused by name, and nothing is left.
TEST_F(ExporterTest, RefusesTokenizersThatGgufCannotSay) {
  const std::string path = registry_->Directory("hf") + "/tokenizer.json";
  const std::string original = ReadFile(path).value();
  int count = 0;
  auto expect = [&](const char* what, const nlohmann::json& json) {
    ASSERT_TRUE(WriteFileDurably(path, json.dump()).ok());
    const absl::StatusOr<ExportResult> result = Export("hf", ExportFormat::kGgufF16, absl::StrCat("no-", count++));
    EXPECT_EQ(Reason(result), "EXPORT_UNSUPPORTED") << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(what));
    EXPECT_TRUE(!fs::exists(temp_.File("exports")) || fs::is_empty(temp_.File("exports")));
  };
  nlohmann::json json = nlohmann::json::parse(original);
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", nlohmann::json::array({
      {{"type", "Split"}, {"pattern", {{"Regex", "\\w+"}}}, {"behavior", "Isolated"}, {"invert", false}},
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}})}};
  expect("split text into words", json);
  json = nlohmann::json::parse(original);
  ASSERT_FALSE(json["added_tokens"].empty());
  json["added_tokens"][0]["rstrip"] = true;
  expect("takes the blanks beside it", json);
  json = MarkedJson();
  json["pre_tokenizer"] = {{"type", "Metaspace"}, {"prepend_scheme", "first"}, {"split", false}};
  json["normalizer"] = nullptr;
  expect("a space before some texts alone", json);
  json = MarkedJson();
  json["added_tokens"].push_back({{"id", 261}, {"content", "l"}, {"special", false}, {"normalized", false}});
  expect("tokens of the user's", json);
}

TEST_F(ExporterTest, WritesBaseAndFullWeights) {
  PublishFullWeights("full", "gguf", 9);
  for (const char* id : {"gguf", "hf", "full"}) {
    absl::StatusOr<ExportResult> result = Export(id);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->path, fs::canonical(temp_.File("exports")).string() + "/" + id);
    EXPECT_LT((LogitsOfFolder(result->path) - Logits(id)).abs().max().item<float>(), 1e-5);
  }
}

TEST_F(ExporterTest, TheTokenizerMadeFromGgufGivesTheSameIds) {
  ASSERT_TRUE(Export("gguf").ok());
  auto made = LoadTokenizer(temp_.File("exports/gguf"));
  ASSERT_TRUE(made.ok()) << made.status();
  const Tokenizer& original = residency_->Acquire("gguf").value()->tokenizer();
  for (const char* text :
       {"hello the world", "a12 3456", "<|im_start|>hell<|im_end|>", "caf\xC3\xA9 \xE4\xBD\xA0\n\n  x"}) {
    EXPECT_EQ((*made)->Encode(text, true), original.Encode(text, true)) << text;
    EXPECT_EQ((*made)->Encode(text, false), original.Encode(text, false)) << text;
  }
  EXPECT_EQ((*made)->bos_id(), original.bos_id());
  EXPECT_EQ((*made)->eos_id(), original.eos_id());
}

TEST_F(ExporterTest, WritesAdaptersForPeft) {
  PublishAdapter("lora", "gguf", *RandomLora(config_));
  PublishAdapter("prompt", "gguf", *RandomSoftPrompt(config_));
  const auto prefix = RandomPrefix(config_, 4), ia3 = RandomIa3(config_);
  PublishAdapter("prefix", "gguf", *prefix);
  PublishAdapter("ia3", "gguf", *ia3);
  const BaseModel& base = *residency_->Acquire("gguf").value()->base;
  for (const char* id : {"lora", "prompt", "prefix", "ia3"}) {
    absl::StatusOr<ExportResult> result = Export(id);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(result->files, ElementsAre("README.md", "adapter_config.json", "adapter_model.safetensors"));
    auto adapter = LoadPeft(result->path, config_, {}, {base.rope_cos_PH, base.rope_sin_PH});
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_EQ((*adapter)->lora != nullptr, std::string(id) == "lora");
    if ((*adapter)->prefix) {
      EXPECT_TRUE(at::allclose((*adapter)->prefix->keys_values_LNE, prefix->prefix->keys_values_LNE, 1e-5, 1e-5));
    }
    if ((*adapter)->ia3) {
      EXPECT_TRUE(at::equal((*adapter)->ia3->layers[0].inner_I, ia3->ia3->layers[0].inner_I));
      EXPECT_TRUE(at::equal((*adapter)->ia3->layers.back().output[2], ia3->ia3->layers.back().output[2]));
    }
    EXPECT_EQ((*adapter)->prefix != nullptr, std::string(id) == "prefix");
    EXPECT_EQ((*adapter)->ia3 != nullptr, std::string(id) == "ia3");
    const std::string card = ReadFile(result->path + "/README.md").value();
    EXPECT_THAT(card, HasSubstr("base_model: \"gguf\""));
    EXPECT_THAT(card, HasSubstr("| validation_loss | 0.5 |"));
  }
}

// Answers as base and adapter do.
TEST_F(ExporterTest, MergesScales) {
  PublishAdapter("ia3", "gguf", *RandomIa3(config_));
  absl::StatusOr<ExportResult> result = Export("ia3", ExportFormat::kSafetensors);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LT((LogitsOfFolder(result->path) - Logits("ia3")).abs().max().item<float>(), 1e-3);
  EXPECT_GT((LogitsOfFolder(result->path) - Logits("gguf")).abs().max().item<float>(), 1e-2);
}

// The tiny model's head is tied: it is written where it no longer is the embedding's table.
TEST_F(ExporterTest, MergesOwnEmbeddingsAndHeads) {
  for (const VocabularyKind& kind : kRandomVocabularies) {
    auto adapter = RandomLora(config_);
    AddRandomVocabulary(config_, kind, adapter->lora.get());
    const std::string id = absl::StrCat("own-", kind.name);
    PublishAdapter(id, "gguf", *adapter);
    const absl::StatusOr<ExportResult> result = Export(id, ExportFormat::kSafetensors);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_LT((LogitsOfFolder(result->path) - Logits(id)).abs().max().item<float>(), 1e-3) << id;
    EXPECT_FALSE(LoadConfig(result->path)->tied_head);
    const absl::StatusOr<ExportResult> gguf = Export(id, ExportFormat::kGgufF16, id + "-gguf");
    EXPECT_EQ(Reason(gguf), "EXPORT_UNSUPPORTED");
  }
  auto adapter = RandomLora(config_);
  adapter->lora->embedding_VD = adapter->lora->head_VD = at::randn({config_.vocab, config_.hidden}) * 0.3;
  PublishAdapter("one-table", "gguf", *adapter);
  const absl::StatusOr<ExportResult> result = Export("one-table", ExportFormat::kSafetensors);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(LoadConfig(result->path)->tied_head);
  EXPECT_LT((LogitsOfFolder(result->path) - Logits("one-table")).abs().max().item<float>(), 1e-3);
  EXPECT_TRUE(Export("one-table", ExportFormat::kGgufF16, "one-gguf").ok());
}

TEST_F(ExporterTest, WritesTextPromptsAsTheirJson) {
  TextPrompt prompt;
  prompt.instruction = "Do it.";
  ModelInfo info;
  info.id = "text";
  info.base_model = "gguf";
  ASSERT_TRUE(PublishTextPrompt(registry_.get(), info, prompt).ok());
  absl::StatusOr<ExportResult> result = Export("text");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->files, ElementsAre("README.md", "text_prompt.json"));
  EXPECT_EQ(*ReadTextPrompt(result->path), prompt);
  EXPECT_THAT(*ReadFile(result->path + "/README.md"), HasSubstr("Method: text prompt"));
  EXPECT_EQ(Reason(Export("text", ExportFormat::kPeft, "x")), "EXPORT_UNSUPPORTED");
  EXPECT_EQ(Reason(Export("text", ExportFormat::kSafetensors, "x")), "EXPORT_UNSUPPORTED");
}

TEST_F(ExporterTest, RefusesFormatsThatDoNotFit) {
  PublishAdapter("prompt", "gguf", *RandomSoftPrompt(config_));
  PublishAdapter("prefix", "gguf", *RandomPrefix(config_, 4));
  EXPECT_EQ(Reason(Export("prompt", ExportFormat::kSafetensors)), "EXPORT_UNSUPPORTED");
  EXPECT_EQ(Reason(Export("prefix", ExportFormat::kSafetensors)), "EXPORT_UNSUPPORTED");
  EXPECT_EQ(Reason(Export("gguf", ExportFormat::kPeft)), "EXPORT_UNSUPPORTED");
  EXPECT_EQ(Reason(Export("none")), "MODEL_NOT_FOUND");
}

TEST_F(ExporterTest, StaysBelowTheExportRoot) {
  fs::create_directories(temp_.File("exports"));
  fs::create_directory_symlink(temp_.File("roots"), temp_.File("exports/link"));
  for (const char* destination : {"../x", "/tmp/x", "a/../../x", "a//b", ".hidden", "a/.", "link/x"}) {
    EXPECT_EQ(Reason(Export("hf", ExportFormat::kDefault, destination)), "INVALID_FIELD") << destination;
  }
  EXPECT_FALSE(fs::exists(temp_.File("roots/x")));
}

TEST_F(ExporterTest, NeverOverwritesAndLeavesNothingBehind) {
  ASSERT_TRUE(Export("hf").ok());
  EXPECT_EQ(Reason(Export("hf")), "EXPORT_EXISTS");
  // A model that cannot be read.
  PublishAdapter("lora", "hf", *RandomLora(config_));
  fs::remove(registry_->Directory("lora") + "/adapter_model.safetensors");
  EXPECT_FALSE(Export("lora").ok());
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(temp_.File("exports")))
    names.push_back(entry.path().filename().string());
  EXPECT_THAT(names, ElementsAre("hf"));
}

}  // namespace
}  // namespace attune
