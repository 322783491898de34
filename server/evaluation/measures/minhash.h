#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_MINHASH_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_MINHASH_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

// Near duplicates by MinHash (Broder 1997) over shingles of three words.
namespace attune {

// The distinct runs of three words, hashed and sorted; words are in lower case and without ASCII punctuation around
// them. Of a shorter text it is one run of what there is; none of a text without words.
std::vector<uint64_t> Shingles(absl::string_view text);

// The share of all shingles that both have. 0 if one has none.
double Jaccard(absl::Span<const uint64_t> a, absl::Span<const uint64_t> b);

// The least of each of 128 hashes over a set of shingles.
using MinHash = std::array<uint64_t, 128>;
MinHash MakeMinHash(absl::Span<const uint64_t> shingles);
// An unbiased estimate of the sets' Jaccard similarity J, with a standard error of sqrt(J (1 - J) / 128).
double EstimateJaccard(const MinHash& a, const MinHash& b);

// Texts in which near duplicates of others are looked up. Candidates share one of 32 bands of 4 hashes, so that a pair
// of similarity 0.8 is overlooked once in 20 million times (0.7: in 6,000; 0.5: in 8); each candidate is then compared
// by its shingles. A look-up takes time for each distinct text that shares a band: equal texts count once, texts of one
// mould that differ a little all count. Not thread-safe.
class NearDuplicateIndex {
 public:
  explicit NearDuplicateIndex(double threshold = 0.8) : threshold_(threshold) {}

  // Texts are numbered from 0 in the order they are added.
  void Add(absl::string_view text);

  struct Match {
    int64_t index = 0;
    double similarity = 0;
  };
  // The most similar text of at least the threshold; the first added of several equally similar.
  std::optional<Match> Find(absl::string_view text) const;

 private:
  const double threshold_;
  std::vector<std::vector<uint64_t>> shingles_;
  absl::flat_hash_map<uint64_t, std::vector<int64_t>> bands_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_MINHASH_H_
