#include "server/data/chat_encoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/data/fit.h"

namespace attune {
namespace {

using Turns = std::vector<ChatTurn>;

bool IsAssistant(const ChatTurn& turn) { return turn.role == "assistant"; }

Conversation FirstTurns(const Conversation& chat, size_t count) {
  return {Turns(chat.turns.begin(), chat.turns.begin() + static_cast<int64_t>(count)), chat.tools};
}

absl::Status NotPrefixStable() {
  return MakeError(absl::StatusCode::kInvalidArgument, "CHAT_TEMPLATE_NOT_PREFIX_STABLE",
                   "The model's chat template changes earlier turns when later ones follow, so it is not known which "
                   "tokens are the assistant's; use a prompt and completion template instead.");
}

absl::Status UnsafeContent() {
  return MakeError(absl::StatusCode::kInvalidArgument, "UNSAFE_CHAT_CONTENT",
                   "A message holds the text of one of the model's control tokens, and the chat template does not "
                   "tell where in its output that message is.");
}

bool HasSystem(const Turns& turns) { return !turns.empty() && turns[0].role == "system"; }

// Where a conversation may begin when its oldest turns are left out: templates refuse
// one that the assistant or a tool begins, and the last turn stays in any case.
std::vector<size_t> LaterStarts(const Turns& turns) {
  std::vector<size_t> starts;
  for (size_t i = HasSystem(turns) ? 2 : 1; i < turns.size(); ++i) {
    const bool may_begin = !IsAssistant(turns[i]) && turns[i].role != "tool";
    if (may_begin || i + 1 == turns.size()) starts.push_back(i);
  }
  return starts;
}

// Stands for turn `index` in a rendering; white space around it, which a template
// may strip, is no part of it.
std::string Placeholder(size_t index) { return absl::StrCat("\x02turn", index, "\x03"); }

}  // namespace

// The spans of those turns that hold the text of a control token. The template is
// rendered with placeholders, which shows its own text around the turns; walking along
// the real rendering with that gives where each turn is, stripped or not.
absl::StatusOr<std::vector<ChatEncoder::Span>> ChatEncoder::UnsafeSpans(const Conversation& chat,
                                                                        bool add_generation_prompt,
                                                                        const std::string& text) const {
  const Turns& turns = chat.turns;
  if (encoder_.HoldsSpecial(chat.tools)) return UnsafeContent();
  for (const ChatTurn& turn : turns) {
    if (encoder_.HoldsSpecial(turn.more)) return UnsafeContent();
  }
  std::vector<Span> unsafe;
  std::vector<bool> is_unsafe;
  for (const ChatTurn& turn : turns) is_unsafe.push_back(encoder_.HoldsSpecial(turn.content));
  if (std::find(is_unsafe.begin(), is_unsafe.end(), true) == is_unsafe.end()) return unsafe;

  Conversation outlined = chat;
  Turns& masked = outlined.turns;
  for (size_t i = 0; i < turns.size(); ++i) masked[i].content = Placeholder(i);
  ATTUNE_ASSIGN_OR_RETURN(std::string outline, chat_->Render(outlined, add_generation_prompt));
  std::vector<absl::string_view> between;  // the template's text before each turn, and after the last
  absl::string_view rest = outline;
  for (size_t i = 0; i < turns.size(); ++i) {
    size_t at = rest.find(masked[i].content);
    if (at == absl::string_view::npos) return UnsafeContent();
    between.push_back(rest.substr(0, at));
    rest.remove_prefix(at + masked[i].content.size());
  }
  between.push_back(rest);

  absl::string_view whole = text;
  if (!absl::StartsWith(whole, between[0])) return UnsafeContent();
  size_t position = between[0].size();
  for (size_t i = 0; i < turns.size(); ++i) {
    bool found = false;
    for (absl::string_view content :
         {absl::string_view(turns[i].content), absl::StripAsciiWhitespace(turns[i].content)}) {
      absl::string_view here = whole.substr(position);
      if (!absl::StartsWith(here, content) || !absl::StartsWith(here.substr(content.size()), between[i + 1])) continue;
      if (is_unsafe[i]) unsafe.push_back({position, position + content.size()});
      position += content.size() + between[i + 1].size();
      found = true;
      break;
    }
    if (!found) return UnsafeContent();
  }
  if (position != whole.size()) return UnsafeContent();
  return unsafe;
}

std::vector<int32_t> ChatEncoder::Encode(const std::string& text, Span part, const std::vector<Span>& unsafe) const {
  std::vector<int32_t> tokens;
  size_t position = part.begin;
  auto append = [&](size_t end, bool parse_special) {
    absl::string_view piece = absl::string_view(text).substr(position, end - position);
    std::vector<int32_t> ids =
        position == 0 ? encoder_.Begin(piece, parse_special) : encoder_.Continue(piece, parse_special);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    position = end;
  };
  for (const Span& span : unsafe) {
    if (span.end <= part.begin || span.begin >= part.end) continue;
    append(std::max(span.begin, part.begin), true);
    append(std::min(span.end, part.end), false);
  }
  append(part.end, true);
  return tokens;
}

// How many tokens of an assistant's turn come through the one that ends it: the first
// of the model's end tokens, else the last special one, else all.
size_t ChatEncoder::AnswerTokens(const std::vector<int32_t>& tokens) const {
  const Tokenizer& tokenizer = encoder_.tokenizer();
  const std::vector<int32_t>& ends = tokenizer.end_ids();
  for (size_t i = 0; i < tokens.size(); ++i) {
    bool is_end = tokens[i] == tokenizer.eos_id() || std::find(ends.begin(), ends.end(), tokens[i]) != ends.end();
    if (is_end) return i + 1;
  }
  for (size_t i = tokens.size(); i > 0; --i) {
    if (tokenizer.IsSpecial(tokens[i - 1]) && tokens[i - 1] != tokenizer.unk_id()) return i;
  }
  return tokens.size();
}

absl::StatusOr<ChatEncoder::RenderedAnswer> ChatEncoder::RenderAnswer(const Conversation& chat, size_t index) const {
  ATTUNE_ASSIGN_OR_RETURN(std::string before, chat_->Render(FirstTurns(chat, index), true));
  ATTUNE_ASSIGN_OR_RETURN(std::string through, chat_->Render(FirstTurns(chat, index + 1), false));
  if (!absl::StartsWith(through, before)) return NotPrefixStable();
  return RenderedAnswer{std::move(through), before.size()};
}

absl::StatusOr<EncodedChat> ChatEncoder::Prompt(const Conversation& chat) const {
  const Turns& turns = chat.turns;
  EncodedChat out;
  ATTUNE_ASSIGN_OR_RETURN(out.text, chat_->Render(chat, true));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Span> unsafe, UnsafeSpans(chat, true, out.text));
  size_t position = 0;
  auto append = [&](size_t end, bool is_answer) {
    std::vector<int32_t> tokens = Encode(out.text, {position, end}, unsafe);
    size_t trained = is_answer ? AnswerTokens(tokens) : 0;
    out.tokens.insert(out.tokens.end(), tokens.begin(), tokens.end());
    out.has_loss.insert(out.has_loss.end(), trained, 1);
    out.has_loss.resize(out.tokens.size(), 0);
    position = end;
  };
  for (size_t i = 0; i < turns.size(); ++i) {
    if (!IsAssistant(turns[i])) continue;
    ATTUNE_ASSIGN_OR_RETURN(RenderedAnswer answer, RenderAnswer(chat, i));
    if (answer.begin < position || !absl::StartsWith(out.text, answer.text)) return NotPrefixStable();
    append(answer.begin, false);
    append(answer.text.size(), turns[i].trains);
  }
  append(out.text.size(), false);
  return out;
}

