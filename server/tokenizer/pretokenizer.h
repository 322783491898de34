#ifndef ATTUNE_SERVER_TOKENIZER_PRETOKENIZER_H_
#define ATTUNE_SERVER_TOKENIZER_PRETOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attune {

// A way to split text into words, by the name that GGUF files use.
struct PretokenizerRule {
  absl::string_view name;
  // Applied one after the other, each inside the pieces of the one before.
  std::vector<std::string> patterns;
  bool ignore_merges = false;  // a word that is a token is taken whole
  bool adds_bos = false;       // texts begin with the first token unless the file says no
  bool normalizes = false;     // text comes into Unicode's normalization form C first
};

// Null if the name is not known.
const PretokenizerRule* FindPretokenizerRule(absl::string_view name);

// The rule that splits text so and says the same of merges and normalization; null if there is none.
const PretokenizerRule* FindPretokenizerRule(const std::vector<std::string>& patterns, bool ignore_merges, bool normalizes);

// The pattern of GPT-2, which tokenizer.json calls ByteLevel with use_regex.
const std::string& Gpt2Pattern();

// Splits text into words by regular expressions: what a pattern matches is a
// piece, and so is what lies between two matches. Broken UTF-8 is a piece of its
// own. Immutable: thread-safe.
class Pretokenizer {
 public:
  // UNSUPPORTED_TOKENIZER if a pattern does not compile. No pattern: no split.
  static absl::StatusOr<Pretokenizer> Create(const std::vector<std::string>& patterns);
  ~Pretokenizer();
  Pretokenizer(Pretokenizer&&) noexcept;

  // The pieces put together are the text; none is empty.
  std::vector<absl::string_view> Split(absl::string_view text) const;

 private:
  class Stage;
  Pretokenizer();
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_PRETOKENIZER_H_
