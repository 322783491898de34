#ifndef ATTUNE_SERVER_TOKENIZER_TEKKEN_H_
#define ATTUNE_SERVER_TOKENIZER_TEKKEN_H_

#include <memory>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {

// Mistral's tekken.json: byte-level BPE whose tokens merge by their ranks, as tiktoken's do, behind a block of special
// tokens. Images and audio are left out. Fills in the settings' ids of special tokens. UNSUPPORTED_TOKENIZER names what
// is wrong.
absl::StatusOr<std::unique_ptr<VocabularyTokenizer>> TekkenFromJson(const nlohmann::json& root,
                                                                    TokenizerSettings* settings);

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_TEKKEN_H_
