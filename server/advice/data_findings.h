#ifndef ATTUNE_SERVER_ADVICE_DATA_FINDINGS_H_
#define ATTUNE_SERVER_ADVICE_DATA_FINDINGS_H_

#include <cstdint>
#include <vector>

#include "server/advice/finding.h"
#include "server/comparison/split.h"

// What a task's data shows before anything is trained. Pure. Definitions: server/evaluation/README.md.
namespace attune {

struct DataView {
  std::vector<SplitRow> train;
  std::vector<SplitRow> test;          // empty: none was given, a part of `train` will be held out
  bool has_labels = false;             // answers are chosen among labels
  std::vector<double> example_tokens;  // of whole examples; a sample is enough
  std::vector<double> answer_tokens;
  int64_t context_tokens = 0;  // of the model, or the limit that examples are cut to; 0: unknown
};

// Rows, token lengths, labels and their balance, duplicates, conflicting labels, leakage. Near duplicates are looked
// for among the first 20,000 rows.
std::vector<Finding> FindInData(const DataView& data);

// Rows as a model sees them: one vector after the other, all of a length.
struct EmbeddedRows {
  std::vector<int64_t> rows;  // indices of DataView::train
  std::vector<float> features;
};
// Rows whose nearest neighbours outvote their label, as a share of those looked at. Vectors are centred first: a
// language model's mean hidden states share one large direction. Labels with fewer than 11 rows are left out, since
// their rows cannot have 10 neighbours of their own. Empty if too few rows remain.
std::vector<Finding> FindLabelNoiseIn(const DataView& data, const EmbeddedRows& embedded);

}  // namespace attune

#endif  // ATTUNE_SERVER_ADVICE_DATA_FINDINGS_H_
