#ifndef ATTUNE_SERVER_JOBS_JOB_H_
#define ATTUNE_SERVER_JOBS_JOB_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// A tuning job as the server keeps it. The types mirror
// proto/attune/v1/tuning_job.proto one to one: the same names, units and
// defaults, and a field that the proto calls unset (or zero for auto) is unset
// or zero here too. Resource names are bare ids here ("smollm2", not
// "models/smollm2").
namespace attune {

// The numbers are the proto's and the database's: never renumber.
enum class JobState {
  kQueued = 1,
  kPreparing = 2,
  kRunning = 3,
  kPaused = 4,
  kSucceeded = 5,
  kFailed = 6,
  kCancelled = 7,
};

// The proto's name, e.g. "QUEUED".
absl::string_view JobStateName(JobState state);
// Whether a job may go from one state to the other (see the proto). Never true for from == to.
bool IsLegalTransition(JobState from, JobState to);
// SUCCEEDED, FAILED and CANCELLED.
bool IsFinal(JobState state);

// What a running job was asked to do. The numbers are the database's.
enum class StopRequest {
  kNone = 0,
  kCancel = 1,    // stop for good; nothing need be saved
  kPause = 2,     // save a checkpoint and stop
  kShutdown = 3,  // save a checkpoint and stop: the server ends. Never stored
};

enum class TargetModule {
  kQProj = 1,
  kKProj = 2,
  kVProj = 3,
  kOProj = 4,
  kGateProj = 5,
  kUpProj = 6,
  kDownProj = 7,
  kEmbedTokens = 8,
  kLmHead = 9,
};

// As in Hugging Face parameter names: "q_proj" to "lm_head".
absl::string_view TargetModuleName(TargetModule module);
// Whether it is outside the layers: the embedding or the head.
bool IsVocabulary(TargetModule module);
// Whether a module is among some.
bool Contains(const std::vector<TargetModule>& modules, TargetModule module);

struct FullSpec {
  bool operator==(const FullSpec&) const = default;
};

struct PartialSpec {
  int32_t last_layers = 0;
  std::vector<std::string> parameter_patterns;
  bool biases_and_norms = false;
  bool operator==(const PartialSpec&) const = default;
};

struct LoraSpec {
  int32_t rank = 0;               // 0: 16
  double alpha = 0;               // 0: 2 * rank
  std::optional<double> dropout;  // unset: 0.05
  std::vector<TargetModule> target_modules;  // empty: the seven of each layer
  bool use_rslora = false;
  double learning_rate_ratio = 0;  // LoRA+: B's over A's; 0: 1
  bool use_dora = false;
  std::vector<TargetModule> modules_to_save;  // kEmbedTokens, kLmHead: trained whole
  bool operator==(const LoraSpec&) const = default;
};

struct SoftPromptSpec {
  enum class Init { kUnspecified = 0, kSampleVocab = 1, kText = 2, kRandom = 3 };
  int32_t num_virtual_tokens = 0;   // 0: 20
  Init init = Init::kUnspecified;   // kUnspecified: kText if init_text is set, else kSampleVocab
  std::string init_text;
  bool operator==(const SoftPromptSpec&) const = default;
};

struct PrefixSpec {
  int32_t num_virtual_tokens = 0;  // 0: 20
  SoftPromptSpec::Init init = SoftPromptSpec::Init::kUnspecified;  // as there
  std::string init_text;
  bool operator==(const PrefixSpec&) const = default;
};

struct Ia3Spec {
  std::vector<TargetModule> target_modules;  // empty: k_proj, v_proj, down_proj
  bool operator==(const Ia3Spec&) const = default;
};

struct TextPromptSpec {
  enum class Selection { kUnspecified = 0, kLabelCoverage = 1, kDiverse = 2, kSimilar = 3 };
  enum class Metric { kUnspecified = 0, kLabelAccuracy = 1, kExactMatch = 2, kLoss = 3 };
  std::vector<std::string> instructions;
  std::optional<int32_t> max_examples;           // unset: 8
  Selection selection = Selection::kUnspecified;  // kUnspecified: all
  int32_t candidates = 0;                         // 0: 12
  int32_t rounds = 0;                             // 0: 3
  Metric metric = Metric::kUnspecified;           // kUnspecified: by the data
  std::optional<bool> calibrate;                  // unset: where it helps
  int64_t max_calls = 0, max_tokens = 0;          // 0: no limit
  double max_minutes = 0;                         // 0: no limit
  bool operator==(const TextPromptSpec&) const = default;
};

using MethodSpec =
    std::variant<FullSpec, PartialSpec, LoraSpec, SoftPromptSpec, PrefixSpec, Ia3Spec, TextPromptSpec>;

// The proto's field names: "full", "partial", "lora", "soft_prompt", "prefix", "ia3", "text_prompt".
absl::string_view MethodName(const MethodSpec& method);

enum class LearningRateSchedule { kUnspecified = 0, kCosine = 1, kLinear = 2, kConstant = 3 };

struct Hyperparameters {
  double epochs = 0;
  int64_t max_steps = 0;
  int32_t batch_size = 0;
  double learning_rate = 0;
  double learning_rate_multiplier = 0;  // 0: 1
  LearningRateSchedule schedule = LearningRateSchedule::kUnspecified;
  std::optional<double> warmup_ratio;
  std::optional<double> weight_decay;
  std::optional<double> adam_beta1;
  std::optional<double> adam_beta2;
  std::optional<double> adam_epsilon;
  std::optional<double> max_gradient_norm;
  int64_t micro_batch_tokens = 0;
  int64_t evaluation_steps = 0;
  int32_t early_stopping_patience = 0;
  std::optional<bool> keep_best;
  int64_t checkpoint_steps = 0;
  int32_t max_checkpoints = 0;
  std::optional<int64_t> seed;
  std::string precision;  // "", "auto", "float32", "bfloat16"
  std::string quantization;     // of the frozen base model: "", "none", "int8", "nf4"
  std::string optimizer_state;  // "", "float32", "int8"
  double neftune_noise_alpha = 0;  // 0: no noise
  bool operator==(const Hyperparameters&) const = default;
};

struct DataOptions {
  std::string prompt_template;
  std::string completion_template;
  bool train_on_prompt = false;
  int32_t max_sequence_tokens = 0;
  double validation_fraction = 0;
  bool split_long_texts = false;
  bool operator==(const DataOptions&) const = default;
};

// Where training starts: a tuned model, or another job's checkpoint.
struct StartPoint {
  std::string model;  // id; empty: a checkpoint
  std::string job;    // id
  int64_t step = 0;
  bool operator==(const StartPoint&) const = default;
};

// Direct preference optimisation (Rafailov et al. 2023).
struct DpoSpec {
  double beta = 0;  // 0: 0.1
  double label_smoothing = 0;
  bool operator==(const DpoSpec&) const = default;
};

// Learning from another model's probabilities.
struct DistillationSpec {
  std::string teacher;           // model id
  int32_t top_k = 0;             // 0: 16
  double temperature = 0;        // 0: 1
  std::optional<double> weight;  // unset: 0.5
  bool operator==(const DistillationSpec&) const = default;
};

// What the user asked for; never changes once the job is queued.
struct JobSpec {
  std::string id;  // empty before creation: the server makes one
  std::string display_name;
  std::string base_model;
  std::string dataset;
  std::string validation_dataset;  // empty: none
  std::string tuned_model_id;      // empty before creation: derived
  MethodSpec method;
  std::optional<StartPoint> start_from;
  // The objective: at most one; none: the likelihood of the answers.
  std::optional<DpoSpec> dpo;
  std::optional<DistillationSpec> distillation;
  Hyperparameters hyperparameters;
  DataOptions data;
  int32_t priority = 0;
  std::string tenant;  // empty before creation: "default"
  std::map<std::string, std::string> labels;
  bool operator==(const JobSpec&) const = default;
};

struct JobError {
  std::string reason;
  std::string message;
  bool operator==(const JobError&) const = default;
};

struct JobProgress {
  int64_t step = 0;
  int64_t total_steps = 0;
  double epoch = 0;
  double train_loss = 0;
  double validation_loss = 0;
  double best_validation_loss = 0;
  double validation_token_accuracy = 0;
  int64_t trained_tokens = 0;
  double tokens_per_second = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  double eta_seconds = -1;
  double validation_score = 0;
  // Most of the device that the job's tensors took at once so far, beside the base model's; 0 before the first step.
  int64_t peak_memory_bytes = 0;
  // Of preferences alone.
  double reward_margin = 0;
  double preference_accuracy = 0;
  double validation_reward_margin = 0;
  double validation_preference_accuracy = 0;
  bool operator==(const JobProgress&) const = default;
};

struct DataReport {
  int64_t train_examples = 0;
  int64_t validation_examples = 0;
  int64_t train_tokens = 0;
  int64_t train_loss_tokens = 0;
  int64_t truncated_examples = 0;
  int64_t dropped_examples = 0;
  int64_t overlapping_examples = 0;
  bool operator==(const DataReport&) const = default;
};

// Named by its job and step.
struct Checkpoint {
  int64_t step = 0;
  double train_loss = 0;
  double validation_loss = 0;
  double validation_token_accuracy = 0;
  int64_t size_bytes = 0;
  absl::Time create_time;
  bool best = false;
  bool operator==(const Checkpoint&) const = default;
};

struct JobEvent {
  enum class Type { kStateChanged = 1, kProgress = 2, kEvaluation = 3, kCheckpoint = 4, kLog = 5 };
  int64_t sequence = 0;
  absl::Time time;
  Type type = Type::kLog;
  JobState state = JobState::kQueued;
  std::string message;
  std::optional<JobProgress> progress;
  std::optional<Checkpoint> checkpoint;
  bool operator==(const JobEvent&) const = default;
};

// What a job has taken of the device.
struct DeviceUse {
  double training_seconds = 0;
  std::optional<double> energy_joules;  // in that time; unset where the device does not tell
  bool operator==(const DeviceUse&) const = default;
};

struct Job {
  JobSpec spec;
  JobState state = JobState::kQueued;
  std::string state_reason;
  std::optional<JobError> error;
  JobProgress progress;
  std::string tuned_model;  // id; empty until SUCCEEDED
  absl::Time create_time;
  std::optional<absl::Time> start_time;
  std::optional<absl::Time> end_time;
  // When it last entered the queue: what a queue wait is measured from.
  absl::Time queue_time;
  // Changes with every change but those of `progress`, `training_seconds` and `energy_joules`,
  // so that a client can cancel a running job with the etag it has just read.
  std::string etag;
  std::optional<Hyperparameters> resolved_hyperparameters;
  std::optional<DataReport> data_report;
  double training_seconds = 0;
  // Of the device, in that time, over the runs on devices that tell; unset if none did. See device/energy_share.h.
  std::optional<double> energy_joules;
  // Order of creation; rises, never reused. For paging.
  int64_t position = 0;
  // Estimated peak device memory above the base model's, bytes.
  int64_t memory_bytes = 0;
  // A cancel or pause that the running job has not yet followed. Survives a crash.
  StopRequest stop_requested = StopRequest::kNone;
  void Add(const DeviceUse& use) {
    training_seconds += use.training_seconds;
    if (use.energy_joules) energy_joules = energy_joules.value_or(0) + *use.energy_joules;
  }
  bool operator==(const Job&) const = default;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_JOBS_JOB_H_
