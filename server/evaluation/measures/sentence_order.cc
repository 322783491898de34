#include "server/evaluation/measures/sentence_order.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "server/evaluation/measures/paraphrase_tables.h"
#include "server/evaluation/measures/random.h"
#include "server/evaluation/measures/word_pieces.h"

namespace attune {
namespace {

using Sentence = std::vector<WordPiece>;

// A short capitalised word with a full stop may be an abbreviation, as may be one with a stop inside.
bool EndsSentence(const WordPiece& piece) {
  if (piece.after.empty()) return false;
  const char last = piece.after.back();
  if (last == '!' || last == '?') return true;
  if (last != '.' || piece.core.empty() || piece.core.find('.') != piece.core.npos) return false;
  return piece.core.size() > 3 || !absl::ascii_isupper(piece.core[0]);
}

std::vector<Sentence> Sentences(std::vector<WordPiece> pieces) {
  std::vector<Sentence> sentences(1);
  for (WordPiece& piece : pieces) {
    const bool ends = EndsSentence(piece);
    sentences.back().push_back(std::move(piece));
    if (ends) sentences.emplace_back();
  }
  if (sentences.back().empty()) sentences.pop_back();
  return sentences;
}

bool StandsAlone(const Sentence& sentence) {
  if (sentence.size() < 2 || !EndsSentence(sentence.back()) || sentence.back().after.back() == '?') return false;
  if (!absl::ascii_isupper(sentence[0].core.empty() ? ' ' : sentence[0].core[0])) return false;
  return std::none_of(sentence.begin(), sentence.end(),
                      [](const WordPiece& piece) { return LeansOnContext(TableForm(piece.core)); });
}

}  // namespace

std::optional<std::string> SwapSentences(absl::string_view text, uint64_t seed) {
  if (text.find_first_of("\n\"") != text.npos || text.find("\u201C") != text.npos) return std::nullopt;
  std::vector<Sentence> sentences = Sentences(TakeApart(text));
  std::vector<size_t> movable;
  for (size_t i = 0; i + 2 < sentences.size(); ++i) {
    if (std::all_of(sentences.begin() + i, sentences.begin() + i + 3, StandsAlone)) movable.push_back(i);
  }
  if (movable.empty()) return std::nullopt;
  const size_t chosen = movable[CounterRandom(seed).Below(movable.size())];
  std::swap(sentences[chosen], sentences[chosen + 1]);
  std::swap(sentences[chosen][0].space, sentences[chosen + 1][0].space);
  std::string out;
  for (const Sentence& sentence : sentences) out += Join(sentence);
  return out;
}

}  // namespace attune
