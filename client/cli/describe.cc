#include "client/cli/describe.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/cli/alias_targets.h"
#include "client/cli/context.h"
#include "client/cli/output.h"

namespace attune::cli {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

// "" for zero, so that PrintFields leaves it out.
std::string Positive(int64_t value) { return value > 0 ? absl::StrCat(value) : ""; }

std::string QuotedOrEmpty(const std::string& text) { return text.empty() ? "" : Quoted(text); }

std::string DescribeArchitecture(const v1::Architecture& a) {
  if (a.layers() == 0) return "";
  return absl::StrCat(a.family(), ", ", FormatCount(a.parameters()), " parameters, ", a.layers(), " layers, width ",
                      a.hidden_size(), ", context ", a.context_tokens(), ", vocabulary ", a.vocabulary_size());
}

std::string DescribeData(const v1::DataReport& r) {
  if (r.train_examples() == 0) return "";
  std::string text = absl::StrCat(r.train_examples(), " examples to train, ", r.validation_examples(),
                                  " to validate, ", FormatCount(r.train_tokens()), " tokens a pass");
  if (r.truncated_examples() > 0) absl::StrAppend(&text, ", ", r.truncated_examples(), " prompts cut");
  if (r.dropped_examples() > 0) absl::StrAppend(&text, ", ", r.dropped_examples(), " dropped (answer too long)");
  if (r.overlapping_examples() > 0) {
    absl::StrAppend(&text, ", ", r.overlapping_examples(), " validation examples are in the training data too");
  }
  return text;
}

std::string DescribeSettings(const v1::Hyperparameters& h) {
  if (h.learning_rate() == 0 && h.batch_size() == 0) return "";
  return absl::StrCat("epochs ", FormatNumber(h.epochs()), ", batch ", h.batch_size(), ", learning rate ",
                      FormatNumber(h.learning_rate()), ", ",
                      absl::AsciiStrToLower(v1::LearningRateSchedule_Name(h.schedule())), ", seed ", h.seed(), ", ",
                      h.precision(), h.quantization().empty() || h.quantization() == "none"
                                         ? ""
                                         : absl::StrCat(" over ", h.quantization(), " weights"),
                      h.optimizer_state() == "int8" ? ", 8-bit optimizer state" : "",
                      h.neftune_noise_alpha() > 0 ? absl::StrCat(", NEFTune ", FormatNumber(h.neftune_noise_alpha())) : "");
}

std::string DescribeProgress(const v1::JobProgress& p) {
  if (p.step() == 0) return "";
  if (p.train_loss() == 0) {  // a search
    return absl::StrCat("call ", p.step(), "/", p.total_steps(), ", best score ", FormatNumber(p.validation_score()));
  }
  std::string text = absl::StrCat("step ", p.step(), "/", p.total_steps(), ", loss ", FormatNumber(p.train_loss()));
  if (p.validation_loss() > 0) {
    absl::StrAppend(&text, ", validation loss ", FormatNumber(p.validation_loss()), " (best ",
                    FormatNumber(p.best_validation_loss()), "), ");
    if (p.validation_preference_accuracy() > 0) {
      absl::StrAppend(&text, "preferred ", FormatNumber(p.validation_preference_accuracy()), ", reward margin ",
                      FormatNumber(p.validation_reward_margin()));
    } else {
      absl::StrAppend(&text, "token accuracy ", FormatNumber(p.validation_token_accuracy()));
    }
  }
  return text;
}

std::string DescribePrompt(absl::string_view kind, int virtual_tokens) {
  return virtual_tokens > 0 ? absl::StrCat(kind, ", ", virtual_tokens, " virtual tokens") : std::string(kind);
}

std::string DescribeTextPrompt(const v1::TextPromptSearch& search) {
  std::string text = "text prompt";
  if (search.rounds() > 0) absl::StrAppend(&text, ", ", search.rounds(), " rounds");
  if (search.candidates() > 0) absl::StrAppend(&text, ", ", search.candidates(), " candidates");
  if (search.has_max_examples()) absl::StrAppend(&text, ", at most ", search.max_examples(), " examples");
  if (search.max_calls() > 0) absl::StrAppend(&text, ", at most ", search.max_calls(), " calls");
  return text;
}

// That a LoRA adapts the embedding or the head, or trains it whole.
void DescribeVocabulary(v1::TargetModule module, const v1::LoraTuning& lora, std::string* text) {
  const std::string name = absl::AsciiStrToLower(v1::TargetModule_Name(module));
  const auto holds = [module](const auto& modules) { return std::find(modules.begin(), modules.end(), module) != modules.end(); };
  if (holds(lora.target_modules())) absl::StrAppend(text, ", ", name, " adapted");
  if (holds(lora.modules_to_save())) absl::StrAppend(text, ", ", name, " whole");
}

// Empty for the usual one.
std::string DescribeObjective(const v1::TuningJob& job) {
  if (job.has_dpo()) {
    const double beta = job.dpo().beta() > 0 ? job.dpo().beta() : 0.1;
    std::string text = absl::StrCat("direct preference optimisation, beta ", FormatNumber(beta));
    if (job.dpo().label_smoothing() > 0) absl::StrAppend(&text, ", label smoothing ", FormatNumber(job.dpo().label_smoothing()));
    return text;
  }
  if (!job.has_distillation()) return "";
  const v1::Distillation& d = job.distillation();
  return absl::StrCat("distillation of ", d.teacher(), ", weight ", FormatNumber(d.has_weight() ? d.weight() : 0.5),
                      ", top ", d.top_k() > 0 ? d.top_k() : 16, ", temperature ",
                      FormatNumber(d.temperature() > 0 ? d.temperature() : 1));
}

std::string DescribePartial(const v1::PartialTuning& partial) {
  std::vector<std::string> parts;
  if (partial.last_layers() > 0) parts.push_back(absl::StrCat("last ", partial.last_layers(), " layers"));
  for (const std::string& pattern : partial.parameter_patterns()) parts.push_back(pattern);
  if (partial.biases_and_norms()) parts.push_back("biases and norms");
  return absl::StrCat("partial: ", absl::StrJoin(parts, ", "));
}

}  // namespace

