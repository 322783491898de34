#include "server/tokenizer/load.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"
#include "server/tokenizer/byte_bpe.h"
#include "server/tokenizer/phi3_tokens.h"
#include "server/tokenizer/pretokenizer.h"
#include "server/tokenizer/sentencepiece_tokenizer.h"
#include "server/tokenizer/tokenizer_parts.h"

namespace attune {
namespace {

// What SentencePiece has in place of a blank.
constexpr char kSentencePieceMark[] = "\xE2\x96\x81";

// An id of the file's metadata; -1 if it has none.
absl::StatusOr<int32_t> ReadId(const GgufFile& file, absl::string_view name) {
  ATTUNE_ASSIGN_OR_RETURN(const int64_t id, file.Int(absl::StrCat("tokenizer.ggml.", name), -1));
  // A writer's -1 may come as an unsigned 32-bit number.
  return id < 0 || id >= kMaxVocabulary ? -1 : static_cast<int32_t>(id);
}

absl::StatusOr<TokenizerSettings> ReadSettings(const GgufFile& file, bool default_add_bos) {
  TokenizerSettings settings;
  ATTUNE_ASSIGN_OR_RETURN(settings.bos_id, ReadId(file, "bos_token_id"));
  ATTUNE_ASSIGN_OR_RETURN(settings.eos_id, ReadId(file, "eos_token_id"));
  ATTUNE_ASSIGN_OR_RETURN(settings.unk_id, ReadId(file, "unknown_token_id"));
  ATTUNE_ASSIGN_OR_RETURN(settings.pad_id, ReadId(file, "padding_token_id"));
  for (const char* name : {"eot_token_id", "eom_token_id"}) {
    ATTUNE_ASSIGN_OR_RETURN(const int32_t id, ReadId(file, name));
    if (id >= 0) settings.more_end_ids.push_back(id);
  }
  ATTUNE_ASSIGN_OR_RETURN(settings.add_bos, file.Bool("tokenizer.ggml.add_bos_token", default_add_bos));
  ATTUNE_ASSIGN_OR_RETURN(settings.chat_template, file.Text("tokenizer.chat_template", ""));
  return settings;
}

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file) {
  const std::vector<std::string>* const tokens = file.Texts("tokenizer.ggml.tokens");
  if (tokens == nullptr) return UnsupportedTokenizer("the file has no tokenizer.ggml.tokens");
  Vocabulary vocabulary;
  vocabulary.tokens = *tokens;
  vocabulary.kinds.assign(tokens->size(), TokenKind::kNormal);
  const std::vector<int64_t>* const types = file.Ints("tokenizer.ggml.token_type");
  if (types == nullptr) return vocabulary;
  if (types->size() != tokens->size()) return UnsupportedTokenizer("it has not one type per token");
  for (size_t id = 0; id < types->size(); ++id) {
    const int64_t type = (*types)[id];
    if (type < 1 || type > 6) return UnsupportedTokenizer(absl::StrCat("token ", id, " has type ", type));
    vocabulary.kinds[id] = static_cast<TokenKind>(type);
  }
  return vocabulary;
}

// Tokens that are found in the text before it is split.
std::vector<AddedToken> AddedOf(const Vocabulary& vocabulary) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const TokenKind kind = vocabulary.kinds[id];
    if (kind != TokenKind::kControl && kind != TokenKind::kUnknown && kind != TokenKind::kUserDefined) continue;
    added.push_back({static_cast<int32_t>(id), vocabulary.tokens[id], kind != TokenKind::kUserDefined});
  }
  return added;
}

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> LoadByteBpe(const GgufFile& file, TokenizerSettings* settings) {
  ATTUNE_ASSIGN_OR_RETURN(*settings, ReadSettings(file, false));
  ATTUNE_ASSIGN_OR_RETURN(const std::string name, file.Text("tokenizer.ggml.pre", ""));
  const PretokenizerRule* const rule = FindPretokenizerRule(name);
  if (rule == nullptr) return UnsupportedTokenizer(absl::StrCat("pre-tokenizer \"", name, "\" of the GGUF file"));
  // Llama 3 puts its first token before every text, and older files do not say so.
  if (!file.Has("tokenizer.ggml.add_bos_token")) settings->add_bos = rule->adds_bos;
  ATTUNE_ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(file));
  vocabulary.added = AddedOf(vocabulary);
  const std::vector<std::string>* const lines = file.Texts("tokenizer.ggml.merges");
  if (lines == nullptr) return UnsupportedTokenizer("the file has no tokenizer.ggml.merges");
  BpeMerges merges;
  for (const std::string& line : *lines) {
    const size_t space = line.find(' ', 1);
    if (space == std::string::npos) return UnsupportedTokenizer(absl::StrCat("merge \"", line, "\" is not two tokens"));
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  ByteBpeOptions options;
  options.patterns = rule->patterns;
  options.ignore_merges = rule->ignore_merges;
  options.normalizes = rule->normalizes;
  options.unk_id = settings->unk_id;
  return MakeByteBpe(std::move(vocabulary), merges, options);
}

