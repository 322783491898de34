#ifndef ATTUNE_SERVER_TOKENIZER_JINJA_LEXER_H_
#define ATTUNE_SERVER_TOKENIZER_JINJA_LEXER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace attune::jinja {

struct Token {
  enum class Kind {
    kText,          // between tags
    kBlockBegin,    // {%
    kBlockEnd,      // %}
    kOutputBegin,   // {{
    kOutputEnd,     // }}
    kName,
    kString,        // text: its value
    kInteger,
    kFloat,
    kOperator,      // text: the operator
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int64_t integer = 0;
  double real = 0;
  int line = 1;
};

// The template's tokens, kEnd last. Comments are gone, and white space is cut as
// trim_blocks, lstrip_blocks and the signs in tags say.
absl::StatusOr<std::vector<Token>> Tokenize(const std::string& source);

// INVALID_ARGUMENT (UNSUPPORTED_CHAT_TEMPLATE).
absl::Status UnsupportedTemplate(const std::string& what, int line);

}  // namespace attune::jinja

#endif  // ATTUNE_SERVER_TOKENIZER_JINJA_LEXER_H_
