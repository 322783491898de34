#ifndef ATTUNE_SERVER_TOKENIZER_JINJA_EVALUATOR_H_
#define ATTUNE_SERVER_TOKENIZER_JINJA_EVALUATOR_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tokenizer/jinja_runtime.h"
#include "server/tokenizer/jinja_syntax.h"

namespace attune::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

// Renders a parsed template once. What `variables` hold must belong to `runtime`,
// and both the body and the runtime must outlive this. Not thread-safe.
class Evaluator {
 public:
  Evaluator(Runtime* runtime, Variables variables);

  absl::StatusOr<std::string> Render(const Body& body);

 private:
  enum class Flow { kOn, kBreak, kContinue };

  Flow Run(const Body& body, std::string* out);
  Flow RunStatement(const Statement& statement, std::string* out);
  Flow RunIf(const Statement& statement, std::string* out);
  Flow RunFor(const Statement& statement, std::string* out);
  void RunSet(const Statement& statement);
  // One name, or a value's items to as many names.
  void Bind(const std::vector<std::string>& targets, const Value& value);
  Value LoopVariable(const std::vector<Value>& items, size_t index);

  Value Evaluate(const Expression& expression);
  Value EvaluateItems(const Expression& expression);
  Value EvaluateCompare(const Expression& expression);
  Value EvaluateCall(const Expression& expression);
  Value EvaluateSlice(const Expression& expression);
  Value EvaluateNegative(const Expression& expression);
  Arguments EvaluateArguments(const Expression& expression);
  Value CallMacro(const MacroStatement& macro, const Arguments& arguments);
  Value Lookup(const std::string& name);

  Runtime* const runtime_;
  // The outermost is the template's own. A macro sees it and those from scope_ on.
  std::vector<Variables> frames_;
  size_t scope_ = 1;
  int depth_ = 0;
};

}  // namespace attune::jinja

#endif  // ATTUNE_SERVER_TOKENIZER_JINJA_EVALUATOR_H_
