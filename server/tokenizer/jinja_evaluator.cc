#include "server/tokenizer/jinja_evaluator.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace attune::jinja {
namespace {

using Kind = Expression::Kind;

constexpr int kMaxDepth = 400;
constexpr int64_t kStepCost = 16;
constexpr size_t kMaxOutputBytes = 64 << 20;

}  // namespace

Evaluator::Evaluator(Runtime* runtime, Variables variables) : runtime_(runtime) {
  frames_.push_back(std::move(variables));
}

absl::StatusOr<std::string> Evaluator::Render(const Body& body) {
  std::string out;
  Run(body, &out);
  if (!runtime_->ok()) return runtime_->status();
  return out;
}

Evaluator::Flow Evaluator::Run(const Body& body, std::string* out) {
  if (++depth_ > kMaxDepth) runtime_->Fail("The chat template nests too deep.");
  Flow flow = Flow::kOn;
  for (const auto& statement : body) {
    if (!runtime_->Charge(kStepCost) || !runtime_->ok()) break;
    flow = RunStatement(*statement, out);
    if (out->size() > kMaxOutputBytes) runtime_->Fail("The chat template's text is too long.");
    if (flow != Flow::kOn) break;
  }
  --depth_;
  return flow;
}

Evaluator::Flow Evaluator::RunStatement(const Statement& statement, std::string* out) {
  switch (statement.kind) {
    case Statement::Kind::kText:
      runtime_->Charge(static_cast<int64_t>(statement.text.size()));
      *out += statement.text;
      return Flow::kOn;
    case Statement::Kind::kOutput:
      *out += Printed(runtime_, Evaluate(*statement.expression));
      return Flow::kOn;
    case Statement::Kind::kIf:
      return RunIf(statement, out);
    case Statement::Kind::kFor:
      return RunFor(statement, out);
    case Statement::Kind::kSet:
      RunSet(statement);
      return Flow::kOn;
    case Statement::Kind::kMacro:
      Bind({statement.macro.name}, Value::Of(Callable{&statement.macro, ""}));
      return Flow::kOn;
    case Statement::Kind::kBody:
      return Run(statement.body, out);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

Evaluator::Flow Evaluator::RunIf(const Statement& statement, std::string* out) {
  for (const auto& [condition, body] : statement.branches) {
    if (condition == nullptr || Evaluate(*condition).Truthy()) return Run(body, out);
    if (!runtime_->ok()) break;
  }
  return Flow::kOn;
}

Evaluator::Flow Evaluator::RunFor(const Statement& statement, std::string* out) {
  std::vector<Value> items = Iterate(runtime_, Evaluate(*statement.expression));
  if (statement.condition != nullptr) {
    std::vector<Value> kept;
    for (const Value& item : items) {
      if (!runtime_->ok()) break;
      frames_.emplace_back();
      Bind(statement.targets, item);
      if (Evaluate(*statement.condition).Truthy()) kept.push_back(item);
      frames_.pop_back();
    }
    items = std::move(kept);
  }
  for (size_t i = 0; i < items.size() && runtime_->ok(); ++i) {
    runtime_->Charge(kStepCost);
    frames_.emplace_back();
    frames_.back().emplace_back("loop", LoopVariable(items, i));
    Bind(statement.targets, items[i]);
    const Flow flow = Run(statement.body, out);
    frames_.pop_back();
    if (flow == Flow::kBreak) break;
  }
  if (items.empty() && runtime_->ok()) return Run(statement.other, out);
  return Flow::kOn;
}

Value Evaluator::LoopVariable(const std::vector<Value>& items, size_t index) {
  Dict* const loop = runtime_->NewDict();
  const auto put = [&](const char* name, Value value) {
    runtime_->Charge(Runtime::kItemCost);
    loop->items.emplace_back(Value::Of(std::string(name)), std::move(value));
  };
  const int64_t place = static_cast<int64_t>(index), count = static_cast<int64_t>(items.size());
  put("first", Value::Of(index == 0));
  put("last", Value::Of(place + 1 == count));
  put("index", Value::Of(place + 1));
  put("index0", Value::Of(place));
  put("revindex", Value::Of(count - place));
  put("revindex0", Value::Of(count - place - 1));
  put("length", Value::Of(count));
  put("previtem", index > 0 ? items[index - 1] : Value::UndefinedNamed("previtem"));
  put("nextitem", place + 1 < count ? items[index + 1] : Value::UndefinedNamed("nextitem"));
  return Value::Of(loop);
}

void Evaluator::RunSet(const Statement& statement) {
  Value value;
  if (statement.expression != nullptr) {
    value = Evaluate(*statement.expression);
  } else {
    std::string text;
    frames_.emplace_back();
    Run(statement.body, &text);
    frames_.pop_back();
    value = runtime_->MakeText(std::move(text));
  }
  if (statement.attribute.empty()) {
    Bind(statement.targets, value);
    return;
  }
  const Value target = Lookup(statement.targets[0]);
  if (target.dict() == nullptr || !target.dict()->is_namespace) {
    runtime_->Fail(absl::StrCat("cannot set an attribute of ", statement.targets[0], ": it is not a namespace"));
    return;
  }
  runtime_->Put(target.dict(), runtime_->MakeText(statement.attribute), std::move(value));
}

void Evaluator::Bind(const std::vector<std::string>& targets, const Value& value) {
  std::vector<Value> values;
  if (targets.size() == 1) {
    values.push_back(value);
  } else {
    values = Iterate(runtime_, value);
  }
  if (values.size() != targets.size()) {
    runtime_->Fail(absl::StrCat(values.size(), " values for ", targets.size(), " names"));
    return;
  }
  Variables& frame = frames_.back();
  for (size_t i = 0; i < targets.size(); ++i) {
    bool found = false;
    for (auto& [name, old] : frame) {
      if (name != targets[i]) continue;
      old = values[i];
      found = true;
      break;
    }
    if (!found) frame.emplace_back(targets[i], std::move(values[i]));
    runtime_->Charge(Runtime::kItemCost + static_cast<int64_t>(frame.size()));
  }
}

Value Evaluator::Lookup(const std::string& name) {
  const auto find = [&](const Variables& frame) -> const Value* {
    runtime_->Charge(static_cast<int64_t>(frame.size()));
    for (const auto& [key, value] : frame) {
      if (key == name) return &value;
    }
    return nullptr;
  };
  for (size_t i = frames_.size(); i > scope_; --i) {
    if (const Value* const found = find(frames_[i - 1])) return *found;
  }
  if (const Value* const found = find(frames_[0])) return *found;
  return IsFunction(name) ? Value::Of(Callable{nullptr, name}) : Value::UndefinedNamed(name);
}

Value Evaluator::Evaluate(const Expression& expression) {
  if (!runtime_->Charge(kStepCost) || !runtime_->ok()) return Value();
  if (depth_ >= kMaxDepth) return runtime_->Fail("The chat template nests too deep.");
  ++depth_;
  Value result;
  const auto item = [&](size_t i) { return Evaluate(*expression.items[i]); };
  switch (expression.kind) {
    case Kind::kLiteral:
      result = expression.value;
      break;
    case Kind::kName:
      result = Lookup(expression.name);
      break;
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      result = EvaluateItems(expression);
      break;
    case Kind::kAttribute:
      result = Attribute(runtime_, item(0), expression.name);
      break;
    case Kind::kIndex: {
      const Value object = item(0);
      result = Item(runtime_, object, item(1));
      break;
    }
    case Kind::kSlice:
      result = EvaluateSlice(expression);
      break;
    case Kind::kCall:
      result = EvaluateCall(expression);
      break;
    case Kind::kFilter: {
      const Value input = item(0);
      const Arguments arguments = EvaluateArguments(expression);
      if (runtime_->ok()) result = ApplyFilter(runtime_, expression.name, input, arguments);
      break;
    }
    case Kind::kTest: {
      const Value input = item(0);
      const Arguments arguments = EvaluateArguments(expression);
      if (runtime_->ok()) result = Value::Of(ApplyTest(runtime_, expression.name, input, arguments));
      break;
    }
    case Kind::kNot:
      result = Value::Of(!item(0).Truthy());
      break;
    case Kind::kUnpack:
      result = runtime_->Fail("a value is unpacked outside of a call");
      break;
    case Kind::kNegative:
    case Kind::kPositive:
      result = EvaluateNegative(expression);
      break;
    case Kind::kBinary: {
      const Value left = item(0);
      const Value right = item(1);
      if (runtime_->ok()) result = Arithmetic(runtime_, expression.name, left, right);
      break;
    }
    case Kind::kAnd:
    case Kind::kOr: {
      result = item(0);
      if (result.Truthy() == (expression.kind == Kind::kAnd)) result = item(1);
      break;
    }
    case Kind::kCompare:
      result = EvaluateCompare(expression);
      break;
    case Kind::kConditional: {
      const bool chosen = item(1).Truthy();
      if (chosen || expression.items[2] != nullptr) result = item(chosen ? 0 : 2);
      break;
    }
  }
  --depth_;
  return result;
}

Value Evaluator::EvaluateItems(const Expression& expression) {
  if (expression.kind == Kind::kDict) {
    Dict* const dict = runtime_->NewDict();
    for (size_t i = 0; i + 1 < expression.items.size() && runtime_->ok(); i += 2) {
      Value key = Evaluate(*expression.items[i]);
      runtime_->Put(dict, std::move(key), Evaluate(*expression.items[i + 1]));
    }
    return Value::Of(dict);
  }
  List* const list = runtime_->NewList(expression.kind == Kind::kTuple);
  for (const ExpressionPtr& item : expression.items) {
    if (!runtime_->ok()) break;
    runtime_->Append(list, Evaluate(*item));
  }
  return Value::Of(list);
}

Value Evaluator::EvaluateCompare(const Expression& expression) {
  Value left = Evaluate(*expression.items[0]);
  for (size_t i = 0; i < expression.operators.size() && runtime_->ok(); ++i) {
    Value right = Evaluate(*expression.items[i + 1]);
    if (!runtime_->ok() || !Compare(runtime_, expression.operators[i], left, right)) return Value::Of(false);
    left = std::move(right);
  }
  return Value::Of(true);
}

Value Evaluator::EvaluateSlice(const Expression& expression) {
  const Value object = Evaluate(*expression.items[0]);
  Value bounds[3] = {Value::Nothing(), Value::Nothing(), Value::Nothing()};
  for (int i = 0; i < 3; ++i) {
    if (expression.items[i + 1] != nullptr) bounds[i] = Evaluate(*expression.items[i + 1]);
  }
  if (!runtime_->ok()) return Value();
  return Slice(runtime_, object, bounds[0], bounds[1], bounds[2]);
}

Value Evaluator::EvaluateNegative(const Expression& expression) {
  const Value value = Evaluate(*expression.items[0]);
  if (!value.is_number()) return runtime_->Fail(absl::StrCat("a sign before a value of kind ", value.KindName()));
  const std::string op = expression.kind == Kind::kNegative ? "-" : "+";
  return Arithmetic(runtime_, op, Value::Of(int64_t{0}), value);
}

Arguments Evaluator::EvaluateArguments(const Expression& expression) {
  Arguments arguments;
  for (size_t i = 1; i < expression.items.size(); ++i) {
    const Expression& item = *expression.items[i];
    if (item.kind != Kind::kUnpack) {
      arguments.values.push_back(Evaluate(item));
      continue;
    }
    for (Value& value : Iterate(runtime_, Evaluate(*item.items[0]))) arguments.values.push_back(std::move(value));
  }
  for (const auto& [name, value] : expression.named) arguments.named.emplace_back(name, Evaluate(*value));
  return arguments;
}

Value Evaluator::EvaluateCall(const Expression& expression) {
  const Expression& callee = *expression.items[0];
  Value function;
  if (callee.kind == Kind::kAttribute) {
    const Value object = Evaluate(*callee.items[0]);
    if (!runtime_->ok()) return Value();
    if (!HasMethod(object, callee.name)) function = Attribute(runtime_, object, callee.name);
    if (function.callable() == nullptr) {
      const Arguments arguments = EvaluateArguments(expression);
      return runtime_->ok() ? CallMethod(runtime_, object, callee.name, arguments) : Value();
    }
  } else {
    function = Evaluate(callee);
  }
  const Arguments arguments = EvaluateArguments(expression);
  if (!runtime_->ok()) return Value();
  const Callable* const callable = function.callable();
  if (callable == nullptr) {
    if (function.is_undefined()) return Attribute(runtime_, function, "");
    return runtime_->Fail(absl::StrCat("a value of kind ", function.KindName(), " cannot be called"));
  }
  return callable->macro != nullptr ? CallMacro(*callable->macro, arguments)
                                    : CallFunction(runtime_, callable->function, arguments);
}

Value Evaluator::CallMacro(const MacroStatement& macro, const Arguments& arguments) {
  if (arguments.values.size() > macro.parameters.size()) {
    return runtime_->Fail(absl::StrCat("macro ", macro.name, " takes ", macro.parameters.size(), " arguments"));
  }
  const size_t outer_scope = scope_;
  const size_t outer_frames = frames_.size();
  scope_ = outer_frames;
  frames_.emplace_back();
  for (size_t i = 0; i < macro.parameters.size() && runtime_->ok(); ++i) {
    const auto& [name, fallback] = macro.parameters[i];
    const Value* const given = arguments.Get(i, name);
    const Value value = given != nullptr      ? *given
                        : fallback != nullptr ? Evaluate(*fallback)
                                              : Value::UndefinedNamed(name);
    Bind({name}, value);
  }
  std::string text;
  Run(macro.body, &text);
  frames_.resize(outer_frames);
  scope_ = outer_scope;
  return runtime_->MakeText(std::move(text));
}

}  // namespace attune::jinja
