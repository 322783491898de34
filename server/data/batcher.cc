#include "server/data/batcher.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace attune {
namespace {

// Fisher and Yates by hand: std::shuffle's order is the library's own affair, and a
// resumed job must see the same one everywhere.
std::vector<int64_t> Permutation(int64_t n, uint64_t seed) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(seed);
  for (int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[random() % static_cast<uint64_t>(i + 1)]);
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

std::vector<std::vector<int64_t>> Batcher::Pack(std::vector<int64_t> indices) const {
  std::stable_sort(indices.begin(), indices.end(), [&](int64_t a, int64_t b) { return Length(a) > Length(b); });
  std::vector<std::vector<int64_t>> bins;
  std::vector<int64_t> used;
  for (int64_t index : indices) {
    size_t bin = 0;
    while (bin < bins.size() && used[bin] + Length(index) > micro_batch_tokens_) ++bin;
    if (bin == bins.size()) {
      bins.emplace_back();
      used.push_back(0);
    }
    bins[bin].push_back(index);
    used[bin] += Length(index);
  }
  return bins;
}

Batcher::Group Batcher::Split(const std::vector<int64_t>& bin, int64_t ways) const {
  Group parts(std::min<int64_t>(ways, bin.size()));
  for (int64_t index : bin) {
    auto smallest = std::min_element(parts.begin(), parts.end(), [](const MicroBatch& a, const MicroBatch& b) {
      return a.tokens.size() < b.tokens.size();
    });
    Append((*examples_)[index], virtual_tokens_, &*smallest);
  }
  return parts;
}

std::vector<Batcher::Group> Batcher::Groups(std::vector<int64_t> indices, int64_t ways) const {
  std::vector<Group> groups;
  for (const std::vector<int64_t>& bin : Pack(std::move(indices))) groups.push_back(Split(bin, ways));
  return groups;
}

std::vector<Batcher::Group> Batcher::Step(int64_t step, int64_t ways) const {
  const int64_t epoch = step / steps_per_epoch(), begin = step % steps_per_epoch() * batch_size_;
  std::vector<int64_t> order = Permutation(examples_->size(), seed_ * 0x9E3779B97F4A7C15ULL + epoch);
  const int64_t end = std::min<int64_t>(begin + batch_size_, order.size());
  return Groups({order.begin() + begin, order.begin() + end}, ways);
}

std::vector<Batcher::Group> Batcher::All(int64_t ways) const {
  std::vector<int64_t> order(examples_->size());
  std::iota(order.begin(), order.end(), 0);
  return Groups(std::move(order), ways);
}

int64_t Batcher::MaxGroupTokens() const {
  int64_t longest = 0, total = 0;
  for (size_t i = 0; i < examples_->size(); ++i) {
    longest = std::max(longest, Length(i));
    total += Length(i);
  }
  return std::max(longest, std::min({micro_batch_tokens_, longest * batch_size_, total}));
}

}  // namespace attune
