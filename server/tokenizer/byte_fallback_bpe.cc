#include "server/tokenizer/byte_fallback_bpe.h"

#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"
#include "common/utf8.h"
#include "server/tokenizer/byte_alphabet.h"

namespace attune {
namespace {

constexpr char kMark[] = "\xE2\x96\x81";

class ByteFallbackBpe : public VocabularyTokenizer {
 public:
  ByteFallbackBpe(Vocabulary vocabulary, std::vector<std::string> bytes, const std::array<int32_t, 256>& byte_ids,
                  BpeMerger merger, const ByteFallbackBpeOptions& options)
      : VocabularyTokenizer(std::move(vocabulary), std::move(bytes), options.drops_space),
        options_(options),
        merger_(std::move(merger)),
        byte_ids_(byte_ids) {}

 protected:
  void EncodeText(absl::string_view text, bool first, std::vector<int32_t>* ids) const override {
    const std::string marked = Mark(text, first);
    absl::string_view rest = marked;
    while (!rest.empty()) {
      size_t end = rest.size();
      if (options_.split_words) {
        const size_t next = rest.find(kMark, 1);
        if (next != absl::string_view::npos) end = next;
      }
      EncodeWord(rest.substr(0, end), ids);
      rest.remove_prefix(end);
    }
  }

 private:
  std::string Mark(absl::string_view text, bool first) const {
    std::string marked = absl::StrReplaceAll(text, {{" ", kMark}});
    const bool missing = !absl::StartsWith(marked, kMark);
    const bool add = options_.prefix == PrefixScheme::kAlways || (options_.prefix == PrefixScheme::kIfMissing && missing) ||
                     (options_.prefix == PrefixScheme::kFirst && first && missing);
    return add ? kMark + marked : marked;
  }

  void EncodeWord(absl::string_view word, std::vector<int32_t>* ids) const {
    if (options_.ignore_merges) {
      const int32_t whole = TokenId(word);
      if (whole >= 0) {
        ids->push_back(whole);
        return;
      }
    }
    std::vector<int32_t> symbols;
    symbols.reserve(word.size());
    bool unknown_before = false;
    for (size_t i = 0; i < word.size();) {
      const absl::string_view character = word.substr(i, DecodeUtf8(word, i).length);
      i += character.size();
      unknown_before = AddCharacter(character, unknown_before, &symbols);
    }
    merger_.Apply(&symbols);
    ids->insert(ids->end(), symbols.begin(), symbols.end());
  }

  // Returns whether the character is unknown.
  bool AddCharacter(absl::string_view character, bool unknown_before, std::vector<int32_t>* symbols) const {
    const int32_t id = TokenId(character);
    if (id >= 0) {
      symbols->push_back(id);
      return false;
    }
    bool bytes = options_.byte_fallback;
    for (const char c : character) bytes = bytes && byte_ids_[static_cast<uint8_t>(c)] >= 0;
    if (bytes) {
      for (const char c : character) symbols->push_back(byte_ids_[static_cast<uint8_t>(c)]);
      return false;
    }
    if (options_.unk_id >= 0 && !(unknown_before && options_.fuse_unknown)) symbols->push_back(options_.unk_id);
    return true;
  }

  const ByteFallbackBpeOptions options_;
  const BpeMerger merger_;
  const std::array<int32_t, 256> byte_ids_;
};

}  // namespace

std::vector<std::string> BytesOfMarkedTokens(const Vocabulary& vocabulary) {
  std::vector<std::string> bytes(vocabulary.tokens.size());
  for (size_t id = 0; id < bytes.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    const TokenKind kind = vocabulary.kinds[id];
    if (kind == TokenKind::kByte && ByteOfHexToken(token) >= 0) {
      bytes[id] = std::string(1, static_cast<char>(ByteOfHexToken(token)));
    } else if (kind == TokenKind::kControl || kind == TokenKind::kUnknown) {
      bytes[id] = token;
    } else {
      bytes[id] = absl::StrReplaceAll(token, {{kMark, " "}});
    }
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> MakeByteFallbackBpe(Vocabulary vocabulary, const BpeMerges& merges,
                                                                         const ByteFallbackBpeOptions& options) {
  ATTUNE_RETURN_IF_ERROR(CheckVocabulary(vocabulary));
  ATTUNE_ASSIGN_OR_RETURN(BpeMerger merger, BpeMerger::Create(vocabulary.tokens, merges));
  std::array<int32_t, 256> byte_ids;
  byte_ids.fill(-1);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int byte = options.byte_fallback ? ByteOfHexToken(vocabulary.tokens[id]) : -1;
    if (byte < 0) continue;
    byte_ids[byte] = static_cast<int32_t>(id);
    vocabulary.kinds[id] = TokenKind::kByte;
  }
  std::vector<std::string> bytes = BytesOfMarkedTokens(vocabulary);
  return std::make_unique<ByteFallbackBpe>(std::move(vocabulary), std::move(bytes), byte_ids, std::move(merger),
                                           options);
}

}  // namespace attune
