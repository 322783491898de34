// attune advise
#include <memory>
#include <string>
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

namespace attune::cli {
namespace {

using v1::Advice;

struct AdviseArgs {
  std::string base, data, test, retrospect, prompt_template, completion_template, deadline, tenant;
  double accuracy = 0, budget = 0, price = 0, lifetime = 0, latency = 0, curve_seconds = 0;
  int64_t tenants = 0;
  int32_t max_tokens = 0;
  bool keep_skills = false, no_curve = false;
};

std::string MethodLabel(v1::Comparison::ContenderKind kind) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(v1::Comparison::ContenderKind_Name(kind)), {{"_", "-"}});
}

std::string Range(double value, double lower, double upper) {
  return absl::StrFormat("%.2f [%.2f, %.2f]", value, lower, upper);
}

// What a reader should not overlook stands out.
std::string Mark(Advice::Finding::Severity severity) {
  if (severity == Advice::Finding::PROBLEM) return "PROBLEM  ";
  return severity == Advice::Finding::WARNING ? "warning  " : "";
}

void PrintFindings(std::ostream& out, const Advice& advice) {
  out << "What was found:\n";
  for (const Advice::Finding& finding : advice.findings()) {
    out << "  " << absl::StrFormat("%-22s", finding.name()) << Mark(finding.severity()) << Printable(finding.text())
        << "\n";
  }
}

void PrintRanking(std::ostream& out, const Advice& advice) {
  bool has_price = false;
  for (const Advice::Recommendation& one : advice.recommendations()) has_price |= one.price() > 0;
  std::vector<std::string> header = {"METHOD", "EXPECTED", "DEVICE TIME", "NEEDS", "CONFIDENCE"};
  if (has_price) header.push_back("PRICE");
  Table table(header);
  for (const Advice::Recommendation& one : advice.recommendations()) {
    std::vector<std::string> row = {MethodLabel(one.kind()), Range(one.quality(), one.lower(), one.upper()),
                                    one.device_seconds() > 0 ? FormatSeconds(one.device_seconds()) : "none",
                                    one.meets_needs() ? "met" : "not met",
                                    absl::AsciiStrToLower(Advice::Recommendation::Confidence_Name(one.confidence()))};
    if (has_price) row.push_back(absl::StrFormat("%.2f", one.price()));
    table.Add(std::move(row));
  }
  table.Print(out);
}

void PrintReasons(std::ostream& out, const Advice& advice) {
  for (const Advice::Recommendation& one : advice.recommendations()) {
    out << MethodLabel(one.kind()) << "\n";
    for (const Advice::Reason& reason : one.reasons()) {
      out << (reason.against() ? "  - " : "  + ") << Printable(reason.text()) << " ("
          << absl::StrJoin(reason.evidence(), ", ") << ")\n";
    }
  }
}

void PrintAdvice(std::ostream& out, const Advice& advice) {
  PrintFindings(out, advice);
  out << "\n";
  PrintRanking(out, advice);
  out << "\n";
  PrintReasons(out, advice);
  out << "\n" << Printable(advice.text()) << "\n";
  if (advice.has_retrospective()) out << Printable(advice.retrospective().text()) << "\n";
  out << "(the advice took " << FormatSeconds(advice.seconds()) << ")\n";
}

