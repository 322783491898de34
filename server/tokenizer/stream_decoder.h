#ifndef ATTUNE_SERVER_TOKENIZER_STREAM_DECODER_H_
#define ATTUNE_SERVER_TOKENIZER_STREAM_DECODER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "server/tokenizer/tokenizer.h"

namespace attune {

// Turns a stream of tokens into a stream of text that never ends in half a
// character and never shows any part of a stop string. The pieces put together
// equal the answer's text. One per answer; not thread-safe.
class StreamDecoder {
 public:
  // `tokenizer` must outlive this. An answer's text ends before the first stop string.
  StreamDecoder(const Tokenizer* tokenizer, std::vector<std::string> stop);

  // Adds a token and returns the text that can be shown now (maybe empty: a
  // character or a possible stop string is not complete). Special tokens have no text.
  std::string Add(int32_t token);

  // Whether a stop string was found; text after it is dropped.
  bool stopped() const { return stopped_; }

  // The text held back, at the end of the answer. Broken UTF-8 becomes U+FFFD.
  std::string Finish();

 private:
  std::string Release(bool final);

  const Tokenizer* tokenizer_;
  std::vector<std::string> stop_;
  std::string held_;
  bool first_ = true;
  bool stopped_ = false;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_STREAM_DECODER_H_
