#ifndef ATTUNE_SERVER_TOKENIZER_PHI3_TOKENS_H_
#define ATTUNE_SERVER_TOKENIZER_PHI3_TOKENS_H_

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace attune {

// Phi-3's special and added tokens take the blanks behind them along, but for three. GGUF files do not say such things of a
// token: llama.cpp, and so Attune, goes by `general.name` and by these four texts, which must be there.
inline constexpr absl::string_view kPhi3Tokens[] = {"<unk>", "<s>", "</s>", "<|endoftext|>"};

// Whether a file's general.name says so.
inline bool IsPhi3Name(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  return absl::StrContains(lower, "phi-3") || absl::StrContains(lower, "phi3");
}

// Whether one of its special, unknown or user-defined tokens takes the blanks behind it.
inline bool Phi3TakesBlanks(absl::string_view token) {
  return token != "<unk>" && token != "<s>" && token != "<|endoftext|>";
}

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_PHI3_TOKENS_H_
