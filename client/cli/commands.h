#ifndef ATTUNE_CLIENT_CLI_COMMANDS_H_
#define ATTUNE_CLIENT_CLI_COMMANDS_H_

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <string>

#include "client/cli/context.h"

// The groups of commands. Each adds its subcommands to `app`; parsing one sets
// `context->action`. `context` must outlive `app`.
namespace attune::cli {

void AddModelCommands(CLI::App* app, Context* context);
void AddDatasetCommands(CLI::App* app, Context* context);
void AddTuneCommand(CLI::App* app, Context* context);
void AddJobCommands(CLI::App* app, Context* context);
void AddGenerateCommand(CLI::App* app, Context* context);
void AddChatCommand(CLI::App* app, Context* context);
void AddScoringCommands(CLI::App* app, Context* context);  // classify, score, tokenize, detokenize
void AddPromptCommands(CLI::App* app, Context* context);
void AddEvaluateCommand(CLI::App* app, Context* context);
void AddCompareCommand(CLI::App* app, Context* context);
void AddComparisonCommands(CLI::App* app, Context* context);
void AddPromoteCommand(CLI::App* app, Context* context);
void AddAliasCommands(CLI::App* app, Context* context);
void AddAdviseCommand(CLI::App* app, Context* context);

// The whole command line: global options and every group.
void BuildApp(CLI::App* app, Context* context);

// An option that may be repeated, one value each time.
template <typename T>
CLI::Option* AddRepeated(CLI::App* command, const std::string& name, T& values, const std::string& help) {
  return command->add_option(name, values, help)->allow_extra_args(false);
}

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_COMMANDS_H_
