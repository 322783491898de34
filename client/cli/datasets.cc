// attune datasets ...
#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
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

struct UploadArgs {
  std::string file, id, display_name, prompt_template, completion_template, format, kind;
  std::vector<std::string> mapping, labels;
  bool skip_bad_rows = false;
};

absl::StatusOr<v1::UploadDatasetRequest::Header> MakeHeader(const UploadArgs& args) {
  v1::UploadDatasetRequest::Header header;
  v1::Dataset& dataset = *header.mutable_dataset();
  header.set_dataset_id(BareName(args.id));
  header.set_skip_bad_rows(args.skip_bad_rows);
  dataset.set_display_name(args.display_name);
  ATTUNE_ASSIGN_OR_RETURN(*dataset.mutable_prompt_template(), ReadTemplate(args.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(*dataset.mutable_completion_template(), ReadTemplate(args.completion_template));
  ATTUNE_ASSIGN_OR_RETURN(auto mapping, ParsePairs(args.mapping, "--map"));
  for (const auto& [from, to] : mapping) (*dataset.mutable_column_mapping())[from] = to;
  ATTUNE_ASSIGN_OR_RETURN(auto labels, ParsePairs(args.labels, "--label"));
  for (const auto& [key, value] : labels) (*dataset.mutable_labels())[key] = value;
  // The options' checks admit only names of the enums, in lower case with '-'.
  auto enum_name = [](const std::string& text) {
    return absl::AsciiStrToUpper(absl::StrReplaceAll(text, {{"-", "_"}}));
  };
  v1::Dataset::Format format = v1::Dataset::FORMAT_UNSPECIFIED;
  v1::Dataset::Kind kind = v1::Dataset::KIND_UNSPECIFIED;
  v1::Dataset::Format_Parse(enum_name(args.format), &format);
  v1::Dataset::Kind_Parse(enum_name(args.kind), &kind);
  dataset.set_format(format);
  dataset.set_kind(kind);
  return header;
}

absl::StatusOr<v1::Dataset> Upload(Context* context, const UploadArgs& args) {
  ATTUNE_ASSIGN_OR_RETURN(v1::UploadDatasetRequest::Header header, MakeHeader(args));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ProgressWriter progress(context->err, context->err_is_terminal);
  Client::OnUpload on_upload;
  if (context->err_is_terminal) {
    on_upload = [&progress](int64_t sent, int64_t total) {
      double share = total > 0 ? static_cast<double>(sent) / total : 1;
      progress.Update(absl::StrCat("upload ", FormatBar(share, 20), " ", FormatBytes(sent), " of ", FormatBytes(total)),
                      absl::Now());
    };
  }
  if (args.file == "-") {
    std::string bytes{std::istreambuf_iterator<char>(context->in), std::istreambuf_iterator<char>()};
    return client->UploadDatasetBytes(header, bytes, on_upload);
  }
  return client->UploadDatasetFile(header, args.file, on_upload);
}

void AddUpload(CLI::App* group, Context* context) {
  auto args = std::make_shared<UploadArgs>();
  CLI::App* command = group->add_subcommand("upload", "Upload a JSONL, CSV or TSV file");
  command->add_option("file", args->file, "File to upload; - reads standard input")->required();
  command->add_option("--id", args->id, "Id of the dataset (default: made by the server)");
  command->add_option("--display-name", args->display_name, "Name for people");
  command->add_option("--template", args->prompt_template,
                      "Prompt template over the columns, e.g. 'Text: {{text}}\\nLabel:'; understands \\n and \\t; "
                      "@FILE reads it from a file (default: {{prompt}})");
  command->add_option("--completion-template", args->completion_template,
                      "Answer template, e.g. ' {{label}}'; written like --template (default: {{completion}})");
  AddRepeated(command, "--map", args->mapping, "Rename a column before templates apply, from=to; may be repeated");
  command->add_option("--format", args->format, "jsonl, csv or tsv (default: by the first byte)")
      ->check(CLI::IsMember({"jsonl", "csv", "tsv"}));
  command->add_option("--kind", args->kind,
                      "prompt-completion, chat, text, preference or chat-preference (default: by the first row)")
      ->check(CLI::IsMember({"prompt-completion", "chat", "text", "preference", "chat-preference"}));
  command->add_flag("--skip-bad-rows", args->skip_bad_rows, "Leave bad rows out and count them, instead of failing");
  AddRepeated(command, "--label", args->labels, "Label as key=value; may be repeated");
  command->callback([context, args] {
    context->action = [context, args]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(v1::Dataset dataset, Upload(context, *args));
      context->json ? PrintJson(context->out, dataset) : PrintDataset(context->out, dataset);
      return kExitOk;
    };
  });
}

void PrintDatasets(Context* context, const std::vector<v1::Dataset>& datasets) {
  if (context->json) {
    std::vector<const google::protobuf::Message*> items;
    for (const v1::Dataset& dataset : datasets) items.push_back(&dataset);
    return PrintJsonList(context->out, "datasets", items);
  }
  if (datasets.empty()) {
    context->out << "There are no datasets. Upload one with: attune datasets upload FILE\n";
    return;
  }
  Table table({"ID", "KIND", "ROWS", "SKIPPED", "SIZE", "CREATED", "NAME"});
  for (const v1::Dataset& d : datasets) {
    table.Add({BareName(d.name()), v1::Dataset::Kind_Name(d.kind()), absl::StrCat(d.row_count()),
               absl::StrCat(d.skipped_row_count()), FormatBytes(d.size_bytes()),
               FormatAge(d.create_time(), absl::Now()), d.display_name()});
  }
  table.Print(context->out);
}

void AddList(CLI::App* group, Context* context) {
  CLI::App* command = group->add_subcommand("list", "List datasets, newest first");
  command->callback([context] {
    context->action = [context]() -> absl::StatusOr<int> {
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      std::vector<v1::Dataset> datasets;
      ATTUNE_RETURN_IF_ERROR(client->ForEachDataset({}, [&](const v1::Dataset& dataset) {
        datasets.push_back(dataset);
        return true;
      }));
      PrintDatasets(context, datasets);
      return kExitOk;
    };
  });
}

void AddGet(CLI::App* group, Context* context) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = group->add_subcommand("get", "Show one dataset");
  command->add_option("id", *id, "Id of the dataset")->required();
  command->callback([context, id] {
    context->action = [context, id]() -> absl::StatusOr<int> {
      v1::GetDatasetRequest request;
      request.set_name(FullName(kDatasets, *id));
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_ASSIGN_OR_RETURN(v1::Dataset dataset, client->GetDataset(request));
      context->json ? PrintJson(context->out, dataset) : PrintDataset(context->out, dataset);
      return kExitOk;
    };
  });
}

