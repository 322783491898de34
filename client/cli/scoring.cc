// attune classify, score, embed, tokenize, detokenize
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/commands.h"
#include "client/cli/output.h"
#include "client/cli/prompt_args.h"
#include "client/cli/text.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

struct ClassifyArgs {
  std::string model, choice_template;
  PromptArgs prompt;
  std::vector<std::string> choices;
  bool label_only = false;
};

absl::StatusOr<int> Classify(Context* context, const ClassifyArgs& args) {
  v1::ClassifyRequest request;
  request.set_model(FullName(kModels, args.model));
  ATTUNE_ASSIGN_OR_RETURN(*request.mutable_prompt(), args.prompt.Build(context));
  for (const std::string& choice : args.choices) request.add_choices(choice);
  ATTUNE_ASSIGN_OR_RETURN(*request.mutable_choice_template(), ReadTemplate(args.choice_template));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(v1::ClassifyResponse response, client->Classify(request));
  if (context->json) {
    PrintJson(context->out, response);
  } else if (args.label_only) {
    context->out << response.label() << "\n";
  } else {
    Table table({"LABEL", "PROBABILITY", "LOGPROB"});
    for (const auto& choice : response.choices()) {
      table.Add({choice.label(), FormatNumber(choice.probability()), FormatNumber(choice.logprob())});
    }
    table.Print(context->out);
  }
  return kExitOk;
}

void AddClassify(CLI::App* app, Context* context) {
  auto args = std::make_shared<ClassifyArgs>();
  CLI::App* command = app->add_subcommand("classify", "Choose the likeliest of given labels as the answer");
  command->add_option("model", args->model, "Base or tuned model, or alias")->required();
  args->prompt.AddTo(command);
  AddRepeated(command, "--choices", args->choices, "Labels, comma-separated, 2 to 1000; may be repeated")
      ->delimiter(',')
      ->required();
  command->add_option("--choice-template", args->choice_template,
                      "How a label continues the prompt, e.g. ' {{label}}' (default: as the model was tuned)");
  command->add_flag("--label-only", args->label_only, "Write only the chosen label");
  command->callback([context, args] { context->action = [context, args] { return Classify(context, *args); }; });
}

struct ScoreArgs {
  std::string model;
  PromptArgs prompt;
  std::vector<std::string> continuations;
};

absl::StatusOr<int> Score(Context* context, const ScoreArgs& args) {
  v1::ScoreRequest request;
  request.set_model(FullName(kModels, args.model));
  ATTUNE_ASSIGN_OR_RETURN(*request.mutable_prompt(), args.prompt.Build(context));
  for (const std::string& text : args.continuations) {
    request.add_continuations(args.prompt.escapes ? Unescape(text) : text);
  }
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(v1::ScoreResponse response, client->Score(request));
  if (context->json) {
    PrintJson(context->out, response);
    return kExitOk;
  }
  if (response.scores_size() != request.continuations_size()) {
    return absl::InternalError("the server scored another number of continuations than was asked for");
  }
  Table table({"CONTINUATION", "LOGPROB", "TOKENS", "GREEDY"});
  for (int i = 0; i < response.scores_size(); ++i) {
    const auto& score = response.scores(i);
    table.Add({Quoted(request.continuations(i)), FormatNumber(score.logprob()), absl::StrCat(score.tokens_size()),
               score.is_greedy() ? "yes" : "no"});
  }
  table.Print(context->out);
  return kExitOk;
}

void AddScore(CLI::App* app, Context* context) {
  auto args = std::make_shared<ScoreArgs>();
  CLI::App* command = app->add_subcommand("score", "Log-probabilities of given continuations of a prompt");
  command->add_option("model", args->model, "Base or tuned model, or alias")->required();
  args->prompt.AddTo(command);
  AddRepeated(command, "--continuation", args->continuations, "Text after the prompt, e.g. ' yes'; may be repeated")
      ->required();
  command->callback([context, args] { context->action = [context, args] { return Score(context, *args); }; });
}

struct EmbedArgs {
  std::string model, pooling = "mean";
  std::vector<std::string> texts;
  bool normalize = false;
};

