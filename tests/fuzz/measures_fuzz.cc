// An answer and its reference, parted by the first zero byte; the answer is also a pattern.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/evaluation/measures/bleu.h"
#include "server/evaluation/measures/chrf.h"
#include "server/evaluation/measures/minhash.h"
#include "server/evaluation/measures/number_match.h"
#include "server/evaluation/measures/paraphrase.h"
#include "server/evaluation/measures/pattern.h"
#include "server/evaluation/measures/rouge.h"
#include "server/evaluation/measures/structured.h"
#include "server/evaluation/measures/token_f1.h"

namespace attune {
namespace {

void Check(bool holds) {
  if (!holds) std::abort();
}

bool IsShare(double value) { return value >= 0 && value <= 1 + 1e-9; }

void Measure(const std::string& answer, const std::string& reference) {
  Check(IsShare(TokenF1(answer, {reference})));
  Check(IsShare(RougeL(answer, {reference}).f1));
  Check(IsShare(ChrfScore(CountChrf(answer, {reference}))));
  Check(IsShare(BleuScore(CountBleu(answer, {reference}))));
  Check(IsShare(Jaccard(Shingles(answer), Shingles(reference))));
  Check(NumbersMatch(answer, reference) == NumbersMatch(reference, answer));
  Check(JsonEquals(answer, answer) == IsValidJson(answer));
  Check(JsonEquals(answer, reference) == JsonEquals(reference, answer));
  for (const Paraphrase& variant : ListParaphrases(answer, reference.size(), true)) Check(variant.text != answer);
  if (auto pattern = Pattern::Compile(answer); pattern.ok()) pattern->FullMatch(reference).status().IgnoreError();
}

}  // namespace
}  // namespace attune

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(input.find('\0'), size);
  attune::Measure(input.substr(0, zero), input.substr(std::min(size, zero + 1)));
  return 0;
}
