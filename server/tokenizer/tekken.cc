#include "server/tokenizer/tekken.h"

#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/tokenizer/byte_alphabet.h"
#include "server/tokenizer/byte_bpe.h"
#include "server/tokenizer/json_file.h"

namespace attune {
namespace {

using nlohmann::json;

// Those of files that list none.
constexpr const char* kFirstSpecialTokens[] = {"<unk>",
                                               "<s>",
                                               "</s>",
                                               "[INST]",
                                               "[/INST]",
                                               "[AVAILABLE_TOOLS]",
                                               "[/AVAILABLE_TOOLS]",
                                               "[TOOL_RESULTS]",
                                               "[/TOOL_RESULTS]",
                                               "[TOOL_CALLS]",
                                               "[IMG]",
                                               "<pad>",
                                               "[IMG_BREAK]",
                                               "[IMG_END]",
                                               "[PREFIX]",
                                               "[MIDDLE]",
                                               "[SUFFIX]",
                                               "[SYSTEM_PROMPT]",
                                               "[/SYSTEM_PROMPT]",
                                               "[TOOL_CONTENT]"};

absl::Status AddSpecialTokens(const json& root, int32_t count, Vocabulary* vocabulary) {
  vocabulary->kinds.assign(count, TokenKind::kControl);
  for (int32_t id = 0; id < count; ++id) vocabulary->tokens.push_back(absl::StrCat("<SPECIAL_", id, ">"));
  const json& list = Member(root, "special_tokens");
  if (!list.is_array()) {
    int32_t id = 0;
    for (const char* token : kFirstSpecialTokens) {
      if (id < count) vocabulary->tokens[id++] = token;
    }
    return absl::OkStatus();
  }
  for (const json& item : list) {
    const int32_t id = IdOf(Member(item, "rank"));
    const std::string text = TextOf(Member(item, "token_str"));
    if (id < 0 || id >= count || text.empty())
      return UnsupportedTokenizer("a special token of tekken.json without a rank among them, or text");
    vocabulary->tokens[id] = text;
  }
  return absl::OkStatus();
}

absl::Status AddTokensOf(const json& root, int32_t special, int32_t count, Vocabulary* vocabulary) {
  const json& list = Member(root, "vocab");
  vocabulary->tokens.resize(special + count);
  vocabulary->kinds.resize(special + count, TokenKind::kUnused);
  for (const json& item : list) {
    const int32_t rank = IdOf(Member(item, "rank"));
    if (rank < 0) return UnsupportedTokenizer("a token of tekken.json without a rank");
    if (rank >= count) continue;  // files hold more than the model knows
    std::string bytes;
    if (!absl::Base64Unescape(TextOf(Member(item, "token_bytes")), &bytes) || bytes.empty()) {
      return UnsupportedTokenizer(absl::StrCat("the bytes of token ", rank, " of tekken.json"));
    }
    std::string& token = vocabulary->tokens[special + rank];
    if (!token.empty()) return UnsupportedTokenizer(absl::StrCat("two tokens of tekken.json have the rank ", rank));
    for (const char byte : bytes) token += ByteAlphabetChar(static_cast<uint8_t>(byte));
    vocabulary->kinds[special + rank] = TokenKind::kNormal;
  }
  for (int32_t id = special; id < special + count; ++id) {
    if (vocabulary->tokens[id].empty())
      return UnsupportedTokenizer(absl::StrCat("tekken.json lacks the token of rank ", id - special));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> TekkenFromJson(const json& root, TokenizerSettings* settings) {
  const json& config = Member(root, "config");
  const int32_t size = IdOf(Member(config, "default_vocab_size")),
                special = IdOf(Member(config, "default_num_special_tokens"));
  const std::string pattern = TextOf(Member(config, "pattern"));
  if (size < 1 || special < 3 || special >= size || size > static_cast<int32_t>(kMaxVocabulary) || pattern.empty()) {
    return UnsupportedTokenizer("the sizes or the pattern in the config of tekken.json");
  }
  Vocabulary vocabulary;
  ATTUNE_RETURN_IF_ERROR(AddSpecialTokens(root, special, &vocabulary));
  ATTUNE_RETURN_IF_ERROR(AddTokensOf(root, special, size - special, &vocabulary));
  for (int32_t id = 0; id < special; ++id) vocabulary.added.push_back({id, vocabulary.tokens[id], /*special=*/true});
  ByteBpeOptions options;
  options.patterns = {pattern};
  options.ignore_merges = options.merges_by_rank = true;
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<VocabularyTokenizer> tokenizer,
                          MakeByteBpe(std::move(vocabulary), {}, options));
  settings->unk_id = tokenizer->TokenId("<unk>");
  settings->bos_id = tokenizer->TokenId("<s>");
  settings->eos_id = tokenizer->TokenId("</s>");
  settings->pad_id = tokenizer->TokenId("<pad>");
  return tokenizer;
}

}  // namespace attune
