#ifndef ATTUNE_SERVER_GRAMMAR_GRAMMAR_H_
#define ATTUNE_SERVER_GRAMMAR_GRAMMAR_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/call_once.h"
#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/tokenizer/tokenizer.h"

// Answers of a given form: which tokens may come next. Over XGrammar (Dong et al. 2024),
// whose headers grammar.cc alone sees.
namespace attune {

// The form of an answer.
struct AnswerForm {
  enum class Kind {
    kJson,        // any JSON object; no text
    kJsonSchema,  // JSON that a schema allows
    kRegex,       // text that a regular expression matches as a whole
    kChoice,      // one of `choices`
    kGrammar,     // text of a context-free grammar in EBNF as GGML's, from the rule "root" on
  };
  Kind kind = Kind::kJson;
  std::string text;
  std::vector<std::string> choices;
};

// How far one answer is in its form. A value: a copy goes on by itself. Not thread-safe.
class GrammarState {
 public:
  GrammarState(const GrammarState& other);
  GrammarState& operator=(const GrammarState&) = delete;
  ~GrammarState();

  // Takes the next token; false, with nothing changed, if the form does not allow it.
  bool Accept(int32_t token);
  // Bit i of word i / 32: whether token i may come next. An end token may where the form is complete.
  // The vocabulary's end is padded with zeros to whole words.
  const std::vector<uint32_t>& Allowed();
  // Nothing may come but the end.
  bool IsOver();

 private:
  friend class Grammar;
  struct Impl;
  explicit GrammarState(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A form, prepared for a tokenizer. Immutable: thread-safe.
class Grammar {
 public:
  ~Grammar();
  // The beginning of an answer that any of `ends` ends.
  std::unique_ptr<GrammarState> Start(const std::vector<int32_t>& ends) const;

 private:
  friend class GrammarCompiler;
  struct Impl;
  explicit Grammar(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Prepares forms for one tokenizer, and remembers what it prepared, least recently used
// leaving first, up to a number of bytes. Thread-safe.
class GrammarCompiler {
 public:
  // Reads the whole vocabulary. `tokenizer` may go afterwards.
  GrammarCompiler(const Tokenizer& tokenizer, int64_t cache_bytes);
  ~GrammarCompiler();

  // INVALID_ARGUMENT (BAD_ANSWER_FORM) for what is malformed, not supported or longer than kMostFormBytes.
  static constexpr size_t kMostFormBytes = 64 << 10;
  absl::StatusOr<std::shared_ptr<const Grammar>> Compile(const AnswerForm& form);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A compiler for each tokenizer that is asked for, as long as its owner lives. Thread-safe.
class GrammarCompilers {
 public:
  explicit GrammarCompilers(int64_t cache_bytes_each) : cache_bytes_(cache_bytes_each) {}
  // REQUIRES: `owner` keeps `tokenizer` alive.
  std::shared_ptr<GrammarCompiler> For(const std::shared_ptr<const void>& owner, const Tokenizer& tokenizer);

 private:
  // Made by whoever asks first, while others for the same one wait, and nobody else.
  struct Entry {
    std::weak_ptr<const void> owner;
    absl::once_flag once;
    std::shared_ptr<GrammarCompiler> compiler;
  };
  const int64_t cache_bytes_;
  absl::Mutex mutex_;
  std::map<const Tokenizer*, std::shared_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace attune

#endif  // ATTUNE_SERVER_GRAMMAR_GRAMMAR_H_
