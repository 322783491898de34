#ifndef ATTUNE_SERVER_ADAPTERS_TOKEN_DIFFERENCE_H_
#define ATTUNE_SERVER_ADAPTERS_TOKEN_DIFFERENCE_H_

#include <string>

#include "server/tokenizer/tokenizer.h"

namespace attune {

// The first thing in which `read`, loaded from what was written of `written`, is another tokenizer; empty if there is none. Compares
// what each token stands for, and the ids of many texts: of each token, alone and before the next one's, of runs of blanks and
// line breaks, and of sentences. Tokens of `read` beyond those of `written`, and in place of ids without a token, are passed over.
std::string TokenDifference(const Tokenizer& written, const Tokenizer& read);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_TOKEN_DIFFERENCE_H_
