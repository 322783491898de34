#include "server/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/tokenizer/byte_bpe.h"
#include "server/tokenizer/byte_fallback_bpe.h"
#include "server/tokenizer/json_file.h"
#include "server/tokenizer/pretokenizer.h"

namespace attune {
namespace {

using nlohmann::json;

constexpr char kMark[] = "\xE2\x96\x81";

// A component that may be a Sequence of components, as a flat list; null is none.
// Pointers, since a copy of hostile JSON would recurse as deep as it nests.
absl::Status Flatten(const json& component, const char* list_key, int depth, std::vector<const json*>* out) {
  if (component.is_null()) return absl::OkStatus();
  if (depth > 8 || out->size() > 64) return UnsupportedTokenizer("its tokenizer.json nests too deep");
  if (TextOf(Member(component, "type")) != "Sequence") {
    out->push_back(&component);
    return absl::OkStatus();
  }
  for (const json& part : Member(component, list_key)) {
    ATTUNE_RETURN_IF_ERROR(Flatten(part, list_key, depth + 1, out));
  }
  return absl::OkStatus();
}

absl::Status Unknown(const char* what, const json& component) {
  return UnsupportedTokenizer(absl::StrCat(what, " \"", TextOf(Member(component, "type"), "?"), "\" of tokenizer.json"));
}

std::string QuoteRegex(const std::string& text) {
  std::string quoted;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) < 0x80 && !isalnum(static_cast<uint8_t>(c))) quoted += '\\';
    quoted += c;
  }
  return quoted;
}

// What the parts of a tokenizer.json say together.
struct Recipe {
  bool byte_level = false;
  ByteBpeOptions bytes;
  ByteFallbackBpeOptions marked;
  bool mark_spaces = false;    // a part turns spaces into marks
  bool has_normalizer = false;
};

absl::Status ReadNormalizers(const json& root, Recipe* recipe) {
  std::vector<const json*> parts;
  ATTUNE_RETURN_IF_ERROR(Flatten(Member(root, "normalizer"), "normalizers", 0, &parts));
  recipe->marked.prefix = PrefixScheme::kNever;
  for (const json* const item : parts) {
    const json& part = *item;
    const std::string type = TextOf(Member(part, "type"));
    // Prepend comes first in every file that has it; after Replace it is the same.
    if (type == "Prepend" && TextOf(Member(part, "prepend")) == kMark) {
      recipe->marked.prefix = PrefixScheme::kAlways;
    } else if (type == "Replace" && TextOf(Member(Member(part, "pattern"), "String")) == " " &&
               TextOf(Member(part, "content")) == kMark) {
      recipe->mark_spaces = true;
    } else if (type == "NFC" && parts.size() == 1) {
      recipe->bytes.normalizes = true;
    } else {
      return Unknown("normalizer", part);
    }
  }
  recipe->has_normalizer = !parts.empty();
  return absl::OkStatus();
}

absl::Status ReadMetaspace(const json& part, Recipe* recipe) {
  if (recipe->has_normalizer) return UnsupportedTokenizer("a normalizer beside pre_tokenizer \"Metaspace\"");
  if (TextOf(Member(part, "replacement"), kMark) != kMark) {
    return UnsupportedTokenizer("the replacement of pre_tokenizer \"Metaspace\"");
  }
  const std::string scheme =
      TextOf(Member(part, "prepend_scheme"), BoolOf(Member(part, "add_prefix_space"), true) ? "always" : "never");
  if (scheme == "always") {
    recipe->marked.prefix = PrefixScheme::kIfMissing;
  } else if (scheme == "first") {
    recipe->marked.prefix = PrefixScheme::kFirst;
  } else if (scheme != "never") {
    return UnsupportedTokenizer(absl::StrCat("prepend_scheme \"", scheme, "\" of pre_tokenizer \"Metaspace\""));
  }
  recipe->mark_spaces = true;
  recipe->marked.split_words = BoolOf(Member(part, "split"), true);
  return absl::OkStatus();
}

