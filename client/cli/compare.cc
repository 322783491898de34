// attune compare, attune comparisons ...
#include <algorithm>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/text.h"
#include "common/error.h"
#include "common/resource_name.h"
#include "nlohmann/json.hpp"

namespace attune::cli {
namespace {

using v1::Comparison;

constexpr char kMethods[] =
    "zero-shot, hand-prompt, text-prompt, soft-prompt, prefix, ia3, lora, partial, full, hybrid";

struct CompareArgs {
  std::string base, data, validation, test, name, display_name, hand_prompt, metric, tenant;
  std::string prompt_template, completion_template, pattern, judge, judge_prompt, retention;
  std::vector<std::string> methods;
  int32_t trials = 0, batch_size = 0, max_tokens = 0, max_answer_tokens = 0;
  int64_t train_examples = 0, test_examples = 0;
  double test_fraction = 0, epochs = 0, learning_rate = 0, price = 0;
  std::optional<int64_t> seed;
  bool skip_side_effects = false, keep_models = false, learning_curve = false, watch = false;
};

// As a value of --metric: "token-f1".
std::string MetricLabel(Comparison::Metric metric) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(Comparison::Metric_Name(metric)), {{"_", "-"}});
}

std::vector<std::string> MetricLabels() {
  std::vector<std::string> labels;
  for (int metric = 1; metric <= Comparison::Metric_MAX; ++metric) {
    labels.push_back(MetricLabel(static_cast<Comparison::Metric>(metric)));
  }
  return labels;
}

std::string ContenderLabel(Comparison::ContenderKind kind) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(Comparison::ContenderKind_Name(kind)), {{"_", "-"}});
}

const Comparison::Measure* Find(const Comparison::Contender& contender, absl::string_view name) {
  for (const Comparison::Measure& measure : contender.measures()) {
    if (measure.name() == name) return &measure;
  }
  return nullptr;
}

std::string Figure(const Comparison::Contender& contender, absl::string_view name) {
  const Comparison::Measure* measure = Find(contender, name);
  return measure ? FormatNumber(measure->value()) : "";
}

std::string Interval(const Comparison::Measure& measure) {
  if (measure.count() == 0) return FormatNumber(measure.value());
  return absl::StrFormat("%.3f [%.3f, %.3f]", measure.value(), measure.lower(), measure.upper());
}

std::string Seconds(const Comparison::Contender& contender, absl::string_view name) {
  const Comparison::Measure* measure = Find(contender, name);
  return measure && measure->value() > 0 ? FormatSeconds(measure->value()) : "";
}

// What the validation part says so far.
std::string BestValidation(const Comparison::Contender& contender) {
  if (contender.best_trial() < 0 || contender.best_trial() >= contender.trials_size()) return "";
  return FormatNumber(contender.trials(contender.best_trial()).validation().value());
}

std::string Standing(const Comparison::Contender& contender) {
  if (contender.rank() == 1) return "best";
  if (contender.rank() > 1) return contender.ties_best() ? absl::StrCat(contender.rank(), ", tied") : absl::StrCat(contender.rank());
  return absl::AsciiStrToLower(Comparison::Contender::State_Name(contender.state()));
}

std::vector<Comparison::Contender> Ranked(const Comparison& comparison) {
  std::vector<Comparison::Contender> ranked(comparison.results().begin(), comparison.results().end());
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    const int rank_a = a.rank() > 0 ? a.rank() : 1000, rank_b = b.rank() > 0 ? b.rank() : 1000;
    return rank_a < rank_b;
  });
  return ranked;
}

