// attune evaluate
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/describe.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/text.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

struct EvaluateArgs {
  std::string model, data, prompt_template, completion_template;
  int64_t max_examples = 0;
  std::vector<std::string> choices;
  bool exact_match = false;
  int32_t max_tokens = 0, max_sequence_tokens = 0;
};

absl::StatusOr<v1::EvaluateRequest> MakeRequest(const EvaluateArgs& args) {
  v1::EvaluateRequest request;
  request.set_model(FullName(kModels, args.model));
  request.set_dataset(FullName(kDatasets, args.data));
  request.set_max_examples(args.max_examples);
  for (const std::string& choice : args.choices) request.add_choices(choice);
  request.set_exact_match(args.exact_match);
  request.set_max_tokens(args.max_tokens);
  v1::DataOptions& data = *request.mutable_data();
  ATTUNE_ASSIGN_OR_RETURN(*data.mutable_prompt_template(), ReadTemplate(args.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(*data.mutable_completion_template(), ReadTemplate(args.completion_template));
  data.set_max_sequence_tokens(args.max_sequence_tokens);
  return request;
}

absl::StatusOr<int> Evaluate(Context* context, const EvaluateArgs& args) {
  ATTUNE_ASSIGN_OR_RETURN(v1::EvaluateRequest request, MakeRequest(args));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  // Progress goes to standard error, so that the result alone can be kept.
  ProgressWriter progress(context->err, context->err_is_terminal);
  const absl::Time start = absl::Now();
  auto on_progress = [&](const v1::EvaluateResponse& message) {
    if (context->json) {
      PrintJsonLine(context->out, message);
    } else if (!message.has_result() && message.total() > 0) {
      double share = static_cast<double>(message.done()) / message.total();
      double left = share > 0 ? absl::ToDoubleSeconds(absl::Now() - start) * (1 - share) / share : 0;
      progress.Update(absl::StrCat("evaluating ", FormatBar(share, 20), " ", message.done(), "/", message.total(),
                                   share > 0 ? absl::StrCat("  ", FormatSeconds(left), " left") : ""),
                      absl::Now());
    }
    return true;
  };
  absl::StatusOr<v1::EvaluationResult> result = client->Evaluate(request, on_progress);
  progress.Clear();
  if (!result.ok()) return result.status();
  if (!context->json) PrintEvaluation(context->out, *result);
  return kExitOk;
}

}  // namespace

void AddEvaluateCommand(CLI::App* app, Context* context) {
  auto args = std::make_shared<EvaluateArgs>();
  CLI::App* command = app->add_subcommand("evaluate", "Measure a model on a dataset: accuracy, loss, perplexity");
  command->add_option("model", args->model, "Base or tuned model, or alias")->required();
  command->add_option("--data", args->data, "Dataset to measure on")->required();
  command->add_option("--max-examples", args->max_examples, "Only the first N rows (default: all)");
  AddRepeated(command, "--choices", args->choices,
              "Labels to choose among, comma-separated; may be repeated (default: the dataset's answers)")
      ->delimiter(',');
  command->add_flag("--exact-match", args->exact_match, "Also generate freely and compare");
  command->add_option("--max-tokens", args->max_tokens, "Most tokens of a generated answer (default: 64)");
  command->add_option("--template", args->prompt_template,
                      "Prompt template (default: the model's, else the dataset's); \\n, \\t, @FILE");
  command->add_option("--completion-template", args->completion_template, "Answer template, likewise");
  command->add_option("--max-sequence-tokens", args->max_sequence_tokens,
                      "Longest example in tokens; prompts are cut (default: as the model was tuned)");
  command->callback([context, args] { context->action = [context, args] { return Evaluate(context, *args); }; });
}

}  // namespace attune::cli
