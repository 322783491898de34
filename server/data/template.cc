#include "server/data/template.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/error.h"

namespace attune {
namespace {

constexpr absl::string_view kOpen = "{{";
constexpr absl::string_view kClose = "}}";
constexpr absl::string_view kEscapedOpen = "\\{{";

absl::Status BadTemplate(size_t position, absl::string_view what) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_TEMPLATE",
                   absl::StrCat("The template is wrong at byte ", position + 1, ": ", what));
}

}  // namespace

absl::StatusOr<PromptTemplate> PromptTemplate::Parse(absl::string_view source) {
  PromptTemplate out;
  out.source_ = std::string(source);
  std::string text;
  auto flush = [&] {
    if (!text.empty()) out.pieces_.push_back({false, std::move(text)});
    text.clear();
  };
  for (size_t i = 0; i < source.size();) {
    absl::string_view rest = source.substr(i);
    if (rest.substr(0, kEscapedOpen.size()) == kEscapedOpen) {
      text += std::string(kOpen);
      i += kEscapedOpen.size();
    } else if (rest.substr(0, kOpen.size()) != kOpen) {
      text += source[i++];
    } else {
      size_t end = rest.find(kClose, kOpen.size());
      if (end == absl::string_view::npos) return BadTemplate(i, "this '{{' has no '}}'; write '\\{{' for a plain '{{'");
      std::string name(absl::StripAsciiWhitespace(rest.substr(kOpen.size(), end - kOpen.size())));
      if (name.empty()) return BadTemplate(i, "there is no variable name inside the braces");
      if (name.find_first_of("{}\n") != std::string::npos) {
        return BadTemplate(i, "a variable name must not hold braces or line breaks");
      }
      flush();
      if (std::find(out.variables_.begin(), out.variables_.end(), name) == out.variables_.end()) {
        out.variables_.push_back(name);
      }
      out.pieces_.push_back({true, std::move(name)});
      i += end + kClose.size();
    }
  }
  flush();
  return out;
}

absl::StatusOr<std::string> PromptTemplate::Render(const Columns& columns) const {
  std::string out;
  for (const Piece& piece : pieces_) {
    if (!piece.is_variable) {
      out += piece.text;
      continue;
    }
    auto it = columns.find(piece.text);
    if (it == columns.end()) {
      return MakeError(absl::StatusCode::kInvalidArgument, "MISSING_COLUMN",
                       absl::StrCat("The template needs the column '", piece.text, "', which is not there."),
                       {{"column", piece.text}});
    }
    out += it->second;
  }
  return out;
}

bool PromptTemplate::IsBareVariable() const { return pieces_.size() == 1 && pieces_[0].is_variable; }

std::string EscapeTemplateText(absl::string_view text) { return absl::StrReplaceAll(text, {{kOpen, kEscapedOpen}}); }

}  // namespace attune