absl::Status ReadSplit(const json& part, Recipe* recipe) {
  if (TextOf(Member(part, "behavior")) != "Isolated") {
    return UnsupportedTokenizer(
        absl::StrCat("behavior \"", TextOf(Member(part, "behavior"), "?"), "\" of pre_tokenizer \"Split\""));
  }
  const json& pattern = Member(part, "pattern");
  if (Member(pattern, "Regex").is_string()) {
    recipe->bytes.patterns.push_back(TextOf(Member(pattern, "Regex")));
  } else if (Member(pattern, "String").is_string()) {
    recipe->bytes.patterns.push_back(QuoteRegex(TextOf(Member(pattern, "String"))));
  } else {
    return UnsupportedTokenizer("the pattern of pre_tokenizer \"Split\"");
  }
  return absl::OkStatus();
}

absl::Status ReadPretokenizers(const json& root, Recipe* recipe) {
  std::vector<const json*> parts;
  ATTUNE_RETURN_IF_ERROR(Flatten(Member(root, "pre_tokenizer"), "pretokenizers", 0, &parts));
  for (size_t i = 0; i < parts.size(); ++i) {
    const json& part = *parts[i];
    const std::string type = TextOf(Member(part, "type"));
    if (recipe->byte_level || (type == "Metaspace" && parts.size() > 1)) return Unknown("the place of pre_tokenizer", part);
    if (type == "ByteLevel") {
      recipe->byte_level = true;
      recipe->bytes.add_prefix_space = BoolOf(Member(part, "add_prefix_space"), true);
      if (recipe->bytes.add_prefix_space && i > 0) {
        return UnsupportedTokenizer("add_prefix_space of pre_tokenizer \"ByteLevel\" after another");
      }
      if (BoolOf(Member(part, "use_regex"), true)) recipe->bytes.patterns.push_back(Gpt2Pattern());
    } else if (type == "Digits") {
      recipe->bytes.patterns.push_back(BoolOf(Member(part, "individual_digits"), false) ? R"(\p{N})" : R"(\p{N}+)");
    } else if (type == "Split" && recipe->mark_spaces && TextOf(Member(Member(part, "pattern"), "String")) == " ") {
      // Gemma's: no blank is left where the normalizer has marked them.
    } else if (type == "Split") {
      ATTUNE_RETURN_IF_ERROR(ReadSplit(part, recipe));
    } else if (type == "Metaspace") {
      ATTUNE_RETURN_IF_ERROR(ReadMetaspace(part, recipe));
    } else {
      return Unknown("pre_tokenizer", part);
    }
  }
  if (recipe->byte_level && recipe->has_normalizer && !recipe->bytes.normalizes) {
    return UnsupportedTokenizer("a normalizer other than NFC before byte-level BPE");
  }
  if (!recipe->byte_level && recipe->bytes.normalizes) {
    return UnsupportedTokenizer("normalizer \"NFC\" without byte-level BPE");
  }
  if (!recipe->byte_level && !recipe->bytes.patterns.empty()) {
    return UnsupportedTokenizer("a splitting pre_tokenizer without \"ByteLevel\"");
  }
  if (!recipe->byte_level && !recipe->mark_spaces) return UnsupportedTokenizer("BPE that neither is byte-level nor marks spaces");
  return absl::OkStatus();
}

absl::Status ReadDecoders(const json& root, Recipe* recipe) {
  std::vector<const json*> parts;
  ATTUNE_RETURN_IF_ERROR(Flatten(Member(root, "decoder"), "decoders", 0, &parts));
  bool byte_level = false;
  recipe->marked.drops_space = false;
  for (const json* const item : parts) {
    const json& part = *item;
    const std::string type = TextOf(Member(part, "type"));
    if (type == "ByteLevel") {
      byte_level = true;
    } else if (type == "Strip") {
      const bool one_space = TextOf(Member(part, "content")) == " " && IdOf(Member(part, "start")) == 1 &&
                             IdOf(Member(part, "stop")) == 0;
      if (!one_space) return UnsupportedTokenizer("decoder \"Strip\" of tokenizer.json");
      recipe->marked.drops_space = true;
    } else if (type == "Metaspace") {
      recipe->marked.drops_space = recipe->marked.prefix != PrefixScheme::kNever;
    } else if (type == "Replace") {
      const bool unmark = TextOf(Member(Member(part, "pattern"), "String")) == kMark && TextOf(Member(part, "content")) == " ";
      if (!unmark) return Unknown("decoder", part);
    } else if (type != "ByteFallback" && type != "Fuse") {
      return Unknown("decoder", part);
    }
  }
  if (byte_level != recipe->byte_level) return UnsupportedTokenizer("a decoder that does not fit the pre_tokenizer");
  return absl::OkStatus();
}

