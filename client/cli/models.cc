// attune models ...
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/describe.h"
#include "client/cli/output.h"
#include "client/cli/text.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

void AddImport(CLI::App* group, Context* context) {
  struct Args {
    std::string path, id, base, display_name, description;
    std::vector<std::string> labels;
  };
  auto args = std::make_shared<Args>();
  CLI::App* command = group->add_subcommand(
      "import", "Import a base model (a GGUF file, or a Hugging Face directory with safetensors) or an adapter (a PEFT "
                "directory, with --base) on the server's disk");
  command->add_option("path", args->path, "Path on the server, under one of its import roots")->required();
  command->add_option("--id", args->id, "Id of the model (default: from the file's name)");
  command->add_option("--base", args->base, "Model that an adapter was tuned from");
  command->add_option("--display-name", args->display_name, "Name for people");
  command->add_option("--description", args->description, "Longer text");
  AddRepeated(command, "--label", args->labels, "Label as key=value; may be repeated");
  command->callback([context, args] {
    context->action = [context, args]() -> absl::StatusOr<int> {
      v1::ImportModelRequest request;
      request.set_base_model(FullName(kModels, args->base));
      request.set_source_path(args->path);
      request.set_model_id(BareName(args->id));
      request.mutable_model()->set_display_name(args->display_name);
      request.mutable_model()->set_description(args->description);
      ATTUNE_ASSIGN_OR_RETURN(auto labels, ParsePairs(args->labels, "--label"));
      for (const auto& [key, value] : labels) (*request.mutable_model()->mutable_labels())[key] = value;
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_ASSIGN_OR_RETURN(v1::Model model, client->ImportModel(request));
      context->json ? PrintJson(context->out, model) : PrintModel(context->out, model);
      return kExitOk;
    };
  });
}

void PrintModels(Context* context, const std::vector<v1::Model>& models) {
  if (context->json) {
    std::vector<const google::protobuf::Message*> items;
    for (const v1::Model& model : models) items.push_back(&model);
    return PrintJsonList(context->out, "models", items);
  }
  if (models.empty()) {
    context->out << "There are no models. Import one with: attune models import PATH\n";
    return;
  }
  Table table({"ID", "KIND", "BASE", "SIZE", "CREATED", "NAME"});
  for (const v1::Model& m : models) {
    table.Add({BareName(m.name()), v1::Model::Kind_Name(m.kind()), BareName(m.base_model()),
               FormatBytes(m.size_bytes()), FormatAge(m.create_time(), absl::Now()), m.display_name()});
  }
  table.Print(context->out);
}

void AddList(CLI::App* group, Context* context) {
  CLI::App* command = group->add_subcommand("list", "List base and tuned models, newest first");
  command->callback([context] {
    context->action = [context]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      std::vector<v1::Model> models;
      ATTUNE_RETURN_IF_ERROR(client->ForEachModel({}, [&](const v1::Model& model) {
        models.push_back(model);
        return true;
      }));
      PrintModels(context, models);
      return kExitOk;
    };
  });
}

void AddGet(CLI::App* group, Context* context) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = group->add_subcommand("get", "Show one model");
  command->add_option("id", *id, "Id of the model")->required();
  command->callback([context, id] {
    context->action = [context, id]() -> absl::StatusOr<int> {
      v1::GetModelRequest request;
      request.set_name(FullName(kModels, *id));
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_ASSIGN_OR_RETURN(v1::Model model, client->GetModel(request));
      context->json ? PrintJson(context->out, model) : PrintModel(context->out, model);
      return kExitOk;
    };
  });
}

struct UpdateArgs {
  std::string id;
  std::optional<std::string> display_name, description;
  std::vector<std::string> labels;
  bool no_labels = false;
};

absl::StatusOr<v1::UpdateModelRequest> MakeUpdate(const UpdateArgs& args) {
  v1::UpdateModelRequest request;
  request.mutable_model()->set_name(FullName(kModels, args.id));
  auto* mask = request.mutable_update_mask();
  if (args.display_name) {
    request.mutable_model()->set_display_name(*args.display_name);
    mask->add_paths("display_name");
  }
  if (args.description) {
    request.mutable_model()->set_description(*args.description);
    mask->add_paths("description");
  }
  if (args.no_labels || !args.labels.empty()) {
    ATTUNE_ASSIGN_OR_RETURN(auto labels, ParsePairs(args.labels, "--label"));
    for (const auto& [key, value] : labels) (*request.mutable_model()->mutable_labels())[key] = value;
    mask->add_paths("labels");
  }
  if (mask->paths().empty()) {
    return UsageError("nothing to change: give --display-name, --description, --label or --no-labels");
  }
  return request;
}

