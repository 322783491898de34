#ifndef ATTUNE_SERVER_ADVICE_PROBE_BASE_H_
#define ATTUNE_SERVER_ADVICE_PROBE_BASE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/adapters/residency.h"
#include "server/advice/data_findings.h"
#include "server/advice/finding.h"
#include "server/comparison/answers.h"
#include "server/comparison/comparison.h"
#include "server/comparison/split.h"
#include "server/engine/engine.h"

// What the base model can do before it is tuned, asked of few rows. All wait for the engine; CANCELLED once `go_on`
// says so.
namespace attune {

inline constexpr int64_t kMostProbed = 150;  // rows that are asked
inline constexpr int64_t kShots = 8;         // examples before a prompt

struct BaseProbe {
  Measure zero_shot, few_shot;           // quality, with Wilson's interval
  int64_t shots = 0;                     // examples that few_shot was asked with; 0: it was not, none had room
  double answer_loss = 0, own_loss = 0;  // nats per token: of the right answers, and of text that the model writes
  double zero_shot_milliseconds = 0, few_shot_milliseconds = 0;  // of a request alone, the median
  double seconds_per_row = 0;                                    // many at a time, without examples
  double task_distance() const { return answer_loss - own_loss; }
};

// Rows that examples are chosen among.
struct Candidates {
  std::vector<Row> rows;
  std::vector<SplitRow> described;  // as DescribeRows
  std::vector<double> tokens;       // of each row, whole
};

// Asks `task`, whose rows are no candidates, as it is and with examples before each prompt. `say` is told what is being
// done. REQUIRES: task.rows is not empty.
absl::StatusOr<BaseProbe> ProbeBase(Engine* engine, std::shared_ptr<const ServedModel> base, const EvalTask& task,
                                    const Candidates& candidates, const GoOn& go_on,
                                    const std::function<void(const std::string&)>& say);

// The figures in plain words.
std::vector<Finding> FindingsOf(const BaseProbe& probe);

// The mean hidden state of each prompt, one after the other.
absl::StatusOr<std::vector<float>> EmbedPrompts(Engine* engine, std::shared_ptr<const ServedModel> base,
                                                const std::vector<std::vector<int32_t>>& prompts, const GoOn& go_on);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_PROBE_BASE_H_
