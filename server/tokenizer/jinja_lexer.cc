#include "server/tokenizer/jinja_lexer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "common/error.h"
#include "common/utf8.h"

namespace attune::jinja {
namespace {

constexpr size_t kMaxSourceBytes = 1 << 20;
constexpr absl::string_view kOperators[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">",
                                            "=",  "(",  ")",  "[",  "]",  "{",  "}", ".", ",", ":", "|"};

class Lexer {
 public:
  explicit Lexer(const std::string& source) : source_(source) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      const size_t tag = FindTag();
      const char kind = tag < source_.size() ? source_[tag + 1] : 0;
      AddText(tag, kind);
      if (kind == 0) break;
      ATTUNE_RETURN_IF_ERROR(ReadTag(kind));
    }
    Push(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  size_t FindTag() const {
    for (size_t i = source_.find('{', at_); i != absl::string_view::npos; i = source_.find('{', i + 1)) {
      if (i + 1 < source_.size() && absl::StrContains("{%#", source_[i + 1])) return i;
    }
    return source_.size();
  }

  // The text up to a tag, cut as its sign and lstrip_blocks say; moves behind the tag's begin.
  void AddText(size_t tag, char kind) {
    absl::string_view text = source_.substr(at_, tag - at_);
    line_ += std::count(text.begin(), text.end(), '\n');
    at_ = std::min(source_.size(), tag + 2);
    if (kind != 0 && at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) {
      if (source_[at_] == '-') text = absl::StripTrailingAsciiWhitespace(text);
      ++at_;
    } else if (kind == '%' || kind == '#') {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == absl::string_view::npos ? 0 : newline + 1;
      const bool line_start = start > 0 || line_starts_;
      if (line_start && absl::StripAsciiWhitespace(text.substr(start)).empty()) text = text.substr(0, start);
    }
    if (!text.empty()) Push(Token::Kind::kText, std::string(text));
  }

  absl::Status ReadTag(char kind) {
    if (kind == '#') {
      const size_t end = source_.find("#}", at_);
      if (end == absl::string_view::npos) return UnsupportedTemplate("a comment without end", line_);
      line_ += std::count(source_.begin() + at_, source_.begin() + end, '\n');
      const char sign = end > at_ ? source_[end - 1] : ' ';
      at_ = end + 2;
      AfterTag(sign, /*trims=*/true);
      return absl::OkStatus();
    }
    const bool block = kind == '%';
    Push(block ? Token::Kind::kBlockBegin : Token::Kind::kOutputBegin, "");
    depth_ = 0;
    while (at_ < source_.size()) {
      SkipSpace();
      if (AtTagEnd(block)) return absl::OkStatus();
      if (at_ >= source_.size()) break;
      ATTUNE_RETURN_IF_ERROR(ReadToken());
    }
    return UnsupportedTemplate("a tag without end", line_);
  }

  // Takes the end of the tag, if it is here. Inside brackets "}}" closes dictionaries.
  bool AtTagEnd(bool block) {
    const absl::string_view rest = source_.substr(at_);
    const absl::string_view mark = block ? "%}" : "}}";
    const bool sign = !rest.empty() && (rest[0] == '-' || rest[0] == '+');
    if (depth_ > 0 || !absl::StartsWith(rest.substr(sign ? 1 : 0), mark)) return false;
    Push(block ? Token::Kind::kBlockEnd : Token::Kind::kOutputEnd, "");
    at_ += sign ? 3 : 2;
    AfterTag(sign ? rest[0] : ' ', block);
    return true;
  }

  void AfterTag(char sign, bool trims) {
    const size_t before = at_;
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && trims && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
      ++line_;
    }
    line_starts_ = at_ > before && source_[at_ - 1] == '\n';
  }

  void SkipSpace() {
    for (; at_ < source_.size() && absl::ascii_isspace(source_[at_]); ++at_) line_ += source_[at_] == '\n';
  }

  absl::Status ReadToken() {
    const char c = source_[at_];
    if (c == '"' || c == '\'') return ReadString(c);
    if (absl::ascii_isdigit(c)) return ReadNumber();
    if (absl::ascii_isalpha(c) || c == '_') {
      const size_t begin = at_;
      while (at_ < source_.size() && (absl::ascii_isalnum(source_[at_]) || source_[at_] == '_')) ++at_;
      Push(Token::Kind::kName, std::string(source_.substr(begin, at_ - begin)));
      return absl::OkStatus();
    }
    for (const absl::string_view op : kOperators) {
      if (!absl::StartsWith(source_.substr(at_), op)) continue;
      if (op == "(" || op == "[" || op == "{") ++depth_;
      if (op == ")" || op == "]" || op == "}") --depth_;
      Push(Token::Kind::kOperator, std::string(op));
      at_ += op.size();
      return absl::OkStatus();
    }
    return UnsupportedTemplate(absl::StrCat("character \"", std::string(1, c), "\""), line_);
  }