void PrintLeaderboard(std::ostream& out, const Comparison& comparison) {
  Table table({"METHOD", "RANK", "QUALITY", "VALIDATION", "TRIALS", "TRAINING", "SIZE", "MS/REQUEST", "FORGETTING",
               "CONSISTENCY"});
  for (const Comparison::Contender& contender : Ranked(comparison)) {
    const Comparison::Measure* quality = Find(contender, "quality");
    const Comparison::Measure* bytes = Find(contender, "model_bytes");
    table.Add({ContenderLabel(contender.kind()), Standing(contender), quality ? Interval(*quality) : "",
               BestValidation(contender), contender.trials_size() > 0 ? absl::StrCat(contender.trials_size()) : "",
               Seconds(contender, "search_seconds"),
               bytes && bytes->value() > 0 ? FormatBytes(static_cast<int64_t>(bytes->value())) : "",
               Figure(contender, "request_milliseconds"), Figure(contender, "forgetting"),
               Figure(contender, "consistency")});
  }
  table.Print(out);
}

// The measures that some contender has and the leaderboard does not show, a column each.
void PrintMore(std::ostream& out, const Comparison& comparison, const std::vector<std::string>& names) {
  std::vector<std::string> measured, header = {"METHOD"};
  for (const std::string& name : names) {
    const bool is_measured = std::any_of(comparison.results().begin(), comparison.results().end(),
                                         [&](const auto& contender) { return Find(contender, name) != nullptr; });
    if (!is_measured) continue;
    measured.push_back(name);
    header.push_back(absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"_", " "}})));
  }
  if (measured.empty()) return;
  out << "\n";
  Table table(header);
  for (const Comparison::Contender& contender : Ranked(comparison)) {
    std::vector<std::string> row = {ContenderLabel(contender.kind())};
    for (const std::string& name : measured) {
      const Comparison::Measure* measure = Find(contender, name);
      row.push_back(measure ? Interval(*measure) : "");
    }
    table.Add(row);
  }
  table.Print(out);
}

// Validation figures by rows trained on.
void PrintCurves(std::ostream& out, const Comparison& comparison) {
  Table table({"METHOD", "ROWS", "VALIDATION", "TRAINING"});
  bool has_any = false;
  for (const Comparison::Contender& contender : Ranked(comparison)) {
    for (const Comparison::CurvePoint& point : contender.curve()) {
      has_any = true;
      const bool is_done = point.trial().state() == Comparison::Trial::DONE;
      table.Add({ContenderLabel(contender.kind()), absl::StrCat(point.examples()),
                 is_done ? Interval(point.trial().validation()) : Printable(point.trial().error()),
                 is_done ? FormatSeconds(point.trial().device_seconds()) : ""});
    }
    if (contender.curve_size() == 0) continue;
    const Comparison::Trial& best = contender.trials(contender.best_trial());
    table.Add({ContenderLabel(contender.kind()), absl::StrCat(comparison.train_examples(), " (all)"),
               Interval(best.validation()), FormatSeconds(best.device_seconds())});
    const Comparison::Measure* foreseen = Find(contender, "twice_the_data");
    if (foreseen) {
      table.Add({ContenderLabel(contender.kind()), "twice as many",
                 absl::StrFormat("%.3f [%.3f, %.3f] foreseen", foreseen->value(), foreseen->lower(), foreseen->upper()), ""});
    }
  }
  if (!has_any) return;
  out << "\nlearning curves:\n";
  table.Print(out);
}

void PrintComparison(std::ostream& out, const Comparison& comparison) {
  PrintFields(out, {{"name", comparison.name()},
                    {"display name", comparison.display_name()},
                    {"state", Comparison::State_Name(comparison.state())},
                    {"at", comparison.state() == Comparison::RUNNING ? Printable(comparison.state_reason()) : ""},
                    {"error", Printable(comparison.error().message())},
                    {"base model", comparison.base_model()},
                    {"dataset", comparison.dataset()},
                    {"metric", comparison.metric() == 0 ? "" : MetricLabel(comparison.metric())},
                    {"examples", comparison.test_examples() > 0
                                     ? absl::StrCat(comparison.train_examples(), " to train, ",
                                                    comparison.validation_examples(), " to choose, ",
                                                    comparison.test_examples(), " to test")
                                     : ""},
                    {"created", FormatAge(comparison.create_time(), absl::Now())}});
  out << "\n";
  PrintLeaderboard(out, comparison);
  PrintMore(out, comparison, {"exact_match", "token_f1", "rouge_l", "chrf", "bleu", "json_valid", "pattern_match"});
  PrintMore(out, comparison, {"retention", "retention_loss", "memorized"});
  PrintCurves(out, comparison);
  for (const Comparison::Contender& contender : comparison.results()) {
    if (!contender.note().empty()) out << ContenderLabel(contender.kind()) << ": " << Printable(contender.note()) << "\n";
  }
  if (!comparison.verdict().empty()) out << "\n" << Printable(comparison.verdict()) << "\n";
  if (!comparison.winner_model().empty()) out << "served as: " << comparison.winner_model() << "\n";
}

