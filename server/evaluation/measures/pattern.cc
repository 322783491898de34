#include "server/evaluation/measures/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"

namespace attune {
namespace {

// A step may look at as much as the whole text, so steps times text is what bounds the time.
constexpr uint32_t kMaxSteps = 100'000;
constexpr uint32_t kMaxHeapKib = 32 << 10;

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using MatchData = std::unique_ptr<pcre2_match_data, FreeMatchData>;
using MatchContext = std::unique_ptr<pcre2_match_context, FreeMatchContext>;

PCRE2_SPTR Bytes(absl::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

MatchContext LimitedContext() {
  MatchContext context(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), kMaxSteps);
  pcre2_set_depth_limit(context.get(), kMaxSteps);
  pcre2_set_heap_limit(context.get(), kMaxHeapKib);
  return context;
}

std::string ErrorText(int error) {
  char message[256] = "";
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
  return message;
}

}  // namespace

struct Pattern::Code {
  explicit Code(pcre2_code* compiled) : code(compiled) {}
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }

  pcre2_code* const code;
};

Pattern::Pattern(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

absl::StatusOr<Pattern> Pattern::Compile(absl::string_view source) {
  if (source.size() > kMaxPatternBytes) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_PATTERN",
                     absl::StrCat("The regular expression is longer than ", kMaxPatternBytes, " bytes."));
  }
  int error = 0;
  size_t offset = 0;
  pcre2_code* const code = pcre2_compile(Bytes(source), source.size(),
                                         PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C,
                                         &error, &offset, nullptr);
  if (code == nullptr) {
    return MakeError(absl::StatusCode::kInvalidArgument, "BAD_PATTERN",
                     absl::StrCat("The regular expression is wrong at byte ", offset + 1, ": ", ErrorText(error), "."));
  }
  return Pattern(std::make_unique<Code>(code));
}

absl::StatusOr<bool> Pattern::FullMatch(absl::string_view text) const {
  const auto exhausted = [](absl::string_view why) {
    return MakeError(absl::StatusCode::kResourceExhausted, "PATTERN_LIMIT",
                     absl::StrCat("The regular expression was given up: ", why, "."));
  };
  if (text.size() > kMaxTextBytes) return exhausted("the text is too long");
  const MatchContext context = LimitedContext();
  const MatchData data(pcre2_match_data_create(1, nullptr));
  const int rc = pcre2_match(code_->code, Bytes(text), text.size(), 0, PCRE2_ANCHORED | PCRE2_ENDANCHORED, data.get(),
                             context.get());
  // The end of what is UTF-8 passes for an end, too.
  if (rc >= 0) return pcre2_get_ovector_pointer(data.get())[1] == text.size();
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  return exhausted(ErrorText(rc));
}

std::string Pattern::ReplaceAll(absl::string_view text, absl::string_view replacement) const {
  const MatchContext context = LimitedContext();
  std::string out(text.size() + 64, '\0');
  for (int tries = 0; tries < 2; ++tries) {
    size_t length = out.size();
    const int rc = pcre2_substitute(
        code_->code, Bytes(text), text.size(), 0,
        PCRE2_SUBSTITUTE_GLOBAL | PCRE2_SUBSTITUTE_EXTENDED | PCRE2_SUBSTITUTE_OVERFLOW_LENGTH, nullptr, context.get(),
        Bytes(replacement), replacement.size(), reinterpret_cast<PCRE2_UCHAR*>(out.data()), &length);
    if (rc >= 0) return out.substr(0, length);
    if (rc != PCRE2_ERROR_NOMEMORY) break;
    out.resize(length);  // the length that is needed
  }
  return std::string(text);
}

}  // namespace attune
