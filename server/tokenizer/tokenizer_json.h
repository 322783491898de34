#ifndef ATTUNE_SERVER_TOKENIZER_TOKENIZER_JSON_H_
#define ATTUNE_SERVER_TOKENIZER_TOKENIZER_JSON_H_

#include <memory>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/tokenizer/byte_bpe.h"
#include "server/tokenizer/byte_fallback_bpe.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {

// A tokenizer from the value of a tokenizer.json. `more_added` are added tokens
// that other files name. Fills in settings->unk_id. UNSUPPORTED_TOKENIZER names
// whatever would change the ids and is not done here.
absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> TokenizerFromJson(const nlohmann::json& root,
                                                                       const std::vector<AddedToken>& more_added,
                                                                       TokenizerSettings* settings);

// What a byte-level BPE is made of.
struct ByteBpeParts {
  Vocabulary vocabulary;
  BpeMerges merges;
  ByteBpeOptions options;
};

// And a BPE with byte fallback.
struct ByteFallbackBpeParts {
  Vocabulary vocabulary;
  BpeMerges merges;
  ByteFallbackBpeOptions options;
};

// The parts of which TokenizerFromJson makes a tokenizer; errors as there.
absl::StatusOr<std::variant<ByteBpeParts, ByteFallbackBpeParts>> PartsFromJson(const nlohmann::json& root,
                                                                               const std::vector<AddedToken>& more_added);

// The id of the token that the file's post-processor puts before a text; -1 if none.
int32_t FirstTokenOfPostProcessor(const nlohmann::json& root);

// One added token of a JSON file; an id other than -1 stands for the one in it.
absl::StatusOr<AddedToken> AddedTokenFromJson(const nlohmann::json& value, int32_t id = -1);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_TOKENIZER_JSON_H_
