#include "server/tokenizer/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/utf8.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
// Unicode's White_Space, inside brackets. PCRE2's own \s has U+180E too.
constexpr char kSpaces[] = R"(\x09-\x0D\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

constexpr char kGpt2[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr char kGpt4o[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Their files hold line breaks as they are.
constexpr char kSeedCoder[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^)" "\r\n" R"(\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N})" "\r\n" R"(]+|\s*[)" "\r\n" R"(]+|\s+(?!\S)|\s+)";
constexpr char kDeepseekV3[] =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^)" "\r\n" R"(\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[)" "\r\n" R"(]*|\s*[)" "\r\n" R"(]+|\s+(?!\S)|\s+)";
constexpr char kDigit[] = R"(\p{N})";

// Spells out \s and \S.
std::string WithUnicodeSpaces(absl::string_view pattern) {
  std::string out;
  bool bracket = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        absl::StrAppend(&out, bracket ? "" : "[", kSpaces, bracket ? "" : "]");
      } else if (escaped == 'S' && !bracket) {
        absl::StrAppend(&out, "[^", kSpaces, "]");
      } else {
        out += {c, escaped};
      }
      continue;
    }
    if (c == '[') bracket = true;
    if (c == ']') bracket = false;
    out += c;
  }
  return out;
}

struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

const std::vector<PretokenizerRule>& Rules() {
  static const auto* const rules = new std::vector<PretokenizerRule>{
      {"gpt-2", {kGpt2}},
      {"gpt2", {kGpt2}},
      {"phi-2", {kGpt2}},
      {"smollm", {kDigit, kGpt2}},
      {"starcoder", {kDigit, kGpt2}},
      {"refact", {kDigit, kGpt2}},
      {"llama-bpe", {kLlama3}, true, true},
      {"llama3", {kLlama3}, true, true},
      {"llama-v3", {kLlama3}, true, true},
      // Phi-4's files say "dbrx", too.
      {"dbrx", {kLlama3}},
      {"smaug-bpe", {kLlama3}},
      {"qwen2", {kQwen2}, false, false, true},
      // Qwen's with other special tokens.
      {"deepseek-r1-qwen", {kQwen2}, false, false, true},
      {"gpt-4o", {kGpt4o}},
      {"llama4", {kGpt4o}},
      {"tekken", {kTekken}, true, true},
      {"seed-coder", {kSeedCoder}},
      {"deepseek-coder",
       {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+", kDigit}},
      {"deepseek-v3", {R"(\p{N}{1,3})", "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+", kDeepseekV3}},
  };
  return *rules;
}

}  // namespace

const PretokenizerRule* FindPretokenizerRule(absl::string_view name) {
  for (const PretokenizerRule& rule : Rules()) {
    if (rule.name == name) return &rule;
  }
  return nullptr;
}

const PretokenizerRule* FindPretokenizerRule(const std::vector<std::string>& patterns, bool ignore_merges, bool normalizes) {
  for (const PretokenizerRule& rule : Rules()) {
    if (rule.patterns == patterns && rule.ignore_merges == ignore_merges && rule.normalizes == normalizes) return &rule;
  }
  return nullptr;
}

const std::string& Gpt2Pattern() {
  static const auto* const pattern = new std::string(kGpt2);
  return *pattern;
}

// One compiled pattern.
class Pretokenizer::Stage {
 public:
  explicit Stage(pcre2_code* code) : code_(code) { pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); }
  ~Stage() { pcre2_code_free(code_); }

  // REQUIRES: `text` is valid UTF-8.
  void Split(absl::string_view text, std::vector<absl::string_view>* pieces) const {
    const std::unique_ptr<pcre2_match_data, FreeMatch> data(pcre2_match_data_create(1, nullptr));
    const size_t* const range = pcre2_get_ovector_pointer(data.get());
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      if (!Match(text, at, data.get())) break;
      if (range[1] == range[0]) {  // an empty match: go on after the next character
        at = range[1] < text.size() ? range[1] + DecodeUtf8(text, range[1]).length : text.size();
        continue;
      }
      if (range[0] > begin) pieces->push_back(text.substr(begin, range[0] - begin));
      pieces->push_back(text.substr(range[0], range[1] - range[0]));
      begin = at = range[1];
    }
    if (begin < text.size()) pieces->push_back(text.substr(begin));
  }

 private:
  // The interpreter takes over where the JIT's stack or limits do not suffice.
  bool Match(absl::string_view text, size_t at, pcre2_match_data* data) const {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code_, subject, text.size(), at, PCRE2_NO_UTF_CHECK, data, nullptr);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
      rc = pcre2_match(code_, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, nullptr);
    }
    return rc >= 0;
  }

  pcre2_code* const code_;
};

Pretokenizer::Pretokenizer() = default;
Pretokenizer::~Pretokenizer() = default;
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;

absl::StatusOr<Pretokenizer> Pretokenizer::Create(const std::vector<std::string>& patterns) {
  Pretokenizer result;
  for (const std::string& pattern : patterns) {
    if (pattern.size() > kMaxPatternBytes) return UnsupportedTokenizer("its splitting pattern is too long");
    const std::string spelled = WithUnicodeSpaces(pattern);
    int error = 0;
    size_t offset = 0;
    pcre2_code* const code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                           PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
    if (code == nullptr) {
      char message[256] = "";
      pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
      return UnsupportedTokenizer(absl::StrCat("its splitting pattern \"", pattern, "\" is wrong: ", message));
    }
    result.stages_.push_back(std::make_unique<Stage>(code));
  }
  return result;
}

std::vector<absl::string_view> Pretokenizer::Split(absl::string_view text) const {
  // Stretches of valid UTF-8, and between them what is not.
  std::vector<std::pair<absl::string_view, bool>> stretches;
  size_t begin = 0;
  bool valid = true;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = DecodeUtf8(text, i);
    if (c.valid != valid) {
      if (i > begin) stretches.emplace_back(text.substr(begin, i - begin), valid);
      begin = i;
      valid = c.valid;
    }
    i += c.length;
  }
  if (begin < text.size()) stretches.emplace_back(text.substr(begin), valid);

  std::vector<absl::string_view> pieces;
  for (const auto& [stretch, is_valid] : stretches) {
    std::vector<absl::string_view> current = {stretch};
    for (size_t s = 0; is_valid && s < stages_.size(); ++s) {
      std::vector<absl::string_view> split;
      for (const absl::string_view piece : current) stages_[s]->Split(piece, &split);
      current = std::move(split);
    }
    pieces.insert(pieces.end(), current.begin(), current.end());
  }
  return pieces;
}

}  // namespace attune
