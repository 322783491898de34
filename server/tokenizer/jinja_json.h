#ifndef ATTUNE_SERVER_TOKENIZER_JINJA_JSON_H_
#define ATTUNE_SERVER_TOKENIZER_JINJA_JSON_H_

#include "absl/strings/string_view.h"
#include "server/tokenizer/jinja_runtime.h"

namespace attune::jinja {

// The value that Python's json.loads makes of a text, keys in their order; whole numbers beyond 64 bits become reals.
// An error of the runtime, and undefined, if it is not JSON or nests deeper than 64.
Value ParseJson(absl::string_view text, Runtime* runtime);

}  // namespace attune::jinja

#endif  // ATTUNE_SERVER_TOKENIZER_JINJA_JSON_H_
