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

void AppendTeacher(const TeacherTokens& from, int64_t row, TeacherTokens* to) {
  if (from.k == 0) return;
  to->k = from.k;
  to->ids.insert(to->ids.end(), from.ids.begin() + row * from.k, from.ids.begin() + (row + 1) * from.k);
  to->log_probabilities.insert(to->log_probabilities.end(), from.log_probabilities.begin() + row * from.k,
                               from.log_probabilities.begin() + (row + 1) * from.k);
}

void AppendExample(const Example& example, int64_t virtual_tokens, MicroBatch* batch) {
  if (batch->starts.empty()) batch->starts.push_back(0);
  for (int64_t i = 0; i < virtual_tokens; ++i) batch->tokens.push_back(-1 - i);
  const int64_t first = static_cast<int64_t>(batch->tokens.size());
  int64_t answer_token = 0;  // of those that carry loss
  for (size_t i = 0; i < example.tokens.size(); ++i) {
    batch->tokens.push_back(example.tokens[i]);
    // The first token of all has nothing before it that could predict it.
    const int64_t answered = example.has_loss[i] ? answer_token++ : -1;
    if (example.has_loss[i] && first + static_cast<int64_t>(i) > batch->starts.back()) {
      batch->loss_rows.push_back(first + i - 1);
      batch->targets.push_back(example.tokens[i]);
      AppendTeacher(example.teacher, answered, &batch->teacher);
    }
  }
  batch->starts.push_back(batch->tokens.size());
}

}  // namespace

Batcher::Batcher(const std::vector<Example>* examples, int64_t batch_size, int64_t micro_batch_tokens,
                 int64_t virtual_tokens, uint64_t seed, int64_t group_size)
    : examples_(examples),
      batch_size_(batch_size),
      micro_batch_tokens_(micro_batch_tokens),
      virtual_tokens_(virtual_tokens),
      seed_(seed),
      group_size_(group_size) {}

int64_t Batcher::steps_per_epoch() const {
  return (groups() + batch_size_ - 1) / batch_size_;
}

int64_t Batcher::Length(int64_t group) const {
  int64_t tokens = group_size_ * virtual_tokens_;
  for (int64_t i = group * group_size_; i < (group + 1) * group_size_; ++i) {
    tokens += static_cast<int64_t>((*examples_)[i].tokens.size());
  }
  return tokens;
}

void Batcher::Append(int64_t group, MicroBatch* batch) const {
  const int64_t first = group * group_size_;
  for (int64_t i = first; i < first + group_size_; ++i) {
    AppendExample((*examples_)[i], virtual_tokens_, batch);
    batch->examples.push_back(i);
  }
  if (group_size_ == 1) return;
  batch->reference_margins.push_back((*examples_)[first].reference_log_probability -
                                     (*examples_)[first + 1].reference_log_probability);
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
    Append(index, &*batch);
  }
  return batches;
}

std::vector<MicroBatch> Batcher::Step(int64_t step) const {
  const int64_t epoch = step / steps_per_epoch(), begin = step % steps_per_epoch() * batch_size_;
  std::vector<int64_t> order = Permutation(groups(), seed_ * 0x9E3779B97F4A7C15ULL + epoch);
  const int64_t end = std::min<int64_t>(begin + batch_size_, order.size());
  return Pack({order.begin() + begin, order.begin() + end});
}

std::vector<MicroBatch> Batcher::All() const {
  std::vector<int64_t> order(groups());
  std::iota(order.begin(), order.end(), 0);
  return Pack(std::move(order));
}

int64_t Batcher::MaxTokens() const {
  int64_t longest = 0, total = 0;
  for (int64_t i = 0; i < groups(); ++i) {
    longest = std::max(longest, Length(i));
    total += Length(i);
  }
  return std::max(longest, std::min({micro_batch_tokens_, longest * batch_size_, total}));
}

}  // namespace attune
