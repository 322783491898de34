#include "server/tokenizer/load.h"

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/error.h"
#include "common/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/tokenizer/byte_alphabet.h"

namespace attune {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Writes the metadata of a GGUF file (version 3).
class GgufBytes {
 public:
  GgufBytes& Text(const std::string& key, const std::string& value) { return Add(key, 8, String(value)); }
  GgufBytes& Number(const std::string& key, uint32_t value) { return Add(key, 4, Raw(value)); }
  GgufBytes& Bool(const std::string& key, bool value) { return Add(key, 7, std::string(1, value)); }
  GgufBytes& Texts(const std::string& key, const std::vector<std::string>& values) {
    std::string bytes = Raw(uint32_t{8}) + Raw(uint64_t{values.size()});
    for (const std::string& value : values) bytes += String(value);
    return Add(key, 9, bytes);
  }
  GgufBytes& Ints(const std::string& key, const std::vector<int32_t>& values) { return Array(key, 5, values); }
  GgufBytes& Reals(const std::string& key, const std::vector<float>& values) { return Array(key, 6, values); }
  std::string Finish() const { return "GGUF" + Raw(uint32_t{3}) + Raw(uint64_t{0}) + Raw(uint64_t{count_}) + bytes_; }

 private:
  template <typename T>
  static std::string Raw(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static std::string String(const std::string& text) { return Raw(uint64_t{text.size()}) + text; }
  template <typename T>
  GgufBytes& Array(const std::string& key, uint32_t type, const std::vector<T>& values) {
    std::string bytes = Raw(type) + Raw(uint64_t{values.size()});
    for (const T value : values) bytes += Raw(value);
    return Add(key, 9, bytes);
  }
  GgufBytes& Add(const std::string& key, uint32_t type, const std::string& value) {
    bytes_ += String(key) + Raw(type) + value;
    ++count_;
    return *this;
  }

  std::string bytes_;
  uint64_t count_ = 0;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadGguf(const GgufBytes& bytes) {
  const std::string data = bytes.Finish();
  ATTUNE_ASSIGN_OR_RETURN(const auto file, GgufFile::Parse(data));
  return LoadTokenizer(*file);
}

std::string Message(const absl::Status& status) {
  EXPECT_EQ(GetErrorDetails(status).reason, "UNSUPPORTED_TOKENIZER") << status;
  return std::string(status.message());
}

// The bytes 0 to 255, "ab" 256, "Ġab" 257, and "<|end|>" 258.
std::vector<std::string> ByteTokens() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(ByteAlphabetChar(byte));
  tokens.insert(tokens.end(), {"ab", ByteAlphabetChar(' ') + "ab", "<|end|>"});
  return tokens;
}

GgufBytes Gpt2Gguf(const std::string& pre) {
  std::vector<int32_t> types(259, 1);
  types[258] = 3;
  GgufBytes bytes;
  bytes.Text("tokenizer.ggml.model", "gpt2").Text("tokenizer.ggml.pre", pre).Texts("tokenizer.ggml.tokens", ByteTokens());
  bytes.Ints("tokenizer.ggml.token_type", types).Texts("tokenizer.ggml.merges", {"a b", ByteAlphabetChar(' ') + " ab"});
  bytes.Number("tokenizer.ggml.bos_token_id", 258).Number("tokenizer.ggml.eos_token_id", 258);
  return bytes;
}

TEST(LoadGgufTest, ByteLevelBpe) {
  GgufBytes bytes = Gpt2Gguf("smollm");
  bytes.Text("tokenizer.chat_template", "{{ x }}").Number("tokenizer.ggml.eot_token_id", 97);
  bytes.Number("tokenizer.ggml.padding_token_id", 0xFFFFFFFF);
  const auto tokenizer = LoadGguf(bytes);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("ab ab<|end|>", true), ElementsAre(256, 257, 258));
  EXPECT_EQ((*tokenizer)->vocab_size(), 259);
  EXPECT_EQ((*tokenizer)->eos_id(), 258);
  EXPECT_EQ((*tokenizer)->pad_id(), -1);
  EXPECT_EQ((*tokenizer)->unk_id(), -1);
  EXPECT_THAT((*tokenizer)->end_ids(), ElementsAre(258, 97));
  EXPECT_FALSE((*tokenizer)->add_bos());
  EXPECT_EQ((*tokenizer)->chat_template(), "{{ x }}");
}

TEST(LoadGgufTest, Llama3BeginsWithItsFirstToken) {
  EXPECT_TRUE((*LoadGguf(Gpt2Gguf("llama-bpe")))->add_bos());
  EXPECT_FALSE((*LoadGguf(Gpt2Gguf("llama-bpe").Bool("tokenizer.ggml.add_bos_token", false)))->add_bos());
}

// A vocabulary that begins so, goes on with bytes and pieces, and ends with a user-defined token of two blanks if that is
// asked for.
GgufBytes SentencePieceGguf(std::vector<std::string> tokens, std::vector<int32_t> types, bool has_blanks = false) {
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(absl::StrFormat("<0x%02X>", byte));
    types.push_back(6);
  }
  for (const char* piece : {"\xE2\x96\x81" "a", "\xE2\x96\x81", "a"}) {
    tokens.push_back(piece);
    types.push_back(1);
  }
  if (has_blanks) {
    tokens.push_back("  ");
    types.push_back(4);
  }
  std::vector<float> scores;
  for (size_t i = 0; i < tokens.size(); ++i) scores.push_back(-static_cast<float>(i));
  GgufBytes bytes;
  bytes.Text("tokenizer.ggml.model", "llama").Texts("tokenizer.ggml.tokens", tokens);
  bytes.Ints("tokenizer.ggml.token_type", types).Reals("tokenizer.ggml.scores", scores);
  bytes.Number("tokenizer.ggml.bos_token_id", 1).Number("tokenizer.ggml.eos_token_id", 2);
  return bytes;
}

