// attune prompts ...
#include <google/protobuf/util/json_util.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/commands.h"
#include "client/cli/describe.h"
#include "client/cli/output.h"
#include "client/cli/text.h"
#include "client/cli/unified_diff.h"
#include "common/error.h"
#include "common/file.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

absl::StatusOr<v1::TextPrompt> GetPrompt(Client* client, const std::string& id) {
  v1::GetTextPromptRequest request;
  request.set_name(FullName(kModels, id));
  return client->GetTextPrompt(request);
}

absl::StatusOr<v1::Model> GetModel(Client* client, const std::string& id) {
  v1::GetModelRequest request;
  request.set_name(FullName(kModels, id));
  return client->GetModel(request);
}

// Control characters but for line ends and tabs would steer the terminal.
std::string PrintableLines(const std::string& text) {
  std::string out;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    absl::StrAppend(&out, Printable(std::string(line)), "\n");
  }
  return out;
}

std::string Variables(const v1::TextPrompt::Example& example) { return FormatLabels(example.columns()); }

std::string DescribeExamples(const v1::TextPrompt::Trial& trial) {
  if (trial.retrieved_examples() == 0) return absl::StrCat(trial.examples());
  return absl::StrCat(trial.retrieved_examples(), " similar");
}

// Empty without a pool.
std::string DescribePool(const v1::TextPrompt& prompt) {
  if (!prompt.has_pool()) return "";
  return absl::StrCat("the ", prompt.pool().retrieved_examples(), " of ", prompt.pool().examples_size(),
                      " examples that are most similar to a request's input");
}

void PrintPrompt(std::ostream& out, const v1::TextPrompt& prompt) {
  PrintFields(out, {
                       {"instruction", prompt.instruction().empty() ? "" : Quoted(prompt.instruction())},
                       {"input template", Quoted(prompt.input_template())},
                       {"output template", Quoted(prompt.output_template())},
                       {"edited from", prompt.edited_from()},
                       {"retrieved", DescribePool(prompt)},
                   });
  for (int i = 0; i < prompt.examples_size(); ++i) {
    out << "example " << i + 1 << "  " << Printable(Variables(prompt.examples(i))) << "\n";
  }
  if (!prompt.label_offsets().empty()) out << "\n";
  Table offsets({"LABEL", "OFFSET"});
  const std::map<std::string, double> sorted(prompt.label_offsets().begin(), prompt.label_offsets().end());
  for (const auto& [label, offset] : sorted) offsets.Add({label, FormatNumber(offset)});
  if (!offsets.empty()) offsets.Print(out);
  Table trials({"SCORE", "LOWER", "UPPER", "ROWS", "EXAMPLES", "ORIGIN", "INSTRUCTION"});
  for (const auto& trial : prompt.trials()) {
    trials.Add({FormatNumber(trial.score()), FormatNumber(trial.lower()), FormatNumber(trial.upper()),
                absl::StrCat(trial.rows()), DescribeExamples(trial), trial.origin(), Printable(trial.instruction())});
  }
  if (trials.empty()) return;
  out << "\n";
  trials.Print(out);
}

void AddShow(CLI::App* group, Context* context) {
  struct Args {
    std::string id;
    bool is_template = false;
  };
  auto args = std::make_shared<Args>();
  CLI::App* command = group->add_subcommand("show", "Show a text prompt in its parts, and what its search tried");
  command->add_option("id", args->id, "Id of the model")->required();
  command->add_flag("--template", args->is_template, "Write the whole prompt template and nothing else");
  command->callback([context, args] {
    context->action = [context, args]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_ASSIGN_OR_RETURN(v1::TextPrompt prompt, GetPrompt(client, args->id));
      if (args->is_template) {
        ATTUNE_ASSIGN_OR_RETURN(v1::Model model, GetModel(client, args->id));
        context->out << PrintableLines(model.prompt_template());
        if (prompt.has_pool()) context->err << "Before the input each request gets " << DescribePool(prompt) << ".\n";
      } else {
        context->json ? PrintJson(context->out, prompt) : PrintPrompt(context->out, prompt);
      }
      return kExitOk;
    };
  });
}

// The prompt template; of a text prompt with a pool, what is retrieved, too.
absl::StatusOr<std::string> LinesToCompare(Client* client, const v1::Model& model) {
  std::string lines = PrintableLines(model.prompt_template());
  if (model.kind() != v1::Model::TEXT_PROMPT) return lines;
  ATTUNE_ASSIGN_OR_RETURN(const v1::TextPrompt prompt, GetPrompt(client, BareName(model.name())));
  if (!prompt.has_pool()) return lines;
  absl::StrAppend(&lines, "\nRetrieved: ", DescribePool(prompt), "\n");
  for (const v1::TextPrompt::Example& example : prompt.pool().examples()) {
    absl::StrAppend(&lines, Printable(Variables(example)), "\n");
  }
  return lines;
}

