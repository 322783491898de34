#ifndef ATTUNE_SERVER_TUNING_TEACHER_H_
#define ATTUNE_SERVER_TUNING_TEACHER_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "server/adapters/residency.h"
#include "server/data/example.h"
#include "server/device/arbiter.h"
#include "server/jobs/job.h"
#include "server/tokenizer/tokenizer.h"

namespace attune {

// Whether the model can teach one that reads tokens with `tokenizer`: INVALID_ARGUMENT (INVALID_FIELD on
// distillation.teacher) if it is a text prompt or has other tokens.
absl::Status CheckTeacher(const ServedModel& teacher, const Tokenizer& tokenizer);

// Has the teacher read every example once and sets what it says of the answers' tokens: at the temperature, its top_k
// likeliest. Of an answer's token that nothing stands before the teacher says what the data do. INVALID_ARGUMENT
// (INVALID_FIELD) for an example that it has no room for. `arbiter` and `stop` may be null; the latter is asked now and
// then, and true gives CANCELLED.
absl::Status ScoreTeacher(const ServedModel& teacher, const DistillationSpec& spec, Arbiter* arbiter,
                          const std::function<bool()>& stop, std::vector<Example>* examples);

}  // namespace attune

#endif  // ATTUNE_SERVER_TUNING_TEACHER_H_
