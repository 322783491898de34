// attune aliases ...
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/alias_targets.h"
#include "client/cli/commands.h"
#include "client/cli/describe.h"
#include "client/cli/output.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

absl::StatusOr<int> List(Context* context) {
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  std::vector<v1::Alias> found;
  ATTUNE_RETURN_IF_ERROR(client->ForEachAlias({}, [&](const v1::Alias& alias) {
    found.push_back(alias);
    return true;
  }));
  if (context->json) {
    std::vector<const google::protobuf::Message*> items;
    for (const v1::Alias& alias : found) items.push_back(&alias);
    PrintJsonList(context->out, "aliases", items);
    return kExitOk;
  }
  if (found.empty()) {
    context->out << "There are no aliases. Make one with: attune promote COMPARISON --as NAME\n";
    return kExitOk;
  }
  Table table({"ID", "MODELS", "SET"});
  for (const v1::Alias& alias : found) {
    table.Add({BareName(alias.name()), FormatTargets(alias.targets()), FormatAge(alias.update_time(), absl::Now())});
  }
  table.Print(context->out);
  return kExitOk;
}

absl::StatusOr<int> Show(Context* context, Client* client, const std::string& name) {
  v1::GetAliasRequest request;
  request.set_name(name);
  ATTUNE_ASSIGN_OR_RETURN(v1::Alias alias, client->GetAlias(request));
  context->json ? PrintJson(context->out, alias) : PrintAlias(context->out, alias);
  return kExitOk;
}

absl::StatusOr<int> RollBack(Context* context, Client* client, const std::string& name) {
  v1::RollBackAliasRequest request;
  request.set_name(name);
  ATTUNE_ASSIGN_OR_RETURN(v1::Alias alias, client->RollBackAlias(request));
  context->json ? PrintJson(context->out, alias) : PrintAlias(context->out, alias);
  return kExitOk;
}

absl::StatusOr<int> Delete(Context* context, Client* client, const std::string& name) {
  v1::DeleteAliasRequest request;
  request.set_name(name);
  ATTUNE_RETURN_IF_ERROR(client->DeleteAlias(request));
  context->out << (context->json ? "{}" : absl::StrCat("deleted ", name)) << "\n";
  return kExitOk;
}

absl::StatusOr<int> Set(Context* context, const std::string& id, const std::vector<std::string>& items) {
  v1::SetAliasRequest request;
  request.mutable_alias()->set_name(FullName(kAliases, id));
  ATTUNE_ASSIGN_OR_RETURN(const AliasTargets targets, ParseTargets(items));
  for (const v1::Alias::Target& target : targets) *request.mutable_alias()->add_targets() = target;
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(v1::Alias alias, client->SetAlias(request));
  context->json ? PrintJson(context->out, alias) : PrintAlias(context->out, alias);
  return kExitOk;
}

using Action = absl::StatusOr<int> (*)(Context*, Client*, const std::string& name);

// A command that takes an alias's id and nothing else.
void AddAction(CLI::App* group, Context* context, const std::string& name, const std::string& help, Action run) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = group->add_subcommand(name, help);
  command->add_option("id", *id, "Id of the alias")->required();
  command->callback([context, id, run] {
    context->action = [context, id, run]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      return run(context, client, FullName(kAliases, *id));
    };
  });
}

void AddSet(CLI::App* group, Context* context) {
  auto id = std::make_shared<std::string>();
  auto items = std::make_shared<std::vector<std::string>>();
  CLI::App* command = group->add_subcommand("set", "Make an alias, or send its requests to other models from now on");
  command->add_option("id", *id, "Id of the alias")->required();
  command->add_option("models", *items, "MODEL; or up to four of MODEL=WEIGHT or MODEL=SHARE%, e.g. old=90% new=10%")
      ->required();
  command->callback(
      [context, id, items] { context->action = [context, id, items] { return Set(context, *id, *items); }; });
}

}  // namespace

void AddAliasCommands(CLI::App* app, Context* context) {
  CLI::App* group = app->add_subcommand("aliases", "List, show, set, roll back and delete stable names for models");
  group->require_subcommand(1);
  CLI::App* list = group->add_subcommand("list", "List aliases, newest first");
  list->callback([context] { context->action = [context] { return List(context); }; });
  AddAction(group, context, "show", "Show one with its history", Show);
  AddSet(group, context);
  AddAction(group, context, "rollback", "Restore the setting before the present one, at once", RollBack);
  AddAction(group, context, "delete", "Remove one; its models stay", Delete);
}

}  // namespace attune::cli