void AddDiff(CLI::App* group, Context* context) {
  struct Args {
    std::string a, b;
  };
  auto args = std::make_shared<Args>();
  CLI::App* command = group->add_subcommand("diff", "What turns one model's prompt template into another's");
  command->add_option("a", args->a, "Id of the one model")->required();
  command->add_option("b", args->b, "Id of the other")->required();
  command->callback([context, args] {
    context->action = [context, args]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_ASSIGN_OR_RETURN(v1::Model a, GetModel(client, args->a));
      ATTUNE_ASSIGN_OR_RETURN(v1::Model b, GetModel(client, args->b));
      ATTUNE_ASSIGN_OR_RETURN(const std::string lines_a, LinesToCompare(client, a));
      ATTUNE_ASSIGN_OR_RETURN(const std::string lines_b, LinesToCompare(client, b));
      context->out << UnifiedDiff(a.name(), lines_a, b.name(), lines_b);
      return kExitOk;
    };
  });
}

struct TextArgs {
  std::optional<std::string> instruction;
  std::string file;

  void AddTo(CLI::App* command) {
    CLI::Option* text = command->add_option("--instruction", instruction, "The instruction; \\n, \\t");
    command->add_option("--file", file, "File with the instruction")->excludes(text);
  }
  // Unset if neither was given.
  absl::StatusOr<std::optional<std::string>> Read() const {
    if (!file.empty()) {
      ATTUNE_ASSIGN_OR_RETURN(std::string text, ReadTemplate(absl::StrCat("@", file)));
      return std::optional<std::string>(std::move(text));
    }
    return instruction ? std::optional<std::string>(Unescape(*instruction)) : std::nullopt;
  }
};

using Examples = google::protobuf::RepeatedPtrField<v1::TextPrompt::Example>;

// '{"text": "...", "label": "..."}'.
absl::Status AddExample(const std::string& json, Examples* out) {
  const std::string message = absl::StrCat("{\"columns\": ", json, "}");
  if (google::protobuf::util::JsonStringToMessage(message, out->Add()).ok()) return absl::OkStatus();
  return UsageError(absl::StrCat("'", Printable(json),
                                 "' is no JSON object of strings, such as {\"text\": \"...\", \"label\": \"...\"}"));
}

absl::Status AddExamples(const std::vector<std::string>& examples, const std::string& file, Examples* out) {
  for (const std::string& example : examples) ATTUNE_RETURN_IF_ERROR(AddExample(example, out));
  if (file.empty()) return absl::OkStatus();
  ATTUNE_ASSIGN_OR_RETURN(std::string lines, ReadFile(file));
  for (absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipWhitespace())) {
    ATTUNE_RETURN_IF_ERROR(AddExample(std::string(line), out));
  }
  return absl::OkStatus();
}

// --pool and --retrieve.
absl::Status SetPool(const std::string& file, int32_t retrieved, v1::TextPrompt* prompt) {
  if (!file.empty()) ATTUNE_RETURN_IF_ERROR(AddExamples({}, file, prompt->mutable_pool()->mutable_examples()));
  if (retrieved == 0) return absl::OkStatus();
  if (!prompt->has_pool()) return UsageError("--retrieve needs a pool of examples: give --pool");
  prompt->mutable_pool()->set_retrieved_examples(retrieved);
  return absl::OkStatus();
}

absl::StatusOr<int> Create(Context* context, Client* client, const v1::CreateTextPromptRequest& request) {
  ATTUNE_ASSIGN_OR_RETURN(v1::Model model, client->CreateTextPrompt(request));
  context->json ? PrintJson(context->out, model) : PrintModel(context->out, model);
  return kExitOk;
}

// "mood-v2" -> "mood-v3"; "mood" -> "mood-v2".
std::string NextVersion(const std::string& id) {
  const size_t at = id.rfind("-v");
  int version = 0;
  const bool is_version = at != std::string::npos && absl::SimpleAtoi(id.substr(at + 2), &version) && version > 0;
  return is_version ? absl::StrCat(id.substr(0, at), "-v", version + 1) : absl::StrCat(id, "-v2");
}

struct EditArgs {
  std::string id, new_id;
  TextArgs text;
  bool drops_examples = false;
  int32_t retrieved = 0;
  std::vector<std::string> examples;
  std::string examples_file;
};

