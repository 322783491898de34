#ifndef ATTUNE_SERVER_DATA_EXAMPLE_POOL_H_
#define ATTUNE_SERVER_DATA_EXAMPLE_POOL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/data/template.h"

namespace attune {

inline constexpr int64_t kMostPoolRows = 512, kMostRetrieved = 64;
inline constexpr int64_t kMostEmbeddingWidth = 65536;

// Rows with their answers, of which a prompt takes those that are most similar to its input.
struct ExamplePool {
  std::vector<Columns> rows;
  // By row: what the base model makes of its input (the mean of its hidden states), of length 1. All are equally
  // wide. Empty while they are not known.
  std::vector<std::vector<float>> embeddings;
  bool operator==(const ExamplePool&) const = default;
};

// Which rows of the pool are the `count` most similar to `query` (by the cosine), the most similar one last, so that it
// stands next to the input. Of two that are equally similar the first counts as more so. An empty query is equally
// similar to all. `left_out`, if not negative, is a row that is passed over: the one that is asked about.
// REQUIRES: the pool has its embeddings, as wide as `query`.
std::vector<int64_t> MostSimilar(const ExamplePool& pool, const std::vector<float>& query, int64_t count,
                                 int64_t left_out = -1);

// To length 1; what has none is left as it is.
void Normalize(std::vector<float>* embedding);

// INVALID_ARGUMENT (INVALID_FIELD), saying of which row, unless there are as many as rows, all of `width` finite
// numbers (0: any one width) and of length 1. `field` is the pool's.
absl::Status CheckEmbeddings(const ExamplePool& pool, int64_t width, absl::string_view field);

// Its numbers as little-endian fp32 in base64, and back: every bit survives. INVALID_ARGUMENT.
std::string EncodeEmbedding(const std::vector<float>& embedding);
absl::StatusOr<std::vector<float>> DecodeEmbedding(absl::string_view base64);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_EXAMPLE_POOL_H_
