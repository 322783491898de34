#ifndef ATTUNE_TESTS_TESTING_FAKE_TOKENIZER_H_
#define ATTUNE_TESTS_TESTING_FAKE_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// A token for each byte, one for "aa", so that counts do not grow evenly, and five
// control tokens. With `add_space` it puts a space before every text, as SentencePiece does.
class FakeTokenizer : public Tokenizer {
 public:
  static constexpr int32_t kDoubleA = 256, kUnk = 257, kBos = 258, kEos = 259, kStart = 260, kEnd = 261, kSize = 262;

  // `eos` is the token that ends answers: kEos, or kEnd as chat models have it.
  explicit FakeTokenizer(bool add_bos = true, bool add_space = false, int32_t eos = kEos) : add_space_(add_space) {
    bos_id_ = kBos;
    eos_id_ = eos;
    unk_id_ = kUnk;
    if (eos >= 0) end_ids_ = {eos};
    add_bos_ = add_bos;
  }

  std::vector<int32_t> Encode(absl::string_view text, bool parse_special) const override {
    std::vector<int32_t> ids;
    if (add_space_ && !text.empty()) ids.push_back(' ');
    while (!text.empty()) {
      int32_t id = static_cast<uint8_t>(text[0]);
      size_t size = 1;
      for (int32_t special = kUnk; parse_special && special < kSize; ++special) {
        if (!absl::StartsWith(text, TokenBytes(special))) continue;
        id = special;
        size = TokenBytes(special).size();
      }
      if (absl::StartsWith(text, "aa")) {
        id = kDoubleA;
        size = 2;
      }
      ids.push_back(id);
      text.remove_prefix(size);
    }
    return ids;
  }

  std::string TokenBytes(int32_t id) const override {
    switch (id) {
      case kDoubleA: return "aa";
      case kUnk: return "<unk>";
      case kBos: return "<s>";
      case kEos: return "</s>";
      case kStart: return "<|im_start|>";
      case kEnd: return "<|im_end|>";
      default: return id >= 0 && id < 256 ? std::string(1, static_cast<char>(id)) : "";
    }
  }

  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const override {
    std::string text;
    for (int32_t id : ids) {
      if (!skip_special || !IsSpecial(id)) text += TokenBytes(id);
    }
    return text;
  }

  int vocab_size() const override { return kSize; }
  bool IsSpecial(int32_t id) const override { return id >= kUnk && id < kSize; }
  int32_t TokenId(absl::string_view token) const override {
    for (int32_t id = 0; id < kSize; ++id) {
      if (TokenBytes(id) == token) return id;
    }
    return -1;
  }

 private:
  const bool add_space_;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_FAKE_TOKENIZER_H_