absl::StatusOr<Comparison> MakeComparison(const CompareArgs& args) {
  Comparison out;
  out.set_base_model(FullName(kModels, args.base));
  out.set_dataset(FullName(kDatasets, args.data));
  out.set_validation_dataset(FullName(kDatasets, args.validation));
  out.set_test_dataset(FullName(kDatasets, args.test));
  out.set_display_name(args.display_name);
  for (const std::string& method : args.methods) {
    Comparison::ContenderKind kind;
    if (!Comparison::ContenderKind_Parse(absl::AsciiStrToUpper(absl::StrReplaceAll(method, {{"-", "_"}})), &kind)) {
      return UsageError(absl::StrCat("--methods: '", method, "' is none of ", kMethods));
    }
    out.add_contenders(kind);
  }
  ATTUNE_ASSIGN_OR_RETURN(*out.mutable_hand_prompt(), ReadTemplate(args.hand_prompt));
  Comparison::Metric metric = Comparison::METRIC_UNSPECIFIED;
  Comparison::Metric_Parse(absl::AsciiStrToUpper(absl::StrReplaceAll(args.metric, {{"-", "_"}})), &metric);
  out.set_metric(metric);
  out.set_pattern(args.pattern);
  out.set_judge_model(FullName(kModels, args.judge));
  ATTUNE_ASSIGN_OR_RETURN(*out.mutable_judge_prompt(), ReadTemplate(args.judge_prompt));
  out.set_max_answer_tokens(args.max_answer_tokens);
  out.set_retention_dataset(FullName(kDatasets, args.retention));
  out.set_learning_curve(args.learning_curve);
  out.set_max_trials(args.trials);
  out.set_max_train_examples(args.train_examples);
  out.set_max_test_examples(args.test_examples);
  out.set_test_fraction(args.test_fraction);
  out.mutable_hyperparameters()->set_epochs(args.epochs);
  out.mutable_hyperparameters()->set_batch_size(args.batch_size);
  out.mutable_hyperparameters()->set_learning_rate(args.learning_rate);
  out.mutable_data()->set_max_sequence_tokens(args.max_tokens);
  ATTUNE_ASSIGN_OR_RETURN(*out.mutable_data()->mutable_prompt_template(), ReadTemplate(args.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(*out.mutable_data()->mutable_completion_template(), ReadTemplate(args.completion_template));
  if (args.seed) out.set_seed(*args.seed);
  out.set_skip_side_effects(args.skip_side_effects);
  out.set_keep_models(args.keep_models);
  out.set_price_per_device_hour(args.price);
  out.set_tenant(args.tenant);
  return out;
}

// A line for what is being done; once contenders are measured, the leader so far.
std::string ProgressLine(const Comparison& comparison) {
  std::string line = absl::StrCat(BareName(comparison.name()), "  ", Comparison::State_Name(comparison.state()), "  ",
                                  Printable(comparison.state_reason()));
  for (const Comparison::Contender& contender : comparison.results()) {
    const Comparison::Measure* quality = Find(contender, "quality");
    if (contender.rank() == 1 && quality) {
      absl::StrAppendFormat(&line, "  best so far: %s %.3f", ContenderLabel(contender.kind()), quality->value());
    }
  }
  return line;
}

// Follows a comparison to its end. Finished trials and tests are lines that stay.
class Display {
 public:
  explicit Display(Context* context) : context_(context), writer_(context->out, context->out_is_terminal) {}

  void Show(const Comparison& comparison) {
    if (context_->json) return PrintJsonLine(context_->out, comparison);
    for (const Comparison::Contender& contender : comparison.results()) {
      for (int i = 0; i < contender.trials_size(); ++i) ShowTrial(contender, i);
      const Comparison::Measure* quality = Find(contender, "quality");
      if (quality && told_.insert(absl::StrCat(contender.kind(), "/test")).second) {
        writer_.Print(absl::StrCat(ContenderLabel(contender.kind()), "  test ", Interval(*quality)));
      }
    }
    writer_.Update(ProgressLine(comparison), absl::Now());
  }
  void Clear() { writer_.Clear(); }

 private:
  void ShowTrial(const Comparison::Contender& contender, int i) {
    const Comparison::Trial& trial = contender.trials(i);
    const bool is_done = trial.state() == Comparison::Trial::DONE;
    if (!is_done && trial.state() != Comparison::Trial::FAILED) return;
    if (!told_.insert(absl::StrCat(contender.kind(), "/", i)).second) return;
    writer_.Print(absl::StrCat(ContenderLabel(contender.kind()), "  ", trial.settings(), "  ",
                               is_done ? absl::StrCat("validation ", Interval(trial.validation()), " after ",
                                                      FormatSeconds(trial.device_seconds()))
                                       : absl::StrCat("failed: ", Printable(trial.error()))));
  }

  Context* const context_;
  ProgressWriter writer_;
  std::set<std::string> told_;
};

absl::StatusOr<int> Watch(Context* context, Client* client, const std::string& name) {
  v1::WatchComparisonRequest request;
  request.set_name(name);
  Display display(context);
  Cancellation cancellation;
  Comparison last;
  absl::Status status;
  {
    InterruptGuard guard(&cancellation);
    status = client->WatchComparison(
        request,
        [&](const Comparison& comparison) {
          display.Show(comparison);
          last = comparison;
          return true;
        },
        &cancellation);
  }
  display.Clear();
  if (cancellation.cancelled()) {
    context->err << "Detached; the comparison goes on. Watch it again with: attune comparisons watch " << BareName(name) << "\n";
    return kExitOther;
  }
  ATTUNE_RETURN_IF_ERROR(status);
  if (!context->json) {
    context->out << "\n";
    PrintComparison(context->out, last);
  }
  if (last.state() == Comparison::SUCCEEDED) return kExitOk;
  context->out.flush();
  context->err << "error: comparison " << BareName(name) << " ended as " << Comparison::State_Name(last.state()) << "\n";
  return kExitFailed;
}

absl::StatusOr<int> Compare(Context* context, const CompareArgs& args) {
  v1::CreateComparisonRequest request;
  ATTUNE_ASSIGN_OR_RETURN(*request.mutable_comparison(), MakeComparison(args));
  request.set_comparison_id(BareName(args.name));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(Comparison created, client->CreateComparison(request));
  if (args.watch) return Watch(context, client, created.name());
  if (context->json) {
    PrintJson(context->out, created);
    return kExitOk;
  }
  std::vector<std::string> labels;
  for (int kind : created.contenders()) labels.push_back(ContenderLabel(static_cast<Comparison::ContenderKind>(kind)));
  context->out << "queued " << created.name() << ": " << absl::StrJoin(labels, ", ") << " of " << created.base_model()
               << " on " << created.dataset() << "\nWatch it with: attune comparisons watch " << BareName(created.name())
               << "\n";
  return kExitOk;
}

absl::StatusOr<int> List(Context* context) {
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  std::vector<Comparison> found;
  ATTUNE_RETURN_IF_ERROR(client->ForEachComparison({}, [&](const Comparison& comparison) {
    found.push_back(comparison);
    return true;
  }));
  if (context->json) {
    std::vector<const google::protobuf::Message*> items;
    for (const Comparison& comparison : found) items.push_back(&comparison);
    PrintJsonList(context->out, "comparisons", items);
    return kExitOk;
  }
  if (found.empty()) {
    context->out << "There are no comparisons. Start one with: attune compare --base MODEL --data DATASET\n";
    return kExitOk;
  }
  Table table({"ID", "STATE", "WINNER", "BASE", "DATASET", "CREATED"});
  for (const Comparison& c : found) {
    table.Add({BareName(c.name()), Comparison::State_Name(c.state()),
               c.winner() != Comparison::CONTENDER_KIND_UNSPECIFIED ? ContenderLabel(c.winner()) : "",
               BareName(c.base_model()), BareName(c.dataset()), FormatAge(c.create_time(), absl::Now())});
  }
  table.Print(context->out);
  return kExitOk;
}

absl::StatusOr<int> Show(Context* context, Client* client, const std::string& name) {
  v1::GetComparisonRequest request;
  request.set_name(name);
  ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, client->GetComparison(request));
  context->json ? PrintJson(context->out, comparison) : PrintComparison(context->out, comparison);
  return kExitOk;
}

absl::StatusOr<int> Cancel(Context* context, Client* client, const std::string& name) {
  v1::CancelComparisonRequest request;
  request.set_name(name);
  ATTUNE_ASSIGN_OR_RETURN(Comparison comparison, client->CancelComparison(request));
  context->json ? PrintJson(context->out, comparison) : PrintComparison(context->out, comparison);
  return kExitOk;
}

absl::StatusOr<int> Delete(Context* context, Client* client, const std::string& name) {
  v1::DeleteComparisonRequest request;
  request.set_name(name);
  ATTUNE_RETURN_IF_ERROR(client->DeleteComparison(request));
  context->out << (context->json ? "{}" : absl::StrCat("deleted ", name)) << "\n";
  return kExitOk;
}

absl::StatusOr<int> Report(Context* context, const std::string& name, const std::string& path) {
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  v1::GetComparisonReportRequest request;
  request.set_name(FullName(kComparisons, name));
  ATTUNE_ASSIGN_OR_RETURN(v1::GetComparisonReportResponse response, client->GetComparisonReport(request));
  if (path == "-") {
    context->out << response.html();
    return kExitOk;
  }
  const std::string file = path.empty() ? absl::StrCat(BareName(name), ".html") : path;
  std::ofstream out(file, std::ios::binary);
  out << response.html();
  out.close();
  if (!out) return absl::InvalidArgumentError(absl::StrCat("cannot write '", file, "'"));
  context->out << (context->json ? nlohmann::json{{"file", file}}.dump() : absl::StrCat("wrote ", file)) << "\n";
  return kExitOk;
}

using Action = absl::StatusOr<int> (*)(Context*, Client*, const std::string& name);

// A command that takes a comparison's id and nothing else.
void AddAction(CLI::App* group, Context* context, const std::string& name, const std::string& help, Action run) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = group->add_subcommand(name, help);
  command->add_option("id", *id, "Id of the comparison")->required();
  command->callback([context, id, run] {
    context->action = [context, id, run]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      return run(context, client, FullName(kComparisons, *id));
    };
  });
}

