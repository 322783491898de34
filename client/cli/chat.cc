// attune chat
#include <memory>

#include "absl/strings/ascii.h"
#include "client/cli/commands.h"
#include "client/cli/interrupt.h"
#include "client/cli/output.h"
#include "client/cli/prompt_args.h"
#include "common/error.h"
#include "common/resource_name.h"

namespace attune::cli {
namespace {

struct ChatArgs {
  std::string model, system;
  SamplingArgs sampling;
};

// A conversation with a model.
class Conversation {
 public:
  // `request` has the sampling.
  Conversation(Context* context, Client* client, const ChatArgs& args, v1::GenerateRequest request)
      : context_(context), client_(client), args_(args), request_(std::move(request)) {
    request_.set_model(FullName(kModels, args.model));
    Reset();
  }

  void Reset() {
    request_.mutable_prompt()->mutable_chat()->Clear();
    if (!args_.system.empty()) AddMessage("system", args_.system);
  }

  // Sends a user's turn and writes the answer as it comes. Ctrl-C ends the
  // answer only; what had come of it stays in the conversation.
  absl::Status Say(const std::string& text) {
    AddMessage("user", text);
    std::string answer;
    Cancellation cancellation;
    absl::Status status;
    {
      InterruptGuard guard(&cancellation);
      status = client_->StreamGenerate(
          request_,
          [&](const v1::StreamGenerateResponse& piece) {
            answer += piece.text();
            if (context_->json) PrintJsonLine(context_->out, piece);
            else context_->out << piece.text() << std::flush;
            return true;
          },
          &cancellation);
    }
    if (!context_->json) context_->out << std::endl;
    AddMessage("assistant", answer);
    return cancellation.cancelled() ? absl::OkStatus() : status;
  }

 private:
  void AddMessage(const std::string& role, const std::string& content) {
    v1::ChatMessage* message = request_.mutable_prompt()->mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  Context* const context_;
  Client* const client_;
  const ChatArgs& args_;
  v1::GenerateRequest request_;
};

absl::StatusOr<int> Chat(Context* context, const ChatArgs& args) {
  ATTUNE_ASSIGN_OR_RETURN(Client * client, context->client());
  v1::GenerateRequest request;
  ATTUNE_RETURN_IF_ERROR(args.sampling.Fill(&request));
  Conversation conversation(context, client, args, std::move(request));
  const bool interactive = context->in_is_terminal && context->out_is_terminal;
  if (interactive) context->out << "One line is one turn. /reset starts over, /exit or Ctrl-D ends.\n";
  std::string line;
  while (true) {
    if (interactive) context->out << "> " << std::flush;
    if (!std::getline(context->in, line)) break;
    std::string turn(absl::StripAsciiWhitespace(line));
    if (turn.empty()) continue;
    if (turn == "/exit") break;
    if (turn == "/reset") {
      conversation.Reset();
      continue;
    }
    ATTUNE_RETURN_IF_ERROR(conversation.Say(turn));
  }
  if (interactive) context->out << "\n";
  return kExitOk;
}

}  // namespace

void AddChatCommand(CLI::App* app, Context* context) {
  auto args = std::make_shared<ChatArgs>();
  CLI::App* command =
      app->add_subcommand("chat", "Talk with a model, one line a turn; /reset starts over, /exit or Ctrl-D ends");
  command->add_option("model", args->model, "Base or tuned model, or alias")->required();
  command->add_option("--system", args->system, "System message");
  args->sampling.AddTo(command);
  command->callback([context, args] { context->action = [context, args] { return Chat(context, *args); }; });
}

}  // namespace attune::cli
