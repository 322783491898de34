#include "server/adapters/scored_bpe.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"
#include "common/utf8.h"
#include "server/tokenizer/byte_alphabet.h"

namespace attune {
namespace {

// What SentencePiece has in place of a blank.
constexpr absl::string_view kMark = "\xE2\x96\x81";

using TokenIndex = absl::flat_hash_map<absl::string_view, int32_t>;

bool IsMergeable(TokenKind kind) { return kind == TokenKind::kNormal || kind == TokenKind::kUserDefined; }

// Calls `use` with both parts, for each way to cut a token in two between characters.
template <typename Use>
void ForEachCut(absl::string_view token, Use use) {
  if (token.empty()) return;
  for (size_t i = DecodeUtf8(token, 0).length; i < token.size(); i += DecodeUtf8(token, i).length) {
    use(token.substr(0, i), token.substr(i));
  }
}

// Whether such neighbours come up in BPE by scores, where each character is one, a token or not.
bool IsSymbol(const TokenIndex& index, absl::string_view text) {
  return index.contains(text) || DecodeUtf8(text, 0).length == text.size();
}

int32_t Find(const TokenIndex& index, absl::string_view token) {
  const auto found = index.find(token);
  return found == index.end() ? -1 : found->second;
}

uint64_t Pair(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

bool IsRun(absl::string_view token) {
  const size_t length = DecodeUtf8(token, 0).length;
  for (size_t i = length; i < token.size(); i += length) {
    if (token.substr(i, length) != token.substr(0, length)) return false;
  }
  return true;
}

absl::Status Unlike(absl::string_view token, absl::string_view what) {
  return UnsupportedTokenizer(absl::StrCat("token \"", token, "\" ", what));
}

// What all ways to cut all tokens take, in bytes that are looked at or written; models' own vocabularies take 20 million. A file
// with every run of a letter up to some thousands would take the machine's memory.
constexpr uint64_t kMostCutBytes = uint64_t{1} << 28;

absl::Status CheckLengths(const Vocabulary& vocabulary) {
  uint64_t bytes = 0;
  for (const std::string& token : vocabulary.tokens) {
    const uint64_t size = token.size();
    if (size >= uint64_t{1} << 16 || (bytes += size * size) > kMostCutBytes) {
      return UnsupportedTokenizer("tokens so long that there are too many ways to make them");
    }
  }
  return absl::OkStatus();
}

// llama.cpp writes unknown characters as bytes, and merges whatever is a token together.
absl::Status CheckForReaders(const Vocabulary& vocabulary) {
  bool has_byte[256] = {};
  TokenIndex index;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int byte = vocabulary.kinds[id] == TokenKind::kByte ? ByteOfHexToken(vocabulary.tokens[id]) : -1;
    if (byte >= 0) has_byte[byte] = true;
    if (IsMergeable(vocabulary.kinds[id])) index.emplace(vocabulary.tokens[id], static_cast<int32_t>(id));
  }
  if (!std::all_of(has_byte, has_byte + 256, [](bool has) { return has; })) {
    return UnsupportedTokenizer("a vocabulary by scores without a token for each byte");
  }
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.kinds[id] != TokenKind::kUnused) continue;
    bool is_made = false;
    ForEachCut(vocabulary.tokens[id], [&](absl::string_view left, absl::string_view right) {
      is_made = is_made || (IsSymbol(index, left) && IsSymbol(index, right));
    });
    if (is_made) return Unlike(vocabulary.tokens[id], "is unused, and would be merged all the same");
  }
  return absl::OkStatus();
}

// Between the first and the last merge that make a token there are no others, but among runs of one character: their longest
// merges come first, so that they grow from the left, as they do by one score for all.
absl::Status ScoreByMerges(const BpeMerges& merges, const TokenIndex& index, ScoredBpe* bpe) {
  std::vector<int32_t> made;
  absl::flat_hash_map<int32_t, size_t> last;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    made.push_back(Find(index, absl::StrCat(merges[rank].first, merges[rank].second)));
    if (made.back() < 0) return UnsupportedTokenizer(absl::StrCat("merge ", rank, " makes no token that text is made of"));
    last[made.back()] = rank;
  }
  bpe->scores.assign(bpe->vocabulary.tokens.size(), -static_cast<float>(merges.size() + 1));
  float score = 0;
  for (size_t begin = 0; begin < made.size(); score -= 1) {
    size_t end = last[made[begin]] + 1;
    for (size_t rank = begin; rank < end; ++rank) end = std::max(end, last[made[rank]] + 1);
    for (size_t rank = begin; rank < end; ++rank) {
      const std::string& token = bpe->vocabulary.tokens[made[rank]];
      if (made[rank] != made[begin] && !(IsRun(token) && IsRun(bpe->vocabulary.tokens[made[begin]]))) {
        return Unlike(token, "is merged in turns with others");
      }
      bpe->scores[made[rank]] = score;
    }
    begin = end;
  }
  return absl::OkStatus();
}