void AddCompareOptions(CLI::App* command, CompareArgs* args) {
  command->add_option("--base", args->base, "Base model")->required();
  command->add_option("--data", args->data, "Dataset; parts of it are held out")->required();
  command->add_option("--validation", args->validation, "Validation dataset: settings are chosen on it (default: held out)");
  command->add_option("--test", args->test, "Test dataset: nothing is chosen on it (default: held out)");
  AddRepeated(command, "--methods", args->methods,
              absl::StrCat("Comma-separated: ", kMethods, " (default: all; hand-prompt with --hand-prompt)"))
      ->delimiter(',');
  command->add_option("--hand-prompt", args->hand_prompt, "Template of the method hand-prompt; \\n, \\t, @FILE");
  command->add_option("--metric", args->metric,
                      absl::StrCat("Of ", absl::StrJoin(MetricLabels(), ", "), " (default: by the data)"))
      ->check(CLI::IsMember(MetricLabels()));
  command->add_option("--pattern", args->pattern, "Regular expression that right answers match; of pattern-match");
  command->add_option("--judge", args->judge, "Model that judges; of judge (default: the base model)");
  command->add_option("--judge-prompt", args->judge_prompt,
                      "Over {{prompt}}, {{expected}} and {{answer}}; the judge says yes or no; \\n, \\t, @FILE");
  command->add_option("--max-answer-tokens", args->max_answer_tokens, "Longest generated answer (default: 64)");
  command->add_option("--retention", args->retention, "Dataset of what must not be forgotten (default: a built-in probe)");
  command->add_flag("--learning-curve", args->learning_curve,
                    "Also train on an eighth, a quarter and a half of the rows, to see what more would bring");
  command->add_option("--trials", args->trials, "Settings tried for each method, 1 to 20 (default: 2)");
  command->add_option("--train-examples", args->train_examples, "Rows trained on (default: all)");
  command->add_option("--test-examples", args->test_examples, "Rows tested on (default: 2000)");
  command->add_option("--test-fraction", args->test_fraction, "Share held out as the test part (default: 0.2)");
  command->add_option("--epochs", args->epochs, "Passes over the data (default: by method and size)");
  command->add_option("--batch-size", args->batch_size, "Examples per optimizer step (default: by size)");
  command->add_option("--learning-rate", args->learning_rate, "For every method, in place of the search for it");
  command->add_option("--template", args->prompt_template, "Prompt template (default: the dataset's); \\n, \\t, @FILE");
  command->add_option("--completion-template", args->completion_template, "Answer template (default: the dataset's)");
  command->add_option("--max-tokens", args->max_tokens, "Longest example in tokens; prompts are cut, never answers");
  command->add_option("--seed", args->seed, "Of the division and the training (default: 42)");
  command->add_option("--price", args->price, "Price of an hour of the device, to tell costs in it");
  command->add_flag("--skip-side-effects", args->skip_side_effects,
                    "Measure neither forgetting nor consistency nor overfitting");
  command->add_flag("--keep-models", args->keep_models, "Keep the models that lost, too");
  command->add_option("--name", args->name, "Id of the comparison (default: made by the server)");
  command->add_option("--display-name", args->display_name, "Name for people");
  command->add_option("--tenant", args->tenant, "Who pays (default: default)");
  command->add_flag("--watch", args->watch, "Follow it to its end; Ctrl-C detaches");
}

