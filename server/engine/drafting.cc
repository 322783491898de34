#include "server/engine/drafting.h"

#include <algorithm>
#include <utility>

#include "server/engine/prompt_lookup.h"
#include "server/model/base_model.h"

namespace attune {
namespace {

// A companion this far behind, or less, is waited for: it catches up while it drafts.
constexpr int64_t kMostBehind = 32;

void Take(Task* task, const int32_t* tokens, int64_t count) {
  Sequence& s = task->sequence;
  s.tokens.insert(s.tokens.end(), tokens, tokens + count);
  s.drafted = count;
}

}  // namespace

int64_t Drafting::Room(const Task& task) {
  // The step that checks them gives one token more.
  const int64_t left = task.sequence.most_tokens - task.known() - 1;
  return std::clamp<int64_t>(task.draft->length, 0, std::max<int64_t>(left, 0));
}

std::vector<int32_t> Drafting::TokensFor(const Task& companion) {
  std::vector<int32_t> tokens = VirtualTokens(*companion.model);
  const std::vector<int32_t>& known = companion.drafts_for->sequence.tokens;
  const auto text = std::find_if(known.begin(), known.end(), [](int32_t token) { return token >= 0; });
  tokens.insert(tokens.end(), text, known.begin() + companion.drafts_for->known());
  return tokens;
}

void Drafting::Adapt(Task* task, int64_t drafted, int64_t right) {
  if (drafted == 0) return;
  int64_t& length = task->draft->length;
  length = right == drafted ? length + 2 : right == 0 ? length / 2 : length;
  length = std::clamp<int64_t>(length, 1, task->generation->params.draft_tokens);
}

void Drafting::Draft(Task* task) {
  const int64_t room = Room(*task);
  if (room == 0) return;
  if (task->generation->params.draft_model) {
    if (!task->draft->companion) StartCompanion(task);
    if (task->draft->companion) AskCompanion(task);
    return;
  }
  const std::vector<int32_t> guessed = LookUpContinuation(task->sequence.tokens, room);
  Take(task, guessed.data(), static_cast<int64_t>(guessed.size()));
}

void Drafting::StartCompanion(Task* task) {
  const std::shared_ptr<const ServedModel>& model = task->generation->params.draft_model;
  const absl::StatusOr<Lane*> lane = lane_for_(*model->base);
  if (!lane.ok()) return;  // goes on without
  auto companion = std::make_unique<Task>();
  companion->kind = Task::Kind::kDraft;
  companion->model = model;
  companion->sequence.model = model->uid;
  companion->sequence.priority = task->sequence.priority;
  companion->sequence.tenant = task->sequence.tenant;
  const KvPages& pages = (*lane)->pages();
  companion->sequence.most_tokens = std::min(model->base->config.context, pages.total() * pages.page_tokens());
  companion->sampling = task->sampling;
  companion->drafts_for = task;
  companion->arrival = task->arrival;
  companion->started = task->started;
  companion->got_first_token = true;
  companion->sequence.tokens = TokensFor(*companion);
  companion->prompt_tokens = static_cast<int64_t>(companion->sequence.tokens.size()) - task->generated();
  task->draft->companion = companion.get();
  (*lane)->Add(std::move(companion));
}

// The companion's tokens become the answer's; what it has computed for others it forgets.
void Drafting::AskCompanion(Task* task) {
  Task* companion = task->draft->companion;
  Sequence& s = companion->sequence;
  const std::vector<int32_t> tokens = TokensFor(*companion);
  if (static_cast<int64_t>(tokens.size()) + Room(*task) >= s.most_tokens) return;  // its context is full
  const auto same = std::mismatch(s.tokens.begin(), s.tokens.end(), tokens.begin(), tokens.end()).first - s.tokens.begin();
  s.tokens = tokens;
  s.computed = std::min({s.computed, static_cast<int64_t>(same), static_cast<int64_t>(tokens.size()) - 1});
  s.swapped = std::min(s.swapped, static_cast<int64_t>(same));
  s.is_held = false;
  const bool is_near = s.ticket >= 0 && !s.was_preempted && s.remaining() <= kMostBehind;
  task->draft->is_asked = is_near;
  task->sequence.is_held = is_near;
}

void Drafting::HandleDraft(const Lane::Output& output) {
  Task* companion = output.task;
  Task* task = companion->drafts_for;
  if (!output.ends_input) return;
  if (!task->draft->is_asked) {
    companion->sequence.is_held = true;  // until it is asked
    return;
  }
  if (output.chosen.empty()) return;
  const int32_t token = output.chosen[0].id;
  companion->sequence.tokens.push_back(token);
  const int64_t drafted = companion->generated() - task->generated();
  if (drafted >= Room(*task) || task->IsEnd(token)) Deliver(companion);
}

void Drafting::Deliver(Task* companion) {
  Task* task = companion->drafts_for;
  task->draft->is_asked = false;
  task->sequence.is_held = false;
  companion->sequence.is_held = true;
  // One that was pushed out meanwhile is to be read anew first.
  if (task->sequence.remaining() != 1) return;
  const int64_t drafted = companion->generated() - task->generated();
  Take(task, companion->sequence.tokens.data() + companion->sequence.tokens.size() - drafted, drafted);
}

void Drafting::HandlePreempted(Task* companion) {
  Task* task = companion->drafts_for;
  task->draft->is_asked = false;
  task->sequence.is_held = false;
}

void Drafting::HandleFailed(Task* companion) {
  HandlePreempted(companion);
  companion->drafts_for->draft->companion = nullptr;
  Remove(companion);
}

void Drafting::Release(Task* task) {
  if (task->draft->companion) Remove(std::exchange(task->draft->companion, nullptr));
}

void Drafting::Remove(Task* companion) {
  // Its lane exists: it was added there.
  const absl::StatusOr<Lane*> lane = lane_for_(*companion->model->base);
  if (lane.ok() && !companion->is_removed) (*lane)->Remove(companion);
}

}  // namespace attune
