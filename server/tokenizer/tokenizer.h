#ifndef ATTUNE_SERVER_TOKENIZER_TOKENIZER_H_
#define ATTUNE_SERVER_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace attune {

// Text to token ids and back. Implementations are immutable: thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of `text`, with nothing added. The texts of special tokens (control
  // tokens such as "<|im_end|>") become their ids if `parse_special`, else they
  // are split like other text. Never fails: what is not in the vocabulary
  // becomes bytes or the unknown token.
  virtual std::vector<int32_t> Encode(absl::string_view text, bool parse_special) const = 0;

  // The bytes that a token stands for (maybe not whole characters); for special
  // tokens their text; empty for an id out of range.
  virtual std::string TokenBytes(int32_t id) const = 0;

  // Text of `ids`, decoded together (SentencePiece drops its leading space here);
  // special tokens are left out if `skip_special`. Broken UTF-8 becomes U+FFFD.
  virtual std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const = 0;

  virtual int vocab_size() const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  // The id of a token by its exact vocabulary text; -1 if there is none.
  virtual int32_t TokenId(absl::string_view token) const = 0;

  // -1 where the model has none.
  int32_t bos_id() const { return bos_id_; }
  int32_t eos_id() const { return eos_id_; }
  int32_t unk_id() const { return unk_id_; }
  int32_t pad_id() const { return pad_id_; }
  // Every token that ends an answer: eos_id first, then others that the model's
  // files name (such as Llama 3's "<|eot_id|>"). Empty if the model has none.
  const std::vector<int32_t>& end_ids() const { return end_ids_; }
  // Whether raw prompts begin with bos_id.
  bool add_bos() const { return add_bos_; }
  // The model's own Jinja chat template; empty if it has none.
  const std::string& chat_template() const { return chat_template_; }

 protected:
  int32_t bos_id_ = -1, eos_id_ = -1, unk_id_ = -1, pad_id_ = -1;
  std::vector<int32_t> end_ids_;
  bool add_bos_ = false;
  std::string chat_template_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_TOKENIZER_TOKENIZER_H_
