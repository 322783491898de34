#include "server/adapters/formats/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
constexpr uint32_t kMaxSteps = 100'000;

absl::Status BadPattern(const std::string& message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ADAPTER",
                   absl::StrCat("adapter_config.json has a regular expression that ", message));
}

using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

absl::StatusOr<bool> Match(const pcre2_code* code, const std::string& text, uint32_t options, pcre2_match_data* data) {
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits(
      pcre2_match_context_create(nullptr), &pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), kMaxSteps);
  const int rc =
      pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, options, data, limits.get());
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc < 0) return BadPattern("takes too many steps to match");
  return true;
}

}  // namespace

absl::StatusOr<Regex> Regex::Compile(const std::string& pattern) {
  if (pattern.size() > kMaxPatternBytes) return BadPattern("is too long");
  int error = 0;
  size_t offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF, &error,
                                   &offset, nullptr);
  if (code == nullptr) return BadPattern(absl::StrCat("does not compile: '", pattern, "'"));
  return Regex(std::shared_ptr<pcre2_code>(code, &pcre2_code_free));
}

absl::StatusOr<bool> Regex::MatchesAll(const std::string& text) const {
  const MatchData data(pcre2_match_data_create_from_pattern(code_.get(), nullptr), &pcre2_match_data_free);
  return Match(code_.get(), text, PCRE2_ANCHORED | PCRE2_ENDANCHORED, data.get());
}

absl::StatusOr<bool> Regex::FindGroup(const std::string& text, std::string* group) const {
  const MatchData data(pcre2_match_data_create_from_pattern(code_.get(), nullptr), &pcre2_match_data_free);
  ATTUNE_ASSIGN_OR_RETURN(bool found, Match(code_.get(), text, 0, data.get()));
  if (!found || pcre2_get_ovector_count(data.get()) < 2) return false;
  const size_t* range = pcre2_get_ovector_pointer(data.get()) + 2;
  if (range[0] == PCRE2_UNSET) return false;
  *group = text.substr(range[0], range[1] - range[0]);
  return true;
}

}  // namespace attune
