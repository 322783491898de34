#ifndef ATTUNE_SERVER_EVALUATION_PROBE_PROBE_H_
#define ATTUNE_SERVER_EVALUATION_PROBE_PROBE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The retention probe: what a base model can do, asked again after tuning, so that forgetting is measured. An item is
// scored by likelihood: the model's choice is the one with the largest log p(choice | prompt), the sum over the
// choice's tokens, so that no output format has to be followed. All of it is made once and read by any thread.
namespace attune {

struct ProbeItem {
  std::string id;                    // unique
  std::string area;                  // "knowledge", "arithmetic", "instruction", "language"; a user's own may differ
  std::string prompt;                // the text to score is prompt + choice, nothing between them
  std::vector<std::string> choices;  // no two alike
  int answer = 0;                    // index of the right choice
  int level = 1;                     // 1 (easy, for models of 100M parameters too) to 3
};

// What ParseProbe takes, sizes in bytes.
inline constexpr size_t kMaxProbeBytes = 16 << 20;
inline constexpr size_t kMaxProbeItems = 10000;
inline constexpr size_t kMaxProbeNameBytes = 64;  // id and area
inline constexpr size_t kMaxProbePromptBytes = 8192;
inline constexpr size_t kMaxProbeChoiceBytes = 1024;
inline constexpr size_t kMinProbeChoices = 2;
inline constexpr size_t kMaxProbeChoices = 16;

// Reads a probe: one JSON object a line, with all the fields of ProbeItem (others are ignored); lines of white space
// are skipped. INVALID_ARGUMENT (BAD_PROBE) at the first fault, with `line` (from 1) and `field` as metadata where one
// is to blame, or if there is no item.
absl::StatusOr<std::vector<ProbeItem>> ParseProbe(absl::string_view jsonl);

// The items that come with the server.
const std::vector<ProbeItem>& BuiltInProbe();

// Prose of many kinds, a paragraph each (a poem's and a program's lines stay), for perplexity and for the KL divergence
// from the base model.
const std::vector<std::string>& BuiltInProbeText();

}  // namespace attune

#endif  // ATTUNE_SERVER_EVALUATION_PROBE_PROBE_H_
