#include "server/card_facts.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/comparison/measure_names.h"
#include "server/comparison/report/report_missing.h"
#include "server/comparison/report/report_names.h"
#include "server/comparison/report/report_numbers.h"

namespace attune {
namespace {

using Lines = ModelCardFacts::Lines;

std::string Number(double value) { return absl::StrFormat("%g", value); }

void Add(absl::string_view name, std::string value, Lines* lines) {
  if (!value.empty()) lines->emplace_back(name, std::move(value));
}

// Zero is "as the method's default" in a spec: left out rather than told as a setting.
void AddPositive(absl::string_view name, double value, Lines* lines) {
  if (value > 0) lines->emplace_back(name, Number(value));
}

std::string ModulesText(const std::vector<TargetModule>& modules) {
  return absl::StrJoin(modules, ", ", [](std::string* out, TargetModule module) {
    absl::StrAppend(out, TargetModuleName(module));
  });
}

// The settings of each method that the user chose.
void AddMethod(const FullSpec&, Lines* lines) { Add("weights", "all", lines); }
void AddMethod(const PartialSpec& spec, Lines* lines) {
  AddPositive("last layers", spec.last_layers, lines);
  Add("parameters", absl::StrJoin(spec.parameter_patterns, ", "), lines);
  if (spec.biases_and_norms) Add("biases and norms", "trained", lines);
}
void AddMethod(const LoraSpec& spec, Lines* lines) {
  AddPositive("rank", spec.rank, lines);
  AddPositive("alpha", spec.alpha, lines);
  if (spec.dropout) Add("dropout", Number(*spec.dropout), lines);
  Add("modules", ModulesText(spec.target_modules), lines);
  Add("modules trained whole", ModulesText(spec.modules_to_save), lines);
  if (spec.use_rslora) Add("rsLoRA", "yes", lines);
  if (spec.use_dora) Add("DoRA", "yes", lines);
  if (spec.learning_rate_ratio > 1) Add("LoRA+, learning rate of B over A", Number(spec.learning_rate_ratio), lines);
}
void AddMethod(const SoftPromptSpec& spec, Lines* lines) {
  AddPositive("virtual tokens", spec.num_virtual_tokens, lines);
  Add("started from the text", spec.init_text, lines);
}
void AddMethod(const PrefixSpec& spec, Lines* lines) {
  AddPositive("virtual tokens", spec.num_virtual_tokens, lines);
  Add("started from the text", spec.init_text, lines);
}
void AddMethod(const Ia3Spec& spec, Lines* lines) { Add("modules", ModulesText(spec.target_modules), lines); }
void AddMethod(const TextPromptSpec& spec, Lines* lines) {
  AddPositive("candidates", spec.candidates, lines);
  AddPositive("rounds", spec.rounds, lines);
  if (spec.max_examples) Add("examples in the prompt, at most", absl::StrCat(*spec.max_examples), lines);
}

absl::string_view ScheduleName(LearningRateSchedule schedule) {
  switch (schedule) {
    case LearningRateSchedule::kCosine: return "cosine";
    case LearningRateSchedule::kLinear: return "linear";
    case LearningRateSchedule::kConstant: return "constant";
    case LearningRateSchedule::kUnspecified: break;
  }
  return "";
}

// As resolved: with every default's value.
void AddTraining(const Hyperparameters& h, Lines* lines) {
  AddPositive("epochs", h.epochs, lines);
  AddPositive("optimizer steps, at most", static_cast<double>(h.max_steps), lines);
  AddPositive("batch size", h.batch_size, lines);
  AddPositive("learning rate", h.learning_rate, lines);
  Add("schedule", std::string(ScheduleName(h.schedule)), lines);
  if (h.warmup_ratio) Add("warm-up", Number(*h.warmup_ratio), lines);
  if (h.weight_decay) Add("weight decay", Number(*h.weight_decay), lines);
  if (h.max_gradient_norm) Add("largest gradient norm", Number(*h.max_gradient_norm), lines);
  if (h.keep_best) Add("weights kept", *h.keep_best ? "of the best validation loss" : "of the last step", lines);
  Add("precision", h.precision, lines);
  if (h.quantization != "none") Add("base model's weights in training", h.quantization, lines);
  if (h.optimizer_state != "float32") Add("optimizer state", h.optimizer_state, lines);
  AddPositive("NEFTune's noise", h.neftune_noise_alpha, lines);
  if (h.seed) Add("seed", absl::StrCat(*h.seed), lines);
}

void AddStartAndObjective(const JobSpec& spec, Lines* lines) {
  if (spec.start_from) {
    Add("training started from", spec.start_from->model.empty()
                                     ? absl::StrCat("step ", spec.start_from->step, " of job ", spec.start_from->job)
                                     : spec.start_from->model, lines);
  }
  if (spec.dpo) {
    Add("objective", "direct preference optimisation", lines);
    Add("beta", Number(spec.dpo->beta > 0 ? spec.dpo->beta : 0.1), lines);
    AddPositive("label smoothing", spec.dpo->label_smoothing, lines);
  }
  if (!spec.distillation) return;
  const DistillationSpec& distillation = *spec.distillation;
  Add("objective", "distillation", lines);
  Add("teacher", distillation.teacher, lines);
  Add("teacher's tokens", absl::StrCat(distillation.top_k > 0 ? distillation.top_k : 16), lines);
  Add("weight of the teacher's part", Number(distillation.weight.value_or(0.5)), lines);
  Add("temperature", Number(distillation.temperature > 0 ? distillation.temperature : 1), lines);
}

void AddJob(const Job& job, ModelCardFacts* facts) {
  facts->dataset = job.spec.dataset;
  facts->validation_dataset = job.spec.validation_dataset;
  if (job.data_report) {
    facts->train_examples = job.data_report->train_examples;
    facts->validation_examples = job.data_report->validation_examples;
    facts->cut_examples = job.data_report->truncated_examples;
    facts->left_out_examples = job.data_report->dropped_examples;
  }
  std::visit([&](const auto& method) { AddMethod(method, &facts->settings); }, job.spec.method);
  AddStartAndObjective(job.spec, &facts->settings);
  if (job.resolved_hyperparameters) AddTraining(*job.resolved_hyperparameters, &facts->settings);
  if (job.training_seconds > 0) Add("time in steps and evaluations", SecondsText(job.training_seconds), &facts->cost);
  if (job.energy_joules) Add("energy of the device in that time", EnergyText(*job.energy_joules), &facts->cost);
  if (job.progress.peak_memory_bytes > 0) {
    Add("most memory at once, beside the base model", BytesText(static_cast<double>(job.progress.peak_memory_bytes)),
        &facts->cost);
  }
}

std::string StandingText(const Comparison& comparison, const Contender& contender) {
  const auto ranked = std::count_if(comparison.contenders.begin(), comparison.contenders.end(),
                                    [](const Contender& other) { return other.rank > 0; });
  std::string text = absl::StrCat("Rank ", contender.rank, " of ", ranked, Winner(comparison) == &contender ? ", the winner" : "");
  if (contender.rank > 1 && contender.ties_best) absl::StrAppend(&text, ", not told apart from the best");
  return absl::StrCat(text, ", by ", MetricTitle(comparison.metric), "; on ", CountText(comparison.test_examples),
                      " test examples that nothing was tuned on");
}

// With its interval; empty if it was not measured.
std::string LossText(const Contender& contender, absl::string_view name, absl::string_view where) {
  const Measure* const lost = FiniteMeasure(contender, name);
  if (lost == nullptr) return "";
  std::string text = absl::StrCat(ValueText(*lost), " lost ", where);
  if (HasInterval(*lost)) absl::StrAppend(&text, " (95% interval ", IntervalText(*lost), ")");
  return text;
}

std::string ForgettingText(const Contender& contender) {
  // What changes no weight has figures, too: zeros by definition.
  if (!ChangesWeights(contender.kind)) return "";
  const std::string general = LossText(contender, kForgetting, "against the base model on general questions");
  const std::string own = LossText(contender, kRetentionLoss, "on the data that was not to be forgotten");
  if (general.empty() && own.empty()) return "";
  return absl::StrCat(general, general.empty() || own.empty() ? "" : "; ", own,
                      ". Below zero it got better; an interval across zero shows no loss.");
}

void AddComparison(const Comparison& comparison, const Contender& contender, ModelCardFacts* facts) {
  ModelCardFacts::Compared compared;
  compared.id = comparison.spec.id;
  compared.standing = StandingText(comparison, contender);
  compared.verdict = comparison.verdict;
  for (const MeasureInfo& info : MeasureInfos()) {
    const Measure* const measure = FiniteMeasure(contender, info.name);
    if (measure == nullptr) continue;
    compared.figures.push_back({std::string(info.title), ValueText(*measure), IntervalText(*measure),
                                std::string(MeaningOf(info.name).definition)});
  }
  facts->forgetting = ForgettingText(contender);
  facts->compared = std::move(compared);
}

}  // namespace

ModelCardFacts CardFacts(const ModelInfo& info, const JobStore& jobs, const ComparisonStore& comparisons) {
  ModelCardFacts facts;
  const absl::StatusOr<Job> job = info.tuning_job.empty() ? absl::NotFoundError("") : jobs.Get(info.tuning_job);
  if (!job.ok()) return facts;
  AddJob(*job, &facts);
  const auto label = job->spec.labels.find("comparison");
  if (label == job->spec.labels.end()) return facts;
  const absl::StatusOr<Comparison> comparison = comparisons.Get(label->second);
  if (!comparison.ok() || comparison->state != ComparisonState::kSucceeded) return facts;
  for (const Contender& contender : comparison->contenders) {
    // Another setting's model, which stayed on request, was not asked the test part.
    if (contender.model == info.id && contender.rank > 0) AddComparison(*comparison, contender, &facts);
  }
  return facts;
}

}  // namespace attune
