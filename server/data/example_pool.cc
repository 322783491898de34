#include "server/data/example_pool.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

constexpr size_t kFloatBytes = 4;

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

std::vector<int64_t> MostSimilar(const ExamplePool& pool, const std::vector<float>& query, int64_t count,
                                 int64_t left_out) {
  // The rows' are of length 1, and the query's length changes no order.
  std::vector<double> similarity(pool.rows.size(), 0);
  for (size_t i = 0; !query.empty() && i < similarity.size(); ++i) similarity[i] = Dot(query, pool.embeddings[i]);
  std::vector<int64_t> order(similarity.size());
  std::iota(order.begin(), order.end(), 0);
  if (left_out >= 0) std::erase(order, left_out);
  const auto end = order.begin() + std::min<int64_t>(count, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), end, order.end(), [&](int64_t a, int64_t b) {
    return similarity[a] != similarity[b] ? similarity[a] > similarity[b] : a < b;
  });
  order.erase(end, order.end());
  std::reverse(order.begin(), order.end());
  return order;
}

void Normalize(std::vector<float>* embedding) {
  const double length = std::sqrt(Dot(*embedding, *embedding));
  for (float& value : *embedding) value = length > 0 ? static_cast<float>(value / length) : 0;
}

absl::Status CheckEmbeddings(const ExamplePool& pool, int64_t width, absl::string_view field) {
  constexpr double kTolerance = 1e-3;  // of rounding by whoever made them
  if (pool.embeddings.size() != pool.rows.size()) {
    return InvalidField(field, "must have an embedding of every example or of none");
  }
  if (width == 0 && !pool.embeddings.empty()) width = static_cast<int64_t>(pool.embeddings[0].size());
  for (size_t i = 0; i < pool.embeddings.size(); ++i) {
    const std::vector<float>& embedding = pool.embeddings[i];
    const std::string name = absl::StrCat(field, ".examples[", i, "].embedding");
    if (static_cast<int64_t>(embedding.size()) != width || width < 1 || width > kMostEmbeddingWidth) {
      return InvalidField(
          name, absl::StrCat("must be ", width, " numbers, as many as the base model is wide; is ", embedding.size()));
    }
    // False for what is no number, too.
    if (!(std::abs(Dot(embedding, embedding) - 1) <= kTolerance)) return InvalidField(name, "must be of length 1");
  }
  return absl::OkStatus();
}

std::string EncodeEmbedding(const std::vector<float>& embedding) {
  std::string bytes;
  bytes.reserve(embedding.size() * kFloatBytes);
  for (float value : embedding) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    for (size_t i = 0; i < kFloatBytes; ++i) bytes.push_back(static_cast<char>(bits >> (8 * i)));
  }
  return absl::Base64Escape(bytes);
}

absl::StatusOr<std::vector<float>> DecodeEmbedding(absl::string_view base64) {
  std::string bytes;
  if (!absl::Base64Unescape(base64, &bytes) || bytes.size() % kFloatBytes != 0) {
    return absl::InvalidArgumentError("an embedding is no base64 of 4-byte numbers");
  }
  std::vector<float> embedding(bytes.size() / kFloatBytes);
  for (size_t i = 0; i < bytes.size(); i += kFloatBytes) {
    uint32_t bits = 0;
    for (size_t j = 0; j < kFloatBytes; ++j) bits |= uint32_t{static_cast<uint8_t>(bytes[i + j])} << (8 * j);
    embedding[i / kFloatBytes] = std::bit_cast<float>(bits);
  }
  return embedding;
}

}  // namespace attune
