#ifndef ATTUNE_SERVER_ENGINE_ATTENTION_TILES_H_
#define ATTUNE_SERVER_ENGINE_ATTENTION_TILES_H_

#include <cstdint>
#include <vector>

namespace attune {

// What a segment of a batch asks of attention.
struct AttentionWork {
  int64_t queries = 0;  // new tokens
  int64_t keys = 0;     // tokens that the last of them sees
};

// How attention of a batch is cut into thread blocks: each has a tile of a segment's
// queries against a chunk of its keys. Holds no tensor; see PagedAttentionPlan of
// model/kernels/cuda/launch.h for the meaning of the lists.
struct AttentionTiles {
  int tile_rows = 16;
  int32_t chunk_tokens = 0;
  bool is_split = false;  // some segment's keys may lie in several chunks
  std::vector<int32_t> segments, queries, chunks;  // by tile
  std::vector<int32_t> row_parts;                  // by query token, and the end
  std::vector<int32_t> out_starts;                 // by segment, and the end
};

// Where a row's result must not depend on the batch, all tiles have these: those of other sizes read keys in
// other portions.
inline constexpr int kAlikeTileRows = 16;

// Rows of a tile, of 16, 64 and 128: few where segments are short. `group`: heads that share keys.
int ChooseTileRows(const std::vector<AttentionWork>& work, int64_t group);

// Chunks as small as `most_tiles` tiles allow, so that few segments fill the device, too, but
// no smaller than kMinChunkTokens; one chunk a segment if there are as many segments as tiles.
inline constexpr int64_t kMinChunkTokens = 64;
AttentionTiles CutAttention(const std::vector<AttentionWork>& work, int64_t group, int tile_rows, int64_t most_tiles);

// Tiles that a step of so many single tokens gets room for.
int64_t TilesFor(int64_t segments, int64_t kv_heads, int64_t processors);

}  // namespace attune

#endif  // ATTUNE_SERVER_ENGINE_ATTENTION_TILES_H_