TEST(LoadGgufTest, SentencePiece) {
  const auto tokenizer = LoadGguf(SentencePieceGguf({"<unk>", "<s>", "</s>"}, {2, 3, 3}));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("a a\n</s>", true), ElementsAre(259, 259, 3 + '\n', 2));
  EXPECT_TRUE((*tokenizer)->add_bos());
  EXPECT_EQ((*tokenizer)->unk_id(), 0);
}

// As llama.cpp converts Gemma: the unknown token is special as others are, and blanks of user-defined tokens are blanks.
TEST(LoadGgufTest, SentencePieceOfGemma) {
  GgufBytes bytes = SentencePieceGguf({"<pad>", "<bos>", "<eos>"}, {3, 3, 3}, /*has_blanks=*/true);
  bytes.Bool("tokenizer.ggml.add_space_prefix", false).Number("tokenizer.ggml.unknown_token_id", 0);
  const auto tokenizer = LoadGguf(bytes);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("a  a a<eos>", true), ElementsAre(261, 262, 261, 259, 2));
  EXPECT_EQ((*tokenizer)->Decode({261, 262, 261, 259}, false), "a  a a");
  EXPECT_THAT(Message(LoadGguf(SentencePieceGguf({"<pad>", "<bos>", "<eos>"}, {3, 3, 3})).status()),
              HasSubstr("unknown token"));
}

// As llama.cpp, by the name: special and user-defined tokens take the blanks behind them along, but for three.
TEST(LoadGgufTest, SentencePieceOfPhi3) {
  const auto bytes = [](const std::string& name) {
    GgufBytes file = SentencePieceGguf({"<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>"}, {2, 3, 4, 3, 3});
    return file.Text("general.architecture", "phi3").Text("general.name", name);
  };
  for (const char* name : {"Phi3", "my Phi-3-mini"}) {
    const auto tokenizer = LoadGguf(bytes(name));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_THAT((*tokenizer)->Encode("<|user|>\n a<s> a</s>  a", true), ElementsAre(4, 261, 1, 262, 261, 2, 261));
    EXPECT_THAT((*tokenizer)->Encode("</s> a", false), ElementsAre(2, 261));
    EXPECT_FALSE((*tokenizer)->IsSpecial(2));
  }
  EXPECT_THAT(Message(LoadGguf(bytes("Phi 4")).status()), HasSubstr("general.name"));
  GgufBytes lacking = SentencePieceGguf({"<unk>", "<s>", "</s>"}, {2, 3, 3});
  EXPECT_THAT(Message(LoadGguf(lacking.Text("general.name", "phi-3")).status()), HasSubstr("<|endoftext|>"));
}

