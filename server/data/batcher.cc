#include "server/data/batcher.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "common/shuffle.h"

namespace attune {
namespace {

std::vector<int64_t> Permutation(int64_t n, uint64_t seed) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(seed);
  Shuffle(&order, [&](int64_t count) { return random() % static_cast<uint64_t>(count); });
  return order;
}

void Append(const Example& example, int64_t virtual_tokens, MicroBatch* batch) {
  if (batch->starts.empty()) batch->starts.push_back(0);
  for (int64_t i = 0; i < virtual_tokens; ++i) batch->tokens.push_back(-1 - i);
  const int64_t first = static_cast<int64_t>(batch->tokens.size());
  for (size_t i = 0; i < example.tokens.size(); ++i) {
    batch->tokens.push_back(example.tokens[i]);
    // The first token of all has nothing before it that could predict it.
    if (example.has_loss[i] && first + static_cast<int64_t>(i) > batch->starts.back()) {
      batch->loss_rows.push_back(first + i - 1);
      batch->targets.push_back(example.tokens[i]);
    }
  }
  batch->starts.push_back(batch->tokens.size());
}

}  // namespace

Batcher::Batcher(const std::vector<Example>* examples, int64_t batch_size, int64_t micro_batch_tokens,
                 int64_t virtual_tokens, uint64_t seed)
    : examples_(examples),
      batch_size_(batch_size),
      micro_batch_tokens_(micro_batch_tokens),
      virtual_tokens_(virtual_tokens),
      seed_(seed) {}

int64_t Batcher::steps_per_epoch() const {
  return (static_cast<int64_t>(examples_->size()) + batch_size_ - 1) / batch_size_;
}

int64_t Batcher::Length(int64_t example) const {
  return static_cast<int64_t>((*examples_)[example].tokens.size()) + virtual_tokens_;
}

std::vector<MicroBatch> Batcher::Pack(std::vector<int64_t> indices) const {
  std::stable_sort(indices.begin(), indices.end(), [&](int64_t a, int64_t b) { return Length(a) > Length(b); });
  std::vector<MicroBatch> batches;
  for (int64_t index : indices) {
    auto fits = [&](const MicroBatch& batch) {
      return static_cast<int64_t>(batch.tokens.size()) + Length(index) <= micro_batch_tokens_;
    };
    auto batch = std::find_if(batches.begin(), batches.end(), fits);
    if (batch == batches.end()) batch = batches.emplace(batches.end());
    Append((*examples_)[index], virtual_tokens_, &*batch);
  }
  return batches;
}

std::vector<MicroBatch> Batcher::Step(int64_t step) const {
  const int64_t epoch = step / steps_per_epoch(), begin = step % steps_per_epoch() * batch_size_;
  std::vector<int64_t> order = Permutation(examples_->size(), seed_ * 0x9E3779B97F4A7C15ULL + epoch);
  const int64_t end = std::min<int64_t>(begin + batch_size_, order.size());
  return Pack({order.begin() + begin, order.begin() + end});
}

std::vector<MicroBatch> Batcher::All() const {
  std::vector<int64_t> order(examples_->size());
  std::iota(order.begin(), order.end(), 0);
  return Pack(std::move(order));
}

int64_t Batcher::MaxTokens() const {
  int64_t longest = 0, total = 0;
  for (size_t i = 0; i < examples_->size(); ++i) {
    longest = std::max(longest, Length(i));
    total += Length(i);
  }
  return std::max(longest, std::min({micro_batch_tokens_, longest * batch_size_, total}));
}

}  // namespace attune
