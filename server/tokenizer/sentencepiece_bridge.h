#ifndef ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_BRIDGE_H_
#define ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_BRIDGE_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

// SentencePiece's header declares an absl::string_view of its own, so no file
// may include it beside abseil. This one speaks plain C++ to both sides.
namespace attune {

struct SentencePieceToken {
  std::string text;
  float score = 0;
  int type = 1;  // as TokenKind
};

// A loaded model. Immutable: thread-safe.
class SentencePieceBridge {
 public:
  // From the bytes of a tokenizer.model. Null with a reason in *error if they are
  // broken or use what is not supported.
  static std::unique_ptr<SentencePieceBridge> FromModel(const std::string& model, std::string* error);

  // A BPE model from a vocabulary with scores; unknown characters become bytes if
  // it has byte tokens. Null with a reason in *error if it is not one.
  static std::unique_ptr<SentencePieceBridge> FromTokens(const std::vector<SentencePieceToken>& tokens,
                                                         bool add_space_prefix, bool remove_extra_spaces,
                                                         std::string* error);
  // The bytes of a tokenizer.model that FromModel reads as what FromTokens makes of the same arguments; empty if a token's type
  // is not known. An id of -1 says that there is no such token.
  static std::string ModelOf(const std::vector<SentencePieceToken>& tokens, bool add_space_prefix, bool remove_extra_spaces,
                             int bos_id, int eos_id, int pad_id);
  ~SentencePieceBridge();

  void Encode(const char* text, size_t size, std::vector<int>* ids) const;

  const std::vector<SentencePieceToken>& tokens() const { return tokens_; }
  bool add_space_prefix() const { return add_space_prefix_; }
  bool removes_extra_spaces() const { return removes_extra_spaces_; }
  bool is_unigram() const { return is_unigram_; }  // else BPE
  // -1 where the model has none.
  int unk_id() const;
  int bos_id() const;
  int eos_id() const;
  int pad_id() const;

 private:
  struct Processor;
  SentencePieceBridge();
  std::unique_ptr<Processor> processor_;
  std::vector<SentencePieceToken> tokens_;
  bool add_space_prefix_ = true, removes_extra_spaces_ = false, is_unigram_ = false;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_SENTENCEPIECE_BRIDGE_H_
