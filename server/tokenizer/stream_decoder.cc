#include "server/tokenizer/stream_decoder.h"

#include <algorithm>
#include <utility>

#include "common/utf8.h"


namespace attune {
namespace {

// Where the longest end of `text` begins that may grow into a stop string.
size_t PossibleStop(absl::string_view text, const std::vector<std::string>& stop) {
  size_t from = text.size();
  for (const std::string& word : stop) {
    const size_t longest = std::min(word.size() - 1, text.size());
    for (size_t length = longest; length > text.size() - from; --length) {
      if (text.substr(text.size() - length) == absl::string_view(word).substr(0, length)) {
        from = text.size() - length;
        break;
      }
    }
  }
  return from;
}

}  // namespace

StreamDecoder::StreamDecoder(const Tokenizer* tokenizer, std::vector<std::string> stop) : tokenizer_(tokenizer) {
  for (const std::string& word : stop) {
    if (!word.empty()) stop_.push_back(ReplaceBrokenUtf8(word));
  }
}

std::string StreamDecoder::Add(int32_t token) {
  if (stopped_ || tokenizer_->IsSpecial(token)) return "";
  std::string bytes = tokenizer_->TokenBytes(token);
  if (first_ && !bytes.empty()) {
    first_ = false;
    // The tokenizer alone knows whether an answer's first space belongs to it.
    if (bytes[0] == ' ' && tokenizer_->Decode({token}, true) != ReplaceBrokenUtf8(bytes)) bytes.erase(0, 1);
  }
  held_ += bytes;
  return Release(/*final=*/false);
}

std::string StreamDecoder::Finish() { return stopped_ ? "" : Release(/*final=*/true); }

std::string StreamDecoder::Release(bool final) {
  held_ = ReplaceBrokenUtf8(held_, /*keep_cut=*/!final);
  size_t found = std::string::npos;
  for (const std::string& word : stop_) found = std::min(found, held_.find(word));
  std::string text;
  if (found != std::string::npos) {
    stopped_ = true;
    text = held_.substr(0, found);
    held_.clear();
    return text;
  }
  const size_t end = final ? held_.size() : std::min(PossibleStop(held_, stop_), held_.size() - CutUtf8Bytes(held_));
  text = held_.substr(0, end);
  held_.erase(0, end);
  return text;
}

}  // namespace attune
