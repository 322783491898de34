#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/tokenizer/jinja_lexer.h"
#include "server/tokenizer/jinja_syntax.h"

namespace attune::jinja {
namespace {

using Kind = Expression::Kind;

// Hostile templates nest until the stack ends; real ones stay below 30.
constexpr int kMaxDepth = 150;

// After the first error all tokens are gone, so every loop ends, and what is
// returned no longer matters.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    Body body = ParseBody({});
    if (!status_.ok()) return status_;
    return body;
  }

 private:
  // Counts how deep the parser's own calls are.
  class Nesting {
   public:
    explicit Nesting(Parser* parser) : parser_(parser) {
      if (++parser_->nesting_ > kMaxDepth) parser_->Fail("nesting this deep");
    }
    ~Nesting() { --parser_->nesting_; }

   private:
    Parser* const parser_;
  };

  const Token& Peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  bool IsOperator(absl::string_view text, size_t ahead = 0) const {
    return Peek(ahead).kind == Token::Kind::kOperator && Peek(ahead).text == text;
  }
  bool IsName(absl::string_view text, size_t ahead = 0) const {
    return Peek(ahead).kind == Token::Kind::kName && Peek(ahead).text == text;
  }
  Token Next() {
    Token token = Peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool TakeOperator(absl::string_view text) {
    if (!IsOperator(text)) return false;
    Next();
    return true;
  }
  bool TakeName(absl::string_view text) {
    if (!IsName(text)) return false;
    Next();
    return true;
  }
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = UnsupportedTemplate(what, Peek().line);
    at_ = tokens_.size() - 1;
  }
  void ExpectOperator(absl::string_view text) {
    if (!TakeOperator(text)) Fail(absl::StrCat("\"", Peek().text, "\" where \"", text, "\" should be"));
  }
  std::string ExpectName() {
    if (Peek().kind != Token::Kind::kName) Fail(absl::StrCat("\"", Peek().text, "\" where a name should be"));
    return Next().text;
  }
  void ExpectBlockEnd() {
    if (Peek().kind != Token::Kind::kBlockEnd) {
      Fail(absl::StrCat("\"", Peek().text, "\" at the end of a statement"));
    }
    Next();
  }

  template <typename... Items>
  ExpressionPtr Make(Kind kind, std::string name = "", Items... items) {
    auto expression = std::make_unique<Expression>();
    expression->kind = kind;
    expression->name = std::move(name);
    (Add(expression.get(), std::move(items)), ...);
    return expression;
  }
  void Add(Expression* parent, ExpressionPtr child) {
    Deepen(parent, child.get());
    parent->items.push_back(std::move(child));
  }
  void Deepen(Expression* parent, const Expression* child) {
    if (child == nullptr) return;
    parent->depth = std::max(parent->depth, child->depth + 1);
    if (parent->depth > kMaxDepth) Fail("an expression this deep");
  }

  // --- Expressions, from the loosest binding to the tightest.

  // `a, b` is a tuple.
  ExpressionPtr ParseTuple() {
    ExpressionPtr first = ParseExpression();
    if (!IsOperator(",")) return first;
    ExpressionPtr tuple = Make(Kind::kTuple, "", std::move(first));
    while (TakeOperator(",")) {
      const bool ends = Peek().kind == Token::Kind::kBlockEnd || Peek().kind == Token::Kind::kOutputEnd;
      if (ends || IsOperator(")") || IsOperator("=")) break;
      Add(tuple.get(), ParseExpression());
    }
    return tuple;
  }

  ExpressionPtr ParseExpression() {
    const Nesting nesting(this);
    ExpressionPtr result = ParseOr();
    while (TakeName("if")) {
      ExpressionPtr condition = ParseOr();
      ExpressionPtr otherwise;
      if (TakeName("else")) otherwise = ParseExpression();
      result = Make(Kind::kConditional, "", std::move(result), std::move(condition), std::move(otherwise));
    }
    return result;
  }

  ExpressionPtr ParseOr() {
    ExpressionPtr left = ParseAnd();
    while (TakeName("or")) left = Make(Kind::kOr, "", std::move(left), ParseAnd());
    return left;
  }

  ExpressionPtr ParseAnd() {
    ExpressionPtr left = ParseNot();
    while (TakeName("and")) left = Make(Kind::kAnd, "", std::move(left), ParseNot());
    return left;
  }

  ExpressionPtr ParseNot() {
    const Nesting nesting(this);
    if (TakeName("not")) return Make(Kind::kNot, "", ParseNot());
    return ParseCompare();
  }

