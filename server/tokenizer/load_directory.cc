#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "server/tokenizer/json_file.h"
#include "server/tokenizer/load.h"
#include "server/tokenizer/sentencepiece_tokenizer.h"
#include "server/tokenizer/tekken.h"
#include "server/tokenizer/tokenizer_json.h"
#include "server/tokenizer/tokenizer_parts.h"

namespace attune {
namespace {

using nlohmann::json;

constexpr int64_t kMaxModelBytes = 64 << 20;
constexpr int64_t kMaxTemplateBytes = 1 << 20;

// The JSON files of a directory; null where it has none.
struct Files {
  json tokenizer, tekken, config, special, added, generation, model_config;
};

absl::StatusOr<Files> ReadFiles(const std::string& directory) {
  Files files;
  const auto read = [&directory](const char* name, json* value) -> absl::Status {
    ATTUNE_ASSIGN_OR_RETURN(*value, ReadJsonFile(absl::StrCat(directory, "/", name)));
    return absl::OkStatus();
  };
  ATTUNE_RETURN_IF_ERROR(read("tokenizer.json", &files.tokenizer));
  if (files.tokenizer.is_null()) ATTUNE_RETURN_IF_ERROR(read("tekken.json", &files.tekken));
  ATTUNE_RETURN_IF_ERROR(read("tokenizer_config.json", &files.config));
  ATTUNE_RETURN_IF_ERROR(read("special_tokens_map.json", &files.special));
  ATTUNE_RETURN_IF_ERROR(read("added_tokens.json", &files.added));
  ATTUNE_RETURN_IF_ERROR(read("generation_config.json", &files.generation));
  ATTUNE_RETURN_IF_ERROR(read("config.json", &files.model_config));
  return files;
}

// Added tokens that tokenizer_config.json and the older added_tokens.json name.
absl::StatusOr<std::vector<AddedToken>> MoreAddedTokens(const Files& files) {
  std::vector<AddedToken> added;
  const json& decoder = Member(files.config, "added_tokens_decoder");
  if (decoder.is_object()) {
    for (const auto& [key, value] : decoder.items()) {
      int32_t id = -1;
      if (!absl::SimpleAtoi(key, &id) || id < 0) return UnsupportedTokenizer("an id of added_tokens_decoder");
      ATTUNE_ASSIGN_OR_RETURN(AddedToken token, AddedTokenFromJson(value, id));
      added.push_back(std::move(token));
    }
  }
  if (files.added.is_object()) {
    for (const auto& [text, value] : files.added.items()) {
      const AddedToken token = {IdOf(value), text, /*special=*/false};
      const auto same = [&token](const AddedToken& a) { return a.id == token.id || a.text == token.text; };
      if (std::none_of(added.begin(), added.end(), same)) added.push_back(token);
    }
  }
  return added;
}

// The text of "bos_token" and the like, which may be an object.
std::string TokenText(const Files& files, const char* key) {
  for (const json* file : {&files.config, &files.special}) {
    const json& value = Member(*file, key);
    const std::string text = value.is_object() ? TextOf(Member(value, "content")) : TextOf(value);
    if (!text.empty()) return text;
  }
  return "";
}

// By the token's text, else by the number in the model's own configuration.
int32_t SpecialId(const Files& files, const Tokenizer& tokenizer, const std::string& name, int32_t otherwise) {
  const std::string text = TokenText(files, (name + "_token").c_str());
  if (!text.empty() && tokenizer.TokenId(text) >= 0) return tokenizer.TokenId(text);
  if (otherwise >= 0) return otherwise;
  const std::string key = name + "_token_id";
  for (const json* file : {&files.generation, &files.model_config}) {
    const json& value = Member(*file, key.c_str());
    const int32_t id = IdOf(value.is_array() && !value.empty() ? value[0] : value);
    if (id >= 0) return id;
  }
  return -1;
}

std::vector<int32_t> EndIds(const Files& files) {
  std::vector<int32_t> ids;
  const json& value = Member(files.generation, "eos_token_id");
  if (value.is_array()) {
    for (const json& id : value) ids.push_back(IdOf(id));
  } else {
    ids.push_back(IdOf(value));
  }
  return ids;
}

absl::StatusOr<std::string> ReadChatTemplate(const std::string& directory, const Files& files) {
  const std::string path = absl::StrCat(directory, "/chat_template.jinja");
  if (SizeOnDisk(path) > kMaxTemplateBytes) return UnsupportedTokenizer("chat_template.jinja is larger than 1 MiB");
  absl::StatusOr<std::string> contents = ReadFile(path);
  if (contents.ok() || !absl::IsNotFound(contents.status())) return contents;
  const json& value = Member(files.config, "chat_template");
  if (value.is_string() || value.is_null()) return TextOf(value);
  if (!value.is_array()) return UnsupportedTokenizer("chat_template of tokenizer_config.json");
  for (const json& named : value) {
    if (TextOf(Member(named, "name")) == "default") return TextOf(Member(named, "template"));
  }
  return std::string();
}

absl::StatusOr<std::unique_ptr<SentencePieceBridge>> ReadSentencePieceModel(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/tokenizer.model");
  if (SizeOnDisk(path) > kMaxModelBytes) return UnsupportedTokenizer("tokenizer.model is larger than 64 MiB");
  absl::StatusOr<std::string> contents = ReadFile(path);
  if (absl::IsNotFound(contents.status())) {
    return UnsupportedTokenizer("the directory has neither tokenizer.json nor tekken.json nor tokenizer.model");
  }
  if (!contents.ok()) return contents.status();
  std::string error;
  auto model = SentencePieceBridge::FromModel(*contents, &error);
  if (model == nullptr) return UnsupportedTokenizer(error);
  return model;
}

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> LoadVocabulary(const std::string& directory, const Files& files,
                                                                    TokenizerSettings* settings) {
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<AddedToken> added, MoreAddedTokens(files));
  if (!files.tokenizer.is_null()) return TokenizerFromJson(files.tokenizer, added, settings);
  if (!files.tekken.is_null()) return TekkenFromJson(files.tekken, settings);
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<SentencePieceBridge> model, ReadSentencePieceModel(directory));
  return MakeSentencePiece(std::move(model), added, settings);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory) {
  ATTUNE_ASSIGN_OR_RETURN(const Files files, ReadFiles(directory));
  TokenizerSettings settings;
  absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> loaded = LoadVocabulary(directory, files, &settings);
  if (!loaded.ok()) return loaded.status();
  VocabularyTokenizer& tokenizer = **loaded;
  settings.bos_id = SpecialId(files, tokenizer, "bos", settings.bos_id);
  settings.eos_id = SpecialId(files, tokenizer, "eos", settings.eos_id);
  settings.unk_id = SpecialId(files, tokenizer, "unk", settings.unk_id);
  settings.pad_id = SpecialId(files, tokenizer, "pad", settings.pad_id);
  settings.more_end_ids = EndIds(files);
  // SentencePiece models begin with it unless they say no; a tokenizer.json says it in its post-processor.
  const bool by_default = files.tokenizer.is_null() ||
                          (settings.bos_id >= 0 && FirstTokenOfPostProcessor(files.tokenizer) == settings.bos_id);
  settings.add_bos = BoolOf(Member(files.config, "add_bos_token"), by_default);
  ATTUNE_ASSIGN_OR_RETURN(settings.chat_template, ReadChatTemplate(directory, files));
  tokenizer.Configure(settings);
  return std::move(*loaded);
}

absl::StatusOr<TokenizerParts> LoadTokenizerParts(const std::string& directory) {
  ATTUNE_ASSIGN_OR_RETURN(const Files files, ReadFiles(directory));
  ATTUNE_ASSIGN_OR_RETURN(const std::vector<AddedToken> added, MoreAddedTokens(files));
  if (!files.tokenizer.is_null()) {
    ATTUNE_ASSIGN_OR_RETURN(auto parts, PartsFromJson(files.tokenizer, added));
    return std::visit([](auto& kind) -> TokenizerParts { return std::move(kind); }, parts);
  }
  if (!files.tekken.is_null()) return UnsupportedTokenizer("Mistral's Tekken");
  ATTUNE_ASSIGN_OR_RETURN(const std::unique_ptr<SentencePieceBridge> model, ReadSentencePieceModel(directory));
  return SentencePiecePartsOf(*model, added);
}

}  // namespace attune
