#include "client/cli/prompt_args.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/chat_file.h"
#include "client/cli/commands.h"
#include "client/cli/output.h"
#include "client/cli/text.h"
#include "common/error.h"
#include "common/file.h"

namespace attune::cli {

void PromptArgs::AddTo(CLI::App* command) {
  text_option = command->add_option("prompt", text, "The prompt; - reads standard input");
  CLI::Option* var = AddRepeated(command, "--var", variables,
                                 "Value for the template that the model was tuned with, name=value; may be repeated");
  command->add_flag("-e,--escapes", escapes, "Understand \\n, \\t and \\\\ in the prompt and in --var");
  CLI::Option* turn = command->add_flag("--chat", chat, "Send the prompt as a user's turn, in the model's chat format");
  command->add_option("--system", system, "System message before the turn; goes with --chat")->needs(turn);
  CLI::Option* messages =
      command->add_option("--messages", messages_file,
                          "A conversation, as a JSON list of {\"role\", \"content\"}; a file, or - for standard input");
  command->add_option(
      "--tools", tools_file,
      "Tools that the model may call, as a JSON list of {\"type\": \"function\", \"function\": {\"name\", "
      "\"description\", \"parameters\"}}; a file; goes with --chat or --messages");
  var->excludes(text_option);
  var->excludes(turn);
  messages->excludes(text_option);
  messages->excludes(turn);
  messages->excludes(var);
}

absl::Status PromptArgs::AddToolsTo(v1::ChatPrompt* prompt) const {
  if (tools_file.empty()) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(const std::string json, ReadFile(tools_file));
  return AddTools(json, prompt);
}

absl::StatusOr<v1::Prompt> PromptArgs::Build(Context* context) const {
  v1::Prompt prompt;
  auto read = [this](const std::string& argument) { return escapes ? Unescape(argument) : argument; };
  if (!variables.empty()) {
    if (!tools_file.empty()) return UsageError("--tools goes with --chat or --messages");
    ATTUNE_ASSIGN_OR_RETURN(auto pairs, ParsePairs(variables, "--var"));
    auto& map = *prompt.mutable_template_input()->mutable_variables();
    for (const auto& [name, value] : pairs) map[name] = read(value);
    return prompt;
  }
  if (!messages_file.empty()) {
    std::string json = messages_file == "-" ? ReadAll(context->in) : "";
    if (messages_file != "-") {
      ATTUNE_ASSIGN_OR_RETURN(json, ReadFile(messages_file));
    }
    ATTUNE_RETURN_IF_ERROR(AddMessages(json, prompt.mutable_chat()));
    ATTUNE_RETURN_IF_ERROR(AddToolsTo(prompt.mutable_chat()));
    return prompt;
  }
  if (text_option->count() == 0) {
    return UsageError(
        "no prompt: give it as text, as - for standard input, as --messages FILE, or as --var name=value");
  }
  std::string content = text == "-" ? ReadAll(context->in) : read(text);
  if (!chat) {
    if (!tools_file.empty()) return UsageError("--tools goes with --chat or --messages");
    prompt.set_text(content);
    return prompt;
  }
  auto add = [&prompt](const std::string& role, const std::string& said) {
    v1::ChatMessage* message = prompt.mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content(said);
  };
  if (!system.empty()) add("system", system);
  add("user", content);
  ATTUNE_RETURN_IF_ERROR(AddToolsTo(prompt.mutable_chat()));
  return prompt;
}

void SamplingArgs::AddTo(CLI::App* command) {
  command->option_defaults()->group("Sampling (unset options take the model's defaults)");
  command->add_option("--max-tokens", max_tokens, "Most tokens to make (default: 256)");
  command->add_option("--temperature", temperature, "0 is greedy, up to 10 (default: the model's, else 0)");
  command->add_option("--top-p", top_p, "Only the likeliest tokens that sum to this (default: the model's, else 1)");
  command->add_option("--top-k", top_k, "Only the K likeliest tokens; 0: all (default: the model's, else 0)");
  command->add_option("--min-p", min_p, "Only tokens at least so likely relative to the likeliest (default: 0)");
  command->add_option("--repetition-penalty", repetition_penalty,
                      "Above 1 makes tokens seen less likely (default: the model's, else 1)");
  command->add_option("--frequency-penalty", frequency_penalty, "Subtracted per occurrence, -2 to 2 (default: 0)");
  command->add_option("--presence-penalty", presence_penalty, "Subtracted if it occurs, -2 to 2 (default: 0)");
  command->add_option("--seed", seed, "Same seed, same text (default: random)");
  AddRepeated(command, "--stop", stop, "End before this text; understands \\n; may be repeated");
  AddRepeated(command, "--stop-token", stop_token_ids, "End before this token id; may be repeated");
  command->add_option("--min-tokens", min_tokens, "Choose nothing that ends the answer before so many tokens");
  AddRepeated(command, "--logit-bias", logit_bias, "TOKEN=BIAS: add to a token's logit, -100 to 100; may be repeated");
  command->add_flag("--ignore-eos", ignore_eos, "Do not stop at the end token");
}

absl::Status SamplingArgs::Fill(v1::GenerateRequest* request) const {
  v1::SamplingOptions& sampling = *request->mutable_sampling();
  if (temperature) sampling.set_temperature(*temperature);
  if (top_p) sampling.set_top_p(*top_p);
  if (repetition_penalty) sampling.set_repetition_penalty(*repetition_penalty);
  if (seed) sampling.set_seed(*seed);
  if (top_k) sampling.set_top_k(*top_k);
  sampling.set_min_p(min_p);
  sampling.set_frequency_penalty(frequency_penalty);
  sampling.set_presence_penalty(presence_penalty);
  request->set_max_tokens(max_tokens);
  for (const std::string& text : stop) request->add_stop(Unescape(text));
  request->set_ignore_eos(ignore_eos);
  request->set_min_tokens(min_tokens);
  for (int32_t token : stop_token_ids) request->add_stop_token_ids(token);
  for (const std::string& entry : logit_bias) {
    const std::vector<std::string> parts = absl::StrSplit(entry, '=');
    int32_t token = 0;
    double bias = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &token) || !absl::SimpleAtod(parts[1], &bias)) {
      return absl::InvalidArgumentError(absl::StrCat("--logit-bias '", entry, "' is not TOKEN=BIAS"));
    }
    (*sampling.mutable_logit_bias())[token] = bias;
  }
  return absl::OkStatus();
}

std::string FormatUsage(const v1::Usage& usage) {
  std::string text = absl::StrCat(usage.prompt_tokens(), " prompt and ", usage.completion_tokens(), " answer tokens, ",
                                  FormatSeconds(usage.time_to_first_token_seconds()), " to the first");
  double decoding = usage.total_seconds() - usage.time_to_first_token_seconds();
  if (decoding > 0 && usage.completion_tokens() > 1) {
    absl::StrAppend(&text, ", ", FormatCount((usage.completion_tokens() - 1) / decoding), " tok/s");
  }
  if (usage.cached_prompt_tokens() > 0) {
    absl::StrAppend(&text, ", ", usage.cached_prompt_tokens(), " prompt tokens cached");
  }
  if (usage.draft_tokens() > 0) {
    absl::StrAppend(&text, ", ", usage.accepted_draft_tokens(), " of ", usage.draft_tokens(), " guessed tokens right");
  }
  return text;
}

}  // namespace attune::cli
