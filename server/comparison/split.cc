#include "server/comparison/split.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "common/shuffle.h"
#include "server/evaluation/measures/random.h"

namespace attune {
namespace {

// Rows of one text, or of one label's texts.
using Group = std::vector<int64_t>;

// Groups of equal texts, those of each label in an order that the seed decides, label after label.
std::vector<std::vector<Group>> GroupsByLabel(const std::vector<SplitRow>& rows, const std::vector<int64_t>& among,
                                              uint64_t seed) {
  std::map<std::string, std::map<std::string, Group>> by_label;
  std::map<std::string, std::string> first_label;
  for (int64_t row : among) {
    // A text with several labels goes with its first.
    const std::string& label = first_label.try_emplace(rows[row].text, rows[row].label).first->second;
    by_label[label][rows[row].text].push_back(row);
  }
  CounterRandom random(seed);
  std::vector<std::vector<Group>> labels;
  for (auto& [label, texts] : by_label) {
    std::vector<Group> groups;
    for (auto& [text, group] : texts) groups.push_back(std::move(group));
    Shuffle(&groups, [&](int64_t count) { return random.Below(count); });
    labels.push_back(std::move(groups));
  }
  return labels;
}

// All groups in one list in which every beginning has about each label's share: the i-th of a label's n groups
// stands at (i + 1/2) / n.
std::vector<Group> Interleaved(std::vector<std::vector<Group>> labels) {
  std::vector<std::pair<double, Group>> placed;
  for (std::vector<Group>& groups : labels) {
    const double n = static_cast<double>(groups.size());
    for (size_t i = 0; i < groups.size(); ++i) placed.emplace_back((static_cast<double>(i) + 0.5) / n, std::move(groups[i]));
  }
  std::stable_sort(placed.begin(), placed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Group> all;
  for (auto& [place, group] : placed) all.push_back(std::move(group));
  return all;
}

}  // namespace

std::vector<int64_t> AllRows(size_t count) {
  std::vector<int64_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

SplitParts SplitRows(const std::vector<SplitRow>& rows, const SplitSizes& sizes, uint64_t seed) {
  const std::vector<Group> groups = Interleaved(GroupsByLabel(rows, AllRows(rows.size()), seed));
  SplitParts parts;
  for (const Group& group : groups) {
    std::vector<int64_t>* to = &parts.train;
    if (static_cast<int64_t>(parts.test.size()) < sizes.test) {
      to = &parts.test;
    } else if (static_cast<int64_t>(parts.validation.size()) < sizes.validation) {
      to = &parts.validation;
    }
    to->insert(to->end(), group.begin(), group.end());
  }
  for (std::vector<int64_t>* part : {&parts.train, &parts.validation, &parts.test}) std::sort(part->begin(), part->end());
  return parts;
}

std::vector<int64_t> SampleRows(const std::vector<SplitRow>& rows, const std::vector<int64_t>& among, int64_t count,
                                uint64_t seed) {
  if (static_cast<int64_t>(among.size()) <= count) return among;
  std::vector<int64_t> taken;
  for (const Group& group : Interleaved(GroupsByLabel(rows, among, seed))) {
    for (int64_t row : group) {
      if (static_cast<int64_t>(taken.size()) < count) taken.push_back(row);
    }
  }
  std::sort(taken.begin(), taken.end());
  return taken;
}

}  // namespace attune
