#ifndef ATTUNE_SERVER_ADVICE_FEW_SHOT_H_
#define ATTUNE_SERVER_ADVICE_FEW_SHOT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/comparison/answers.h"
#include "server/comparison/split.h"
#include "server/data/dataset.h"

// Examples before a prompt (Brown et al. 2020). Pure.
namespace attune {

// Rows to show, in the order they are to be shown in, at most `most`: of the commonest labels one each, then a second,
// and so on, as long as they have room for `room` tokens together. Of a label's rows those at the lower quartile of
// length come first: long ones cost every request. Without labels all rows count as of one. The commonest label stands
// last, since models lean towards what they read last (Zhao et al. 2021). `tokens`: of each row, whole.
std::vector<int64_t> ChooseShots(const std::vector<SplitRow>& rows, bool has_labels, const std::vector<double>& tokens,
                                 int64_t most, double room);

// The task with the examples before every prompt, an empty line between them: in a chat as turns after the system's,
// else as text in the prompt template, which is returned by the task's data.
absl::StatusOr<EvalTask> WithShots(const EvalTask& task, const std::vector<Row>& shots);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_FEW_SHOT_H_
