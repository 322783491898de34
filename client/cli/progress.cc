#include "client/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/attune.h"
#include "client/cli/output.h"

namespace attune::cli {

std::string FormatBar(double share, int width) {
  int filled = static_cast<int>(std::clamp(share, 0.0, 1.0) * width);
  return absl::StrCat("[", std::string(filled, '#'), std::string(width - filled, '.'), "]");
}

std::string FormatJobProgress(absl::string_view job, v1::TuningJob::State state, const v1::JobProgress& p, int width) {
  const int64_t step = p.step(), total = p.total_steps();
  const bool running = state == v1::TuningJob::RUNNING;
  std::string line = absl::StrCat(job, "  ", v1::TuningJob::State_Name(state));
  if (total > 0) {
    int bar = std::clamp(width / 5, 10, 24);
    absl::StrAppend(&line, " ", FormatBar(static_cast<double>(step) / total, bar), " ", step, "/", total);
  } else if (step > 0) {
    absl::StrAppend(&line, "  step ", step);
  }
  std::vector<std::string> parts;
  const bool is_search = p.train_loss() == 0;  // which trains nothing
  if (step > 0 && !is_search) parts.push_back(absl::StrFormat("loss %.3f", p.train_loss()));
  if (step > 0 && p.preference_accuracy() > 0) parts.push_back(absl::StrFormat("preferred %.3f", p.preference_accuracy()));
  if (step > 0 && p.validation_score() > 0) parts.push_back(absl::StrFormat("score %.3f", p.validation_score()));
  if (running && p.tokens_per_second() > 0) parts.push_back(FormatCount(p.tokens_per_second()) + " tok/s");
  if (running && step > 0 && p.eta_seconds() >= 0) parts.push_back(FormatSeconds(p.eta_seconds()) + " left");
  for (const std::string& part : parts) {
    if (static_cast<int>(line.size() + 2 + part.size()) > width) break;
    absl::StrAppend(&line, "  ", part);
  }
  if (static_cast<int>(line.size()) > width) line.resize(std::max(0, width));
  return line;
}

std::string FormatEvaluation(const v1::JobProgress& p) {
  if (p.validation_score() > 0) {
    return absl::StrFormat("call %d/%d  best score %.3f", p.step(), p.total_steps(), p.validation_score());
  }
  bool best = p.validation_loss() <= p.best_validation_loss();
  if (p.validation_preference_accuracy() > 0) {
    return absl::StrFormat("step %d/%d  validation loss %.3f  preferred %.3f, margin %.3f%s", p.step(), p.total_steps(),
                           p.validation_loss(), p.validation_preference_accuracy(), p.validation_reward_margin(),
                           best ? "  best so far" : "");
  }
  return absl::StrFormat("step %d/%d  validation loss %.3f  token accuracy %.3f%s", p.step(), p.total_steps(),
                         p.validation_loss(), p.validation_token_accuracy(), best ? "  best so far" : "");
}

int TerminalWidth() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col - 1;
  return 100;
}

void ProgressWriter::Update(const std::string& line, absl::Time now) {
  if (terminal_) {
    out_ << "\r" << line << "\x1b[K" << std::flush;
    live_ = true;
  } else if (now - last_ >= absl::Seconds(2)) {
    out_ << line << std::endl;
    last_ = now;
  }
}

void ProgressWriter::Print(const std::string& line) {
  Clear();
  out_ << line << std::endl;
}

void ProgressWriter::Clear() {
  if (live_) out_ << "\r\x1b[K" << std::flush;
  live_ = false;
}

}  // namespace attune::cli
