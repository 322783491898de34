#ifndef ATTUNE_SERVER_DATA_TEMPLATE_H_
#define ATTUNE_SERVER_DATA_TEMPLATE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attune {

// Column name to value.
using Columns = std::map<std::string, std::string>;

// A text with {{variables}}: "Text: {{text}}\nLabel:". White space inside the
// braces does not count; "\{{" stands for "{{". The same template renders training
// rows and requests. Immutable: thread-safe.
class PromptTemplate {
 public:
  // INVALID_ARGUMENT (BAD_TEMPLATE) says where and why.
  static absl::StatusOr<PromptTemplate> Parse(absl::string_view source);

  // INVALID_ARGUMENT (MISSING_COLUMN) names the variable that `columns` lacks.
  absl::StatusOr<std::string> Render(const Columns& columns) const;

  // Names in order of first use, each once.
  const std::vector<std::string>& variables() const { return variables_; }
  const std::string& source() const { return source_; }
  // Whether it is one variable and nothing else.
  bool IsBareVariable() const;

 private:
  struct Piece {
    bool is_variable;
    std::string text;
  };
  std::string source_;
  std::vector<Piece> pieces_;
  std::vector<std::string> variables_;
};

// `text` as a template's plain text: rendered it is `text` again. Right wherever what follows in the
// template does not begin with a brace.
std::string EscapeTemplateText(absl::string_view text);

}  // namespace attune

#endif  // ATTUNE_SERVER_DATA_TEMPLATE_H_
