#include "server/tokenizer/vocabulary_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/utf8.h"

namespace attune {

absl::Status UnsupportedTokenizer(absl::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "UNSUPPORTED_TOKENIZER",
                   absl::StrCat("The tokenizer is not supported: ", what, "."));
}

absl::Status CheckVocabulary(const Vocabulary& vocabulary) {
  const size_t size = vocabulary.tokens.size();
  if (size == 0) return UnsupportedTokenizer("its vocabulary is empty");
  if (size > kMaxVocabulary) return UnsupportedTokenizer(absl::StrCat("its vocabulary has ", size, " tokens"));
  if (vocabulary.kinds.size() != size) return UnsupportedTokenizer("it has not one type per token");
  for (const AddedToken& token : vocabulary.added) {
    if (token.id < 0 || token.id >= size) return UnsupportedTokenizer("the id of an added token is out of range");
    if (token.text.size() > kMaxAddedTokenBytes) {
      return UnsupportedTokenizer(absl::StrCat("added token ", token.id, " has ", token.text.size(), " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status AddTokens(const std::vector<AddedToken>& added, Vocabulary* vocabulary) {
  for (const AddedToken& token : added) {
    if (token.id < 0 || token.id >= kMaxVocabulary) return UnsupportedTokenizer("the id of an added token");
    if (token.id >= vocabulary->tokens.size()) {
      vocabulary->tokens.resize(token.id + 1);
      vocabulary->kinds.resize(token.id + 1, TokenKind::kUnused);
    }
    std::string& text = vocabulary->tokens[token.id];
    if (!text.empty() && text != token.text) {
      return UnsupportedTokenizer(
          absl::StrCat("added token \"", token.text, "\" has the id of token \"", text, "\""));
    }
    text = token.text;
    TokenKind& kind = vocabulary->kinds[token.id];
    if (kind != TokenKind::kUnknown) kind = token.special ? TokenKind::kControl : TokenKind::kUserDefined;
    vocabulary->added.push_back(token);
  }
  return absl::OkStatus();
}

VocabularyTokenizer::VocabularyTokenizer(Vocabulary vocabulary, std::vector<std::string> bytes, bool drops_space)
    : kinds_(std::move(vocabulary.kinds)),
      bytes_(std::move(bytes)),
      added_(vocabulary.added),
      drops_space_(drops_space) {
  index_.reserve(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!vocabulary.tokens[id].empty()) index_.try_emplace(std::move(vocabulary.tokens[id]), static_cast<int32_t>(id));
  }
}

void VocabularyTokenizer::Configure(const TokenizerSettings& settings) {
  const auto checked = [this](int32_t id) { return id >= 0 && id < vocab_size() ? id : -1; };
  bos_id_ = checked(settings.bos_id);
  eos_id_ = checked(settings.eos_id);
  unk_id_ = checked(settings.unk_id);
  pad_id_ = checked(settings.pad_id);
  add_bos_ = settings.add_bos && bos_id_ >= 0;
  chat_template_ = settings.chat_template;
  end_ids_.clear();
  if (eos_id_ >= 0) end_ids_.push_back(eos_id_);
  for (const int32_t id : settings.more_end_ids) {
    if (checked(id) >= 0 && std::find(end_ids_.begin(), end_ids_.end(), id) == end_ids_.end()) end_ids_.push_back(id);
  }
}

std::vector<int32_t> VocabularyTokenizer::Encode(absl::string_view text, bool parse_special) const {
  std::vector<int32_t> ids;
  bool first = true;
  for (const TextPiece& piece : added_.Split(text, parse_special)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      EncodeText(piece.text, first, &ids);
    }
    first = false;
  }
  return ids;
}

std::string VocabularyTokenizer::TokenBytes(int32_t id) const {
  return id >= 0 && id < vocab_size() ? bytes_[id] : std::string();
}

bool VocabularyTokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && (kinds_[id] == TokenKind::kControl || kinds_[id] == TokenKind::kUnknown);
}

int32_t VocabularyTokenizer::TokenId(absl::string_view token) const {
  const auto it = index_.find(token);
  return it == index_.end() ? -1 : it->second;
}

std::string VocabularyTokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || (skip_special && IsSpecial(id))) continue;
    text += bytes_[id];
  }
  absl::string_view rest = text;
  if (drops_space_ && !rest.empty() && rest[0] == ' ') rest.remove_prefix(1);
  return ReplaceBrokenUtf8(rest);
}

}  // namespace attune
