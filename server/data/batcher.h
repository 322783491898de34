#ifndef ATTUNE_SERVER_DATA_BATCHER_H_
#define ATTUNE_SERVER_DATA_BATCHER_H_

#include <cstdint>
#include <vector>

#include "server/data/example.h"

namespace attune {

// Whole examples packed one behind the other, without padding: one forward pass.
struct MicroBatch {
  // Token ids; virtual token i of a soft prompt is -1 - i.
  std::vector<int64_t> tokens;
  // Where each example starts, and the end: one more entry than examples.
  std::vector<int64_t> starts;
  // Rows whose next token is trained, and that token.
  std::vector<int64_t> loss_rows, targets;
  // Which example each sequence is.
  std::vector<int64_t> examples;
  // Of each pair of sequences, if examples are preferences (chosen, rejected): the reference's log-probability of the
  // first answer less that of the second. Else empty.
  std::vector<double> reference_margins;
  // Of the loss rows, if the examples have a teacher: k entries a row.
  TeacherTokens teacher;
};

// Turns examples into optimizer steps. Epoch e visits every example once, in an order
// that depends on the seed and e alone; the last step of an epoch may be smaller.
// Any step can be asked for by its number, so that a resumed job goes on exactly where
// it was. Immutable: thread-safe.
class Batcher {
 public:
  // `examples` must outlive this and not be empty. `virtual_tokens` come before each. `group_size` is 1 or, where
  // examples follow each other as pairs of preferences, 2: then all that is said of examples here is so of pairs,
  // which are never divided.
  Batcher(const std::vector<Example>* examples, int64_t batch_size, int64_t micro_batch_tokens, int64_t virtual_tokens,
          uint64_t seed, int64_t group_size = 1);

  int64_t steps_per_epoch() const;

  // The micro-batches of an optimizer step, counted from 0. Their tokens do not exceed
  // micro_batch_tokens unless a single example does. Examples are packed by first fit,
  // longest first.
  std::vector<MicroBatch> Step(int64_t step) const;

  // All examples once, packed the same way: for evaluation.
  std::vector<MicroBatch> All() const;

  // The largest number of tokens of a micro-batch, over all steps that could be formed:
  // what memory has to hold.
  int64_t MaxTokens() const;

 private:
  int64_t groups() const { return static_cast<int64_t>(examples_->size()) / group_size_; }
  int64_t Length(int64_t group) const;
  void Append(int64_t group, MicroBatch* batch) const;
  std::vector<MicroBatch> Pack(std::vector<int64_t> indices) const;

  const std::vector<Example>* examples_;
  const int64_t batch_size_, micro_batch_tokens_, virtual_tokens_;
  const uint64_t seed_;
  const int64_t group_size_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_BATCHER_H_