  absl::Status ReadNumber() {
    const size_t begin = at_;
    bool real = false;
    while (at_ < source_.size()) {
      const char c = source_[at_];
      const char next = at_ + 1 < source_.size() ? source_[at_ + 1] : 0;
      const bool exponent = (c == 'e' || c == 'E') && (absl::ascii_isdigit(next) || next == '-' || next == '+');
      if ((c == '.' && !real && absl::ascii_isdigit(next)) || exponent) {
        real = true;
        at_ += exponent ? 2 : 1;
      } else if (absl::ascii_isdigit(c) || c == '_') {
        ++at_;
      } else {
        break;
      }
    }
    Token token;
    token.text = absl::StrReplaceAll(source_.substr(begin, at_ - begin), {{"_", ""}});
    token.line = line_;
    token.kind = real ? Token::Kind::kFloat : Token::Kind::kInteger;
    const bool read = real ? absl::SimpleAtod(token.text, &token.real) : absl::SimpleAtoi(token.text, &token.integer);
    if (!read || (at_ < source_.size() && absl::ascii_isalpha(source_[at_]))) {
      return UnsupportedTemplate(absl::StrCat("number ", token.text), line_);
    }
    tokens_.push_back(std::move(token));
    return absl::OkStatus();
  }

  absl::Status ReadString(char quote) {
    std::string text;
    for (++at_; at_ < source_.size() && source_[at_] != quote; ++at_) {
      const char c = source_[at_];
      line_ += c == '\n';
      if (c != '\\') {
        text += c;
        continue;
      }
      ++at_;
      ATTUNE_RETURN_IF_ERROR(ReadEscape(&text));
    }
    if (at_ >= source_.size()) return UnsupportedTemplate("a string without end", line_);
    ++at_;
    Push(Token::Kind::kString, std::move(text));
    return absl::OkStatus();
  }

  // One escape of Python's strings; at_ is behind the backslash, and ends on its last character.
  absl::Status ReadEscape(std::string* text) {
    if (at_ >= source_.size()) return absl::OkStatus();  // the string has no end: its reader says so
    const char c = source_[at_];
    static constexpr absl::string_view kFrom = "abfnrtv\\'\"", kTo = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t simple = kFrom.find(c); simple != absl::string_view::npos) {
      text->push_back(kTo[simple]);
      return absl::OkStatus();
    }
    if (c == '\n') {
      ++line_;
      return absl::OkStatus();
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      if (c == 'N' || absl::ascii_isdigit(c)) return UnsupportedTemplate(absl::StrCat("escape \\", std::string(1, c)), line_);
      text->append({'\\', c});
      return absl::OkStatus();
    }
    uint32_t code = 0;
    if (source_.size() - at_ <= digits || !absl::SimpleHexAtoi(source_.substr(at_ + 1, digits), &code) ||
        code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      return UnsupportedTemplate(absl::StrCat("escape \\", std::string(1, c)), line_);
    }
    AppendUtf8(code, text);
    at_ += digits;
    return absl::OkStatus();
  }

  void Push(Token::Kind kind, std::string text) {
    Token token;
    token.kind = kind;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  const absl::string_view source_;
  size_t at_ = 0;
  int line_ = 1;
  int depth_ = 0;            // open brackets in this tag
  bool line_starts_ = true;  // what stands before at_ ends with a line break
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status UnsupportedTemplate(const std::string& what, int line) {
  return MakeError(absl::StatusCode::kInvalidArgument, "UNSUPPORTED_CHAT_TEMPLATE",
                   absl::StrCat("The chat template is not supported: ", what, " in line ", line, "."));
}

absl::StatusOr<std::vector<Token>> Tokenize(const std::string& source) {
  if (source.size() > kMaxSourceBytes) return UnsupportedTemplate("more than 1 MiB", 1);
  std::string lines = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  if (absl::EndsWith(lines, "\n")) lines.pop_back();
  return Lexer(lines).Run();
}

}  // namespace attune::jinja