absl::Status CheckPostProcessor(const json& root) {
  std::vector<const json*> parts;
  ATTUNE_RETURN_IF_ERROR(Flatten(Member(root, "post_processor"), "processors", 0, &parts));
  for (const json* const item : parts) {
    const json& part = *item;
    const std::string type = TextOf(Member(part, "type"));
    if (type != "TemplateProcessing" && type != "ByteLevel") return Unknown("post_processor", part);
  }
  return absl::OkStatus();
}

absl::StatusOr<BpeMerges> ReadMerges(const json& model) {
  const json& list = Member(model, "merges");
  if (!list.is_array()) return UnsupportedTokenizer("a BPE model without merges");
  if (list.size() > 2 * kMaxVocabulary) return UnsupportedTokenizer("it has too many merges");
  BpeMerges merges;
  merges.reserve(list.size());
  for (const json& merge : list) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.emplace_back(TextOf(merge[0]), TextOf(merge[1]));
      continue;
    }
    const std::string text = TextOf(merge);
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return UnsupportedTokenizer(absl::StrCat("merge ", merges.size(), " is not two tokens"));
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return merges;
}

absl::StatusOr<Vocabulary> ReadVocabulary(const json& model) {
  const json& map = Member(model, "vocab");
  if (!map.is_object()) return UnsupportedTokenizer("a BPE model without vocab");
  if (map.size() > kMaxVocabulary) return UnsupportedTokenizer("its vocabulary is too large");
  Vocabulary vocabulary;
  for (const auto& [token, value] : map.items()) {
    const int32_t id = IdOf(value);
    if (id < 0 || id >= kMaxVocabulary) return UnsupportedTokenizer(absl::StrCat("the id of token \"", token, "\""));
    if (id >= vocabulary.tokens.size()) {
      vocabulary.tokens.resize(id + 1);
      vocabulary.kinds.resize(id + 1, TokenKind::kUnused);
    }
    if (vocabulary.kinds[id] != TokenKind::kUnused) {
      return UnsupportedTokenizer(absl::StrCat("two tokens have the id ", id));
    }
    vocabulary.tokens[id] = token;
    vocabulary.kinds[id] = TokenKind::kNormal;
  }
  return vocabulary;
}

absl::Status ReadAddedTokens(const json& root, const std::vector<AddedToken>& more, bool has_normalizer,
                             Vocabulary* vocabulary) {
  std::vector<AddedToken> added;
  const json& list = Member(root, "added_tokens");
  for (const json& value : list) {
    ATTUNE_ASSIGN_OR_RETURN(AddedToken token, AddedTokenFromJson(value));
    if (has_normalizer && BoolOf(Member(value, "normalized"), false)) {
      return UnsupportedTokenizer(absl::StrCat("added token \"", token.text, "\" is looked for in normalized text"));
    }
    added.push_back(std::move(token));
  }
  const size_t own = added.size();
  for (const AddedToken& token : more) {
    const auto same = [&token](const AddedToken& a) { return a.id == token.id || a.text == token.text; };
    if (std::none_of(added.begin(), added.begin() + own, same)) added.push_back(token);
  }
  return AddTokens(added, vocabulary);
}

absl::Status ReadModel(const json& model, Recipe* recipe) {
  const std::string type = TextOf(Member(model, "type"), Member(model, "merges").is_array() ? "BPE" : "?");
  if (type != "BPE") return UnsupportedTokenizer(absl::StrCat("model type \"", type, "\" of tokenizer.json"));
  const json& dropout = Member(model, "dropout");
  if (dropout.is_number() && dropout.get<double>() != 0) return UnsupportedTokenizer("BPE dropout");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!TextOf(Member(model, key)).empty()) return UnsupportedTokenizer(absl::StrCat(key, " of its BPE model"));
  }
  recipe->marked.byte_fallback = BoolOf(Member(model, "byte_fallback"), false);
  recipe->marked.fuse_unknown = BoolOf(Member(model, "fuse_unk"), false);
  recipe->marked.ignore_merges = recipe->bytes.ignore_merges = BoolOf(Member(model, "ignore_merges"), false);
  return absl::OkStatus();
}

// All of a file.
struct Parts {
  Recipe recipe;
  Vocabulary vocabulary;
  BpeMerges merges;
  int32_t unk_id = -1;  // if the file names one
};