absl::StatusOr<int> Edit(Context* context, const EditArgs& args) {
  ATTUNE_ASSIGN_OR_RETURN(std::optional<std::string> instruction, args.text.Read());
  const bool changes_examples = args.drops_examples || !args.examples.empty() || !args.examples_file.empty();
  if (!instruction && !changes_examples && args.retrieved == 0) {
    return UsageError(
        "nothing to change: give --instruction, --file, --example, --examples, --no-examples or --retrieve");
  }
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(v1::Model model, GetModel(client, args.id));
  v1::CreateTextPromptRequest request;
  ATTUNE_ASSIGN_OR_RETURN(*request.mutable_text_prompt(), GetPrompt(client, args.id));
  v1::TextPrompt& prompt = *request.mutable_text_prompt();
  if (instruction) prompt.set_instruction(*instruction);
  if (args.drops_examples) prompt.clear_examples();
  ATTUNE_RETURN_IF_ERROR(AddExamples(args.examples, args.examples_file, prompt.mutable_examples()));
  ATTUNE_RETURN_IF_ERROR(SetPool("", args.retrieved, &prompt));
  const bool was_calibrated = !prompt.label_offsets().empty();
  prompt.clear_label_offsets();
  prompt.clear_trials();
  prompt.set_edited_from(model.name());
  request.set_base_model(model.base_model());
  request.set_model_id(args.new_id.empty() ? NextVersion(BareName(model.name())) : BareName(args.new_id));
  request.mutable_model()->set_display_name(model.display_name());
  if (was_calibrated) {
    context->err << "The calibration was of the old text: the new prompt has none. A search with this instruction "
                    "(attune tune --method text-prompt --instruction ...) makes another.\n";
  }
  return Create(context, client, request);
}

void AddEdit(CLI::App* group, Context* context) {
  auto args = std::make_shared<EditArgs>();
  CLI::App* command =
      group->add_subcommand("edit", "Make a new model of a text prompt with another instruction or other examples");
  command->add_option("id", args->id, "Id of the model")->required();
  args->text.AddTo(command);
  AddRepeated(command, "--example", args->examples, "Add a row as a JSON object of columns; may be repeated");
  command->add_option("--examples", args->examples_file, "Add the rows of a file of JSON lines");
  command->add_flag("--no-examples", args->drops_examples, "Leave the old examples out; a pool stays");
  command->add_option("--retrieve", args->retrieved, "Examples of its pool that a request gets, 1 to 64");
  command->add_option("--as", args->new_id, "Id of the new model (default: ID-v2, then ID-v3, ...)");
  command->callback([context, args] { context->action = [context, args] { return Edit(context, *args); }; });
}

struct CreateArgs {
  std::string base, id, display_name, input_template, output_template, examples_file, pool_file;
  int32_t retrieved = 0;
  TextArgs text;
  std::vector<std::string> examples;
};

absl::StatusOr<int> CreateByHand(Context* context, const CreateArgs& args) {
  v1::CreateTextPromptRequest request;
  request.set_base_model(FullName(kModels, args.base));
  request.set_model_id(BareName(args.id));
  request.mutable_model()->set_display_name(args.display_name);
  v1::TextPrompt& prompt = *request.mutable_text_prompt();
  ATTUNE_ASSIGN_OR_RETURN(std::optional<std::string> instruction, args.text.Read());
  prompt.set_instruction(instruction.value_or(""));
  ATTUNE_ASSIGN_OR_RETURN(*prompt.mutable_input_template(), ReadTemplate(args.input_template));
  ATTUNE_ASSIGN_OR_RETURN(*prompt.mutable_output_template(), ReadTemplate(args.output_template));
  ATTUNE_RETURN_IF_ERROR(AddExamples(args.examples, args.examples_file, prompt.mutable_examples()));
  ATTUNE_RETURN_IF_ERROR(SetPool(args.pool_file, args.retrieved, &prompt));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  return Create(context, client, request);
}

void AddCreate(CLI::App* group, Context* context) {
  auto args = std::make_shared<CreateArgs>();
  CLI::App* command = group->add_subcommand("create", "Make a text prompt by hand: a model without any tuning");
  command->add_option("base", args->base, "Base model")->required();
  args->text.AddTo(command);
  command->add_option("--template", args->input_template,
                      "How an input is written (default: {{prompt}}); \\n, \\t, @FILE");
  command->add_option("--completion-template", args->output_template,
                      "How an answer is written (default: {{completion}}); \\n, \\t, @FILE");
  AddRepeated(command, "--example", args->examples, "A row as a JSON object of columns; may be repeated");
  command->add_option("--examples", args->examples_file, "File of JSON lines with rows");
  CLI::Option* pool = command->add_option(
      "--pool", args->pool_file, "File of JSON lines with rows of which each request gets the most similar ones");
  CLI::Option* retrieve = command->add_option("--retrieve", args->retrieved, "How many of the pool, 1 to 64");
  pool->needs(retrieve);
  retrieve->needs(pool);
  command->add_option("--as", args->id, "Id of the model (default: made of the base model's)");
  command->add_option("--display-name", args->display_name, "Name for people");
  command->callback([context, args] { context->action = [context, args] { return CreateByHand(context, *args); }; });
}

}  // namespace

void AddPromptCommands(CLI::App* app, Context* context) {
  CLI::App* group = app->add_subcommand("prompts", "Show, compare, edit and write text prompts");
  group->require_subcommand(1);
  AddShow(group, context);
  AddCreate(group, context);
  AddEdit(group, context);
  AddDiff(group, context);
}

}  // namespace attune::cli
