#include "server/adapters/gguf_tokenizer.h"

#include <algorithm>
#include <set>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/adapters/scored_bpe.h"
#include "server/adapters/token_difference.h"
#include "server/model/weights/gguf_writer.h"
#include "server/tokenizer/phi3_tokens.h"
#include "server/tokenizer/pretokenizer.h"
#include "server/tokenizer/tokenizer_parts.h"

namespace attune {
namespace {

absl::Status CannotExport(absl::string_view what) {
  return MakeError(absl::StatusCode::kFailedPrecondition, "EXPORT_UNSUPPORTED",
                   absl::StrCat("The model's tokenizer cannot be written to a GGUF file: ", what,
                                ". Export the model as safetensors."));
}

// Every row of the table has a token, and no two are the same.
absl::Status FillVocabulary(int64_t vocab, Vocabulary* vocabulary) {
  if (static_cast<int64_t>(vocabulary->tokens.size()) > vocab) {
    return CannotExport(absl::StrCat("it has ", vocabulary->tokens.size(), " tokens, and the model only ", vocab));
  }
  vocabulary->tokens.resize(vocab);
  vocabulary->kinds.resize(vocab, TokenKind::kUnused);
  absl::flat_hash_set<std::string> seen;
  for (int64_t id = 0; id < vocab; ++id) {
    std::string& token = vocabulary->tokens[id];
    if (token.empty()) token = absl::StrCat("[PAD", id, "]");
    if (!seen.insert(token).second) return CannotExport(absl::StrCat("two of its tokens are \"", token, "\""));
  }
  return absl::OkStatus();
}

absl::Status CheckAdded(const std::vector<AddedToken>& added) {
  for (const AddedToken& token : added) {
    if (token.strip_left || token.strip_right) {
      return CannotExport(absl::StrCat("\"", token.text, "\" takes the blanks beside it, which such files cannot say"));
    }
  }
  return absl::OkStatus();
}

// Whether the tokens that take the blanks behind them are those of Phi-3, whose name says so.
bool StripsLikePhi3(const Vocabulary& vocabulary) {
  const std::vector<std::string>& tokens = vocabulary.tokens;
  for (const absl::string_view needed : kPhi3Tokens) {
    if (std::find(tokens.begin(), tokens.end(), needed) == tokens.end()) return false;
  }
  // The last one of a text counts.
  std::vector<bool> strips(tokens.size(), false);
  for (const AddedToken& token : vocabulary.added) {
    if (token.strip_left) return false;
    strips[token.id] = token.strip_right;
  }
  for (size_t id = 0; id < tokens.size(); ++id) {
    const TokenKind kind = vocabulary.kinds[id];
    const bool is_found = kind == TokenKind::kControl || kind == TokenKind::kUnknown || kind == TokenKind::kUserDefined;
    if (is_found && strips[id] != Phi3TakesBlanks(tokens[id])) return false;
  }
  return true;
}

std::vector<int32_t> TypesOf(const Vocabulary& vocabulary) {
  std::vector<int32_t> types;
  for (const TokenKind kind : vocabulary.kinds) types.push_back(static_cast<int32_t>(kind));
  return types;
}

absl::StatusOr<std::vector<std::string>> ByteBpeKeys(ByteBpeParts parts, int64_t vocab) {
  const ByteBpeOptions& options = parts.options;
  if (options.add_prefix_space) return CannotExport("it puts a space before a text");
  const PretokenizerRule* const rule = FindPretokenizerRule(options.patterns, options.ignore_merges, options.normalizes);
  if (rule == nullptr) return CannotExport("its way to split text into words has no name there that Attune knows");
  ATTUNE_RETURN_IF_ERROR(CheckAdded(parts.vocabulary.added));
  ATTUNE_RETURN_IF_ERROR(FillVocabulary(vocab, &parts.vocabulary));
  std::vector<std::string> merges;
  for (const auto& [left, right] : parts.merges) merges.push_back(absl::StrCat(left, " ", right));
  return std::vector<std::string>{EncodeGgufText("tokenizer.ggml.model", "gpt2"),
                                  EncodeGgufText("tokenizer.ggml.pre", rule->name),
                                  EncodeGgufTexts("tokenizer.ggml.tokens", parts.vocabulary.tokens),
                                  EncodeGgufInts("tokenizer.ggml.token_type", TypesOf(parts.vocabulary)),
                                  EncodeGgufTexts("tokenizer.ggml.merges", merges)};
}

absl::StatusOr<std::vector<std::string>> ScoredBpeKeys(absl::StatusOr<ScoredBpe> bpe, int64_t vocab) {
  if (!bpe.ok()) return CannotExport(bpe.status().message());
  const std::vector<TokenKind>& kinds = bpe->vocabulary.kinds;
  const bool is_phi3 = StripsLikePhi3(bpe->vocabulary);
  if (!is_phi3) {
    ATTUNE_RETURN_IF_ERROR(CheckAdded(bpe->vocabulary.added));
    // SentencePiece puts none there, and llama.cpp does.
    const bool has_user_defined = std::find(kinds.begin(), kinds.end(), TokenKind::kUserDefined) != kinds.end();
    if (bpe->add_space_prefix && has_user_defined) {
      return CannotExport("it puts a space before a text, and readers differ in whether one is behind its tokens of the user's");
    }
  }
  ATTUNE_RETURN_IF_ERROR(FillVocabulary(vocab, &bpe->vocabulary));
  bpe->scores.resize(vocab, *std::min_element(bpe->scores.begin(), bpe->scores.end()) - 1);
  std::vector<std::string> keys = {EncodeGgufText("tokenizer.ggml.model", "llama"),
                                   EncodeGgufText("tokenizer.ggml.pre", "default"),
                                   EncodeGgufTexts("tokenizer.ggml.tokens", bpe->vocabulary.tokens),
                                   EncodeGgufReals("tokenizer.ggml.scores", bpe->scores),
                                   EncodeGgufInts("tokenizer.ggml.token_type", TypesOf(bpe->vocabulary)),
                                   EncodeGgufBool("tokenizer.ggml.add_space_prefix", bpe->add_space_prefix)};
  if (is_phi3) keys.push_back(EncodeGgufText("general.name", "Phi-3"));
  return keys;
}

absl::StatusOr<std::vector<std::string>> VocabularyKeys(TokenizerParts parts, int64_t vocab) {
  if (auto* bytes = std::get_if<ByteBpeParts>(&parts)) return ByteBpeKeys(std::move(*bytes), vocab);
  if (const auto* marked = std::get_if<ByteFallbackBpeParts>(&parts)) return ScoredBpeKeys(ToScoredBpe(*marked), vocab);
  return ScoredBpeKeys(ToScoredBpe(std::get<SentencePieceParts>(parts)), vocab);
}

// Which tokens are special, and what ends an answer: eos, then the ends of a turn and of a message.
absl::Status AddIds(const Tokenizer& tokenizer, std::vector<std::string>* keys) {
  auto add = [keys](absl::string_view name, int32_t id) {
    if (id >= 0) keys->push_back(EncodeGgufKey(absl::StrCat("tokenizer.ggml.", name), static_cast<uint32_t>(id)));
  };
  add("bos_token_id", tokenizer.bos_id());
  add("eos_token_id", tokenizer.eos_id());
  add("unknown_token_id", tokenizer.unk_id());
  add("padding_token_id", tokenizer.pad_id());
  std::vector<int32_t> more;
  for (const int32_t id : tokenizer.end_ids()) {
    if (id != tokenizer.eos_id()) more.push_back(id);
  }
  if (more.size() > 2) return CannotExport("more than three tokens end an answer");
  if (!more.empty()) add("eot_token_id", more[0]);
  if (more.size() > 1) add("eom_token_id", more[1]);
  keys->push_back(EncodeGgufBool("tokenizer.ggml.add_bos_token", tokenizer.add_bos()));
  keys->push_back(EncodeGgufBool("tokenizer.ggml.add_eos_token", false));
  if (!tokenizer.chat_template().empty()) keys->push_back(EncodeGgufText("tokenizer.chat_template", tokenizer.chat_template()));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> GgufTokenizerKeys(const std::string& directory, const Tokenizer& tokenizer,
                                                           int64_t vocab) {
  absl::StatusOr<TokenizerParts> parts = LoadTokenizerParts(directory);
  if (!parts.ok()) {
    return absl::IsInvalidArgument(parts.status()) ? CannotExport(parts.status().message()) : parts.status();
  }
  ATTUNE_ASSIGN_OR_RETURN(std::vector<std::string> keys, VocabularyKeys(*std::move(parts), vocab));
  ATTUNE_RETURN_IF_ERROR(AddIds(tokenizer, &keys));
  return keys;
}

absl::Status CheckSameTokenizer(const Tokenizer& written, const Tokenizer& read) {
  const std::set<int32_t> ends(written.end_ids().begin(), written.end_ids().end());
  const std::set<int32_t> ends_read(read.end_ids().begin(), read.end_ids().end());
  if (written.bos_id() != read.bos_id() || written.eos_id() != read.eos_id() || written.unk_id() != read.unk_id() ||
      written.pad_id() != read.pad_id() || ends != ends_read || written.add_bos() != read.add_bos()) {
    return CannotExport("its special tokens are others there");
  }
  if (written.chat_template() != read.chat_template()) return CannotExport("its chat template is another there");
  const std::string difference = TokenDifference(written, read);
  return difference.empty() ? absl::OkStatus() : CannotExport(absl::StrCat("there ", difference));
}

}  // namespace attune