absl::StatusOr<Parts> ReadParts(const json& root, const std::vector<AddedToken>& more_added) {
  const json& model = Member(root, "model");
  Parts parts;
  ATTUNE_RETURN_IF_ERROR(ReadModel(model, &parts.recipe));
  ATTUNE_RETURN_IF_ERROR(ReadNormalizers(root, &parts.recipe));
  ATTUNE_RETURN_IF_ERROR(ReadPretokenizers(root, &parts.recipe));
  ATTUNE_RETURN_IF_ERROR(ReadDecoders(root, &parts.recipe));
  ATTUNE_RETURN_IF_ERROR(CheckPostProcessor(root));
  ATTUNE_ASSIGN_OR_RETURN(parts.vocabulary, ReadVocabulary(model));
  ATTUNE_ASSIGN_OR_RETURN(parts.merges, ReadMerges(model));
  ATTUNE_RETURN_IF_ERROR(ReadAddedTokens(root, more_added, parts.recipe.has_normalizer, &parts.vocabulary));
  const std::string unknown = TextOf(Member(model, "unk_token"));
  if (unknown.empty()) return parts;
  const auto it = std::find(parts.vocabulary.tokens.begin(), parts.vocabulary.tokens.end(), unknown);
  if (it == parts.vocabulary.tokens.end()) return UnsupportedTokenizer("its unknown token is not in the vocabulary");
  parts.unk_id = static_cast<int32_t>(it - parts.vocabulary.tokens.begin());
  return parts;
}

}  // namespace

absl::StatusOr<AddedToken> AddedTokenFromJson(const json& value, int32_t id) {
  AddedToken token;
  token.id = id >= 0 ? id : IdOf(Member(value, "id"));
  token.text = TextOf(Member(value, "content"));
  token.special = BoolOf(Member(value, "special"), false);
  token.strip_left = BoolOf(Member(value, "lstrip"), false);
  token.strip_right = BoolOf(Member(value, "rstrip"), false);
  if (token.id < 0 || token.text.empty()) return UnsupportedTokenizer("an added token without id or content");
  if (BoolOf(Member(value, "single_word"), false)) {
    return UnsupportedTokenizer(absl::StrCat("single_word of added token \"", token.text, "\""));
  }
  return token;
}

int32_t FirstTokenOfPostProcessor(const json& root) {
  std::vector<const json*> parts;
  if (!Flatten(Member(root, "post_processor"), "processors", 0, &parts).ok()) return -1;
  for (const json* const item : parts) {
    const json& part = *item;
    const json& single = Member(part, "single");
    if (!single.is_array() || single.empty()) continue;
    const std::string name = TextOf(Member(Member(single[0], "SpecialToken"), "id"));
    const json& ids = Member(Member(Member(part, "special_tokens"), name.c_str()), "ids");
    if (!name.empty() && ids.is_array() && ids.size() == 1) return IdOf(ids[0]);
  }
  return -1;
}

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> TokenizerFromJson(const json& root,
                                                                       const std::vector<AddedToken>& more_added,
                                                                       TokenizerSettings* settings) {
  ATTUNE_ASSIGN_OR_RETURN(Parts parts, ReadParts(root, more_added));
  if (parts.unk_id >= 0) settings->unk_id = parts.unk_id;
  if (parts.recipe.byte_level) {
    parts.recipe.bytes.unk_id = settings->unk_id;
    return MakeByteBpe(std::move(parts.vocabulary), parts.merges, parts.recipe.bytes);
  }
  parts.recipe.marked.unk_id = settings->unk_id;
  return MakeByteFallbackBpe(std::move(parts.vocabulary), parts.merges, parts.recipe.marked);
}

absl::StatusOr<std::variant<ByteBpeParts, ByteFallbackBpeParts>> PartsFromJson(const json& root,
                                                                               const std::vector<AddedToken>& more_added) {
  ATTUNE_ASSIGN_OR_RETURN(Parts parts, ReadParts(root, more_added));
  if (parts.recipe.byte_level) {
    parts.recipe.bytes.unk_id = parts.unk_id;
    return ByteBpeParts{std::move(parts.vocabulary), std::move(parts.merges), std::move(parts.recipe.bytes)};
  }
  parts.recipe.marked.unk_id = parts.unk_id;
  return ByteFallbackBpeParts{std::move(parts.vocabulary), std::move(parts.merges), parts.recipe.marked};
}

}  // namespace attune