absl::StatusOr<int> Embed(Context* context, const EmbedArgs& args) {
  std::vector<std::string> texts = args.texts;
  if (texts == std::vector<std::string>{"-"}) {
    texts = absl::StrSplit(ReadAll(context->in), '\n');
    if (texts.back().empty()) texts.pop_back();
  }
  v1::EmbedRequest request;
  request.set_model(FullName(kModels, args.model));
  for (const std::string& text : texts) request.add_inputs()->set_text(text);
  request.set_pooling(args.pooling == "last" ? v1::LAST : v1::MEAN);
  request.set_normalize(args.normalize);
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(v1::EmbedResponse response, client->Embed(request));
  if (context->json) {
    PrintJson(context->out, response);
    return kExitOk;
  }
  for (const auto& embedding : response.embeddings()) {
    context->out << absl::StrJoin(embedding.values(), " ") << "\n";
  }
  return kExitOk;
}

void AddEmbed(CLI::App* app, Context* context) {
  auto args = std::make_shared<EmbedArgs>();
  CLI::App* command = app->add_subcommand("embed", "Turn texts into vectors, a line of numbers for each");
  command->add_option("model", args->model, "Base or tuned model, or alias")->required();
  command->add_option("texts", args->texts, "Texts; - reads them from standard input, a line each")->required();
  command->add_option("--pooling", args->pooling, "mean of the tokens' hidden states, or the last one")
      ->check(CLI::IsMember({"mean", "last"}))
      ->capture_default_str();
  command->add_flag("--normalize", args->normalize, "Scale to length 1: a dot product is then the cosine");
  command->callback([context, args] { context->action = [context, args] { return Embed(context, *args); }; });
}

struct TokenizeArgs {
  std::string model;
  PromptArgs prompt;
};

absl::StatusOr<int> Tokenize(Context* context, const TokenizeArgs& args) {
  v1::TokenizeRequest request;
  request.set_model(FullName(kModels, args.model));
  ATTUNE_ASSIGN_OR_RETURN(*request.mutable_prompt(), args.prompt.Build(context));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(v1::TokenizeResponse response, client->Tokenize(request));
  if (context->json) {
    PrintJson(context->out, response);
    return kExitOk;
  }
  Table table({"ID", "TEXT"});
  for (int i = 0; i < response.token_ids_size(); ++i) {
    table.Add({absl::StrCat(response.token_ids(i)), i < response.pieces_size() ? Quoted(response.pieces(i)) : ""});
  }
  table.Print(context->out);
  context->out << response.token_ids_size() << " tokens\n";
  return kExitOk;
}

void AddTokenize(CLI::App* app, Context* context) {
  auto args = std::make_shared<TokenizeArgs>();
  CLI::App* command = app->add_subcommand("tokenize", "Show a prompt's tokens");
  command->add_option("model", args->model, "Base or tuned model, or alias")->required();
  args->prompt.AddTo(command);
  command->callback([context, args] { context->action = [context, args] { return Tokenize(context, *args); }; });
}

void AddDetokenize(CLI::App* app, Context* context) {
  struct Args {
    std::string model;
    std::vector<int32_t> ids;
  };
  auto args = std::make_shared<Args>();
  CLI::App* command = app->add_subcommand("detokenize", "Turn token ids into text");
  command->add_option("model", args->model, "Base or tuned model, or alias")->required();
  command->add_option("ids", args->ids, "Token ids")->required();
  command->callback([context, args] {
    context->action = [context, args]() -> absl::StatusOr<int> {
      v1::DetokenizeRequest request;
      request.set_model(FullName(kModels, args->model));
      for (int32_t id : args->ids) request.add_token_ids(id);
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_ASSIGN_OR_RETURN(v1::DetokenizeResponse response, client->Detokenize(request));
      if (context->json) PrintJson(context->out, response);
      else context->out << response.text() << "\n";
      return kExitOk;
    };
  });
}

}  // namespace

void AddScoringCommands(CLI::App* app, Context* context) {
  AddClassify(app, context);
  AddScore(app, context);
  AddEmbed(app, context);
  AddTokenize(app, context);
  AddDetokenize(app, context);
}

}  // namespace attune::cli