// As SentencePiece has the file's tokens. Converters write user-defined ones as they look in texts, with their blanks, and may
// give the unknown token, of which SentencePiece needs one, out as a special token like others.
void TakeSentencePieceForm(int32_t unk_id, Vocabulary* vocabulary) {
  bool has_unknown = false;
  for (size_t id = 0; id < vocabulary->tokens.size(); ++id) {
    std::string& token = vocabulary->tokens[id];
    const TokenKind kind = vocabulary->kinds[id];
    if (kind == TokenKind::kUserDefined) token = absl::StrReplaceAll(token, {{" ", kSentencePieceMark}});
    has_unknown = has_unknown || kind == TokenKind::kUnknown;
  }
  const bool names_one = unk_id >= 0 && unk_id < static_cast<int32_t>(vocabulary->tokens.size());
  if (!has_unknown && names_one && vocabulary->kinds[unk_id] == TokenKind::kControl) {
    vocabulary->kinds[unk_id] = TokenKind::kUnknown;
  }
}

// Tokens of Phi-3 that take the blanks behind them along, and those that do not: none of other models. Of a file of its
// architecture that has another name nothing is known.
absl::StatusOr<std::vector<AddedToken>> StrippingTokens(const GgufFile& file, const Vocabulary& vocabulary) {
  ATTUNE_ASSIGN_OR_RETURN(const std::string name, file.Text("general.name", ""));
  ATTUNE_ASSIGN_OR_RETURN(const std::string architecture, file.Text("general.architecture", ""));
  if (!IsPhi3Name(name)) {
    if (architecture != "phi3") return std::vector<AddedToken>();
    return UnsupportedTokenizer("the SentencePiece tokenizer of a phi3 GGUF file whose general.name does not say that it is Phi-3's");
  }
  for (const absl::string_view token : kPhi3Tokens) {
    if (std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), token) != vocabulary.tokens.end()) continue;
    return UnsupportedTokenizer(absl::StrCat("the tokenizer of Phi-3 that the file names, without \"", token, "\""));
  }
  std::vector<AddedToken> tokens = AddedOf(vocabulary);
  for (AddedToken& token : tokens) token.strip_right = Phi3TakesBlanks(token.text);
  return tokens;
}

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> LoadSentencePiece(const GgufFile& file,
                                                                       TokenizerSettings* settings) {
  ATTUNE_ASSIGN_OR_RETURN(*settings, ReadSettings(file, true));
  ATTUNE_ASSIGN_OR_RETURN(const SentencePieceParts parts, LoadSentencePieceParts(file));
  std::string error;
  auto model = SentencePieceBridge::FromTokens(SentencePieceTokens(parts), parts.add_space_prefix, parts.removes_extra_spaces, &error);
  if (model == nullptr) return UnsupportedTokenizer(error);
  return MakeSentencePiece(std::move(model), {}, settings, parts.vocabulary.added);
}

}  // namespace

absl::StatusOr<SentencePieceParts> LoadSentencePieceParts(const GgufFile& file) {
  SentencePieceParts parts;
  ATTUNE_ASSIGN_OR_RETURN(parts.add_space_prefix, file.Bool("tokenizer.ggml.add_space_prefix", true));
  ATTUNE_ASSIGN_OR_RETURN(parts.removes_extra_spaces, file.Bool("tokenizer.ggml.remove_extra_whitespaces", false));
  ATTUNE_ASSIGN_OR_RETURN(parts.vocabulary, ReadVocabulary(file));
  if (parts.vocabulary.tokens.size() > kMaxVocabulary) return UnsupportedTokenizer("its vocabulary is too large");
  const std::vector<double>* const scores = file.Reals("tokenizer.ggml.scores");
  if (scores == nullptr || scores->size() != parts.vocabulary.tokens.size()) {
    return UnsupportedTokenizer("the file has not one score per token");
  }
  for (const double score : *scores) parts.scores.push_back(static_cast<float>(score));
  ATTUNE_ASSIGN_OR_RETURN(parts.vocabulary.added, StrippingTokens(file, parts.vocabulary));
  ATTUNE_ASSIGN_OR_RETURN(const int32_t unk_id, ReadId(file, "unknown_token_id"));
  TakeSentencePieceForm(unk_id, &parts.vocabulary);
  return parts;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file) {
  ATTUNE_ASSIGN_OR_RETURN(const std::string model, file.Text("tokenizer.ggml.model", ""));
  TokenizerSettings settings;
  absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> tokenizer =
      UnsupportedTokenizer(absl::StrCat("tokenizer.ggml.model \"", model, "\" of the GGUF file"));
  if (model == "gpt2") tokenizer = LoadByteBpe(file, &settings);
  if (model == "llama") tokenizer = LoadSentencePiece(file, &settings);
  if (!tokenizer.ok()) return tokenizer.status();
  (*tokenizer)->Configure(settings);
  return std::move(*tokenizer);
}

}  // namespace attune
