#include "server/jobs/job.h"

#include <algorithm>
#include <iterator>

namespace attune {

absl::string_view JobStateName(JobState state) {
  switch (state) {
    case JobState::kQueued: return "QUEUED";
    case JobState::kPreparing: return "PREPARING";
    case JobState::kRunning: return "RUNNING";
    case JobState::kPaused: return "PAUSED";
    case JobState::kSucceeded: return "SUCCEEDED";
    case JobState::kFailed: return "FAILED";
    case JobState::kCancelled: return "CANCELLED";
  }
  return "STATE_UNSPECIFIED";
}

bool IsLegalTransition(JobState from, JobState to) {
  switch (from) {
    case JobState::kQueued:
      return to == JobState::kPreparing || to == JobState::kPaused || to == JobState::kCancelled ||
             to == JobState::kFailed;
    case JobState::kPreparing:
      return to == JobState::kRunning || to == JobState::kQueued || to == JobState::kPaused ||
             to == JobState::kFailed || to == JobState::kCancelled;
    case JobState::kRunning:
      return to == JobState::kSucceeded || to == JobState::kFailed || to == JobState::kCancelled ||
             to == JobState::kPaused || to == JobState::kQueued;
    case JobState::kPaused:
      return to == JobState::kQueued || to == JobState::kCancelled;
    case JobState::kSucceeded:
    case JobState::kFailed:
    case JobState::kCancelled:
      return false;
  }
  return false;
}

bool IsFinal(JobState state) {
  return state == JobState::kSucceeded || state == JobState::kFailed || state == JobState::kCancelled;
}

absl::string_view TargetModuleName(TargetModule module) {
  switch (module) {
    case TargetModule::kQProj: return "q_proj";
    case TargetModule::kKProj: return "k_proj";
    case TargetModule::kVProj: return "v_proj";
    case TargetModule::kOProj: return "o_proj";
    case TargetModule::kGateProj: return "gate_proj";
    case TargetModule::kUpProj: return "up_proj";
    case TargetModule::kDownProj: return "down_proj";
    case TargetModule::kEmbedTokens: return "embed_tokens";
    case TargetModule::kLmHead: return "lm_head";
  }
  return "";
}

bool IsVocabulary(TargetModule module) {
  return module == TargetModule::kEmbedTokens || module == TargetModule::kLmHead;
}

bool Contains(const std::vector<TargetModule>& modules, TargetModule module) {
  return std::find(modules.begin(), modules.end(), module) != modules.end();
}

absl::string_view MethodName(const MethodSpec& method) {
  constexpr absl::string_view kNames[] = {"full", "partial", "lora", "soft_prompt", "prefix", "ia3", "text_prompt"};
  static_assert(std::variant_size_v<MethodSpec> == std::size(kNames));
  return kNames[method.index()];
}

}  // namespace attune