TEST(LoadGgufTest, WhatIsNotSupportedIsNamed) {
  EXPECT_THAT(Message(LoadGguf(GgufBytes().Text("tokenizer.ggml.model", "t5")).status()), HasSubstr("t5"));
  EXPECT_THAT(Message(LoadGguf(GgufBytes()).status()), HasSubstr("tokenizer.ggml.model"));
  EXPECT_THAT(Message(LoadGguf(Gpt2Gguf("strange")).status()), HasSubstr("strange"));
  EXPECT_THAT(Message(LoadGguf(GgufBytes().Text("tokenizer.ggml.model", "llama")).status()), HasSubstr("tokens"));
  GgufBytes no_merges;
  no_merges.Text("tokenizer.ggml.model", "gpt2").Text("tokenizer.ggml.pre", "gpt-2").Texts("tokenizer.ggml.tokens", {"a"});
  EXPECT_THAT(Message(LoadGguf(no_merges).status()), HasSubstr("merges"));
  EXPECT_THAT(Message(LoadGguf(no_merges.Ints("tokenizer.ggml.token_type", {9})).status()), HasSubstr("type 9"));
}

class LoadDirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = ::testing::TempDir() + "/tokenizer_" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(RemoveAll(directory_).ok());
    ASSERT_TRUE(MakeDirectories(directory_).ok());
  }
  void TearDown() override { ASSERT_TRUE(RemoveAll(directory_).ok()); }

  void Write(const std::string& name, const std::string& contents) {
    ASSERT_TRUE(WriteFileDurably(directory_ + "/" + name, contents).ok());
  }
  void WriteJson(const std::string& name, const json& value) { Write(name, value.dump()); }

  absl::StatusOr<std::unique_ptr<Tokenizer>> Load() { return LoadTokenizer(directory_); }
  std::string LoadMessage(const json& tokenizer) {
    WriteJson("tokenizer.json", tokenizer);
    return Message(Load().status());
  }

  std::string directory_;
};

json ByteLevelJson() {
  json vocab = json::object();
  const std::vector<std::string> tokens = ByteTokens();
  for (size_t id = 0; id < 258; ++id) vocab[tokens[id]] = id;
  return {
      {"added_tokens", {{{"id", 258}, {"content", "<|end|>"}, {"special", true}, {"normalized", false}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", {{"type", "ByteLevel"}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", json::array({ByteAlphabetChar(' '), "ab"})}}}},
  };
}

json MarkedJson() {
  const std::string mark = "\xE2\x96\x81";
  return {
      {"added_tokens", {{{"id", 0}, {"content", "<unk>"}, {"special", true}}, {{"id", 1}, {"content", "<s>"}, {"special", true}}}},
      {"normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         {{{"type", "Prepend"}, {"prepend", mark}},
          {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", mark}}}}}},
      {"pre_tokenizer", nullptr},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", mark}}}, {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Fuse"}},
          {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"vocab", {{"<unk>", 0}, {"<s>", 1}, {"<0xC3>", 2}, {"<0xA9>", 3}, {mark, 4}, {"a", 5}, {mark + "a", 6}}},
        {"merges", {mark + " a"}}}},
  };
}

TEST_F(LoadDirectoryTest, ByteLevelBpeWithItsConfiguration) {
  WriteJson("tokenizer.json", ByteLevelJson());
  WriteJson("tokenizer_config.json", json{{"bos_token", nullptr},
                                      {"eos_token", {{"content", "<|end|>"}}},
                                      {"chat_template", {{{"name", "tool"}, {"template", "T"}}, {{"name", "default"}, {"template", "D"}}}},
                                      {"added_tokens_decoder", {{"259", {{"content", "<|pad|>"}, {"special", true}}}}}});
  WriteJson("special_tokens_map.json", json{{"pad_token", "<|pad|>"}});
  WriteJson("generation_config.json", json{{"eos_token_id", {97, 258}}});
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("ab ab<|end|><|pad|>", true), ElementsAre(256, 257, 258, 259));
  EXPECT_EQ((*tokenizer)->eos_id(), 258);
  EXPECT_EQ((*tokenizer)->pad_id(), 259);
  EXPECT_EQ((*tokenizer)->bos_id(), -1);
  EXPECT_THAT((*tokenizer)->end_ids(), ElementsAre(258, 97));
  EXPECT_FALSE((*tokenizer)->add_bos());
  EXPECT_EQ((*tokenizer)->chat_template(), "D");
  Write("chat_template.jinja", "from the file");
  EXPECT_EQ((*Load())->chat_template(), "from the file");
}

