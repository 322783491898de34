#ifndef ATTUNE_CLIENT_CLI_PROMPT_ARGS_H_
#define ATTUNE_CLIENT_CLI_PROMPT_ARGS_H_

#include <CLI/App.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/context.h"

// Options that several commands share.
namespace attune::cli {

// A prompt: text, standard input, variables of the model's template, a chat turn, or a conversation.
struct PromptArgs {
  std::string text;
  CLI::Option* text_option = nullptr;
  std::vector<std::string> variables;
  bool escapes = false;
  bool chat = false;
  std::string system, messages_file, tools_file;

  // Adds the positional and --var, -e, --chat, --system, --messages, --tools.
  void AddTo(CLI::App* command);
  // INVALID_ARGUMENT if it is not given in exactly one way.
  absl::StatusOr<v1::Prompt> Build(Context* context) const;

 private:
  absl::Status AddToolsTo(v1::ChatPrompt* prompt) const;
};

// How tokens are chosen and when generation ends.
struct SamplingArgs {
  std::optional<double> temperature, top_p, repetition_penalty;
  double min_p = 0, frequency_penalty = 0, presence_penalty = 0;
  std::optional<int32_t> top_k;
  int32_t max_tokens = 0;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  int32_t min_tokens = 0;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::string> logit_bias;  // TOKEN=BIAS

  // Call last: options added to `command` afterwards would be listed as sampling options.
  void AddTo(CLI::App* command);
  // INVALID_ARGUMENT for a bias that is not TOKEN=BIAS.
  absl::Status Fill(v1::GenerateRequest* request) const;
};

// "12 prompt and 34 answer tokens, 0.1s to the first, 85.0 tok/s".
std::string FormatUsage(const v1::Usage& usage);

}  // namespace attune::cli

#endif  // ATTUNE_CLIENT_CLI_PROMPT_ARGS_H_
