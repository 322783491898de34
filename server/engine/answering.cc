#include "server/engine/answering.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "server/engine/beam_group.h"
#include "server/engine/choose_tokens.h"

namespace attune {
namespace {

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

}  // namespace

std::unique_ptr<Task> Answering::MakeTask(const std::shared_ptr<GenerationState>& state, std::vector<int32_t> tokens) {
  const GenerateParams& params = state->params;
  auto task = std::make_unique<Task>();
  task->model = params.model;
  task->sequence.tokens = std::move(tokens);
  task->sequence.model = task->model->uid;
  task->sequence.priority = params.priority;
  task->sequence.tenant = std::hash<std::string>()(params.tenant);
  task->prompt_tokens = static_cast<int64_t>(task->sequence.tokens.size());
  task->sequence.most_tokens = std::min(task->prompt_tokens + params.max_tokens, params.model->base->config.context);
  task->generation = state;
  if (!params.ignore_eos) task->ends = params.model->base->end_ids;
  task->ends.insert(task->ends.end(), params.stop_tokens.begin(), params.stop_tokens.end());
  task->sampling = params.sampling;
  task->arrival = state->arrival;
  task->deadline = params.deadline;
  if (params.beams > 0) {
    task->kind = Task::Kind::kBeam;
    task->beams = std::make_shared<BeamGroup>(task.get());
    return task;
  }
  task->siblings = params.n - 1;
  if (params.grammar) task->grammar = params.grammar->Start(task->ends);
  if (params.draft_tokens > 0) {
    task->draft = std::make_unique<DraftState>();
    task->draft->length = params.draft_tokens;
  }
  return task;
}

void Answering::HandleAnswer(Lane* lane, const Lane::Output& output) {
  Task* task = output.task;
  if (output.rows == 0) return;  // more of the prompt to read
  if (task->siblings > 0) ForkSiblings(lane, output);
  if (output.chosen.empty()) {
    task->generation->Fail(absl::InternalError("No token of the vocabulary goes on in the answer's form."), clock_->Now());
    return Drop(lane, task);
  }
  const int64_t drafted = task->sequence.drafted, right = static_cast<int64_t>(output.chosen.size()) - 1;
  if (task->draft) {
    if (drafted > 0) {
      observer_->OnDrafts(drafted, right);
      task->generation->AddDrafts(drafted, right);
    }
    Drafting::Adapt(task, drafted, right);
    task->sequence.DropDrafts();
    // What was computed for guesses that were wrong is none of this text's.
    task->sequence.computed = std::min(task->sequence.computed, task->known() + right);
  }
  for (size_t i = 0; i < output.chosen.size(); ++i) {
    if (!TakeToken(lane, task, output.chosen[i])) return;
  }
  if (output.is_over) return Finish(lane, task, FinishReason::kStop);
  if (task->draft) drafting_->Draft(task);
  if (task->grammar) PrepareMask(task);
}

bool Answering::TakeToken(Lane* lane, Task* task, const TokenInfo& token) {
  const GenerateParams& params = task->generation->params;
  NoteToken(task);
  if (task->IsEnd(token.id)) {
    Finish(lane, task, FinishReason::kStop);
    return false;
  }
  GenerationUpdate update;
  update.index = task->index;
  update.has_token = true;
  update.token = token;
  task->sequence.tokens.push_back(token.id);
  const bool full = static_cast<int64_t>(task->sequence.tokens.size()) >= task->model->base->config.context;
  if (task->generated() >= params.max_tokens || full) update.finish = FinishReason::kLength;
  const bool goes_on = update.finish == FinishReason::kNone;
  // Whoever reads the last update finds the request counted.
  if (!goes_on) Count(*task, FinishReason::kLength);
  task->generation->Push(std::move(update), clock_->Now());
  if (!goes_on) Drop(lane, task);
  return goes_on;
}

// Their first tokens come from the same row of logits.
void Answering::ForkSiblings(Lane* lane, const Lane::Output& output) {
  Task* first = output.task;
  const int count = std::exchange(first->siblings, 0);
  for (int i = 1; i <= count; ++i) {
    if (first->generation->IsStopped(i)) continue;
    std::unique_ptr<Task> child = ForkOf(*first);
    Task* task = child.get();
    task->index = i;
    task->sampling.seed += i;
    const GenerateParams& params = first->generation->params;
    if (params.grammar) task->grammar = params.grammar->Start(task->ends);
    if (first->draft) {
      task->draft = std::make_unique<DraftState>();
      task->draft->length = params.draft_tokens;
    }
    const TokenInfo token = ChooseFirstToken(*first, output, task->sampling, task->grammar.get());
    lane->AddFork(*first, std::move(child));
    Lane::Output own = output;
    own.task = task;
    own.chosen = {token};
    if (task->grammar) {
      if (!task->grammar->Accept(token.id)) own.chosen.clear();
      own.is_over = task->grammar->IsOver();
    }
    HandleAnswer(lane, own);
  }
}

void Answering::NoteToken(Task* task) {
  const absl::Time now = clock_->Now();
  if (!task->got_first_token) {
    const double seconds = Seconds(now - task->arrival);
    task->got_first_token = true;
    task->generation->SetFirstToken(seconds);
    observer_->OnFirstToken(*task->model, Seconds(task->started - task->arrival), Seconds(now - task->started), seconds);
  } else {
    observer_->OnInterTokenLatency(*task->model, Seconds(now - task->last_token));
  }
  task->last_token = now;
}

void Answering::Count(const Task& task, FinishReason reason) {
  observer_->OnFinished(*task.model, reason, static_cast<int>(task.prompt_tokens), static_cast<int>(task.generated()),
                        task.generation->TimingsAt(clock_->Now()));
}

void Answering::CountAbandoned(const Task& task) {
  Count(task, task.generation->IsCancelled() ? FinishReason::kCancelled : FinishReason::kStop);
}

void Answering::Finish(Lane* lane, Task* task, FinishReason reason) {
  // With it go the answers that it stands for: those of a search, or still to be forked off.
  const bool is_beam = task->kind == Task::Kind::kBeam;
  const int first = is_beam ? 0 : task->index;
  const int last = is_beam ? task->generation->params.n - 1 : task->index + task->siblings;
  Count(*task, reason);
  for (int i = first; i <= last; ++i) EndAnswer(task->generation.get(), i, reason);
  Drop(lane, task);
}

void Answering::EndAnswer(GenerationState* generation, int index, FinishReason reason) {
  GenerationUpdate update;
  update.index = index;
  update.finish = reason;
  generation->Push(std::move(update), clock_->Now());
}

void Answering::Drop(Lane* lane, Task* task) {
  if (task->kind != Task::Kind::kBeam) {
    if (task->draft) drafting_->Release(task);
    return lane->Remove(task);
  }
  const std::vector<Task*> members = task->beams->members();
  for (Task* member : members) {
    if (!member->is_removed) lane->Remove(member);
  }
}

void Answering::PrepareMask(Task* task) {
  if (task->mask_ready) return;  // of two tokens that came together, the form has taken both
  task->mask_ready = std::make_shared<absl::Notification>();
  background_->Run([state = task->grammar, ready = task->mask_ready] {
    state->Allowed();
    ready->Notify();
  });
}

void Answering::HandleBeam(Lane* lane, const Lane::Output& output) {
  Task* task = output.task;
  if (!output.ends_input) return;
  if (task->index == 0) NoteToken(task);
  const std::shared_ptr<BeamGroup> group = task->beams;
  if (!group->Report(lane, output)) EndSearch(lane, task);
}

void Answering::EndSearch(Lane* lane, Task* task) {
  const GenerateParams& params = task->generation->params;
  const std::vector<BeamSearch::Answer> answers = task->beams->search().Best(params.n);
  const absl::Time now = clock_->Now();
  int64_t generated = 0;
  for (const BeamSearch::Answer& answer : answers) generated += static_cast<int64_t>(answer.tokens.size());
  const bool ended = answers.empty() || answers[0].ended;
  observer_->OnFinished(*task->model, ended ? FinishReason::kStop : FinishReason::kLength,
                        static_cast<int>(task->prompt_tokens), static_cast<int>(generated),
                        task->generation->TimingsAt(now));
  for (size_t i = 0; i < answers.size(); ++i) {
    for (size_t t = 0; t < answers[i].tokens.size(); ++t) {
      GenerationUpdate update;
      update.index = static_cast<int>(i);
      update.has_token = true;
      update.token = {answers[i].tokens[t], static_cast<float>(answers[i].logprobs[t]), {}};
      task->generation->Push(std::move(update), now);
    }
    GenerationUpdate last;
    last.index = static_cast<int>(i);
    last.finish = answers[i].ended ? FinishReason::kStop : FinishReason::kLength;
    last.score = answers[i].score;
    task->generation->Push(std::move(last), now);
  }
  // Fewer have ended than were asked for only where the vocabulary has too few tokens.
  for (int i = static_cast<int>(answers.size()); i < params.n; ++i) {
    EndAnswer(task->generation.get(), i, FinishReason::kStop);
  }
  Drop(lane, task);
}

}  // namespace attune
