#ifndef ATTUNE_SERVER_TOKENIZER_BYTE_BPE_H_
#define ATTUNE_SERVER_TOKENIZER_BYTE_BPE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tokenizer/bpe_merger.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {

struct ByteBpeOptions {
  std::vector<std::string> patterns;  // see pretokenizer.h
  bool ignore_merges = false;         // a word that is a token is taken whole
  bool normalizes = false;            // text comes into normalization form C first
  bool add_prefix_space = false;      // texts that do not begin with a space get one
  int32_t unk_id = -1;                // for bytes that the vocabulary lacks; -1: left out
  bool merges_by_rank = false;        // there are no merges: see BpeMerger::OfRankedTokens
};

// Byte-level BPE as GPT-2 introduced it: text is split into words, a word's
// bytes are the first symbols, and symbols merge by rank. Any bytes can be
// encoded, broken UTF-8 too.
absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> MakeByteBpe(Vocabulary vocabulary, const BpeMerges& merges,
                                                                 const ByteBpeOptions& options);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_BYTE_BPE_H_
