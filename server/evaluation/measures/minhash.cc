#include "server/evaluation/measures/minhash.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "common/stable_hash.h"
#include "server/evaluation/measures/characters.h"
#include "server/evaluation/measures/duplicates.h"

namespace attune {
namespace {

constexpr size_t kShingleWords = 3;
constexpr int kBandRows = 4;

absl::string_view StripPunctuation(absl::string_view word) {
  while (!word.empty() && absl::ascii_ispunct(word.front())) word.remove_prefix(1);
  while (!word.empty() && absl::ascii_ispunct(word.back())) word.remove_suffix(1);
  return word;
}

std::vector<absl::string_view> BareWords(absl::string_view text) {
  std::vector<absl::string_view> words;
  for (absl::string_view word : SplitWords(text)) {
    word = StripPunctuation(word);
    if (!word.empty()) words.push_back(word);
  }
  return words;
}

std::array<uint64_t, std::tuple_size_v<MinHash> / kBandRows> BandKeys(const MinHash& hashes) {
  std::array<uint64_t, std::tuple_size_v<MinHash> / kBandRows> keys;
  for (size_t band = 0; band < keys.size(); ++band) {
    keys[band] = MixBits(band + 1);
    for (int row = 0; row < kBandRows; ++row) keys[band] = MixBits(keys[band] ^ hashes[band * kBandRows + row]);
  }
  return keys;
}

}  // namespace

std::vector<uint64_t> Shingles(absl::string_view text) {
  const std::string lower = LowerCase(text);
  const std::vector<absl::string_view> words = BareWords(lower);
  std::vector<uint64_t> shingles;
  const size_t length = std::min(kShingleWords, words.size());
  for (size_t i = 0; length > 0 && i + length <= words.size(); ++i) {
    shingles.push_back(HashText(absl::StrJoin(words.begin() + i, words.begin() + i + length, " ")));
  }
  std::sort(shingles.begin(), shingles.end());
  shingles.erase(std::unique(shingles.begin(), shingles.end()), shingles.end());
  return shingles;
}

double Jaccard(absl::Span<const uint64_t> a, absl::Span<const uint64_t> b) {
  size_t common = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const uint64_t left = a[i], right = b[j];
    common += left == right;
    i += left <= right;
    j += right <= left;
  }
  return a.empty() || b.empty() ? 0 : static_cast<double>(common) / (a.size() + b.size() - common);
}

MinHash MakeMinHash(absl::Span<const uint64_t> shingles) {
  MinHash least;
  for (size_t i = 0; i < least.size(); ++i) {
    const uint64_t salt = MixBits(~static_cast<uint64_t>(i));
    least[i] = std::numeric_limits<uint64_t>::max();
    for (uint64_t shingle : shingles) least[i] = std::min(least[i], MixBits(shingle ^ salt));
  }
  return least;
}

double EstimateJaccard(const MinHash& a, const MinHash& b) {
  int equal = 0;
  for (size_t i = 0; i < a.size(); ++i) equal += a[i] == b[i];
  return static_cast<double>(equal) / a.size();
}

void NearDuplicateIndex::Add(absl::string_view text) {
  const int64_t index = shingles_.size();
  shingles_.push_back(Shingles(text));
  if (shingles_.back().empty()) return;
  const auto keys = BandKeys(MakeMinHash(shingles_.back()));
  // Many equal texts would make each look-up slow, and the first of them is found in any case.
  if (const auto same = bands_.find(keys[0]); same != bands_.end()) {
    for (int64_t other : same->second) {
      if (shingles_[other] == shingles_.back()) return;
    }
  }
  for (uint64_t key : keys) bands_[key].push_back(index);
}

std::optional<NearDuplicateIndex::Match> NearDuplicateIndex::Find(absl::string_view text) const {
  const std::vector<uint64_t> shingles = Shingles(text);
  if (shingles.empty()) return std::nullopt;
  std::vector<int64_t> candidates;
  for (uint64_t key : BandKeys(MakeMinHash(shingles))) {
    const auto it = bands_.find(key);
    if (it != bands_.end()) candidates.insert(candidates.end(), it->second.begin(), it->second.end());
  }
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  std::optional<Match> best;
  for (int64_t index : candidates) {
    const double similarity = Jaccard(shingles, shingles_[index]);
    if (similarity >= threshold_ && (!best || similarity > best->similarity)) best = Match{index, similarity};
  }
  return best;
}

}  // namespace attune
