#ifndef ATTUNE_SERVER_ENGINE_CHOOSE_TOKENS_H_
#define ATTUNE_SERVER_ENGINE_CHOOSE_TOKENS_H_

#include <vector>

#include "server/engine/lane.h"

namespace attune {

// Reads the logits that came to the host, on all threads: chooses the next tokens of answers and
// drafts, takes the likeliest ones of beams, and sums up the rows that are scored.
//
// A guess (Sequence::drafted) is right if it is the token that is chosen after what comes before
// it; then the row behind it gives one more. So a text is the one that would have come without
// guesses, whether greedy or drawn (every draw depends on seed and position alone), and each
// step makes at least one token. An answer with a form takes its tokens through that; if no
// token can go on there, none is chosen.
void ChooseTokens(std::vector<Lane::Output>* outputs);

// An answer's next token after one row of logits, as if it had the other's seed: for answers that
// are forked. `grammar` may be null.
TokenInfo ChooseFirstToken(const Task& task, const Lane::Output& output, const SamplingParams& sampling,
                           GrammarState* grammar);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_CHOOSE_TOKENS_H_