  ExpressionPtr ParseCompare() {
    ExpressionPtr first = ParseBinary(0);
    std::string op = TakeComparison();
    if (op.empty()) return first;
    ExpressionPtr compare = Make(Kind::kCompare, "", std::move(first));
    for (; !op.empty(); op = TakeComparison()) {
      compare->operators.push_back(op);
      Add(compare.get(), ParseBinary(0));
    }
    return compare;
  }

  std::string TakeComparison() {
    for (const char* op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (TakeOperator(op)) return op;
    }
    if (TakeName("in")) return "in";
    if (!IsName("not") || !IsName("in", 1)) return "";
    Next();
    Next();
    return "not in";
  }

  // Binary operators that bind to the left, by level.
  ExpressionPtr ParseBinary(size_t level) {
    static const auto* const levels =
        new std::vector<std::vector<const char*>>{{"+", "-"}, {"~"}, {"*", "/", "//", "%"}, {"**"}};
    if (level == levels->size()) return ParseUnary(/*with_filters=*/true);
    ExpressionPtr left = ParseBinary(level + 1);
    for (bool found = true; found;) {
      found = false;
      for (const char* op : (*levels)[level]) {
        if (!TakeOperator(op)) continue;
        left = Make(Kind::kBinary, op, std::move(left), ParseBinary(level + 1));
        found = true;
        break;
      }
    }
    return left;
  }

  ExpressionPtr ParseUnary(bool with_filters) {
    const Nesting nesting(this);
    ExpressionPtr result;
    if (TakeOperator("-")) {
      result = Make(Kind::kNegative, "", ParseUnary(false));
    } else if (TakeOperator("+")) {
      result = Make(Kind::kPositive, "", ParseUnary(false));
    } else {
      result = ParsePrimary();
    }
    result = ParsePostfix(std::move(result));
    return with_filters ? ParseFilters(std::move(result)) : std::move(result);
  }

  ExpressionPtr ParsePrimary() {
    const Token token = Next();
    switch (token.kind) {
      case Token::Kind::kName:
        return ParseNameOrConstant(token.text);
      case Token::Kind::kInteger:
        return Literal(Value::Of(token.integer));
      case Token::Kind::kFloat:
        return Literal(Value::Of(token.real));
      case Token::Kind::kString: {
        std::string text = token.text;
        while (Peek().kind == Token::Kind::kString) text += Next().text;
        return Literal(Value::Of(std::move(text)));
      }
      case Token::Kind::kOperator:
        if (token.text == "(") return ParseParentheses();
        if (token.text == "[") return ParseItems(Kind::kList, "]");
        if (token.text == "{") return ParseDict();
        break;
      default:
        break;
    }
    Fail(absl::StrCat("\"", token.text, "\" where a value should be"));
    return Literal(Value());
  }

  ExpressionPtr Literal(Value value) {
    ExpressionPtr literal = Make(Kind::kLiteral);
    literal->value = std::move(value);
    return literal;
  }

  ExpressionPtr ParseNameOrConstant(const std::string& name) {
    if (name == "true" || name == "True") return Literal(Value::Of(true));
    if (name == "false" || name == "False") return Literal(Value::Of(false));
    if (name == "none" || name == "None") return Literal(Value::Nothing());
    return Make(Kind::kName, name);
  }

  ExpressionPtr ParseParentheses() {
    if (TakeOperator(")")) return Make(Kind::kTuple);
    ExpressionPtr inner = ParseTuple();
    ExpectOperator(")");
    return inner;
  }

  ExpressionPtr ParseItems(Kind kind, absl::string_view end) {
    ExpressionPtr list = Make(kind);
    while (!IsOperator(end) && status_.ok()) {
      Add(list.get(), ParseExpression());
      if (!TakeOperator(",")) break;
    }
    ExpectOperator(end);
    return list;
  }

  ExpressionPtr ParseDict() {
    ExpressionPtr dict = Make(Kind::kDict);
    while (!IsOperator("}") && status_.ok()) {
      Add(dict.get(), ParseExpression());
      ExpectOperator(":");
      Add(dict.get(), ParseExpression());
      if (!TakeOperator(",")) break;
    }
    ExpectOperator("}");
    return dict;
  }

  ExpressionPtr ParsePostfix(ExpressionPtr result) {
    while (status_.ok()) {
      if (TakeOperator(".")) {
        result = Make(Kind::kAttribute, ExpectName(), std::move(result));
      } else if (TakeOperator("[")) {
        result = ParseSubscript(std::move(result));
      } else if (TakeOperator("(")) {
        result = Make(Kind::kCall, "", std::move(result));
        ParseArguments(result.get());
      } else {
        break;
      }
    }
    return result;
  }