void AddUpdate(CLI::App* group, Context* context) {
  auto args = std::make_shared<UpdateArgs>();
  CLI::App* command = group->add_subcommand("update", "Change a model's display name, description or labels");
  command->add_option("id", args->id, "Id of the model")->required();
  command->add_option("--display-name", args->display_name, "Name for people");
  command->add_option("--description", args->description, "Longer text");
  CLI::Option* labels =
      AddRepeated(command, "--label", args->labels, "Label as key=value; may be repeated; replaces all labels");
  command->add_flag("--no-labels", args->no_labels, "Remove all labels")->excludes(labels);
  command->callback([context, args] {
    context->action = [context, args]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(v1::UpdateModelRequest request, MakeUpdate(*args));
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_ASSIGN_OR_RETURN(v1::Model model, client->UpdateModel(request));
      context->json ? PrintJson(context->out, model) : PrintModel(context->out, model);
      return kExitOk;
    };
  });
}

void AddDelete(CLI::App* group, Context* context) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = group->add_subcommand("delete", "Delete a model that no other model and no unfinished job needs");
  command->add_option("id", *id, "Id of the model")->required();
  command->callback([context, id] {
    context->action = [context, id]() -> absl::StatusOr<int> {
      v1::DeleteModelRequest request;
      request.set_name(FullName(kModels, *id));
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_RETURN_IF_ERROR(client->DeleteModel(request));
      context->out << (context->json ? "{}" : absl::StrCat("deleted ", request.name())) << "\n";
      return kExitOk;
    };
  });
}

void AddExport(CLI::App* group, Context* context) {
  struct Args {
    std::string id, format, destination;
  };
  auto args = std::make_shared<Args>();
  CLI::App* command = group->add_subcommand("export", "Write a model to a directory under the server's export root");
  command->add_option("id", args->id, "Id of the model")->required();
  command->add_option("--format", args->format,
                      "peft: an adapter for Hugging Face PEFT; safetensors: full weights, LoRA or IA3 merged; gguf-f16, gguf-q8_0: "
                      "the same as a GGUF file, of models that came as one or whose tokenizer such a file can hold (default: peft for adapters, safetensors else)")
      ->check(CLI::IsMember({"peft", "safetensors", "gguf-f16", "gguf-q8_0"}));
  command->add_option("--destination", args->destination, "Directory to make (default: the model's id)");
  command->callback([context, args] {
    context->action = [context, args]() -> absl::StatusOr<int> {
      v1::ExportModelRequest request;
      request.set_name(FullName(kModels, args->id));
      if (args->format == "peft") request.set_format(v1::ExportModelRequest::PEFT);
      if (args->format == "safetensors") request.set_format(v1::ExportModelRequest::SAFETENSORS);
      if (args->format == "gguf-f16") request.set_format(v1::ExportModelRequest::GGUF_F16);
      if (args->format == "gguf-q8_0") request.set_format(v1::ExportModelRequest::GGUF_Q8_0);
      request.set_destination(args->destination);
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_ASSIGN_OR_RETURN(v1::ExportModelResponse response, client->ExportModel(request));
      if (context->json) {
        PrintJson(context->out, response);
      } else {
        context->out << "wrote " << response.files_size() << " files, " << FormatBytes(response.size_bytes()) << ", to "
                     << Printable(response.path()) << " on the server\n";
        for (const std::string& file : response.files()) context->out << "  " << Printable(file) << "\n";
      }
      return kExitOk;
    };
  });
}

}  // namespace

void AddModelCommands(CLI::App* app, Context* context) {
  CLI::App* group = app->add_subcommand("models", "Import, list, change, delete and export models");
  group->require_subcommand(1);
  AddImport(group, context);
  AddList(group, context);
  AddGet(group, context);
  AddUpdate(group, context);
  AddDelete(group, context);
  AddExport(group, context);
}

}  // namespace attune::cli