std::string MethodName(const v1::TuningJob& job) {
  switch (job.method_case()) {
    case v1::TuningJob::kFull: return "full";
    case v1::TuningJob::kPartial: return "partial";
    case v1::TuningJob::kLora: return "lora";
    case v1::TuningJob::kSoftPrompt: return "soft-prompt";
    case v1::TuningJob::kPrefix: return "prefix";
    case v1::TuningJob::kIa3: return "ia3";
    case v1::TuningJob::kTextPrompt: return "text-prompt";
    case v1::TuningJob::METHOD_NOT_SET: break;
  }
  return "";
}

std::string DescribeMethod(const v1::TuningJob& job) {
  if (job.has_lora()) {
    std::string text = "LoRA";
    if (job.lora().rank() > 0) absl::StrAppend(&text, ", rank ", job.lora().rank());
    if (job.lora().alpha() > 0) absl::StrAppend(&text, ", alpha ", job.lora().alpha());
    if (job.lora().use_rslora()) text += ", rsLoRA";
    if (job.lora().use_dora()) text += ", DoRA";
    for (v1::TargetModule module : {v1::EMBED_TOKENS, v1::LM_HEAD}) DescribeVocabulary(module, job.lora(), &text);
    if (job.lora().learning_rate_ratio() > 1) absl::StrAppend(&text, ", LoRA+ with ratio ", job.lora().learning_rate_ratio());
    return text;
  }
  if (job.has_soft_prompt()) return DescribePrompt("soft prompt", job.soft_prompt().num_virtual_tokens());
  if (job.has_prefix()) return DescribePrompt("prefix", job.prefix().num_virtual_tokens());
  if (job.has_ia3()) return "IA3";
  if (job.has_text_prompt()) return DescribeTextPrompt(job.text_prompt());
  if (job.has_partial()) return DescribePartial(job.partial());
  return job.has_full() ? "full" : "";
}

void PrintModel(std::ostream& out, const v1::Model& model) {
  Fields fields = {
      {"name", model.name()},
      {"display name", model.display_name()},
      {"description", model.description()},
      {"kind", v1::Model::Kind_Name(model.kind())},
      {"base model", model.base_model()},
      {"tuning job", model.tuning_job()},
      {"architecture", DescribeArchitecture(model.architecture())},
      {"size", FormatBytes(model.size_bytes())},
      {"prompt template", QuotedOrEmpty(model.prompt_template())},
      {"completion template", QuotedOrEmpty(model.completion_template())},
      {"labels", FormatLabels(model.labels())},
      {"created", FormatAge(model.create_time(), absl::Now())},
  };
  std::map<std::string, double> metrics(model.metrics().begin(), model.metrics().end());
  for (const auto& [name, value] : metrics) fields.emplace_back(name, FormatNumber(value));
  PrintFields(out, fields);
}

void PrintAlias(std::ostream& out, const v1::Alias& alias) {
  PrintFields(out, {{"name", alias.name()},
                    {"asked as", absl::StrCat("models/", BareName(alias.name()))},
                    {"models", FormatTargets(alias.targets())},
                    {"created", FormatAge(alias.create_time(), absl::Now())}});
  out << "\n";
  Table table({"REVISION", "MODELS", "SET"});
  for (const v1::Alias::Setting& setting : alias.history()) {
    table.Add({absl::StrCat(setting.revision()), FormatTargets(setting.targets()),
               FormatAge(setting.set_time(), absl::Now())});
  }
  table.Print(out);
}