  ExpressionPtr ParseSubscript(ExpressionPtr object) {
    ExpressionPtr parts[3];
    int colons = 0;
    while (!IsOperator("]") && status_.ok()) {
      if (TakeOperator(":")) {
        if (++colons > 2) Fail("a slice with three colons");
      } else if (parts[colons] != nullptr) {
        Fail("more than one index");
      } else {
        parts[colons] = ParseExpression();
      }
    }
    ExpectOperator("]");
    if (colons == 0 && parts[0] == nullptr) Fail("an empty index");
    if (colons == 0) return Make(Kind::kIndex, "", std::move(object), std::move(parts[0]));
    return Make(Kind::kSlice, "", std::move(object), std::move(parts[0]), std::move(parts[1]), std::move(parts[2]));
  }

  // Behind the opening parenthesis.
  void ParseArguments(Expression* call) {
    while (!IsOperator(")") && status_.ok()) {
      if (Peek().kind == Token::Kind::kName && IsOperator("=", 1)) {
        std::string name = Next().text;
        Next();
        ExpressionPtr value = ParseExpression();
        Deepen(call, value.get());
        call->named.emplace_back(std::move(name), std::move(value));
      } else if (!call->named.empty()) {
        Fail("an argument by place after one by name");
      } else if (TakeOperator("*")) {
        Add(call, Make(Kind::kUnpack, "", ParseExpression()));
      } else {
        Add(call, ParseExpression());
      }
      if (!TakeOperator(",")) break;
    }
    ExpectOperator(")");
  }

  ExpressionPtr ParseFilters(ExpressionPtr result) {
    while (status_.ok()) {
      if (TakeOperator("|")) {
        const std::string name = ExpectName();
        if (!IsFilter(name)) Fail(absl::StrCat("filter \"", name, "\""));
        result = Make(Kind::kFilter, name, std::move(result));
        if (TakeOperator("(")) ParseArguments(result.get());
      } else if (TakeName("is")) {
        result = ParseTest(std::move(result));
      } else if (TakeOperator("(")) {
        result = Make(Kind::kCall, "", std::move(result));
        ParseArguments(result.get());
      } else {
        break;
      }
    }
    return result;
  }

  ExpressionPtr ParseTest(ExpressionPtr value) {
    const bool negated = TakeName("not");
    const std::string name = ExpectName();
    if (!IsTest(name)) Fail(absl::StrCat("test \"", name, "\""));
    ExpressionPtr test = Make(Kind::kTest, name, std::move(value));
    if (TakeOperator("(")) {
      ParseArguments(test.get());
    } else if (TestTakesArgument()) {
      Add(test.get(), ParsePostfix(ParsePrimary()));
    }
    return negated ? Make(Kind::kNot, "", std::move(test)) : std::move(test);
  }

  // `is divisibleby 3`, but not `is string and ...`.
  bool TestTakesArgument() const {
    switch (Peek().kind) {
      case Token::Kind::kString:
      case Token::Kind::kInteger:
      case Token::Kind::kFloat:
        return true;
      case Token::Kind::kOperator:
        return IsOperator("[") || IsOperator("{");
      case Token::Kind::kName:
        for (const char* word : {"else", "or", "and", "if", "is", "in", "not", "recursive"}) {
          if (IsName(word)) return false;
        }
        return true;
      default:
        return false;
    }
  }

  // --- Statements.

  // Up to a block that begins with one of `ends`, which is left behind "{%"; at
  // the top level, to the end.
  Body ParseBody(std::initializer_list<absl::string_view> ends) {
    const Nesting nesting(this);
    Body body;
    while (status_.ok()) {
      const Token token = Next();
      if (token.kind == Token::Kind::kText) {
        body.push_back(MakeStatement(Statement::Kind::kText));
        body.back()->text = token.text;
      } else if (token.kind == Token::Kind::kOutputBegin) {
        body.push_back(MakeStatement(Statement::Kind::kOutput));
        body.back()->expression = ParseTuple();
        if (Next().kind != Token::Kind::kOutputEnd) Fail("what follows the value in {{ }}");
      } else if (token.kind == Token::Kind::kBlockBegin) {
        for (const absl::string_view end : ends) {
          if (IsName(end)) return body;
        }
        body.push_back(ParseStatement());
      } else {
        if (ends.size() != 0) Fail(absl::StrCat("a statement without its \"", *(ends.end() - 1), "\""));
        break;
      }
    }
    return body;
  }

