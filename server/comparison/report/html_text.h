#ifndef ATTUNE_SERVER_COMPARISON_REPORT_HTML_TEXT_H_
#define ATTUNE_SERVER_COMPARISON_REPORT_HTML_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"

// Text of others inside a page of ours. All functions take any bytes.
namespace attune {

// As content or inside a quoted attribute. What is no UTF-8 and what turns the direction of text that follows
// (U+202A to U+202E, U+2066 to U+2069) becomes U+FFFD; control characters but tab and line feed become their picture
// (U+2400 and on).
std::string EscapeHtml(absl::string_view text);

// Escaped, in an element of its own, so that right-to-left text does not reorder what stands around it.
std::string Isolated(absl::string_view text);

// The first `max_characters` characters, with an ellipsis if there were more. Not escaped.
std::string CutText(absl::string_view text, int max_characters);

}  // namespace attune

#endif  // ATTUNE_SERVER_COMPARISON_REPORT_HTML_TEXT_H_
