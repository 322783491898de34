#include "server/evaluation/measures/paraphrase.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/evaluation/measures/characters.h"
#include "server/evaluation/measures/paraphrase_tables.h"
#include "server/evaluation/measures/random.h"
#include "server/evaluation/measures/sentence_order.h"
#include "server/evaluation/measures/word_pieces.h"

namespace attune {
namespace {

using Pieces = std::vector<WordPiece>;

constexpr ParaphraseRule kRules[] = {
    ParaphraseRule::kLowerCase, ParaphraseRule::kUpperCase,    ParaphraseRule::kContract,
    ParaphraseRule::kExpand,    ParaphraseRule::kPunctuation,  ParaphraseRule::kWhiteSpace,
    ParaphraseRule::kSynonym,   ParaphraseRule::kPolitePrefix, ParaphraseRule::kSentenceOrder,
    ParaphraseRule::kTypo,
};

std::string ChangeCase(Pieces pieces, std::string (*change)(absl::string_view)) {
  for (WordPiece& piece : pieces) {
    if (IsPlainWord(piece) && !IsAcronym(piece.core)) piece.core = change(piece.core);
  }
  return Join(pieces);
}

// The contraction of the words at i and after it; null if they have none, or punctuation is between them.
const Contraction* ContractionAt(const Pieces& pieces, size_t i) {
  const std::string first = TableForm(pieces[i].core);
  if (const Contraction* found = FindContraction(first, "")) return found;
  if (i + 1 == pieces.size() || !pieces[i].after.empty() || !pieces[i + 1].before.empty()) return nullptr;
  const Contraction* const found = FindContraction(first, TableForm(pieces[i + 1].core));
  if (found == nullptr || !found->needs_next) return found;
  const bool has_next = i + 2 < pieces.size() && pieces[i + 1].after.empty() && IsPlainWord(pieces[i + 2]);
  // "It is not" is "it isn't" and "it's not", but not both.
  return has_next && TableForm(pieces[i + 2].core) != "not" ? found : nullptr;
}

std::string Contract(Pieces pieces) {
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Contraction* const found = ContractionAt(pieces, i);
    if (found == nullptr) continue;
    pieces[i].core = WithCaseOf(pieces[i].core == "I" ? "i" : pieces[i].core, found->contracted);
    if (found->second[0] == '\0') continue;
    pieces[i].after = pieces[i + 1].after;
    pieces.erase(pieces.begin() + i + 1);
  }
  return Join(pieces);
}

std::string Expand(Pieces pieces) {
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::optional<std::string> expanded = Expansion(TableForm(pieces[i].core));
    if (!expanded) continue;
    // "Don't you" would become "Do not you".
    if (i + 1 < pieces.size() && IsSubjectPronoun(TableForm(pieces[i + 1].core))) continue;
    pieces[i].core = WithCaseOf(pieces[i].core, *expanded);
  }
  return Join(pieces);
}

std::string ChangeLastMark(Pieces pieces) {
  if (pieces.empty() || !IsPlainWord(pieces.back())) return Join(pieces);
  std::string& mark = pieces.back().after;
  if (mark.empty()) {
    mark = ".";
  } else if (mark == ".") {
    mark.clear();
  } else if (mark == "?" || mark == "!") {
    mark += mark;
  }
  return Join(pieces);
}

std::string DoubleSpace(Pieces pieces, CounterRandom* random) {
  std::vector<size_t> places;
  for (size_t i = 1; i < pieces.size(); ++i) {
    if (pieces[i].space == " " && IsPlainWord(pieces[i - 1]) && IsPlainWord(pieces[i])) places.push_back(i);
  }
  if (!places.empty()) pieces[places[random->Below(places.size())]].space = "  ";
  return Join(pieces);
}

bool StartsWithVowel(absl::string_view word) { return absl::string_view("aeiou").find(word[0]) != word.npos; }

// "A big" cannot become "a enormous".
std::optional<std::string> FittingSynonym(const Pieces& pieces, size_t i) {
  if (!IsPlainWord(pieces[i]) || IsAcronym(pieces[i].core)) return std::nullopt;
  const std::string word = TableForm(pieces[i].core), before = i == 0 ? "" : TableForm(pieces[i - 1].core);
  std::optional<std::string> synonym = Synonym(word);
  if (!synonym) return std::nullopt;
  if ((before == "a" || before == "an") && StartsWithVowel(word) != StartsWithVowel(*synonym)) return std::nullopt;
  return WithCaseOf(pieces[i].core, *synonym);
}

