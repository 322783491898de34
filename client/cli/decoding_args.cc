#include "client/cli/decoding_args.h"

#include <CLI/Option.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "client/cli/commands.h"
#include "client/cli/text.h"
#include "common/error.h"
#include "common/file.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

absl::StatusOr<std::string> TextOrFile(const std::string& argument) {
  if (!absl::StartsWith(argument, "@")) return argument;
  return ReadFile(argument.substr(1));
}

}  // namespace

void DecodingArgs::AddTo(CLI::App* command) {
  command->option_defaults()->group("Form of the answer (at most one)");
  CLI::Option* object = command->add_flag("--json-object", json_object, "A JSON object");
  CLI::Option* schema =
      command->add_option("--json-schema", json_schema, "JSON that this schema allows; @FILE reads it from a file");
  CLI::Option* expression = command->add_option("--regex", regex, "Text that this regular expression matches as a whole");
  CLI::Option* choice = AddRepeated(command, "--choice", choices, "One of these texts; may be repeated");
  CLI::Option* rules =
      command->add_option("--grammar", grammar, "Text of this grammar in GBNF, rule root; @FILE reads it from a file");
  CLI::Option* const forms[] = {object, schema, expression, choice, rules};
  for (CLI::Option* a : forms) {
    for (CLI::Option* b : forms) {
      if (a < b) a->excludes(b);
    }
  }
  command->option_defaults()->group("Search and speed");
  command->add_option("--best-of", best_of, "Make so many answers, show the likeliest (default: as many as --n)");
  CLI::Option* search = command->add_option("--beams", beams, "Beam search with so many beams, 2 to 16");
  command->add_option("--length-penalty", length_penalty, "Above 0 favours longer answers (default: 1); with --beams")
      ->needs(search);
  command->add_flag("--early-stopping", early_stopping, "End once as many answers have ended as there are beams")
      ->needs(search);
  command->add_option("--draft-tokens", draft_tokens,
                      "Guess up to so many tokens ahead, 1 to 16: fewer steps where guesses are right, same text");
  command->add_option("--draft-model", draft_model,
                      "Smaller model of the same vocabulary that guesses (default: what followed the same words before)");
  command->add_option("--priority", priority, "Higher goes first, -100 to 100 (default: 0)");
  command->add_option("--tenant", tenant, "Who asks; tenants share the device fairly (default: default)");
  command->option_defaults()->group("OPTIONS");
}

absl::Status DecodingArgs::Fill(v1::GenerateRequest* request) const {
  v1::StructuredOutput* form = request->mutable_structured_output();
  if (json_object) form->set_json_object(true);
  if (!json_schema.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(*form->mutable_json_schema(), TextOrFile(json_schema));
  }
  if (!regex.empty()) form->set_regex(regex);
  for (const std::string& choice : choices) form->mutable_choice()->add_choices(choice);
  if (!grammar.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(*form->mutable_grammar(), TextOrFile(grammar));
  }
  if (form->form_case() == v1::StructuredOutput::FORM_NOT_SET) request->clear_structured_output();
  request->set_best_of(best_of);
  if (beams != 0) {
    v1::BeamSearchOptions& search = *request->mutable_beam_search();
    search.set_beams(beams);
    if (length_penalty) search.set_length_penalty(*length_penalty);
    search.set_early_stopping(early_stopping);
  }
  if (draft_tokens != 0 || !draft_model.empty()) {
    request->mutable_speculative()->set_draft_tokens(draft_tokens);
    if (!draft_model.empty()) request->mutable_speculative()->set_draft_model(FullName(kModels, draft_model));
  }
  request->set_priority(priority);
  request->set_tenant(tenant);
  return absl::OkStatus();
}

}  // namespace attune::cli