absl::StatusOr<EncodedChat> ChatEncoder::Answer(const Conversation& chat) const {
  ATTUNE_ASSIGN_OR_RETURN(RenderedAnswer answer, RenderAnswer(chat, chat.turns.size() - 1));
  ATTUNE_ASSIGN_OR_RETURN(std::vector<Span> unsafe, UnsafeSpans(chat, false, answer.text));
  EncodedChat out;
  out.tokens = Encode(answer.text, {answer.begin, answer.text.size()}, unsafe);
  size_t count = AnswerTokens(out.tokens);
  out.text = answer.text.substr(answer.begin);
  if (count < out.tokens.size()) {
    size_t dropped = 0;
    for (size_t i = count; i < out.tokens.size(); ++i) dropped += encoder_.tokenizer().TokenBytes(out.tokens[i]).size();
    out.text.resize(out.text.size() - std::min(dropped, out.text.size()));
    out.tokens.resize(count);
  }
  out.has_loss.assign(count, 1);
  return out;
}

absl::StatusOr<EncodedChat> ChatEncoder::PromptWithin(Conversation chat, int64_t room) const {
  const Turns& turns = chat.turns;
  ATTUNE_ASSIGN_OR_RETURN(EncodedChat encoded, Prompt(chat));
  auto fits = [room](const EncodedChat& chat) { return static_cast<int64_t>(chat.tokens.size()) <= room; };
  if (fits(encoded)) return encoded;

  const std::vector<size_t> starts = LaterStarts(turns);
  auto from = [&](size_t start) {
    Conversation kept{Turns(turns.begin(), turns.begin() + (HasSystem(turns) ? 1 : 0)), chat.tools};
    kept.turns.insert(kept.turns.end(), turns.begin() + static_cast<int64_t>(start), turns.end());
    return kept;
  };
  // The earliest start that fits; the last one if none does.
  size_t low = 0, high = starts.size();
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    ATTUNE_ASSIGN_OR_RETURN(EncodedChat shorter, Prompt(from(starts[middle])));
    if (fits(shorter)) {
      encoded = std::move(shorter);
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  if (!fits(encoded)) {
    if (!starts.empty()) chat = from(starts.back());
    ATTUNE_ASSIGN_OR_RETURN(encoded, Prompt(chat));
    ATTUNE_ASSIGN_OR_RETURN(encoded, CutContents(std::move(chat), std::move(encoded), room));
  }
  encoded.truncated = true;
  return encoded;
}

absl::StatusOr<EncodedChat> ChatEncoder::CutContents(Conversation chat, EncodedChat encoded, int64_t room) const {
  Turns& turns = chat.turns;
  auto longer = [](const ChatTurn& a, const ChatTurn& b) { return a.content.size() < b.content.size(); };
  while (room >= 0) {
    auto longest = std::max_element(turns.begin(), turns.end(), longer);
    if (longest == turns.end() || longest->content.empty()) break;
    const std::string content = longest->content;
    absl::Status failed;
    auto count = [&](absl::string_view part) {
      longest->content = std::string(part);
      absl::StatusOr<EncodedChat> shorter = Prompt(chat);
      if (!shorter.ok()) failed = shorter.status();
      return shorter.ok() ? shorter->tokens.size() : 0;
    };
    std::optional<std::string> part = FitText(content, Keep::kBeginning, encoded.tokens.size(), room, count);
    ATTUNE_RETURN_IF_ERROR(failed);
    longest->content = part.value_or("");
    ATTUNE_ASSIGN_OR_RETURN(encoded, Prompt(chat));
    if (part.has_value()) return encoded;
  }
  return MakeError(absl::StatusCode::kOutOfRange, "ANSWER_TOO_LONG",
                   absl::StrCat("The answer leaves ", std::max<int64_t>(room, 0),
                                " tokens, and the bare chat template needs ", encoded.tokens.size(), "."));
}

}  // namespace attune
