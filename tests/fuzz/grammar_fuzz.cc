// Any text as the form of an answer; what compiles must be able to begin.
#include <cstdint>
#include <cstdlib>

#include "server/grammar/grammar.h"
#include "tests/testing/fake_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attune;
  if (size == 0 || size > 400) return 0;
  static const FakeTokenizer tokenizer;
  static GrammarCompiler compiler(tokenizer, 1 << 20);
  AnswerForm form;
  form.kind = static_cast<AnswerForm::Kind>(data[0] % 5);
  form.text.assign(reinterpret_cast<const char*>(data + 1), size - 1);
  if (form.kind == AnswerForm::Kind::kChoice) form.choices = {form.text};
  const auto grammar = compiler.Compile(form);
  if (!grammar.ok()) return 0;
  auto state = (*grammar)->Start({FakeTokenizer::kEos});
  if (state->Allowed().size() * 32 < static_cast<size_t>(tokenizer.vocab_size())) std::abort();
  return 0;
}
