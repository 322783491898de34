// attune promote ...
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/alias_targets.h"
#include "client/cli/commands.h"
#include "client/cli/describe.h"
#include "client/cli/output.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

struct PromoteArgs {
  std::string comparison, alias;
  double share = 100;
};

absl::StatusOr<v1::Comparison> DecidedComparison(Client* client, const std::string& name) {
  v1::GetComparisonRequest request;
  request.set_name(FullName(kComparisons, name));
  ATTUNE_ASSIGN_OR_RETURN(v1::Comparison comparison, client->GetComparison(request));
  if (!comparison.winner_model().empty()) return comparison;
  return MakeError(absl::StatusCode::kFailedPrecondition, "NO_WINNER",
                   absl::StrCat("The comparison '", BareName(comparison.name()), "' has no winner; it is ",
                                v1::Comparison::State_Name(comparison.state()), "."));
}

// The alias as it is; without a name if there is none.
absl::StatusOr<v1::Alias> PresentAlias(Client* client, const std::string& name) {
  v1::GetAliasRequest request;
  request.set_name(name);
  absl::StatusOr<v1::Alias> alias = client->GetAlias(request);
  return absl::IsNotFound(alias.status()) ? v1::Alias() : alias;
}

absl::StatusOr<AliasTargets> NewTargets(const v1::Alias& present, const std::string& winner, const PromoteArgs& args) {
  const AliasTargets targets(present.targets().begin(), present.targets().end());
  if (args.share < 100 && targets.empty()) {
    return UsageError(absl::StrCat("--share: there is no alias '", BareName(args.alias),
                                   "' yet whose model could keep the rest; promote without --share first"));
  }
  const bool has_other = std::any_of(targets.begin(), targets.end(), [&](const auto& t) { return t.model() != winner; });
  if (args.share < 100 && !has_other) {
    return UsageError(absl::StrCat("--share: '", BareName(args.alias), "' sends all requests to the winner already"));
  }
  return WithShare(args.share < 100 ? targets : AliasTargets(), winner, args.share);
}

// The template that requests need if the winner's is not its model's own; empty else.
std::string NeededTemplate(const v1::Comparison& comparison) {
  for (const v1::Comparison::Contender& contender : comparison.results()) {
    if (contender.kind() == comparison.winner()) return contender.prompt_template();
  }
  return "";
}

absl::StatusOr<int> Promote(Context* context, const PromoteArgs& args) {
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(const v1::Comparison comparison, DecidedComparison(client, args.comparison));
  const std::string name = FullName(kAliases, args.alias);
  ATTUNE_ASSIGN_OR_RETURN(const v1::Alias present, PresentAlias(client, name));
  ATTUNE_ASSIGN_OR_RETURN(const AliasTargets targets, NewTargets(present, comparison.winner_model(), args));
  v1::SetAliasRequest request;
  request.mutable_alias()->set_name(name);
  request.mutable_alias()->set_etag(present.etag());  // what was read is what the shares are of
  for (const v1::Alias::Target& target : targets) *request.mutable_alias()->add_targets() = target;
  ATTUNE_ASSIGN_OR_RETURN(const v1::Alias alias, client->SetAlias(request));
  if (context->json) {
    PrintJson(context->out, alias);
    return kExitOk;
  }
  PrintAlias(context->out, alias);
  context->out << "\nAsk it with: attune generate " << BareName(name) << " TEXT\n";
  if (alias.history_size() > 1) context->out << "Undo this with: attune aliases rollback " << BareName(name) << "\n";
  if (const std::string needed = NeededTemplate(comparison); !needed.empty()) {
    context->out << "Requests must be written in the winner's template: " << Quoted(needed) << "\n";
  }
  return kExitOk;
}

}  // namespace

void AddPromoteCommand(CLI::App* app, Context* context) {
  auto args = std::make_shared<PromoteArgs>();
  CLI::App* command =
      app->add_subcommand("promote", "Put a comparison's winner behind a stable name, at once or by shares");
  command->add_option("comparison", args->comparison, "Id of the comparison")->required();
  command->add_option("--as", args->alias, "Id of the alias; made if it is not there")->required();
  command
      ->add_option("--share", args->share,
                   "Percent of the requests for the winner; the rest stays with the alias's models (default: 100)")
      ->check(CLI::Range(0.0001, 100.0));
  command->callback([context, args] { context->action = [context, args] { return Promote(context, *args); }; });
}

}  // namespace attune::cli
