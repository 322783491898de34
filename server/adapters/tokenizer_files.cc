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
#include "server/adapters/scored_bpe.h"
#include "server/adapters/token_difference.h"
#include "server/tokenizer/load.h"
#include "server/tokenizer/pretokenizer.h"
#include "server/tokenizer/tokenizer_parts.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

// What SentencePiece has in place of a blank.
constexpr char kMark[] = "\xE2\x96\x81";

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
Json PostProcessor(const Tokenizer& tokenizer, const Json& otherwise) {
  if (!tokenizer.add_bos() || tokenizer.bos_id() < 0) return otherwise;
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

// With `rstrip` where one of `stripping` says so.
Json AddedTokensOf(const std::vector<std::string>& tokens, const std::vector<TokenKind>& kinds,
                   const std::vector<AddedToken>& stripping = {}) {
  std::vector<bool> strips(tokens.size(), false);
  for (const AddedToken& token : stripping) strips[token.id] = token.strip_right;
  Json added = Json::array();
  for (size_t id = 0; id < kinds.size() && id < tokens.size(); ++id) {
    const bool special = kinds[id] == TokenKind::kControl || kinds[id] == TokenKind::kUnknown;
    if (!special && kinds[id] != TokenKind::kUserDefined) continue;
    added.push_back({{"id", id},
                     {"content", tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", static_cast<bool>(strips[id])},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

Json BpeModel(const std::vector<std::string>& tokens, const BpeMerges& merges) {
  Json vocabulary = Json::object();
  for (size_t id = 0; id < tokens.size(); ++id) vocabulary.emplace(tokens[id], id);
  Json pairs = Json::array();
  for (const auto& [left, right] : merges) pairs.push_back({left, right});
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", false}};
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

Json Replace(absl::string_view what, absl::string_view by) {
  return {{"type", "Replace"}, {"pattern", {{"String", std::string(what)}}}, {"content", std::string(by)}};
}

// Blanks become marks, with one before each stretch of text if the model has it so; and back.
Json MarkingNormalizer(bool add_space_prefix) {
  if (!add_space_prefix) return Replace(" ", kMark);
  return {{"type", "Sequence"},
          {"normalizers", Json::array({{{"type", "Prepend"}, {"prepend", kMark}}, Replace(" ", kMark)})}};
}
Json UnmarkingDecoder(bool add_space_prefix) {
  Json steps = Json::array({Replace(kMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (add_space_prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", std::move(steps)}};
}

absl::StatusOr<Json> ByteBpeJson(const GgufFile& file, const Tokenizer& tokenizer) {
  ATTUNE_ASSIGN_OR_RETURN(std::string name, file.Text("tokenizer.ggml.pre", ""));
  const PretokenizerRule* rule = FindPretokenizerRule(name);
  if (rule == nullptr) return CannotExport(absl::StrCat("its pre-tokenizer '", name, "' is not known."));
  const std::vector<std::string>* tokens = file.Texts("tokenizer.ggml.tokens");
  const std::vector<std::string>* lines = file.Texts("tokenizer.ggml.merges");
  if (tokens == nullptr || lines == nullptr) return CannotExport("its tokens or merges are missing.");
  std::vector<TokenKind> kinds;
  const std::vector<int64_t>* types = file.Ints("tokenizer.ggml.token_type");
  for (size_t i = 0; types != nullptr && i < types->size(); ++i) kinds.push_back(static_cast<TokenKind>((*types)[i]));
  BpeMerges merges;
  for (const std::string& line : *lines) {
    const size_t space = line.find(' ', 1);
    if (space != std::string::npos) merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  Json json;
  json["added_tokens"] = AddedTokensOf(*tokens, kinds);
  json["normalizer"] = rule->normalizes ? Json{{"type", "NFC"}} : Json(nullptr);
  json["pre_tokenizer"] = PreTokenizer(*rule);
  json["post_processor"] = PostProcessor(tokenizer, ByteLevel(false));
  json["decoder"] = ByteLevel(true);
  json["model"] = BpeModel(*tokens, merges);
  json["model"]["ignore_merges"] = rule->ignore_merges;
  return json;
}

absl::StatusOr<Json> SentencePieceJson(const GgufFile& file, const Tokenizer& tokenizer) {
  ATTUNE_ASSIGN_OR_RETURN(const SentencePieceParts parts, LoadSentencePieceParts(file));
  if (parts.removes_extra_spaces) return CannotExport("it leaves out further spaces.");
  const absl::StatusOr<BpeMerges> merges = MergesOfScores(parts.vocabulary, parts.scores);
  if (!merges.ok()) return CannotExport(std::string(merges.status().message()));
  Json json;
  json["added_tokens"] = AddedTokensOf(parts.vocabulary.tokens, parts.vocabulary.kinds, parts.vocabulary.added);
  json["normalizer"] = MarkingNormalizer(parts.add_space_prefix);
  json["pre_tokenizer"] = nullptr;
  json["post_processor"] = PostProcessor(tokenizer, nullptr);
  json["decoder"] = UnmarkingDecoder(parts.add_space_prefix);
  json["model"] = BpeModel(parts.vocabulary.tokens, *merges);
  json["model"]["byte_fallback"] = json["model"]["fuse_unk"] = true;
  if (tokenizer.unk_id() >= 0) json["model"]["unk_token"] = tokenizer.TokenBytes(tokenizer.unk_id());
  return json;
}

// For SentencePiece's own library, beside the tokenizer.json, which others read.
absl::Status WriteSentencePieceModel(const GgufFile& file, const Tokenizer& tokenizer, const std::string& path) {
  ATTUNE_ASSIGN_OR_RETURN(const SentencePieceParts parts, LoadSentencePieceParts(file));
  return WriteFileDurably(path, SentencePieceBridge::ModelOf(SentencePieceTokens(parts), parts.add_space_prefix,
                                                             parts.removes_extra_spaces, tokenizer.bos_id(),
                                                             tokenizer.eos_id(), tokenizer.pad_id()));
}

absl::StatusOr<bool> IsSentencePiece(const GgufFile& file) {
  ATTUNE_ASSIGN_OR_RETURN(const std::string model, file.Text("tokenizer.ggml.model", ""));
  if (model != "gpt2" && model != "llama") {
    return CannotExport(absl::StrCat("it is of type '", model, "', neither byte-level BPE nor SentencePiece."));
  }
  return model == "llama";
}

// The files, read again, are the tokenizer.
absl::Status WriteFromGguf(const GgufFile& file, const std::string& to) {
  ATTUNE_ASSIGN_OR_RETURN(std::string text, TokenizerJsonFromGguf(file));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(file));
  ATTUNE_ASSIGN_OR_RETURN(const std::string architecture, file.Text("general.architecture", "llama"));
  ATTUNE_ASSIGN_OR_RETURN(int64_t context, file.Int(architecture + ".context_length", 2048));
  ATTUNE_ASSIGN_OR_RETURN(const bool is_sentencepiece, IsSentencePiece(file));
  if (is_sentencepiece) ATTUNE_RETURN_IF_ERROR(WriteSentencePieceModel(file, *tokenizer, to + "/tokenizer.model"));
  ATTUNE_RETURN_IF_ERROR(WriteFileDurably(to + "/tokenizer.json", text));
  ATTUNE_RETURN_IF_ERROR(WriteFileDurably(to + "/tokenizer_config.json", TokenizerConfig(*tokenizer, context)));
  const absl::StatusOr<std::unique_ptr<Tokenizer>> read = LoadTokenizer(to);
  if (!read.ok()) return CannotExport(std::string(read.status().message()));
  const std::string difference = TokenDifference(*tokenizer, **read);
  return difference.empty() ? absl::OkStatus() : CannotExport(absl::StrCat("as files ", difference, "."));
}

}  // namespace

absl::StatusOr<std::string> TokenizerJsonFromGguf(const GgufFile& file) {
  ATTUNE_ASSIGN_OR_RETURN(const bool is_sentencepiece, IsSentencePiece(file));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(file));
  ATTUNE_ASSIGN_OR_RETURN(Json json, is_sentencepiece ? SentencePieceJson(file, *tokenizer) : ByteBpeJson(file, *tokenizer));
  json["version"] = "1.0";
  json["truncation"] = json["padding"] = nullptr;
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
