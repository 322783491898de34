#ifndef ATTUNE_SERVER_EVALUATION_MEASURES_PATTERN_H_
#define ATTUNE_SERVER_EVALUATION_MEASURES_PATTERN_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attune {

// A regular expression in PCRE2's syntax over Unicode characters, whose work is limited: neither a
// pattern nor a text that means harm can keep it busy or exhaust the stack. Bytes that are not UTF-8
// are matched by nothing. Immutable: thread-safe.
class Pattern {
 public:
  static constexpr size_t kMaxPatternBytes = 4096;
  static constexpr size_t kMaxTextBytes = 1 << 16;

  // INVALID_ARGUMENT (BAD_PATTERN) says where and why.
  static absl::StatusOr<Pattern> Compile(absl::string_view source);

  Pattern(Pattern&&) noexcept;
  ~Pattern();

  // Whether the whole of `text` matches. RESOURCE_EXHAUSTED (PATTERN_LIMIT) for a text that is too long
  // or takes too many steps.
  absl::StatusOr<bool> FullMatch(absl::string_view text) const;

  // Every match replaced; in `replacement`, $1 is a group, $0 the match, \L and \U what follows in lower
  // and upper case. `text` itself if the limits do not suffice. For patterns of the program's own: no limit
  // on the text.
  std::string ReplaceAll(absl::string_view text, absl::string_view replacement) const;

 private:
  struct Code;
  explicit Pattern(std::unique_ptr<Code> code);

  std::unique_ptr<Code> code_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_MEASURES_PATTERN_H_
