#ifndef ATTUNE_SERVER_EVALUATION_CHOICES_H_
#define ATTUNE_SERVER_EVALUATION_CHOICES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/data/template.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// The labels of an evaluation: what the answer is chosen among. Immutable.
class ChoiceSet {
 public:
  // `choices` as asked for; empty: the distinct labels of `rows` if there are 2 to
  // 100 of them, sorted. Empty set if nothing can be chosen among (always for kText).
  static absl::StatusOr<ChoiceSet> Make(const Tokenizer& tokenizer, DatasetKind kind,
                                        const std::string& completion_template, std::vector<std::string> choices,
                                        const std::vector<Row>& rows);

  // The label of a row: the value of the completion template's only variable, else
  // the whole answer.
  absl::StatusOr<std::string> LabelOf(const Row& row) const;

  bool empty() const { return labels_.empty(); }
  const std::vector<std::string>& labels() const { return labels_; }
  // One per label.
  const std::vector<std::vector<int32_t>>& continuations() const { return continuations_; }
  // Tokens of the longest.
  int64_t longest() const;

 private:
  ChoiceSet(DatasetKind kind, PromptTemplate completion) : kind_(kind), completion_(std::move(completion)) {}

  DatasetKind kind_;
  PromptTemplate completion_;
  std::vector<std::string> labels_;
  std::vector<std::vector<int32_t>> continuations_;
};

// The last turn of the assistant that trains; null if there is none.
const ChatTurn* LastAnswerTurn(const std::vector<ChatTurn>& messages);
// Its content, or, where it only calls tools, what it calls; empty if there is none.
std::string LastAnswer(const std::vector<ChatTurn>& messages);

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_CHOICES_H_
