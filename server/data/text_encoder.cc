#include "server/data/text_encoder.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace attune {
namespace {

// A text that no vocabulary joins with what follows it.
constexpr absl::string_view kAnchor = "\n";

}  // namespace

TextEncoder::TextEncoder(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {
  std::string bytes;
  for (int32_t id : tokenizer->Encode("a", false)) bytes += tokenizer->TokenBytes(id);
  adds_space_ = bytes == " a";
  if (adds_space_) anchor_ = tokenizer->Encode(kAnchor, false);
}

std::vector<int32_t> TextEncoder::Begin(absl::string_view piece, bool parse_special) const {
  if (piece.empty()) return {};
  return tokenizer_->Encode(piece, parse_special);
}

std::vector<int32_t> TextEncoder::Continue(absl::string_view piece, bool parse_special) const {
  if (!adds_space_ || piece.empty()) return Begin(piece, parse_special);
  std::vector<int32_t> ids = tokenizer_->Encode(absl::StrCat(kAnchor, piece), parse_special);
  bool anchored = ids.size() >= anchor_.size() && std::equal(anchor_.begin(), anchor_.end(), ids.begin());
  if (!anchored) return Begin(piece, parse_special);
  ids.erase(ids.begin(), ids.begin() + static_cast<int64_t>(anchor_.size()));
  return ids;
}

int64_t TextEncoder::CountSpecial(const std::vector<int32_t>& ids) const {
  return std::count_if(ids.begin(), ids.end(), [this](int32_t id) { return tokenizer_->IsSpecial(id); });
}

bool TextEncoder::HoldsSpecial(absl::string_view text) const {
  // Tokens such as the unknown one can be special and come from any text.
  return CountSpecial(tokenizer_->Encode(text, true)) > CountSpecial(tokenizer_->Encode(text, false));
}

}  // namespace attune