std::string ShellQuoted(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

// The comparison that would settle it, as a command.
void PrintSettlement(std::ostream& out, const AdviseArgs& args, const Advice& advice) {
  if (!advice.has_settlement()) return;
  std::vector<std::string> methods;
  for (int kind : advice.settlement().contenders())
    methods.push_back(MethodLabel(static_cast<v1::Comparison::ContenderKind>(kind)));
  out << "To compare them: attune compare --base " << BareName(args.base) << " --data " << BareName(args.data)
      << " --methods " << absl::StrJoin(methods, ",") << " --train-examples " << advice.settlement().rows();
  if (!args.test.empty()) out << " --test " << BareName(args.test);
  if (!args.prompt_template.empty()) out << " --template " << ShellQuoted(args.prompt_template);
  if (!args.completion_template.empty()) out << " --completion-template " << ShellQuoted(args.completion_template);
  if (args.max_tokens > 0) out << " --max-tokens " << args.max_tokens;
  if (args.price > 0) out << " --price " << args.price;
  if (!args.tenant.empty()) out << " --tenant " << ShellQuoted(args.tenant);
  out << " --watch\n";
}

absl::StatusOr<v1::AdviseRequest> MakeRequest(const AdviseArgs& args) {
  v1::AdviseRequest request;
  if (args.base.empty() || args.data.empty()) return UsageError("advise needs --base and --data, or --retrospect");
  request.set_base_model(FullName(kModels, args.base));
  request.set_dataset(FullName(kDatasets, args.data));
  request.set_test_dataset(FullName(kDatasets, args.test));
  v1::DataOptions& data = *request.mutable_data();
  ATTUNE_ASSIGN_OR_RETURN(*data.mutable_prompt_template(), ReadTemplate(args.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(*data.mutable_completion_template(), ReadTemplate(args.completion_template));
  data.set_max_sequence_tokens(args.max_tokens);
  v1::Needs& needs = *request.mutable_needs();
  needs.set_accuracy(args.accuracy);
  if (!args.deadline.empty()) {
    absl::Duration deadline;
    if (!absl::ParseDuration(args.deadline, &deadline) || deadline <= absl::ZeroDuration()) {
      return UsageError(absl::StrCat("--deadline: '", args.deadline, "' is not a time above zero such as 30m or 2h"));
    }
    needs.set_deadline_seconds(absl::ToDoubleSeconds(deadline));
  }
  needs.set_budget(args.budget);
  needs.set_price_per_device_hour(args.price);
  needs.set_keep_skills(args.keep_skills);
  needs.set_lifetime_days(args.lifetime);
  needs.set_tenants(args.tenants);
  needs.set_request_milliseconds(args.latency);
  request.set_skip_curve(args.no_curve);
  request.set_curve_seconds(args.curve_seconds);
  request.set_tenant(args.tenant);
  return request;
}

absl::StatusOr<int> Retrospect(Context* context, const std::string& comparison) {
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  v1::RetrospectRequest request;
  request.set_comparison(FullName(kComparisons, comparison));
  ATTUNE_ASSIGN_OR_RETURN(v1::Retrospective found, client->Retrospect(request));
  if (context->json) {
    PrintJson(context->out, found);
  } else {
    context->out << Printable(found.text()) << "\n";
  }
  return kExitOk;
}

absl::StatusOr<int> Advise(Context* context, const AdviseArgs& args) {
  if (!args.retrospect.empty()) return Retrospect(context, args.retrospect);
  ATTUNE_ASSIGN_OR_RETURN(v1::AdviseRequest request, MakeRequest(args));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  // Progress goes to standard error, so that the advice alone can be kept.
  ProgressWriter progress(context->err, context->err_is_terminal);
  auto on_progress = [&](const v1::AdviseResponse& message) {
    if (!message.has_advice()) progress.Update(absl::StrCat("advise: ", Printable(message.progress())), absl::Now());
    return true;
  };
  Cancellation cancellation;
  absl::StatusOr<Advice> advice = absl::UnknownError("not yet");
  {
    InterruptGuard guard(&cancellation);
    advice = client->Advise(request, on_progress, &cancellation);
  }
  progress.Clear();
  ATTUNE_RETURN_IF_ERROR(advice.status());
  if (context->json) {
    PrintJson(context->out, *advice);
    return kExitOk;
  }
  PrintAdvice(context->out, *advice);
  PrintSettlement(context->out, args, *advice);
  return kExitOk;
}

}  // namespace

void AddAdviseCommand(CLI::App* app, Context* context) {
  auto args = std::make_shared<AdviseArgs>();
  CLI::App* command =
      app->add_subcommand("advise", "Say which method to take, with what quality, at what cost and why");
  command->add_option("--base", args->base, "Base model");
  command->add_option("--data", args->data, "Dataset of the task");
  command->add_option("--test", args->test, "Test dataset (default: rows of the dataset are held out)");
  command->add_option("--accuracy", args->accuracy, "Quality wanted, e.g. 0.95; more brings nothing");
  command->add_option("--deadline", args->deadline, "Time until it must be there, e.g. 30m, 2h");
  command->add_option("--budget", args->budget, "What tuning may cost, in the currency of --price");
  command->add_option("--price", args->price, "Price of an hour of the device");
  command->add_flag("--keep-skills", args->keep_skills, "The model must not forget what else it can do");
  command->add_option("--lifetime", args->lifetime, "Days that it will be in use");
  command->add_option("--tenants", args->tenants, "Tenants that get a tuned model each");
  command->add_option("--latency", args->latency, "Longest time of a request, in milliseconds");
  command->add_flag("--no-curve", args->no_curve, "No short LoRA jobs");
  command->add_option("--curve-seconds", args->curve_seconds, "Longest time for these (default: 60)");
  command->add_option("--template", args->prompt_template, "Prompt template (default: the dataset's); \\n, \\t, @FILE");
  command->add_option("--completion-template", args->completion_template, "Answer template (default: the dataset's)");
  command->add_option("--max-tokens", args->max_tokens, "Longest example in tokens; prompts are cut, never answers");
  command->add_option("--tenant", args->tenant, "Whose share the short jobs count in (default: default)");
  command->add_option("--retrospect", args->retrospect,
                      "Instead: what the advice would have been before this comparison, and whether it was right");
  command->callback([context, args] { context->action = [context, args] { return Advise(context, *args); }; });
}

}  // namespace attune::cli
