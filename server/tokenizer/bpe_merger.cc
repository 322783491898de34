#include "server/tokenizer/bpe_merger.h"

#include <queue>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/tokenizer/vocabulary_tokenizer.h"

namespace attune {
namespace {

// Up to here looking at all pairs again after each merge beats a heap.
constexpr size_t kShortWord = 32;

uint64_t Key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<BpeMerger> BpeMerger::Create(const std::vector<std::string>& tokens, const BpeMerges& merges) {
  if (merges.size() > 2 * kMaxVocabulary) return UnsupportedTokenizer("it has too many merges");
  absl::flat_hash_map<absl::string_view, int32_t> index;
  index.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) index.try_emplace(tokens[id], static_cast<int32_t>(id));
  BpeMerger merger;
  merger.merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const auto a = index.find(left), b = index.find(right), both = index.find(absl::StrCat(left, right));
    if (a == index.end() || b == index.end() || both == index.end()) {
      return UnsupportedTokenizer(absl::StrCat("merge ", rank, " (\"", left, "\" with \"", right,
                                               "\") names a token that the vocabulary lacks"));
    }
    merger.merges_[Key(a->second, b->second)] = {static_cast<int32_t>(rank), both->second};
  }
  return merger;
}

BpeMerger BpeMerger::OfRankedTokens(const std::vector<std::string>& tokens) {
  absl::flat_hash_map<absl::string_view, int32_t> index;
  index.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].empty()) index.try_emplace(tokens[id], static_cast<int32_t>(id));
  }
  BpeMerger merger;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const absl::string_view token = tokens[id];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = index.find(token.substr(0, cut)), right = index.find(token.substr(cut));
      if (left == index.end() || right == index.end()) continue;
      const int32_t rank = static_cast<int32_t>(id);
      merger.merges_.try_emplace(Key(left->second, right->second), Merge{rank, rank});
    }
  }
  return merger;
}

BpeMerger::Merge BpeMerger::Find(int32_t left, int32_t right) const {
  const auto it = merges_.find(Key(left, right));
  return it == merges_.end() ? Merge() : it->second;
}

void BpeMerger::Apply(std::vector<int32_t>* symbols) const {
  if (symbols->size() < 2) return;
  symbols->size() <= kShortWord ? ApplyShort(symbols) : ApplyLong(symbols);
}

void BpeMerger::ApplyShort(std::vector<int32_t>* symbols) const {
  Merge pairs[kShortWord];  // pairs[i]: symbol i with i + 1
  size_t count = symbols->size();
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = Find((*symbols)[i], (*symbols)[i + 1]);
  while (count > 1) {
    int best = -1;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (pairs[i].rank >= 0 && (best < 0 || pairs[i].rank < pairs[best].rank)) best = static_cast<int>(i);
    }
    if (best < 0) break;
    (*symbols)[best] = pairs[best].id;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      (*symbols)[i] = (*symbols)[i + 1];
      pairs[i] = pairs[i + 1];
    }
    --count;
    if (best > 0) pairs[best - 1] = Find((*symbols)[best - 1], (*symbols)[best]);
    if (best + 1 < count) pairs[best] = Find((*symbols)[best], (*symbols)[best + 1]);
  }
  symbols->resize(count);
}

void BpeMerger::ApplyLong(std::vector<int32_t>* symbols) const {
  constexpr int32_t kGone = -2;
  const int32_t count = static_cast<int32_t>(symbols->size());
  std::vector<int32_t> next(count), previous(count);
  std::vector<bool> gone(count, false);
  // Rank, place, and the pair that stood there: a stale entry is told by its pair.
  using Entry = std::tuple<int32_t, int32_t, int32_t, int32_t>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> queue;
  const auto push = [&](int32_t left) {
    const int32_t right = next[left];
    if (right == kGone) return;
    const Merge merge = Find((*symbols)[left], (*symbols)[right]);
    if (merge.rank >= 0) queue.emplace(merge.rank, left, (*symbols)[left], (*symbols)[right]);
  };
  for (int32_t i = 0; i < count; ++i) {
    previous[i] = i == 0 ? kGone : i - 1;
    next[i] = i + 1 == count ? kGone : i + 1;
  }
  for (int32_t i = 0; i < count; ++i) push(i);
  while (!queue.empty()) {
    const auto [rank, left, left_id, right_id] = queue.top();
    queue.pop();
    const int32_t right = gone[left] ? kGone : next[left];
    if (right == kGone || (*symbols)[left] != left_id || (*symbols)[right] != right_id) continue;
    (*symbols)[left] = Find(left_id, right_id).id;
    gone[right] = true;
    next[left] = next[right];
    if (next[left] != kGone) previous[next[left]] = left;
    if (previous[left] != kGone) push(previous[left]);
    push(left);
  }
  size_t kept = 0;
  for (int32_t i = 0; i != kGone; i = next[i]) (*symbols)[kept++] = (*symbols)[i];
  symbols->resize(kept);
}

}  // namespace attune
