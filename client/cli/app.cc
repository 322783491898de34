#include "client/cli/app.h"

#include <unistd.h>

#include <iostream>

#include "client/cli/commands.h"
#include "client/cli/context.h"

namespace attune {
namespace cli {
namespace {

constexpr char kFooter[] =
    "Names may be bare (smollm2) or full (models/smollm2).\n"
    "\n"
    "Exit codes:\n"
    "  0  success\n"
    "  1  the watched job failed or was cancelled\n"
    "  2  wrong usage or an invalid value\n"
    "  3  not found\n"
    "  4  conflict: exists already, in use, wrong state, or changed meanwhile\n"
    "  5  the server cannot be reached or took too long\n"
    "  6  any other error, and Ctrl-C while watching\n"
    "\n"
    "First steps:\n"
    "  attune models import /models/SmolLM2.gguf --id smollm2\n"
    "  attune datasets upload train.csv --id topics --template 'Text: {{text}}\\nLabel:' \\\n"
    "      --completion-template ' {{label}}'\n"
    "  attune tune --base smollm2 --data topics --method lora --watch\n";

// `attune models --halp`: names the deepest command that was recognised.
std::string CommandPath(const CLI::App& app) {
  std::string path = app.get_name();
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().back();
    path += " " + at->get_name();
  }
  return path;
}

int Parse(CLI::App* app, int argc, char** argv, const Context& context) {
  try {
    app->parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    return app->exit(done, context.out, context.err) == 0 ? -1 : kExitOther;
  } catch (const CLI::Error& error) {
    context.err << "error: " << error.what() << " (USAGE)\nSee: " << CommandPath(*app) << " --help\n";
    return kExitUsage;
  }
  return kExitOk;
}

}  // namespace

void BuildApp(CLI::App* app, Context* context) {
  app->name("attune");
  app->description("Tunes language models and uses the tuned models, on a running attuned server.");
  app->fallthrough();
  app->require_subcommand(1);
  app->set_help_flag("-h,--help", "Print this help and exit");
  app->set_version_flag("--version", std::string("attune " ATTUNE_VERSION), "Print the version and exit");
  app->add_option("--server", context->server, "Server as host:port")->envname("ATTUNE_SERVER")->capture_default_str();
  app->add_flag("--json", context->json, "Write JSON: one document, or one line per message of a stream");
  app->add_option("--timeout", context->timeout,
                  "Longest time for a call, e.g. 30, 30s, 5m (default: 60s, 1h for long operations)")
      ->envname("ATTUNE_TIMEOUT");
  // Subcommands copy the footer that is set when they are added.
  app->footer("The options of attune itself (--server, --json, --timeout) go anywhere; see attune --help.\n");
  AddModelCommands(app, context);
  AddDatasetCommands(app, context);
  AddTuneCommand(app, context);
  AddJobCommands(app, context);
  AddGenerateCommand(app, context);
  AddChatCommand(app, context);
  AddScoringCommands(app, context);
  AddEvaluateCommand(app, context);
  AddCompareCommand(app, context);
  AddComparisonCommands(app, context);
  AddPromptCommands(app, context);
  AddPromoteCommand(app, context);
  AddAliasCommands(app, context);
  AddAdviseCommand(app, context);
  app->footer(kFooter);
}

}  // namespace cli

int RunCli(int argc, char** argv, std::ostream& out, std::ostream& err, std::istream& in) {
  cli::Context context(out, err, in);
  context.out_is_terminal = &out == &std::cout && isatty(STDOUT_FILENO);
  context.err_is_terminal = &err == &std::cerr && isatty(STDERR_FILENO);
  context.in_is_terminal = &in == &std::cin && isatty(STDIN_FILENO);
  CLI::App app;
  cli::BuildApp(&app, &context);
  int parsed = cli::Parse(&app, argc, argv, context);
  if (parsed != cli::kExitOk) return parsed < 0 ? cli::kExitOk : parsed;
  absl::StatusOr<int> code = context.action();
  out.flush();
  if (code.ok()) return *code;
  cli::PrintError(context, code.status());
  return cli::ExitCodeFor(code.status());
}

}  // namespace attune
