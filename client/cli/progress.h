#ifndef ATTUNE_CLIENT_CLI_PROGRESS_H_
#define ATTUNE_CLIENT_CLI_PROGRESS_H_

#include <ostream>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "attune/v1/tuning_job.pb.h"

namespace attune::cli {

// "[#####.....]", `width` characters between the brackets; `share` from 0 to 1.
std::string FormatBar(double share, int width);

// One line about a job, at most `width` columns:
//   r8-lora  RUNNING [#####.....] 120/400  loss 0.412  1.2k tok/s  1m32s left
// Parts that are unknown, or at the end do not fit, are left out.
std::string FormatJobProgress(absl::string_view job, v1::TuningJob::State state, const v1::JobProgress& progress,
                              int width);

// "step 40/400  validation loss 0.312  token accuracy 0.931  best so far".
std::string FormatEvaluation(const v1::JobProgress& progress);

// Columns of the terminal behind standard output, or 100.
int TerminalWidth();

// Where progress goes: on a terminal one line that is redrawn, else plain lines
// at a readable pace. Not thread-safe.
class ProgressWriter {
 public:
  ProgressWriter(std::ostream& out, bool terminal) : out_(out), terminal_(terminal) {}
  // Ends a live line.
  ~ProgressWriter() { Clear(); }
  // Shows the current state. Off a terminal, dropped if the last came less than 2 s before.
  void Update(const std::string& line, absl::Time now);
  // A line that stays.
  void Print(const std::string& line);
  // Removes the live line.
  void Clear();

 private:
  std::ostream& out_;
  const bool terminal_;
  bool live_ = false;
  absl::Time last_ = absl::InfinitePast();
};

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_PROGRESS_H_