TEST_F(LoadDirectoryTest, ByteFallbackBpe) {
  WriteJson("tokenizer.json", MarkedJson());
  WriteJson("tokenizer_config.json", json{{"bos_token", "<s>"}});
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("a \xC3\xA9" "a<s>a", true), ElementsAre(6, 4, 2, 3, 5, 1, 6));
  EXPECT_THAT((*tokenizer)->Encode("zz", true), ElementsAre(4, 0));
  EXPECT_EQ((*tokenizer)->Decode({6, 4, 2, 3}, true), "a \xC3\xA9");
  EXPECT_TRUE((*tokenizer)->add_bos());
  EXPECT_EQ((*tokenizer)->unk_id(), 0);
  WriteJson("tokenizer_config.json", json{{"bos_token", "<s>"}, {"add_bos_token", false}});
  EXPECT_FALSE((*Load())->add_bos());
}

// Gemma's splits at blanks when there are none any more.
TEST_F(LoadDirectoryTest, ByteFallbackBpeThatSplitsAtBlanks) {
  json changed = MarkedJson();
  changed["normalizer"] = changed["normalizer"]["normalizers"][1];
  changed["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}};
  changed["decoder"]["decoders"].erase(3);
  WriteJson("tokenizer.json", changed);
  const auto tokenizer = Load();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("a a  a", true), ElementsAre(5, 6, 4, 6));
  EXPECT_EQ((*tokenizer)->Decode({5, 6, 4, 6}, true), "a a  a");
  changed["normalizer"] = nullptr;
  EXPECT_THAT(LoadMessage(changed), HasSubstr("MergedWithPrevious"));
}

TEST_F(LoadDirectoryTest, WhatIsNotSupportedIsNamed) {
  const auto with = [](const char* pointer, const json& value) {
    json changed = ByteLevelJson();
    changed[json::json_pointer(pointer)] = value;
    return changed;
  };
  EXPECT_THAT(LoadMessage(with("/normalizer", {{"type", "NFKC"}})), HasSubstr("NFKC"));
  EXPECT_THAT(LoadMessage(with("/pre_tokenizer", {{"type", "Whitespace"}})), HasSubstr("Whitespace"));
  EXPECT_THAT(LoadMessage(with("/model/type", "WordPiece")), HasSubstr("WordPiece"));
  EXPECT_THAT(LoadMessage(with("/model/dropout", 0.1)), HasSubstr("dropout"));
  EXPECT_THAT(LoadMessage(with("/model/end_of_word_suffix", "</w>")), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(LoadMessage(with("/decoder", {{"type", "WordPiece"}})), HasSubstr("WordPiece"));
  EXPECT_THAT(LoadMessage(with("/post_processor", {{"type", "BertProcessing"}})), HasSubstr("BertProcessing"));
  EXPECT_THAT(LoadMessage(with("/added_tokens/0/single_word", true)), HasSubstr("single_word"));
  EXPECT_THAT(LoadMessage(with("/added_tokens/0/id", 5)), HasSubstr("<|end|>"));
  EXPECT_THAT(LoadMessage(with("/added_tokens/0/id", 2000000000)), HasSubstr("added token"));
  EXPECT_THAT(LoadMessage(with("/model/merges", {"a z z"})), HasSubstr("merge"));
  EXPECT_THAT(LoadMessage(with("/model/merges", {"a zz"})), HasSubstr("lacks"));
  EXPECT_THAT(LoadMessage(with("/model/vocab/x", -4)), HasSubstr("id of token"));
  EXPECT_THAT(LoadMessage(with("/model/unk_token", "nowhere")), HasSubstr("unknown token"));
  EXPECT_THAT(LoadMessage(with("/pre_tokenizer", {{"type", "Split"}, {"behavior", "Removed"}})), HasSubstr("Removed"));
}

TEST_F(LoadDirectoryTest, HostileJsonIsRefused) {
  const std::string deep(1000000, '[');
  for (const std::string& contents : {std::string("{"), std::string("[]"), std::string("5"), std::string(""), deep,
                                      std::string(100000, '[') + std::string(100000, ']'),
                                      R"({"model":{"type":"BPE","vocab":[],"merges":{}}})" + std::string(),
                                      R"({"pre_tokenizer":)" + std::string(100000, '[') + std::string(100000, ']') + "}"}) {
    Write("tokenizer.json", contents);
    EXPECT_FALSE(Load().ok()) << contents.substr(0, 60);
  }
}

TEST_F(LoadDirectoryTest, NothingToLoad) {
  EXPECT_THAT(Message(Load().status()), HasSubstr("neither"));
  Write("tokenizer.model", "not a model");
  EXPECT_THAT(Message(Load().status()), HasSubstr("SentencePiece"));
}

}  // namespace
}  // namespace attune
