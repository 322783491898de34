#include "server/engine/attention_tiles.h"

#include <algorithm>

namespace attune {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t CountTiles(const std::vector<AttentionWork>& work, int64_t group, int tile_rows, int64_t chunk) {
  int64_t tiles = 0;
  for (const AttentionWork& w : work) tiles += CeilDiv(w.queries * group, tile_rows) * CeilDiv(w.keys, chunk);
  return tiles;
}

// The least multiple of kMinChunkTokens that needs no more tiles than there are.
int64_t ChooseChunk(const std::vector<AttentionWork>& work, int64_t group, int tile_rows, int64_t most_tiles) {
  int64_t longest = 1;
  for (const AttentionWork& w : work) longest = std::max(longest, w.keys);
  int64_t low = 1, high = CeilDiv(longest, kMinChunkTokens);  // in kMinChunkTokens; `high` is one chunk each
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (CountTiles(work, group, tile_rows, middle * kMinChunkTokens) <= most_tiles) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return high * kMinChunkTokens;
}

}  // namespace

int ChooseTileRows(const std::vector<AttentionWork>& work, int64_t group) {
  int64_t rows = 0;
  for (const AttentionWork& w : work) rows += w.queries * group;
  const int64_t mean = work.empty() ? 0 : rows / static_cast<int64_t>(work.size());
  return mean <= 16 ? 16 : mean <= 64 ? 64 : 128;
}

AttentionTiles CutAttention(const std::vector<AttentionWork>& work, int64_t group, int tile_rows, int64_t most_tiles) {
  AttentionTiles tiles;
  tiles.tile_rows = tile_rows;
  const int64_t chunk = ChooseChunk(work, group, tile_rows, most_tiles);
  tiles.chunk_tokens = static_cast<int32_t>(chunk);
  tiles.row_parts.push_back(0);
  tiles.out_starts.push_back(0);
  for (size_t i = 0; i < work.size(); ++i) {
    const int64_t parts = CeilDiv(work[i].keys, chunk);
    tiles.is_split = tiles.is_split || parts > 1;
    for (int64_t q = 0; q < CeilDiv(work[i].queries * group, tile_rows); ++q) {
      for (int64_t part = 0; part < parts; ++part) {
        tiles.segments.push_back(static_cast<int32_t>(i));
        tiles.queries.push_back(static_cast<int32_t>(q));
        tiles.chunks.push_back(static_cast<int32_t>(part));
      }
    }
    for (int64_t row = 0; row < work[i].queries; ++row) {
      tiles.row_parts.push_back(tiles.row_parts.back() + static_cast<int32_t>(parts));
    }
    tiles.out_starts.push_back(tiles.row_parts.back());
  }
  return tiles;
}

int64_t TilesFor(int64_t segments, int64_t kv_heads, int64_t processors) {
  // Two blocks a processor keep the memory busy.
  const int64_t wanted = CeilDiv(2 * processors, kv_heads);
  return std::max(segments, wanted);
}

}  // namespace attune