void PrintExample(std::ostream& out, const v1::PreviewDatasetResponse::Example& example) {
  auto with_loss = std::count_if(example.tokens().begin(), example.tokens().end(),
                                 [](const auto& token) { return token.has_loss(); });
  out << "row " << example.row() << ": " << example.tokens_size() << " tokens, " << with_loss << " with loss"
      << (example.truncated() ? ", prompt cut" : "") << "\n";
  out << "  prompt      " << Quoted(example.prompt()) << "\n";
  out << "  completion  " << Quoted(example.completion()) << "\n";
  out << "  tokens      ";
  for (const auto& token : example.tokens()) {
    std::string text = Quoted(token.text());
    text = text.substr(1, text.size() - 2);
    out << (token.has_loss() ? absl::StrCat("[", text, "]") : text) << "|";
  }
  out << "\n";
}

struct PreviewArgs {
  std::string id, model, prompt_template, completion_template;
  int count = 3;
  int64_t offset = 0;
  int max_tokens = 0;
};

absl::StatusOr<int> Preview(Context* context, const PreviewArgs& args) {
  v1::PreviewDatasetRequest request;
  request.set_name(FullName(kDatasets, args.id));
  request.set_model(FullName(kModels, args.model));
  request.set_count(args.count);
  request.set_offset(args.offset);
  v1::DataOptions& data = *request.mutable_data();
  ATTUNE_ASSIGN_OR_RETURN(*data.mutable_prompt_template(), ReadTemplate(args.prompt_template));
  ATTUNE_ASSIGN_OR_RETURN(*data.mutable_completion_template(), ReadTemplate(args.completion_template));
  data.set_max_sequence_tokens(args.max_tokens);
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  ATTUNE_ASSIGN_OR_RETURN(v1::PreviewDatasetResponse response, client->PreviewDataset(request));
  if (context->json) {
    PrintJson(context->out, response);
    return kExitOk;
  }
  for (const auto& example : response.examples()) PrintExample(context->out, example);
  context->out << "Tokens in [brackets] carry loss: the model learns to produce them.\n";
  return kExitOk;
}

void AddPreview(CLI::App* group, Context* context) {
  auto args = std::make_shared<PreviewArgs>();
  CLI::App* command = group->add_subcommand("preview", "Show examples as training sees them: text, tokens, loss");
  command->add_option("id", args->id, "Id of the dataset")->required();
  command->add_option("--model", args->model, "Model whose tokenizer and chat template to use")->required();
  command->add_option("--count", args->count, "Examples to show, 1 to 100")->capture_default_str();
  command->add_option("--offset", args->offset, "First example, from 0")->capture_default_str();
  command->add_option("--template", args->prompt_template, "Try another prompt template (see datasets upload)");
  command->add_option("--completion-template", args->completion_template, "Try another answer template");
  command->add_option("--max-tokens", args->max_tokens, "Longest example in tokens (default: the model's context)");
  command->callback([context, args] { context->action = [context, args] { return Preview(context, *args); }; });
}

void AddDelete(CLI::App* group, Context* context) {
  auto id = std::make_shared<std::string>();
  CLI::App* command = group->add_subcommand("delete", "Delete a dataset that no unfinished job needs");
  command->add_option("id", *id, "Id of the dataset")->required();
  command->callback([context, id] {
    context->action = [context, id]() -> absl::StatusOr<int> {
      v1::DeleteDatasetRequest request;
      request.set_name(FullName(kDatasets, *id));
      ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
      ATTUNE_RETURN_IF_ERROR(client->DeleteDataset(request));
      context->out << (context->json ? "{}" : absl::StrCat("deleted ", request.name())) << "\n";
      return kExitOk;
    };
  });
}

}  // namespace

void AddDatasetCommands(CLI::App* app, Context* context) {
  CLI::App* group = app->add_subcommand("datasets", "Upload, list, preview and delete datasets");
  group->require_subcommand(1);
  AddUpload(group, context);
  AddList(group, context);
  AddGet(group, context);
  AddPreview(group, context);
  AddDelete(group, context);
}

}  // namespace attune::cli
