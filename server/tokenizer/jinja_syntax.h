#ifndef ATTUNE_SERVER_TOKENIZER_JINJA_SYNTAX_H_
#define ATTUNE_SERVER_TOKENIZER_JINJA_SYNTAX_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tokenizer/jinja_value.h"

// What a chat template is after parsing, and the parser.
namespace attune::jinja {

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Expression {
  enum class Kind {
    kLiteral,      // value
    kName,         // name
    kList,         // items
    kTuple,        // items
    kDict,         // items: key, value, key, value...
    kAttribute,    // items[0] . name
    kIndex,        // items[0] [ items[1] ]
    kSlice,        // items[0] [ items[1] : items[2] : items[3] ], each of the three may be null
    kCall,         // items[0] ( items[1]... , named )
    kUnpack,       // * items[0], an argument of a call
    kFilter,       // items[0] | name ( items[1]... , named )
    kTest,         // items[0] is name ( items[1]... )
    kNot,          // items[0]
    kNegative,     // items[0]
    kPositive,     // items[0]
    kBinary,       // items[0] name items[1]: + - * / // % ** ~
    kAnd,          // items[0], items[1]
    kOr,           // items[0], items[1]
    kCompare,      // items[0] operators[0] items[1] operators[1] ...: == != < <= > >= in "not in"
    kConditional,  // items[0] if items[1] else items[2] (null: undefined)
  };
  Kind kind = Kind::kLiteral;
  std::string name;
  Value value;
  std::vector<ExpressionPtr> items;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<std::string> operators;
  int depth = 1;  // longest way to a leaf
};

// A macro's name, parameters with their defaults (null: none), and body.
struct MacroStatement {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;
  Body body;
};

struct Statement {
  enum class Kind {
    kText,    // text
    kOutput,  // expression
    kIf,      // branches (null condition: else)
    kFor,     // targets in expression if condition: body, else other
    kSet,     // target or targets = expression; without expression: the body's text
    kMacro,   // macro
    kBody,    // body
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  std::string text;
  ExpressionPtr expression, condition;
  std::vector<std::string> targets;
  std::string attribute;  // kSet: of a namespace targets[0]
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body body, other;
  MacroStatement macro;
};

// INVALID_ARGUMENT (UNSUPPORTED_CHAT_TEMPLATE) names what is wrong, and the line.
absl::StatusOr<Body> ParseTemplate(const std::string& source);

// Names that the evaluator knows; the parser refuses others.
bool IsFilter(absl::string_view name);
bool IsTest(absl::string_view name);

}  // namespace attune::jinja

#endif  // ATTUNE_SERVER_TOKENIZER_JINJA_SYNTAX_H_