  std::unique_ptr<Statement> MakeStatement(Statement::Kind kind) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    return statement;
  }

  std::unique_ptr<Statement> ParseStatement() {
    const std::string name = ExpectName();
    if (name == "if") return ParseIf();
    if (name == "for") return ParseFor();
    if (name == "set") return ParseSet();
    if (name == "macro") return ParseMacro();
    if (name == "break" || name == "continue") {
      if (loops_ == 0) Fail(absl::StrCat(name, " outside a loop"));
      ExpectBlockEnd();
      return MakeStatement(name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue);
    }
    auto statement = MakeStatement(Statement::Kind::kBody);
    if (name != "generation") {
      Fail(absl::StrCat("statement \"", name, "\""));
      return statement;
    }
    ExpectBlockEnd();
    statement->body = ParseBody({"endgeneration"});
    EndStatement("endgeneration");
    return statement;
  }

  void EndStatement(absl::string_view name) {
    TakeName(name);
    ExpectBlockEnd();
  }

  std::unique_ptr<Statement> ParseIf() {
    auto statement = MakeStatement(Statement::Kind::kIf);
    ExpressionPtr condition = ParseTuple();
    ExpectBlockEnd();
    for (bool last = false; status_.ok();) {
      Body body = last ? ParseBody({"endif"}) : ParseBody({"elif", "else", "endif"});
      statement->branches.emplace_back(std::move(condition), std::move(body));
      if (TakeName("elif")) {
        condition = ParseTuple();
      } else if (TakeName("else")) {
        condition = nullptr;
        last = true;
      } else {
        EndStatement("endif");
        break;
      }
      ExpectBlockEnd();
    }
    return statement;
  }

  std::unique_ptr<Statement> ParseFor() {
    auto statement = MakeStatement(Statement::Kind::kFor);
    ParseTargets(statement.get());
    if (!TakeName("in")) Fail("a loop without \"in\"");
    // A condition of the loop is not part of the value.
    ExpressionPtr items = ParseOr();
    if (IsOperator(",")) Fail("a tuple without parentheses in a loop");
    statement->expression = std::move(items);
    if (TakeName("if")) statement->condition = ParseExpression();
    if (IsName("recursive")) Fail("a recursive loop");
    ExpectBlockEnd();
    ++loops_;
    statement->body = ParseBody({"else", "endfor"});
    --loops_;
    if (TakeName("else")) {
      ExpectBlockEnd();
      statement->other = ParseBody({"endfor"});
    }
    EndStatement("endfor");
    return statement;
  }

  void ParseTargets(Statement* statement) {
    const bool parentheses = TakeOperator("(");
    do {
      statement->targets.push_back(ExpectName());
    } while (TakeOperator(",") && status_.ok());
    if (parentheses) ExpectOperator(")");
  }

  std::unique_ptr<Statement> ParseSet() {
    auto statement = MakeStatement(Statement::Kind::kSet);
    ParseTargets(statement.get());
    if (statement->targets.size() == 1 && TakeOperator(".")) statement->attribute = ExpectName();
    if (TakeOperator("=")) {
      statement->expression = ParseTuple();
      ExpectBlockEnd();
      return statement;
    }
    if (IsOperator("|")) Fail("a filter on a set block");
    if (statement->targets.size() != 1) Fail("a set block with several names");
    ExpectBlockEnd();
    statement->body = ParseBody({"endset"});
    EndStatement("endset");
    return statement;
  }

  std::unique_ptr<Statement> ParseMacro() {
    auto statement = MakeStatement(Statement::Kind::kMacro);
    statement->macro.name = ExpectName();
    ExpectOperator("(");
    while (!IsOperator(")") && status_.ok()) {
      std::string name = ExpectName();
      ExpressionPtr fallback;
      if (TakeOperator("=")) fallback = ParseExpression();
      statement->macro.parameters.emplace_back(std::move(name), std::move(fallback));
      if (!TakeOperator(",")) break;
    }
    ExpectOperator(")");
    ExpectBlockEnd();
    const int loops = std::exchange(loops_, 0);
    statement->macro.body = ParseBody({"endmacro"});
    loops_ = loops;
    TakeName("endmacro");
    if (IsName(statement->macro.name)) Next();
    ExpectBlockEnd();
    return statement;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(const std::string& source) {
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace attune::jinja
