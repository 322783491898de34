#ifndef ATTUNE_SERVER_ADAPTERS_FORMATS_REGEX_H_
#define ATTUNE_SERVER_ADAPTERS_FORMATS_REGEX_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct pcre2_real_code_8;

namespace attune {

// A regular expression out of an adapter's configuration, which nobody vouches for:
// matching stops at a step limit. Immutable: thread-safe.
class Regex {
 public:
  // INVALID_ARGUMENT (BAD_ADAPTER) if it does not compile.
  static absl::StatusOr<Regex> Compile(const std::string& pattern);

  // Whether all of `text` matches. INVALID_ARGUMENT (BAD_ADAPTER) at the limit.
  absl::StatusOr<bool> MatchesAll(const std::string& text) const;
  // Sets `group` to what the pattern's first group matches somewhere in `text`; false if nothing does.
  absl::StatusOr<bool> FindGroup(const std::string& text, std::string* group) const;

 private:
  explicit Regex(std::shared_ptr<pcre2_real_code_8> code) : code_(std::move(code)) {}
  std::shared_ptr<pcre2_real_code_8> code_;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_ADAPTERS_FORMATS_REGEX_H_
