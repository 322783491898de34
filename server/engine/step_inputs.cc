#include "server/engine/step_inputs.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "server/model/kernels/cuda/launch.h"

namespace attune {
namespace {

// Takes places in the vector one behind the other.
struct Places {
  int64_t next = 0;
  int64_t Take(int64_t count) {
    const int64_t at = next;
    next += (count + 3) / 4 * 4;  // each list on 16 bytes
    return at;
  }
};

AttentionOffsets Take(const AttentionRoom& room, Places* places) {
  AttentionOffsets o;
  o.query_starts = places->Take(room.segments + 1);
  o.page_starts = places->Take(room.segments + 1);
  o.last_page_tokens = places->Take(room.segments);
  o.tile_segments = places->Take(room.tiles);
  o.tile_queries = places->Take(room.tiles);
  o.tile_chunks = places->Take(room.tiles);
  o.tile_used = places->Take((room.tiles + 3) / 4);
  o.row_parts = places->Take(room.rows + 1);
  o.out_starts = places->Take(room.segments + 1);
  o.chunk_tokens = places->Take(1);
  o.rows_used = places->Take(1);
  return o;
}

int32_t SlotOf(const StepSegment& segment, int64_t position, int64_t page_tokens) {
  return static_cast<int32_t>((*segment.pages)[position / page_tokens] * page_tokens + position % page_tokens);
}

void FillRows(const std::vector<StepSegment>& segments, int64_t page_tokens, StepInputs* in) {
  int32_t* v = in->values.data();
  const StepOffsets& o = in->offsets;
  int64_t row = 0, wanted = 0;
  for (const StepSegment& s : segments) {
    for (int64_t i = 0; i < s.count; ++i, ++row) {
      v[o.tokens + row] = s.sampled_row >= 0 ? -1 - s.sampled_row : std::max(s.tokens[i], 0);
      v[o.positions + row] = static_cast<int32_t>(s.context + i);
      v[o.slots + row] = SlotOf(s, s.context + i, page_tokens);
      v[o.scale_slots + row] = s.scale_slot;
      if (i < s.first_wanted) continue;
      const int64_t at = row;
      std::memcpy(v + o.wanted_rows + 2 * wanted++, &at, sizeof(at));
    }
  }
  for (; row < in->room.rows; ++row) v[o.slots + row] = v[o.scale_slots + row] = -1;
}

// Of the first `rows` rows: neighbours under the same adapter, up to a tile's rows at a time.
std::vector<cuda::LoraTile> LoraTiles(const std::vector<StepSegment>& segments, int64_t rows, int64_t tile_rows) {
  std::vector<cuda::LoraTile> tiles;
  int32_t row = 0;
  auto add = [&](int32_t slot, int64_t count) {
    while (count > 0) {
      const bool begins = tiles.empty() || tiles.back().slot != slot || tiles.back().rows == tile_rows;
      if (begins) tiles.push_back({slot, row, 0});
      const int64_t taken = std::min<int64_t>(count, tile_rows - tiles.back().rows);
      tiles.back().rows += static_cast<int32_t>(taken);
      row += static_cast<int32_t>(taken);
      count -= taken;
    }
  };
  for (const StepSegment& s : segments) add(s.adapter_slot, std::min(s.count, rows - row));
  add(-1, rows - row);
  return tiles;
}

// The list, its last value again in the places that are left.
void Copy(const std::vector<int32_t>& from, int64_t room, int32_t* to) {
  std::copy(from.begin(), from.end(), to);
  if (!from.empty()) std::fill(to + from.size(), to + room, from.back());
}

void FillAttention(const StepSegment* begin, const StepSegment* end, int64_t page_tokens, const AttentionTiles& tiles,
                   const AttentionRoom& room, const AttentionOffsets& o, StepInputs* in) {
  std::vector<int32_t> queries = {0}, page_starts = {static_cast<int32_t>(in->values.size() - in->offsets.pages)}, last;
  for (const StepSegment* s = begin; s < end; ++s) {
    const int64_t keys = s->context + s->count, pages = (keys + page_tokens - 1) / page_tokens;
    queries.push_back(queries.back() + static_cast<int32_t>(s->count));
    in->values.insert(in->values.end(), s->pages->begin(), s->pages->begin() + pages);
    page_starts.push_back(page_starts.back() + static_cast<int32_t>(pages));
    last.push_back(static_cast<int32_t>(keys - (pages - 1) * page_tokens));
  }
  int32_t* v = in->values.data();
  Copy(queries, room.segments + 1, v + o.query_starts);
  Copy(page_starts, room.segments + 1, v + o.page_starts);
  Copy(last, room.segments, v + o.last_page_tokens);
  Copy(tiles.segments, room.tiles, v + o.tile_segments);
  Copy(tiles.queries, room.tiles, v + o.tile_queries);
  Copy(tiles.chunks, room.tiles, v + o.tile_chunks);
  Copy(tiles.row_parts, room.rows + 1, v + o.row_parts);
  Copy(tiles.out_starts, room.segments + 1, v + o.out_starts);
  auto* used = reinterpret_cast<uint8_t*>(v + o.tile_used);
  std::fill(used, used + tiles.segments.size(), 1);
  std::fill(used + tiles.segments.size(), used + room.tiles, 0);
  v[o.chunk_tokens] = tiles.chunk_tokens;
  v[o.rows_used] = queries.back();
}

std::vector<AttentionWork> WorkOf(const StepSegment* begin, const StepSegment* end) {
  std::vector<AttentionWork> work;
  for (const StepSegment* s = begin; s < end; ++s) work.push_back({s->count, s->context + s->count});
  return work;
}

}  // namespace

StepOffsets OffsetsFor(const StepRoom& room) {
  Places places;
  StepOffsets o;
  o.tokens = places.Take(room.rows);
  o.positions = places.Take(room.rows);
  o.slots = places.Take(room.rows);
  o.scale_slots = places.Take(room.rows);
  o.lora_tiles = places.Take(room.lora_tiles * static_cast<int64_t>(sizeof(cuda::LoraTile) / sizeof(int32_t)));
  o.wanted_rows = places.Take(2 * room.wanted);
  o.singles = Take(room.singles, &places);
  o.longer = Take(room.longer, &places);
  o.pages = places.next;
  return o;
}

int64_t CountLoraTiles(const std::vector<StepSegment>& segments, int64_t rows) {
  return static_cast<int64_t>(LoraTiles(segments, rows, cuda::kLoraTileRows).size());
}

StepInputs MakeStepInputs(const std::vector<StepSegment>& segments, int64_t page_tokens, int64_t group,
                          int64_t tiles_for_singles, const StepRoom* room, int64_t tiles_for_longer,
                          int64_t most_parts, StepCutting cutting) {
  StepInputs in;
  const bool is_alike = cutting == StepCutting::kAlike;
  const int64_t lora_rows = is_alike ? 1 : cuda::kLoraTileRows;
  const StepSegment *begin = segments.data(), *end = begin + segments.size();
  const StepSegment* middle = std::find_if(begin, end, [](const StepSegment& s) { return s.count != 1; });
  const std::vector<AttentionWork> singles = WorkOf(begin, middle), longer = WorkOf(middle, end);
  in.tile_rows_singles = is_alike ? kAlikeTileRows : ChooseTileRows(singles, group);
  in.tile_rows_longer = is_alike ? kAlikeTileRows : ChooseTileRows(longer, group);
  const AttentionTiles single_tiles = CutAttention(singles, group, in.tile_rows_singles, tiles_for_singles);
  AttentionTiles longer_tiles = CutAttention(longer, group, in.tile_rows_longer, tiles_for_longer);
  if (longer_tiles.is_split && longer_tiles.out_starts.back() > most_parts) {
    longer_tiles = CutAttention(longer, group, in.tile_rows_longer, 0);
  }
  in.is_cut_longer = longer_tiles.is_split;
  std::vector<cuda::LoraTile> lora_tiles;
  if (room) {
    in.room = *room;
    lora_tiles = LoraTiles(segments, room->lora_rows, lora_rows);
  } else {
    for (const StepSegment& s : segments) {
      in.room.rows += s.count;
      in.room.wanted += s.count - std::min(s.count, s.first_wanted);
    }
    lora_tiles = LoraTiles(segments, in.room.rows, lora_rows);
    while (!lora_tiles.empty() && lora_tiles.back().slot < 0) lora_tiles.pop_back();
    in.room.lora_tiles = static_cast<int64_t>(lora_tiles.size());
    in.room.singles = {middle - begin, middle - begin, static_cast<int64_t>(single_tiles.segments.size())};
    in.room.longer = {end - middle, in.room.rows - in.room.singles.rows,
                      static_cast<int64_t>(longer_tiles.segments.size())};
  }
  in.shares_loras = std::any_of(lora_tiles.begin(), lora_tiles.end(), [](const cuda::LoraTile& t) { return t.slot >= 0 && t.rows > 1; });
  in.offsets = OffsetsFor(in.room);
  in.values.assign(in.offsets.pages, 0);
  FillRows(segments, page_tokens, &in);
  std::memcpy(in.values.data() + in.offsets.lora_tiles, lora_tiles.data(), lora_tiles.size() * sizeof(cuda::LoraTile));
  FillAttention(begin, middle, page_tokens, single_tiles, in.room.singles, in.offsets.singles, &in);
  FillAttention(middle, end, page_tokens, longer_tiles, in.room.longer, in.offsets.longer, &in);
  return in;
}

}  // namespace attune
