// attune generate
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/decoding_args.h"
#include "client/cli/output.h"
#include "client/cli/prompt_args.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

struct GenerateArgs {
  std::string model;
  PromptArgs prompt;
  SamplingArgs sampling;
  DecodingArgs decoding;
  int32_t n = 0;
  bool logprobs = false;
  int32_t top_logprobs = 0;
  bool no_stream = false;
  bool stats = false;
};

absl::StatusOr<v1::GenerateRequest> MakeRequest(Context* context, const GenerateArgs& args) {
  v1::GenerateRequest request;
  request.set_model(FullName(kModels, args.model));
  ATTUNE_ASSIGN_OR_RETURN(*request.mutable_prompt(), args.prompt.Build(context));
  ATTUNE_RETURN_IF_ERROR(args.sampling.Fill(&request));
  ATTUNE_RETURN_IF_ERROR(args.decoding.Fill(&request));
  request.set_n(args.n);
  request.set_logprobs(args.logprobs);
  request.set_top_logprobs(args.top_logprobs);
  return request;
}

void AddLogprobRows(const v1::TokenLogprob& token, Table* table) {
  std::string others = absl::StrJoin(token.alternatives(), "  ", [](std::string* out, const auto& other) {
    absl::StrAppend(out, Quoted(other.text()), " ", FormatNumber(other.logprob()));
  });
  table->Add({Quoted(token.text()), absl::StrCat(token.token_id()), FormatNumber(token.logprob()), others});
}

// The answers as text: one as it comes, several one after the other at the end.
class TextPrinter {
 public:
  TextPrinter(std::ostream& out, bool several) : out_(out), several_(several) {}

  void Add(int32_t index, const std::string& text, const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& tokens) {
    Answer& answer = answers_[index];
    if (!several_) out_ << text << std::flush;
    answer.text += text;
    for (const v1::TokenLogprob& token : tokens) AddLogprobRows(token, &answer.logprobs);
  }

  void Finish() {
    for (auto& [index, answer] : answers_) {
      if (several_) out_ << "[" << index << "] " << answer.text;
      // What a shell shows next begins on a line of its own.
      if (answer.text.empty() || answer.text.back() != '\n') out_ << "\n";
      if (!answer.logprobs.empty()) answer.logprobs.Print(out_);
    }
  }

 private:
  struct Answer {
    std::string text;
    Table logprobs{{"TOKEN", "ID", "LOGPROB", "ALTERNATIVES"}};
  };
  std::ostream& out_;
  const bool several_;
  std::map<int32_t, Answer> answers_;
};

absl::StatusOr<v1::Usage> GenerateAtOnce(Context* context, Client* client, const v1::GenerateRequest& request,
                                         TextPrinter* printer) {
  ATTUNE_ASSIGN_OR_RETURN(v1::GenerateResponse response, client->Generate(request));
  if (context->json) {
    PrintJson(context->out, response);
    return response.usage();
  }
  for (const v1::Completion& c : response.completions()) printer->Add(c.index(), c.text(), c.logprobs());
  printer->Finish();
  return response.usage();
}

absl::StatusOr<v1::Usage> GenerateStreaming(Context* context, Client* client, const v1::GenerateRequest& request,
                                            TextPrinter* printer) {
  v1::Usage usage;
  absl::Status status = client->StreamGenerate(request, [&](const v1::StreamGenerateResponse& piece) {
    if (piece.has_usage()) usage = piece.usage();
    if (context->json) {
      PrintJsonLine(context->out, piece);
    } else {
      printer->Add(piece.index(), piece.text(), piece.logprobs());
    }
    return true;
  });
  if (!context->json) printer->Finish();
  if (!status.ok()) return status;
  return usage;
}

absl::StatusOr<int> Generate(Context* context, const GenerateArgs& args) {
  ATTUNE_ASSIGN_OR_RETURN(v1::GenerateRequest request, MakeRequest(context, args));
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  TextPrinter printer(context->out, args.n > 1);
  ATTUNE_ASSIGN_OR_RETURN(v1::Usage usage, args.no_stream ? GenerateAtOnce(context, client, request, &printer)
                                                          : GenerateStreaming(context, client, request, &printer));
  context->out.flush();
  if (args.stats) context->err << FormatUsage(usage) << "\n";
  return kExitOk;
}

}  // namespace

void AddGenerateCommand(CLI::App* app, Context* context) {
  auto args = std::make_shared<GenerateArgs>();
  CLI::App* command = app->add_subcommand("generate", "Continue a prompt; the text is written as it comes");
  command->add_option("model", args->model, "Base or tuned model, or alias")->required();
  args->prompt.AddTo(command);
  command->add_option("--n", args->n, "Answers to make, 1 to 16 (default: 1)");
  command->add_flag("--logprobs", args->logprobs, "Also show each token's log-probability");
  command->add_option("--top-logprobs", args->top_logprobs, "Also show the N likeliest alternatives, 0 to 20");
  command->add_flag("--no-stream", args->no_stream, "Write everything at the end; one JSON document with --json");
  command->add_flag("--stats", args->stats, "Write token counts and speed to standard error");
  args->decoding.AddTo(command);
  args->sampling.AddTo(command);
  command->callback([context, args] { context->action = [context, args] { return Generate(context, *args); }; });
}

}  // namespace attune::cli
