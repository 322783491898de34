#include "server/adapters/tokenizer_files.h"

#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/adapters/copy_file.h"
#include "server/tokenizer/load.h"
#include "server/tokenizer/pretokenizer.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kTokenizerFiles[] = {
    "tokenizer.json",          "tekken.json",         "tokenizer.model",       "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "generation_config.json"};

absl::Status CannotExport(const std::string& what) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "EXPORT_UNSUPPORTED",
                   absl::StrCat("The tokenizer of the base model's GGUF file cannot be exported: ", what));
}

std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

// Splits by each pattern in turn, then writes bytes as characters.
Json PreTokenizer(const PretokenizerRule& rule) {
  Json steps = Json::array();
  for (const std::string& pattern : rule.patterns) {
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back(ByteLevel(false));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

// Puts the first token before a text where the model wants it.
Json PostProcessor(const Tokenizer& tokenizer) {
  if (!tokenizer.add_bos() || tokenizer.bos_id() < 0) return ByteLevel(false);
  const std::string bos = tokenizer.TokenBytes(tokenizer.bos_id());
  const Json first = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const Json second = {{"SpecialToken", {{"id", bos}, {"type_id", 1}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json pair = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  Json token = {{"id", bos}, {"ids", Json::array({tokenizer.bos_id()})}, {"tokens", Json::array({bos})}};
  return {{"type", "TemplateProcessing"},
          {"single", Json::array({first, text})},
          {"pair", Json::array({first, text, second, pair})},
          {"special_tokens", {{bos, token}}}};
}

Json AddedTokensOf(const std::vector<std::string>& tokens, const std::vector<int64_t>& types) {
  Json added = Json::array();
  for (size_t id = 0; id < types.size() && id < tokens.size(); ++id) {
    const auto kind = static_cast<TokenKind>(types[id]);
    const bool special = kind == TokenKind::kControl || kind == TokenKind::kUnknown;
    if (!special && kind != TokenKind::kUserDefined) continue;
    added.push_back({{"id", id},
                     {"content", tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

Json BpeModel(const std::vector<std::string>& tokens, const std::vector<std::string>& merges, bool ignore_merges) {
  Json vocabulary = Json::object();
  for (size_t id = 0; id < tokens.size(); ++id) vocabulary.emplace(tokens[id], id);
  Json pairs = Json::array();
  for (const std::string& merge : merges) {
    const size_t space = merge.find(' ', 1);
    if (space != std::string::npos) pairs.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", ignore_merges}};
  model["vocab"] = std::move(vocabulary);
  model["merges"] = std::move(pairs);
  return model;
}

std::string TokenizerConfig(const Tokenizer& tokenizer, int64_t context) {
  Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
               {"model_max_length", context},
               {"clean_up_tokenization_spaces", false},
               {"add_bos_token", tokenizer.add_bos()}};
  const std::pair<const char*, int32_t> names[] = {{"bos_token", tokenizer.bos_id()},
                                                   {"eos_token", tokenizer.eos_id()},
                                                   {"unk_token", tokenizer.unk_id()},
                                                   {"pad_token", tokenizer.pad_id()}};
  for (const auto& [name, id] : names) {
    if (id >= 0) json[name] = tokenizer.TokenBytes(id);
  }
  if (!tokenizer.chat_template().empty()) json["chat_template"] = tokenizer.chat_template();
  return Dump(json, 2);
}

absl::Status WriteFromGguf(const GgufFile& file, const std::string& to) {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, TokenizerJsonFromGguf(file));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(file));
  ATTUNE_ASSIGN_OR_RETURN(int64_t context, file.Int("llama.context_length", 2048));
  ATTUNE_RETURN_IF_ERROR(WriteFileDurably(to + "/tokenizer.json", text));
  return WriteFileDurably(to + "/tokenizer_config.json", TokenizerConfig(*tokenizer, context));
}

}  // namespace

absl::StatusOr<std::string> TokenizerJsonFromGguf(const GgufFile& file) {
  ATTUNE_ASSIGN_OR_RETURN(std::string model, file.Text("tokenizer.ggml.model", ""));
  if (model != "gpt2") return CannotExport(absl::StrCat("it is of type '", model, "', not byte-level BPE."));
  ATTUNE_ASSIGN_OR_RETURN(std::string name, file.Text("tokenizer.ggml.pre", ""));
  const PretokenizerRule* rule = FindPretokenizerRule(name);
  if (rule == nullptr) return CannotExport(absl::StrCat("its pre-tokenizer '", name, "' is not known."));
  const std::vector<std::string>* tokens = file.Texts("tokenizer.ggml.tokens");
  const std::vector<std::string>* merges = file.Texts("tokenizer.ggml.merges");
  if (tokens == nullptr || merges == nullptr) return CannotExport("its tokens or merges are missing.");
  const std::vector<int64_t>* types = file.Ints("tokenizer.ggml.token_type");
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(file));
  Json json = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  json["added_tokens"] = types == nullptr ? Json::array() : AddedTokensOf(*tokens, *types);
  json["normalizer"] = rule->normalizes ? Json{{"type", "NFC"}} : Json(nullptr);
  json["pre_tokenizer"] = PreTokenizer(*rule);
  json["post_processor"] = PostProcessor(*tokenizer);
  json["decoder"] = ByteLevel(true);
  json["model"] = BpeModel(*tokens, *merges, rule->ignore_merges);
  return Dump(json, -1);
}

absl::Status WriteTokenizerFiles(const std::string& from, const std::string& to) {
  std::error_code error;
  const std::string gguf = from + "/model.gguf";
  if (fs::exists(gguf, error)) {
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, GgufFile::Open(gguf));
    return WriteFromGguf(*file, to);
  }
  for (const char* name : kTokenizerFiles) {
    const std::string path = absl::StrCat(from, "/", name);
    if (fs::exists(path, error)) ATTUNE_RETURN_IF_ERROR(CopyFile(path, absl::StrCat(to, "/", name)));
  }
  return absl::OkStatus();
}

}  // namespace attune
