#ifndef ATTUNE_SERVER_ADAPTERS_SCORED_BPE_H_
#define ATTUNE_SERVER_ADAPTERS_SCORED_BPE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "server/tokenizer/bpe_merger.h"
#include "server/tokenizer/sentencepiece_tokenizer.h"
#include "server/tokenizer/tokenizer_json.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {

// BPE as SentencePiece's models and GGUF files of the model "llama" say it: two neighbours merge if they are a token together,
// the one of the highest score first, the leftmost of equals.
struct ScoredBpe {
  Vocabulary vocabulary;      // user-defined tokens as they look in texts
  std::vector<float> scores;  // by id
  bool add_space_prefix = true;
};

// The same tokenizer by scores. UNSUPPORTED_TOKENIZER names what scores cannot say: merges that are not all the ways to cut a
// token in two, or are of several tokens by turns; options that such files have no key for; a vocabulary without byte tokens,
// without which llama.cpp reads no text; tokens that it would make of plain text, and Attune not; tokens that are too long.
absl::StatusOr<ScoredBpe> ToScoredBpe(const ByteFallbackBpeParts& parts);
absl::StatusOr<ScoredBpe> ToScoredBpe(const SentencePieceParts& parts);

// The merges that make its tokens, most important first: what a tokenizer.json has in place of scores. Tokens are in
// SentencePiece's form, with marks for blanks. UNSUPPORTED_TOKENIZER for unused tokens that merges would pass through, and for tokens
// that are made of characters without a token.
absl::StatusOr<BpeMerges> MergesOfScores(const Vocabulary& vocabulary, const std::vector<float>& scores);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_SCORED_BPE_H_
