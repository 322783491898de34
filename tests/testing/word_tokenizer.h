#ifndef ATTUNE_TESTS_TESTING_WORD_TOKENIZER_H_
#define ATTUNE_TESTS_TESTING_WORD_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// A vocabulary of any size above 256, for random models: the bytes, then made-up words of two to seven small letters, every other
// one behind a space. No token is special, and none ends an answer.
class WordTokenizer : public Tokenizer {
 public:
  explicit WordTokenizer(int size) {
    uint32_t state = 12345;
    auto next = [&](uint32_t below) {
      state = state * 1664525 + 1013904223;
      return (state >> 8) % below;
    };
    for (int id = 0; id < size; ++id) {
      std::string text(1, static_cast<char>(id));
      if (id >= 256) {
        text = id % 2 ? " " : "";
        for (uint32_t letters = 2 + next(6); letters > 0; --letters) text += static_cast<char>('a' + next(26));
      }
      tokens_.push_back(std::move(text));
    }
  }

  std::vector<int32_t> Encode(absl::string_view text, bool) const override {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }
  std::string TokenBytes(int32_t id) const override { return id >= 0 && id < vocab_size() ? tokens_[id] : ""; }
  std::string Decode(const std::vector<int32_t>& ids, bool) const override {
    std::string text;
    for (int32_t id : ids) text += TokenBytes(id);
    return text;
  }
  int vocab_size() const override { return static_cast<int>(tokens_.size()); }
  bool IsSpecial(int32_t) const override { return false; }
  int32_t TokenId(absl::string_view token) const override {
    for (int32_t id = 0; id < vocab_size(); ++id) {
      if (tokens_[id] == token) return id;
    }
    return -1;
  }

 private:
  std::vector<std::string> tokens_;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_WORD_TOKENIZER_H_
