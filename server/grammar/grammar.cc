#include "server/grammar/grammar.h"

#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error.h"
#include "common/utf8.h"

namespace attune {
namespace {

constexpr int kCompileThreads = 2;
// In one place of a JSON text: room for a line break and deep indentation. Without a bound,
// models go on with spaces for ever.
constexpr int kMostWhitespace = 32;

absl::Status BadForm(absl::string_view why) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_ANSWER_FORM", why);
}

// XGrammar's messages begin with a time and a place in its sources.
std::string Reason(const std::exception& error) {
  std::string text = error.what();
  const size_t end = text.find(": ");
  if (!text.empty() && text[0] == '[' && end != std::string::npos) text.erase(0, end + 2);
  return ReplaceBrokenUtf8(text);
}

// As a string in EBNF.
std::string Quoted(absl::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      absl::StrAppend(&out, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string ChoiceGrammar(const std::vector<std::string>& choices) {
  return absl::StrCat("root ::= ", absl::StrJoin(choices, " | ", [](std::string* out, const std::string& choice) {
                        *out += Quoted(choice);
                      }));
}

absl::Status CheckForm(const AnswerForm& form) {
  size_t bytes = form.text.size();
  for (const std::string& choice : form.choices) {
    if (choice.empty()) return BadForm("a choice must not be empty");
    if (ReplaceBrokenUtf8(choice) != choice) return BadForm("a choice must be UTF-8");
    bytes += choice.size();
  }
  if (form.kind == AnswerForm::Kind::kChoice && form.choices.empty()) return BadForm("there must be a choice");
  if (form.kind != AnswerForm::Kind::kJson && form.kind != AnswerForm::Kind::kChoice && form.text.empty()) {
    return BadForm("must not be empty");
  }
  if (bytes > GrammarCompiler::kMostFormBytes) {
    return BadForm(absl::StrCat("must be at most ", GrammarCompiler::kMostFormBytes, " bytes; has ", bytes));
  }
  return absl::OkStatus();
}

xgrammar::TokenizerInfo InfoOf(const Tokenizer& tokenizer) {
  std::vector<std::string> bytes(tokenizer.vocab_size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    // A special token stands for no text: XGrammar allows one only where it ends an answer.
    if (!tokenizer.IsSpecial(id)) bytes[id] = tokenizer.TokenBytes(id);
  }
  return xgrammar::TokenizerInfo(bytes, xgrammar::VocabType::RAW, tokenizer.vocab_size(), tokenizer.end_ids());
}

// Where a JSON text stands: XGrammar lets control characters into strings of bounded length,
// which JSON does not.
class JsonPlace {
 public:
  // Goes on by these bytes; false if a control character stands where none may.
  bool Take(absl::string_view bytes) {
    for (char c : bytes) {
      const bool is_control = static_cast<unsigned char>(c) < 0x20;
      if (is_control && (in_string_ || (c != '\t' && c != '\n' && c != '\r'))) return false;
      if (!in_string_) {
        in_string_ = c == '"';
      } else if (is_escaped_) {
        is_escaped_ = false;
      } else {
        is_escaped_ = c == '\\';
        in_string_ = c != '"';
      }
    }
    return true;
  }

 private:
  bool in_string_ = false, is_escaped_ = false;
};

using Ids = std::vector<int32_t>;

// Tokens with a control character.
std::shared_ptr<const Ids> ControlTokens(const xgrammar::TokenizerInfo& info) {
  auto ids = std::make_shared<Ids>();
  const std::vector<std::string>& vocabulary = info.GetDecodedVocab();
  for (size_t id = 0; id < vocabulary.size(); ++id) {
    const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
    if (std::any_of(vocabulary[id].begin(), vocabulary[id].end(), is_control)) ids->push_back(static_cast<int32_t>(id));
  }
  return ids;
}

}  // namespace

struct GrammarState::Impl {
  xgrammar::GrammarMatcher matcher;
  const xgrammar::TokenizerInfo info;
  const std::shared_ptr<const Ids> control_tokens;  // null: not JSON
  JsonPlace place;
  std::vector<uint32_t> allowed;
  bool is_current = false;  // `allowed` is of where the matcher stands

  void ForbidControlTokens() {
    for (int32_t id : *control_tokens) {
      if (!JsonPlace(place).Take(info.GetDecodedVocab()[id])) allowed[id / 32] &= ~(1u << (id % 32));
    }
  }
};

GrammarState::GrammarState(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GrammarState::GrammarState(const GrammarState& other)
    : impl_(std::make_unique<Impl>(Impl{other.impl_->matcher.Fork(), other.impl_->info, other.impl_->control_tokens,
                                        other.impl_->place, other.impl_->allowed, other.impl_->is_current})) {}
GrammarState::~GrammarState() = default;

bool GrammarState::Accept(int32_t token) {
  JsonPlace next = impl_->place;
  const bool is_json = impl_->control_tokens != nullptr;
  if (token < 0 || token >= impl_->info.GetVocabSize()) return false;
  if (is_json && !next.Take(impl_->info.GetDecodedVocab()[token])) return false;
  if (!impl_->matcher.AcceptToken(token)) return false;
  impl_->place = next;
  impl_->is_current = false;
  return true;
}

const std::vector<uint32_t>& GrammarState::Allowed() {
  if (impl_->is_current) return impl_->allowed;
  impl_->is_current = true;
  std::fill(impl_->allowed.begin(), impl_->allowed.end(), 0);
  if (impl_->matcher.IsTerminated()) return impl_->allowed;
  int64_t words = static_cast<int64_t>(impl_->allowed.size());
  DLTensor mask{};
  mask.data = impl_->allowed.data();
  mask.device = {kDLCPU, 0};
  mask.ndim = 1;
  mask.dtype = xgrammar::GetBitmaskDLType();
  mask.shape = &words;
  impl_->matcher.FillNextTokenBitmask(&mask);
  if (impl_->control_tokens) impl_->ForbidControlTokens();
  return impl_->allowed;
}

bool GrammarState::IsOver() {
  if (impl_->matcher.IsTerminated()) return true;
  if (!impl_->matcher.IsCompleted()) return false;
  const std::vector<int>& ends = impl_->matcher.GetStopTokenIds();
  int64_t allowed = 0;
  for (uint32_t word : Allowed()) allowed += __builtin_popcount(word);
  return allowed <= static_cast<int64_t>(ends.size());
}

struct Grammar::Impl {
  xgrammar::CompiledGrammar compiled;
  std::shared_ptr<const Ids> control_tokens;  // null: not JSON
};

Grammar::Grammar(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Grammar::~Grammar() = default;

std::unique_ptr<GrammarState> Grammar::Start(const std::vector<int32_t>& ends) const {
  const xgrammar::TokenizerInfo info = impl_->compiled.GetTokenizerInfo();
  auto state = std::make_unique<GrammarState::Impl>(GrammarState::Impl{
      xgrammar::GrammarMatcher(impl_->compiled, std::vector<int>(ends.begin(), ends.end())), info,
      impl_->control_tokens, JsonPlace(), std::vector<uint32_t>(xgrammar::GetBitmaskSize(info.GetVocabSize())), false});
  return std::unique_ptr<GrammarState>(new GrammarState(std::move(state)));
}

struct GrammarCompiler::Impl {
  explicit Impl(const xgrammar::TokenizerInfo& info, int64_t cache_bytes)
      : compiler(info, kCompileThreads, /*cache_enabled=*/true, cache_bytes), control_tokens(ControlTokens(info)) {}
  xgrammar::GrammarCompiler compiler;
  const std::shared_ptr<const Ids> control_tokens;

  xgrammar::CompiledGrammar CompileSchema(const std::string& schema) {
    return compiler.CompileJSONSchema(schema, /*any_whitespace=*/true, std::nullopt, std::nullopt,
                                      /*strict_mode=*/true, kMostWhitespace);
  }
  xgrammar::CompiledGrammar Compile(const AnswerForm& form) {
    switch (form.kind) {
      case AnswerForm::Kind::kJson: return CompileSchema(R"({"type": "object"})");
      case AnswerForm::Kind::kJsonSchema: return CompileSchema(form.text);
      case AnswerForm::Kind::kRegex: return compiler.CompileRegex(form.text);
      case AnswerForm::Kind::kChoice: return compiler.CompileGrammar(ChoiceGrammar(form.choices));
      case AnswerForm::Kind::kGrammar: return compiler.CompileGrammar(form.text);
    }
    throw std::invalid_argument("unknown form");
  }
};

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int64_t cache_bytes)
    : impl_(std::make_unique<Impl>(InfoOf(tokenizer), cache_bytes)) {}
GrammarCompiler::~GrammarCompiler() = default;

absl::StatusOr<std::shared_ptr<const Grammar>> GrammarCompiler::Compile(const AnswerForm& form) {
  ATTUNE_RETURN_IF_ERROR(CheckForm(form));
  try {
    const bool is_json = form.kind == AnswerForm::Kind::kJson || form.kind == AnswerForm::Kind::kJsonSchema;
    auto grammar = std::make_unique<Grammar::Impl>(
        Grammar::Impl{impl_->Compile(form), is_json ? impl_->control_tokens : nullptr});
    return std::shared_ptr<const Grammar>(new Grammar(std::move(grammar)));
  } catch (const std::exception& error) {
    return BadForm(Reason(error));
  }
}

std::shared_ptr<GrammarCompiler> GrammarCompilers::For(const std::shared_ptr<const void>& owner,
                                                       const Tokenizer& tokenizer) {
  std::shared_ptr<Entry> entry;
  {
    absl::MutexLock lock(&mutex_);
    std::erase_if(entries_, [](const auto& known) { return known.second->owner.expired(); });
    std::shared_ptr<Entry>& known = entries_[&tokenizer];
    if (!known) {
      known = std::make_shared<Entry>();
      known->owner = owner;
    }
    entry = known;
  }
  absl::call_once(entry->once, [&] { entry->compiler = std::make_shared<GrammarCompiler>(tokenizer, cache_bytes_); });
  return entry->compiler;
}

}  // namespace attune
