#ifndef ATTUNE_TESTS_EVALUATION_PROMPT_SEARCH_FAKE_CONTROL_H_
#define ATTUNE_TESTS_EVALUATION_PROMPT_SEARCH_FAKE_CONTROL_H_

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "server/jobs/runner_interface.h"

namespace attune {

// What the job manager would keep of a job. Stops it after so many calls of the model if asked
// to. Used on one thread, but for Stop.
class FakeControl final : public JobControl {
 public:
  void StopAfter(int64_t calls, StopRequest request) {
    stop_after_ = calls;
    request_ = request;
    stop_ = StopRequest::kNone;
  }

  void Stop(StopRequest request) { stop_ = request; }  // from any thread

  StopRequest stop_request() const override { return stop_; }
  absl::Status SetRunning(const Hyperparameters& hyperparameters, const DataReport& data_report) override {
    resolved = hyperparameters;
    report = data_report;
    return absl::OkStatus();
  }
  absl::Status ReportProgress(const JobProgress& reported) override {
    progress = reported;
    if (stop_after_ > 0 && reported.step >= stop_after_) stop_ = request_;
    return absl::OkStatus();
  }
  absl::Status ReportEvaluation(const JobProgress& reported) override { return ReportProgress(reported); }
  void AddTrainingSeconds(double added) override { seconds += added; }
  void AddEnergy(double added) override { joules = joules.value_or(0) + added; }
  absl::Status ReportCheckpoint(const Checkpoint& checkpoint) override {
    saved.insert(saved.begin(), checkpoint);
    return absl::OkStatus();
  }
  absl::Status RemoveCheckpoint(int64_t step) override {
    std::erase_if(saved, [step](const Checkpoint& checkpoint) { return checkpoint.step == step; });
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<Checkpoint>> checkpoints() const override { return saved; }
  absl::Status Log(absl::string_view message) override {
    logs.emplace_back(message);
    return absl::OkStatus();
  }

  Hyperparameters resolved;
  DataReport report;
  JobProgress progress;
  double seconds = 0;
  std::optional<double> joules;
  std::vector<Checkpoint> saved;  // newest first
  std::vector<std::string> logs;

 private:
  int64_t stop_after_ = 0;
  StopRequest request_ = StopRequest::kNone;
  std::atomic<StopRequest> stop_ = StopRequest::kNone;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_EVALUATION_PROMPT_SEARCH_FAKE_CONTROL_H_