void AddReport(CLI::App* group, Context* context) {
  auto id = std::make_shared<std::string>();
  auto path = std::make_shared<std::string>();
  CLI::App* command = group->add_subcommand("report", "Write a comparison as one HTML page");
  command->add_option("id", *id, "Id of the comparison")->required();
  command->add_option("--output", *path, "File; -: standard output (default: ID.html)");
  command->callback([context, id, path] { context->action = [context, id, path] { return Report(context, *id, *path); }; });
}

}  // namespace

void AddCompareCommand(CLI::App* app, Context* context) {
  auto args = std::make_shared<CompareArgs>();
  CLI::App* command = app->add_subcommand("compare", "Compare tuning methods on your data, and say which to take");
  AddCompareOptions(command, args.get());
  command->callback([context, args] { context->action = [context, args] { return Compare(context, *args); }; });
}

void AddComparisonCommands(CLI::App* app, Context* context) {
  CLI::App* group = app->add_subcommand("comparisons", "List, show, watch, cancel and delete comparisons; write reports");
  group->require_subcommand(1);
  CLI::App* list = group->add_subcommand("list", "List comparisons, newest first");
  list->callback([context] { context->action = [context] { return List(context); }; });
  AddAction(group, context, "show", "Show one: leaderboard and verdict", Show);
  AddAction(group, context, "watch", "Follow one to its end; Ctrl-C detaches", Watch);
  AddAction(group, context, "cancel", "Stop one for good", Cancel);
  AddAction(group, context, "delete", "Remove an ended one; its models and data stay", Delete);
  AddReport(group, context);
}

}  // namespace attune::cli
