#ifndef ATTUNE_SERVER_DATA_PROMPT_CUTTER_H_
#define ATTUNE_SERVER_DATA_PROMPT_CUTTER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/template.h"
#include "server/data/text_encoder.h"

namespace attune {

// A prompt without its begin token.
struct CutPrompt {
  std::string text;
  std::vector<int32_t> tokens;  // of exactly that text
  bool truncated = false;
};

// Renders `source` in at most `room` tokens (at least 0). A bare variable loses its
// beginning; else the longest variable loses its end, then the next longest; if the
// template's own text is too long that loses its beginning.
// INVALID_ARGUMENT (MISSING_COLUMN).
absl::StatusOr<CutPrompt> RenderWithin(const TextEncoder& encoder, const PromptTemplate& source, Columns columns,
                                       int64_t room);

// `text` in at most `room` tokens, its beginning kept.
CutPrompt KeepBeginning(const TextEncoder& encoder, absl::string_view text, int64_t room);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_PROMPT_CUTTER_H_