// By scores a token is made of any two that it can be cut into. Added tokens are found before merges, but for their blanks.
absl::Status CheckAllCuts(const BpeMerges& merges, const TokenIndex& index, const Vocabulary& vocabulary) {
  absl::flat_hash_set<uint64_t> pairs;
  for (const auto& [left, right] : merges) pairs.insert(Pair(Find(index, left), Find(index, right)));
  for (const auto& [token, id] : index) {
    if (vocabulary.kinds[id] == TokenKind::kUserDefined && !absl::StrContains(token, kMark)) continue;
    bool has_all = true;
    ForEachCut(token, [&](absl::string_view left, absl::string_view right) {
      const bool is_made = IsSymbol(index, left) && IsSymbol(index, right);
      has_all = has_all && (!is_made || pairs.contains(Pair(Find(index, left), Find(index, right))));
    });
    if (!has_all) return Unlike(token, "is not merged of all pairs of tokens that make it up");
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const ByteFallbackBpeOptions& options, const Vocabulary& vocabulary) {
  if (options.prefix == PrefixScheme::kIfMissing || options.prefix == PrefixScheme::kFirst) {
    return UnsupportedTokenizer("a space before some texts alone: by scores it is before all that follow a special token, or none");
  }
  if (!options.byte_fallback) return UnsupportedTokenizer("a vocabulary by scores without a token for each byte");
  if (options.drops_space != (options.prefix == PrefixScheme::kAlways)) {
    return UnsupportedTokenizer("a first space that is added and kept, or left out and not added");
  }
  if (!options.split_words) return absl::OkStatus();
  for (const std::string& token : vocabulary.tokens) {
    if (token.find(kMark.data(), 1) != std::string::npos) return Unlike(token, "holds a blank, where merges stay inside words");
  }
  return absl::OkStatus();
}

TokenIndex MergeableTokens(const Vocabulary& vocabulary) {
  TokenIndex index;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (IsMergeable(vocabulary.kinds[id])) index.emplace(vocabulary.tokens[id], static_cast<int32_t>(id));
  }
  return index;
}

}  // namespace

absl::StatusOr<ScoredBpe> ToScoredBpe(const ByteFallbackBpeParts& parts) {
  ATTUNE_RETURN_IF_ERROR(CheckLengths(parts.vocabulary));
  ATTUNE_RETURN_IF_ERROR(CheckOptions(parts.options, parts.vocabulary));
  ScoredBpe bpe;
  bpe.vocabulary = parts.vocabulary;
  bpe.add_space_prefix = parts.options.prefix == PrefixScheme::kAlways;
  for (size_t id = 0; id < bpe.vocabulary.tokens.size(); ++id) {
    if (ByteOfHexToken(bpe.vocabulary.tokens[id]) >= 0) bpe.vocabulary.kinds[id] = TokenKind::kByte;
  }
  if (parts.options.unk_id >= 0) bpe.vocabulary.kinds[parts.options.unk_id] = TokenKind::kUnknown;
  const TokenIndex index = MergeableTokens(bpe.vocabulary);
  ATTUNE_RETURN_IF_ERROR(ScoreByMerges(parts.merges, index, &bpe));
  ATTUNE_RETURN_IF_ERROR(CheckAllCuts(parts.merges, index, bpe.vocabulary));
  ATTUNE_RETURN_IF_ERROR(CheckForReaders(bpe.vocabulary));
  return bpe;
}

absl::StatusOr<ScoredBpe> ToScoredBpe(const SentencePieceParts& parts) {
  if (parts.is_unigram) return UnsupportedTokenizer("SentencePiece's unigram model, which is not BPE");
  if (parts.removes_extra_spaces) return UnsupportedTokenizer("a SentencePiece model that leaves out further spaces");
  ATTUNE_RETURN_IF_ERROR(CheckLengths(parts.vocabulary));
  ATTUNE_RETURN_IF_ERROR(CheckForReaders(parts.vocabulary));
  ScoredBpe bpe = {parts.vocabulary, parts.scores, parts.add_space_prefix};
  // What the model itself finds it finds where blanks are marks; what is added to it, in the text.
  absl::flat_hash_set<int32_t> added;
  for (const AddedToken& token : parts.vocabulary.added) added.insert(token.id);
  for (size_t id = 0; id < bpe.vocabulary.tokens.size(); ++id) {
    const bool is_own = bpe.vocabulary.kinds[id] == TokenKind::kUserDefined && !added.contains(static_cast<int32_t>(id));
    if (is_own) bpe.vocabulary.tokens[id] = absl::StrReplaceAll(bpe.vocabulary.tokens[id], {{kMark, " "}});
  }
  return bpe;
}

absl::StatusOr<BpeMerges> MergesOfScores(const Vocabulary& vocabulary, const std::vector<float>& scores) {
  ATTUNE_RETURN_IF_ERROR(CheckLengths(vocabulary));
  ATTUNE_RETURN_IF_ERROR(CheckForReaders(vocabulary));
  const TokenIndex index = MergeableTokens(vocabulary);
  using Merge = std::tuple<float, absl::string_view, absl::string_view>;
  std::vector<Merge> merges;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!IsMergeable(vocabulary.kinds[id])) continue;
    // SentencePiece finds user-defined tokens before it merges anything, whatever their score.
    const bool is_found = vocabulary.kinds[id] == TokenKind::kUserDefined;
    const float score = is_found ? std::numeric_limits<float>::max() : scores[id];
    bool is_lacking = false;
    ForEachCut(vocabulary.tokens[id], [&](absl::string_view left, absl::string_view right) {
      if (index.contains(left) && index.contains(right)) {
        merges.emplace_back(score, left, right);
      } else {
        is_lacking = is_lacking || (IsSymbol(index, left) && IsSymbol(index, right));
      }
    });
    if (is_lacking && vocabulary.kinds[id] == TokenKind::kNormal) {
      return Unlike(vocabulary.tokens[id], "is made of a character that is no token, as no merge is");
    }
  }
  // Of equal scores those with the longest left part, so that runs grow from the left.
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    if (std::get<0>(a) != std::get<0>(b)) return std::get<0>(a) > std::get<0>(b);
    return std::get<1>(a).size() > std::get<1>(b).size();
  });
  BpeMerges out;
  for (const auto& [score, left, right] : merges) out.emplace_back(std::string(left), std::string(right));
  return out;
}

}  // namespace attune
