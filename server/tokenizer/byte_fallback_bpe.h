#ifndef ATTUNE_SERVER_TOKENIZER_BYTE_FALLBACK_BPE_H_
#define ATTUNE_SERVER_TOKENIZER_BYTE_FALLBACK_BPE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "server/tokenizer/bpe_merger.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {

// Where a text gets the mark U+2581 before it that makes its first word like others.
enum class PrefixScheme {
  kNever,
  kAlways,       // before every stretch of text between added tokens
  kIfMissing,    // the same, unless it begins with the mark or a space
  kFirst,        // as kIfMissing, only at the very start
};

struct ByteFallbackBpeOptions {
  PrefixScheme prefix = PrefixScheme::kAlways;
  bool split_words = false;    // merges stay inside words, which begin with the mark
  bool byte_fallback = true;   // characters not in the vocabulary become "<0x..>" tokens
  bool fuse_unknown = true;    // a run of unknown characters is one unknown token
  bool ignore_merges = false;  // a word that is a token is taken whole
  bool drops_space = true;     // decoding leaves out the first space
  int32_t unk_id = -1;         // -1: unknown characters are left out
};

// SentencePiece-like BPE in the way that tokenizer.json files write it: spaces
// become U+2581, characters are the first symbols, and symbols merge by rank.
absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> MakeByteFallbackBpe(Vocabulary vocabulary, const BpeMerges& merges,
                                                                         const ByteFallbackBpeOptions& options);

// What the tokens of such a vocabulary stand for.
std::vector<std::string> BytesOfMarkedTokens(const Vocabulary& vocabulary);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_BYTE_FALLBACK_BPE_H_
