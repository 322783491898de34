#ifndef ATTUNE_SERVER_ENGINE_STEP_INPUTS_H_
#define ATTUNE_SERVER_ENGINE_STEP_INPUTS_H_

#include <cstdint>
#include <vector>

#include "server/engine/attention_tiles.h"

namespace attune {

// A piece of one sequence in a step, as numbers alone.
struct StepSegment {
  const int32_t* tokens = nullptr;  // the piece's ids; virtual tokens (negative) are read as id 0
  int32_t sampled_row = -1;         // >= 0: its one token is what this row of the step before chose
  int64_t count = 0;
  int64_t context = 0;              // tokens before it, cached
  const std::vector<int32_t>* pages = nullptr;
  int32_t adapter_slot = -1;        // of the grouped LoRA kernels; -1: none
  int64_t first_wanted = 0;         // logits are wanted after tokens first_wanted .. count - 1
  int32_t scale_slot = -1;          // of IA3's scales; -1: none
};

// What a step has room for: a captured step's sizes, or a batch's own.
struct AttentionRoom {
  int64_t segments = 0, rows = 0, tiles = 0;
};
struct StepRoom {
  int64_t rows = 0;    // tokens of all segments
  int64_t wanted = 0;  // rows of logits
  int64_t lora_tiles = 0;
  int64_t lora_rows = 0;  // the first ones, which the tiles are of: at least up to the last one under a LoRA
  AttentionRoom singles, longer;
};

// Where each list begins in the step's one vector of int32, counted in values.
struct AttentionOffsets {
  int64_t query_starts, page_starts, last_page_tokens, tile_segments, tile_queries, tile_chunks, tile_used, row_parts,
      out_starts, chunk_tokens, rows_used;
};
struct StepOffsets {
  int64_t tokens, positions, slots, scale_slots;  // by row
  int64_t lora_tiles;                          // cuda::LoraTile: three values each
  int64_t wanted_rows;                         // int64 values, on an even place
  AttentionOffsets singles, longer;
  int64_t pages;                               // the last list, as long as it needs to be
};
StepOffsets OffsetsFor(const StepRoom& room);

// Tiles of LoRA rows that the segments make in a step of so many rows: neighbours under one adapter share
// tiles, and so does the padding.
int64_t CountLoraTiles(const std::vector<StepSegment>& segments, int64_t rows);

// All that a step's kernels read, in one vector that goes to the device in one copy. Segments
// of one token come first, then the longer ones: each kind has attention tiles of its own.
// Rows beyond the batch's have slots of -1, no tile of attention, and tiles without a LoRA.
struct StepInputs {
  StepRoom room;
  StepOffsets offsets;
  int tile_rows_singles = 16, tile_rows_longer = 64;
  bool is_cut_longer = false;  // longer segments' keys lie in several chunks
  bool shares_loras = false;   // a LoRA tile of an adapter has several rows
  std::vector<int32_t> values;
};

// How rows are cut into tiles: as is fastest for the step, or so that a row's numbers are the same in every step, with
// attention tiles of kAlikeTileRows and a LoRA tile for each row.
enum class StepCutting { kBest, kAlike };

// REQUIRES: single-token segments first; `room`, if given, has room for all. `tiles_for_singles` and `tiles_for_longer`: how many tiles each kind may be cut into; 0: a
// segment's keys stay together. `most_parts`: of all rows of longer segments, else they stay together, too.
StepInputs MakeStepInputs(const std::vector<StepSegment>& segments, int64_t page_tokens, int64_t group,
                          int64_t tiles_for_singles, const StepRoom* room = nullptr, int64_t tiles_for_longer = 0,
                          int64_t most_parts = 0, StepCutting cutting = StepCutting::kBest);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_STEP_INPUTS_H_