// One of the words that have a synonym, and every other with a chance of a half.
std::string SwapSynonyms(Pieces pieces, CounterRandom* random) {
  std::vector<std::pair<size_t, std::string>> found;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (std::optional<std::string> synonym = FittingSynonym(pieces, i)) found.emplace_back(i, *std::move(synonym));
  }
  const size_t chosen = found.empty() ? 0 : random->Below(found.size());
  for (size_t k = 0; k < found.size(); ++k) {
    if (k == chosen || random->Below(2) == 0) pieces[found[k].first].core = found[k].second;
  }
  return Join(pieces);
}

std::string AddPolitePrefix(absl::string_view text, CounterRandom* random) {
  constexpr const char* kToQuestions[] = {"Please tell me: ", "Could you help me with this? ",
                                          "I would like to know: "};
  constexpr const char* kToTexts[] = {"Hello. ", "Hi there! ", "Please have a look at this: "};
  const bool question = absl::EndsWith(absl::StripTrailingAsciiWhitespace(text), "?");
  const int64_t chosen = random->Below(3);
  return absl::StrCat(question ? kToQuestions[chosen] : kToTexts[chosen], text);
}

// Where two different lower-case letters stand side by side inside the word.
std::vector<size_t> TypoPlaces(const WordPiece& piece) {
  std::vector<size_t> places;
  const std::string& word = piece.core;
  if (word.size() < 5 || !IsPlainWord(piece) || IsNumberWord(TableForm(word))) return places;
  for (size_t i = 1; i + 2 < word.size(); ++i) {
    if (absl::ascii_islower(word[i]) && absl::ascii_islower(word[i + 1]) && word[i] != word[i + 1]) places.push_back(i);
  }
  return places;
}

std::string MakeTypo(Pieces pieces, CounterRandom* random) {
  std::vector<std::pair<size_t, size_t>> places;  // piece, letter
  for (size_t i = 0; i < pieces.size(); ++i) {
    for (size_t letter : TypoPlaces(pieces[i])) places.emplace_back(i, letter);
  }
  if (places.empty()) return Join(pieces);
  const auto [piece, letter] = places[random->Below(places.size())];
  std::swap(pieces[piece].core[letter], pieces[piece].core[letter + 1]);
  return Join(pieces);
}

std::string Rewrite(ParaphraseRule rule, absl::string_view text, uint64_t seed) {
  CounterRandom random(seed, static_cast<uint64_t>(rule));
  switch (rule) {
    case ParaphraseRule::kLowerCase:
      return ChangeCase(TakeApart(text), LowerCase);
    case ParaphraseRule::kUpperCase:
      return ChangeCase(TakeApart(text), UpperCase);
    case ParaphraseRule::kContract:
      return Contract(TakeApart(text));
    case ParaphraseRule::kExpand:
      return Expand(TakeApart(text));
    case ParaphraseRule::kPunctuation:
      return ChangeLastMark(TakeApart(text));
    case ParaphraseRule::kWhiteSpace:
      return DoubleSpace(TakeApart(text), &random);
    case ParaphraseRule::kSynonym:
      return SwapSynonyms(TakeApart(text), &random);
    case ParaphraseRule::kPolitePrefix:
      return AddPolitePrefix(text, &random);
    case ParaphraseRule::kSentenceOrder:
      return SwapSentences(text, random.Bits()).value_or(std::string(text));
    case ParaphraseRule::kTypo:
      return MakeTypo(TakeApart(text), &random);
  }
  return std::string(text);
}

}  // namespace

const char* RuleName(ParaphraseRule rule) {
  constexpr const char* kNames[] = {"lower_case",  "upper_case", "contract",      "expand",         "punctuation",
                                    "white_space", "synonym",    "polite_prefix", "sentence_order", "typo"};
  return kNames[static_cast<int>(rule)];
}

std::optional<std::string> ApplyRule(ParaphraseRule rule, absl::string_view text, uint64_t seed) {
  std::string rewritten = Rewrite(rule, text, seed);
  if (rewritten == text) return std::nullopt;
  return rewritten;
}

std::vector<Paraphrase> ListParaphrases(absl::string_view text, uint64_t seed, bool typos) {
  std::vector<Paraphrase> out;
  for (ParaphraseRule rule : kRules) {
    if (rule == ParaphraseRule::kTypo && !typos) continue;
    std::optional<std::string> variant = ApplyRule(rule, text, seed);
    if (!variant) continue;
    const bool known = std::any_of(out.begin(), out.end(), [&](const Paraphrase& p) { return p.text == *variant; });
    if (!known) out.push_back({rule, *std::move(variant)});
  }
  return out;
}

}  // namespace attune
