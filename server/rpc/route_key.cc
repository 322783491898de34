#include "server/rpc/route_key.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace attune {
namespace {

// Stands between parts: no text has it at a character's place.
constexpr absl::string_view kSeparator = "\xff";

std::string ChatKey(const v1::ChatPrompt& chat) {
  std::string key = "chat";
  for (const v1::ChatMessage& message : chat.messages()) {
    absl::StrAppend(&key, kSeparator, message.role(), kSeparator, message.content());
    if (message.role() == "user") break;
  }
  return key;
}

std::string VariablesKey(const v1::TemplateInput& input) {
  const std::map<std::string, std::string> sorted(input.variables().begin(), input.variables().end());
  std::string key = "variables";
  for (const auto& [name, value] : sorted) {
    absl::StrAppend(&key, kSeparator, name, kSeparator, value);
  }
  return key;
}

}  // namespace

std::string RouteKey(const v1::Prompt& prompt) {
  switch (prompt.input_case()) {
    case v1::Prompt::kText:
      return absl::StrCat("text", kSeparator, prompt.text());
    case v1::Prompt::kChat:
      return ChatKey(prompt.chat());
    case v1::Prompt::kTemplateInput:
      return VariablesKey(prompt.template_input());
    case v1::Prompt::kTokenIds:
      return absl::StrCat("tokens", kSeparator, absl::StrJoin(prompt.token_ids().ids(), ","));
    case v1::Prompt::INPUT_NOT_SET:
      break;
  }
  return "";
}

std::string RouteKey(const v1::GenerateRequest& request) {
  if (request.tenant().empty()) return RouteKey(request.prompt());
  return absl::StrCat("tenant", kSeparator, request.tenant());
}

std::string RouteKey(const v1::EmbedRequest& request) {
  return request.inputs().empty() ? "" : RouteKey(request.inputs(0));
}

}  // namespace attune