void PrintDataset(std::ostream& out, const v1::Dataset& dataset) {
  PrintFields(out, {
                       {"name", dataset.name()},
                       {"display name", dataset.display_name()},
                       {"kind", v1::Dataset::Kind_Name(dataset.kind())},
                       {"format", v1::Dataset::Format_Name(dataset.format())},
                       {"rows", absl::StrCat(dataset.row_count())},
                       {"skipped rows", Positive(dataset.skipped_row_count())},
                       {"columns", absl::StrJoin(dataset.columns(), ", ")},
                       {"prompt template", QuotedOrEmpty(dataset.prompt_template())},
                       {"completion template", QuotedOrEmpty(dataset.completion_template())},
                       {"column mapping", FormatLabels(dataset.column_mapping())},
                       {"labels", FormatLabels(dataset.labels())},
                       {"size", FormatBytes(dataset.size_bytes())},
                       {"sha256", dataset.sha256()},
                       {"created", FormatAge(dataset.create_time(), absl::Now())},
                   });
  for (const v1::RowError& error : dataset.row_errors()) {
    out << "skipped line " << error.line() << ": " << Printable(error.reason()) << "\n";
  }
}

void PrintJob(std::ostream& out, const v1::TuningJob& job) {
  std::string error = job.has_error() ? absl::StrCat(job.error().message(), " (", job.error().reason(), ")") : "";
  PrintFields(out, {
                       {"name", job.name()},
                       {"display name", job.display_name()},
                       {"state", v1::TuningJob::State_Name(job.state())},
                       {"reason", job.state_reason()},
                       {"error", error},
                       {"method", DescribeMethod(job)},
                       {"base model", job.base_model()},
                       {"starts from", job.start_from()},
                       {"objective", DescribeObjective(job)},
                       {"dataset", job.dataset()},
                       {"validation dataset", job.validation_dataset()},
                       {"progress", DescribeProgress(job.progress())},
                       {"data", DescribeData(job.data_report())},
                       {"settings", DescribeSettings(job.resolved_hyperparameters())},
                       {"tuned model", job.tuned_model()},
                       {"training time", job.training_seconds() > 0 ? FormatSeconds(job.training_seconds()) : ""},
                       {"most memory", job.progress().peak_memory_bytes() > 0
                                           ? FormatBytes(job.progress().peak_memory_bytes())
                                           : ""},
                       {"energy", job.has_energy_joules() ? FormatEnergy(job.energy_joules()) : ""},
                       {"priority", job.priority() != 0 ? absl::StrCat(job.priority()) : ""},
                       {"tenant", job.tenant()},
                       {"labels", FormatLabels(job.labels())},
                       {"created", FormatAge(job.create_time(), absl::Now())},
                       {"started", FormatAge(job.start_time(), absl::Now())},
                       {"ended", FormatAge(job.end_time(), absl::Now())},
                   });
}

void PrintEstimate(std::ostream& out, const v1::EstimateTuningJobResponse& e) {
  PrintFields(out, {
                       {"steps", absl::StrCat(e.total_steps())},
                       {"trainable parameters", FormatCount(e.trainable_parameters())},
                       {"peak memory", FormatBytes(e.peak_memory_bytes())},
                       {"available memory", FormatBytes(e.available_memory_bytes())},
                       {"duration", absl::StrCat("about ", FormatSeconds(e.duration_seconds()))},
                       {"data", DescribeData(e.data_report())},
                       {"settings", DescribeSettings(e.resolved_hyperparameters())},
                       {"admissible", e.admissible() ? "yes" : "no: it needs more memory than the device has"},
                   });
}

void PrintEvaluation(std::ostream& out, const v1::EvaluationResult& r) {
  PrintFields(out, {
                       {"model", r.model()},
                       {"dataset", r.dataset()},
                       {"examples", absl::StrCat(r.examples())},
                       {"label accuracy", r.has_label_accuracy() ? FormatProportion(r.label_accuracy()) : ""},
                       {"exact match", r.has_exact_match() ? FormatProportion(r.exact_match()) : ""},
                       {"token accuracy", FormatNumber(r.token_accuracy())},
                       {"loss", FormatNumber(r.loss())},
                       {"perplexity", FormatNumber(r.perplexity())},
                       {"time", FormatSeconds(r.seconds())},
                   });
  if (r.labels().empty()) return;
  Table table({"LABEL", "ROWS", "CORRECT", "RECALL", "PREDICTED", "PRECISION"});
  for (const auto& label : r.labels()) {
    auto share = [&](int64_t of) { return of > 0 ? FormatNumber(static_cast<double>(label.correct()) / of) : "-"; };
    table.Add({label.label(), absl::StrCat(label.count()), absl::StrCat(label.correct()), share(label.count()),
               absl::StrCat(label.predicted()), share(label.predicted())});
  }
  out << "\n";
  table.Print(out);
}

}  // namespace attune::cli
