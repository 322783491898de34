#include "server/tokenizer/chat_template.h"

#include <utility>

#include "common/error.h"
#include "server/tokenizer/jinja_evaluator.h"
#include "server/tokenizer/jinja_json.h"
#include "server/tokenizer/jinja_syntax.h"

namespace attune {

struct ChatTemplate::Impl {
  jinja::Body body;
  std::string bos_token, eos_token;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(const std::string& source,
                                                                  const std::string& bos_token,
                                                                  const std::string& eos_token) {
  auto impl = std::make_unique<Impl>();
  ATTUNE_ASSIGN_OR_RETURN(impl->body, jinja::ParseTemplate(source));
  impl->bos_token = bos_token;
  impl->eos_token = eos_token;
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

namespace {

jinja::Value MessageOf(const ChatTurn& turn, jinja::Runtime* runtime) {
  using jinja::Value;
  jinja::Dict* const message = runtime->NewDict();
  runtime->Put(message, Value::Of(std::string("role")), Value::Of(turn.role));
  runtime->Put(message, Value::Of(std::string("content")), Value::Of(turn.content));
  if (turn.more.empty()) return Value::Of(message);
  const Value more = jinja::ParseJson(turn.more, runtime);
  if (more.dict() == nullptr) return runtime->Fail("what a message holds beside its content is no JSON object");
  for (const auto& [key, value] : more.dict()->items) runtime->Put(message, key, value);
  return Value::Of(message);
}

}  // namespace

absl::StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatTurn>& turns, bool add_generation_prompt,
                                                 const std::string& tools) const {
  using jinja::Value;
  jinja::Runtime runtime;
  jinja::List* const messages = runtime.NewList();
  for (const ChatTurn& turn : turns) runtime.Append(messages, MessageOf(turn, &runtime));
  // Templates ask whether there are any.
  const Value given_tools = tools.empty() ? Value::Nothing() : jinja::ParseJson(tools, &runtime);
  if (!tools.empty() && given_tools.list() == nullptr) runtime.Fail("the tools are no JSON list");
  ATTUNE_RETURN_IF_ERROR(runtime.status());
  jinja::Evaluator evaluator(&runtime, {
                                           {"messages", Value::Of(messages)},
                                           {"add_generation_prompt", Value::Of(add_generation_prompt)},
                                           {"bos_token", Value::Of(impl_->bos_token)},
                                           {"eos_token", Value::Of(impl_->eos_token)},
                                           {"tools", given_tools},
                                           {"documents", Value::Nothing()},
                                       });
  return evaluator.Render(impl_->body);
}

}  // namespace attune
