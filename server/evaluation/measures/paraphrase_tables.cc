#include "server/evaluation/measures/paraphrase_tables.h"

#include <algorithm>
#include <iterator>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace attune {
namespace {

constexpr Contraction kContractions[] = {
    {"is", "not", "isn't", false},
    {"are", "not", "aren't", false},
    {"was", "not", "wasn't", false},
    {"were", "not", "weren't", false},
    {"do", "not", "don't", false},
    {"does", "not", "doesn't", false},
    {"did", "not", "didn't", false},
    {"cannot", "", "can't", false},
    {"could", "not", "couldn't", false},
    {"would", "not", "wouldn't", false},
    {"should", "not", "shouldn't", false},
    {"will", "not", "won't", false},
    {"have", "not", "haven't", false},
    {"has", "not", "hasn't", false},
    {"had", "not", "hadn't", false},
    {"i", "am", "I'm", true},
    {"you", "are", "you're", true},
    {"we", "are", "we're", true},
    {"they", "are", "they're", true},
    {"i", "will", "I'll", true},
    {"you", "will", "you'll", true},
    {"we", "will", "we'll", true},
    {"they", "will", "they'll", true},
    {"he", "will", "he'll", true},
    {"she", "will", "she'll", true},
    {"it", "will", "it'll", true},
    {"it", "is", "it's", true},
    {"he", "is", "he's", true},
    {"she", "is", "she's", true},
    {"that", "is", "that's", true},
};

// Pairs with one sense, or the same few; grammar and first sound are checked where they are used.
constexpr std::pair<const char*, const char*> kSynonyms[] = {
    {"big", "large"},
    {"large", "big"},
    {"purchased", "bought"},
    {"bought", "purchased"},
    {"perhaps", "maybe"},
    {"maybe", "perhaps"},
    {"frequently", "often"},
    {"often", "frequently"},
    {"nearly", "almost"},
    {"almost", "nearly"},
    {"begin", "start"},
    {"begins", "starts"},
    {"began", "started"},
    {"rapidly", "quickly"},
    {"quickly", "rapidly"},
    {"entire", "whole"},
    {"film", "movie"},
    {"films", "movies"},
    {"movie", "film"},
    {"movies", "films"},
    {"therefore", "thus"},
    {"although", "though"},
    {"physician", "doctor"},
    {"physicians", "doctors"},
    {"attorney", "lawyer"},
    {"attorneys", "lawyers"},
    {"couch", "sofa"},
    {"sofa", "couch"},
    {"until", "till"},
    {"obtain", "get"},
    {"obtained", "got"},
    {"incorrect", "wrong"},
    {"terrible", "awful"},
    {"awful", "terrible"},
    {"wonderful", "marvellous"},
    {"glad", "happy"},
    {"children", "kids"},
    {"kids", "children"},
    {"assist", "help"},
    {"difficult", "hard"},
    {"approximately", "about"},
    {"additionally", "also"},
    {"currently", "now"},
    {"immediately", "at once"},
    {"sufficient", "enough"},
    {"numerous", "many"},
    {"gift", "present"},
    {"costly", "expensive"},
    {"smart", "clever"},
    {"clever", "smart"},
    {"sick", "ill"},
    {"ill", "sick"},
    {"autumn", "fall"},
    {"automobile", "car"},
    {"automobiles", "cars"},
    {"aeroplane", "airplane"},
};

constexpr const char* kNumberWords[] = {
    "zero",     "one",      "two",      "three",   "four",     "five",      "six",      "seven",    "eight",
    "nine",     "ten",      "eleven",   "twelve",  "thirteen", "fourteen",  "fifteen",  "sixteen",  "seventeen",
    "eighteen", "nineteen", "twenty",   "thirty",  "forty",    "fifty",     "sixty",    "seventy",  "eighty",
    "ninety",   "hundred",  "thousand", "million", "billion",  "trillion",  "dozen",    "half",     "quarter",
    "third",    "twice",    "once",     "first",   "second",   "fourth",    "fifth",    "sixth",    "seventh",
    "eighth",   "ninth",    "tenth",    "double",  "hundreds", "thousands", "millions", "billions", "triple",
    "dozens",   "halves",   "quarters", "thirds",  "thrice",
};

constexpr const char* kLeaning[] = {
    "he",       "she",       "it",      "they",       "him",     "her",       "them",      "his",      "hers",
    "its",      "their",     "theirs",  "this",       "that",    "these",     "those",     "such",     "then",
    "there",    "here",      "but",     "however",    "so",      "therefore", "thus",      "hence",    "also",
    "finally",  "next",      "later",   "afterwards", "instead", "otherwise", "meanwhile", "moreover", "furthermore",
    "because",  "still",     "yet",     "again",      "both",    "neither",   "either",    "first",    "second",
    "third",    "lastly",    "last",    "former",     "latter",  "above",     "below",     "before",   "after",
    "previous", "following", "another", "other",      "others",  "now",       "it's",      "that's",   "he's",
    "she's",    "they're",   "one",     "too",        "and",     "or",        "same",
};

constexpr const char* kSubjects[] = {"i", "you", "he", "she", "it", "we", "they"};

template <size_t N>
bool Has(const char* const (&words)[N], absl::string_view word) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
}

}  // namespace

const Contraction* FindContraction(absl::string_view first, absl::string_view second) {
  const auto* it = std::find_if(std::begin(kContractions), std::end(kContractions), [&](const Contraction& entry) {
    return entry.first == first && entry.second == second;
  });
  return it == std::end(kContractions) ? nullptr : it;
}

std::optional<std::string> Expansion(absl::string_view contracted) {
  if (contracted == "can't") return "cannot";
  for (const Contraction& entry : kContractions) {
    const absl::string_view shape = entry.contracted;
    if (shape.substr(shape.size() - 2) == "'s" || entry.second[0] == '\0') continue;
    // The table writes I in capitals.
    if (contracted == absl::StrCat(entry.first, shape.substr(shape.find('\'')))) {
      return absl::StrCat(entry.first[0] == 'i' && entry.first[1] == '\0' ? "I" : entry.first, " ", entry.second);
    }
    if (contracted == shape) return absl::StrCat(entry.first, " ", entry.second);
  }
  return std::nullopt;
}

std::optional<std::string> Synonym(absl::string_view word) {
  static const auto* const synonyms =
      new absl::flat_hash_map<absl::string_view, absl::string_view>(std::begin(kSynonyms), std::end(kSynonyms));
  const auto it = synonyms->find(word);
  if (it == synonyms->end()) return std::nullopt;
  return std::string(it->second);
}

bool IsNumberWord(absl::string_view word) { return Has(kNumberWords, word); }
bool LeansOnContext(absl::string_view word) { return Has(kLeaning, word); }
bool IsSubjectPronoun(absl::string_view word) { return Has(kSubjects, word); }

}  // namespace attune
