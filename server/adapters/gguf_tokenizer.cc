#include "server/adapters/gguf_tokenizer.h"

#include <set>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/weights/gguf_writer.h"
#include "server/tokenizer/byte_bpe_files.h"
#include "server/tokenizer/pretokenizer.h"

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
  absl::StatusOr<ByteBpeParts> parts = LoadByteBpeParts(directory);
  if (!parts.ok()) {
    if (!absl::IsInvalidArgument(parts.status())) return parts.status();
    return CannotExport(absl::StrCat("only byte-level BPE can (", std::string(parts.status().message()), ")"));
  }
  const ByteBpeOptions& options = parts->options;
  if (options.add_prefix_space) return CannotExport("it puts a space before a text");
  const PretokenizerRule* const rule = FindPretokenizerRule(options.patterns, options.ignore_merges, options.normalizes);
  if (rule == nullptr) return CannotExport("its way to split text into words has no name there that Attune knows");
  ATTUNE_RETURN_IF_ERROR(CheckAdded(parts->vocabulary.added));
  ATTUNE_RETURN_IF_ERROR(FillVocabulary(vocab, &parts->vocabulary));
  std::vector<int32_t> types;
  for (const TokenKind kind : parts->vocabulary.kinds) types.push_back(static_cast<int32_t>(kind));
  std::vector<std::string> merges;
  for (const auto& [left, right] : parts->merges) merges.push_back(absl::StrCat(left, " ", right));
  std::vector<std::string> keys = {EncodeGgufText("tokenizer.ggml.model", "gpt2"),
                                   EncodeGgufText("tokenizer.ggml.pre", rule->name),
                                   EncodeGgufTexts("tokenizer.ggml.tokens", parts->vocabulary.tokens),
                                   EncodeGgufInts("tokenizer.ggml.token_type", types),
                                   EncodeGgufTexts("tokenizer.ggml.merges", merges)};
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
  for (int32_t id = 0; id < written.vocab_size(); ++id) {
    const std::string token = written.TokenBytes(id);
    // Rows without a token have got one that no text has.
    if (token.empty()) continue;
    if (token != read.TokenBytes(id) || written.IsSpecial(id) != read.IsSpecial(id)) {
      return CannotExport(absl::StrCat("token ", id, " is another there"));
    }
  }
  return absl::OkStatus();
}

}  // namespace attune
