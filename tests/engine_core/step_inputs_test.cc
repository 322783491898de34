#include "server/engine/step_inputs.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <tuple>
#include <vector>

namespace attune {
namespace {

constexpr int64_t kPage = 4;

// Every (query row, key) pair that causality asks for is in exactly one tile.
TEST(AttentionTilesTest, CoverEachSegmentOnce) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const int64_t group = 1 + random() % 8, most = random() % 60;
    std::vector<AttentionWork> work;
    for (int i = 0; i < 1 + static_cast<int>(random() % 9); ++i) {
      const int64_t queries = random() % 2 ? 1 : 1 + random() % 90;
      work.push_back({queries, queries + static_cast<int64_t>(random() % 700)});
    }
    const int tile_rows = ChooseTileRows(work, group);
    const AttentionTiles tiles = CutAttention(work, group, tile_rows, most);
    std::set<std::tuple<int, int, int>> seen;
    std::vector<int64_t> parts(work.size()), rows(work.size());
    for (size_t t = 0; t < tiles.segments.size(); ++t) {
      EXPECT_TRUE(seen.insert({tiles.segments[t], tiles.queries[t], tiles.chunks[t]}).second);
      const size_t s = tiles.segments[t];
      parts[s] = std::max<int64_t>(parts[s], tiles.chunks[t] + 1);
      rows[s] = std::max<int64_t>(rows[s], tiles.queries[t] + 1);
    }
    size_t expected = 0, row = 0;
    for (size_t s = 0; s < work.size(); ++s) {
      EXPECT_GE(parts[s] * tiles.chunk_tokens, work[s].keys);
      EXPECT_LT((parts[s] - 1) * tiles.chunk_tokens, work[s].keys);
      EXPECT_GE(rows[s] * tile_rows, work[s].queries * group);
      EXPECT_LT((rows[s] - 1) * tile_rows, work[s].queries * group);
      expected += parts[s] * rows[s];
      EXPECT_EQ(tiles.out_starts[s], tiles.row_parts[row]);
      for (int64_t q = 0; q < work[s].queries; ++q, ++row) {
        EXPECT_EQ(tiles.row_parts[row + 1] - tiles.row_parts[row], parts[s]);
      }
    }
    EXPECT_EQ(seen.size(), expected);
    EXPECT_EQ(tiles.out_starts.back(), tiles.row_parts.back());
    // Few enough, unless even one chunk each is more.
    const AttentionTiles whole = CutAttention(work, group, tile_rows, 0);
    EXPECT_FALSE(whole.is_split);
    EXPECT_LE(tiles.segments.size(), std::max<size_t>(most, whole.segments.size()));
  }
}

TEST(AttentionTilesTest, FewSegmentsAreCutToFillTheDevice) {
  const AttentionTiles one = CutAttention({{1, 1000}}, 8, 16, TilesFor(1, 4, 132));
  EXPECT_EQ(one.segments.size(), 16u);  // chunks of kMinChunkTokens
  EXPECT_TRUE(one.is_split);
  const std::vector<AttentionWork> many(100, {1, 1000});
  EXPECT_FALSE(CutAttention(many, 8, 16, TilesFor(100, 4, 132)).is_split);
}

TEST(StepInputsTest, SinglesThenLongerSegments) {
  const std::vector<int32_t> tokens = {7, 8, 9, -1, -2, 5};
  const std::vector<int32_t> pages_a = {3, 1}, pages_b = {2}, pages_c = {5, 0};
  // A decoding step whose token is still on the device, one whose token is known, and a
  // prompt's piece with two virtual tokens of which the last row is wanted.
  const std::vector<StepSegment> segments = {{nullptr, 4, 1, 5, &pages_a, 2, 0},
                                             {tokens.data(), -1, 1, 2, &pages_b, -1, 0, /*scale_slot=*/6},
                                             {tokens.data() + 3, -1, 3, 3, &pages_c, -1, 2}};
  const StepInputs in = MakeStepInputs(segments, kPage, 2, 10);
  const int32_t* v = in.values.data();
  auto list = [&](int64_t at, int64_t n) { return std::vector<int32_t>(v + at, v + at + n); };
  const StepOffsets& o = in.offsets;
  EXPECT_EQ(in.room.rows, 5);
  EXPECT_EQ(in.room.wanted, 3);
  EXPECT_EQ(list(o.tokens, 5), (std::vector<int32_t>{-5, 7, 0, 0, 5}));
  EXPECT_EQ(list(o.positions, 5), (std::vector<int32_t>{5, 2, 3, 4, 5}));
  EXPECT_EQ(list(o.slots, 5), (std::vector<int32_t>{1 * kPage + 1, 2 * kPage + 2, 5 * kPage + 3, 0, 1}));
  EXPECT_EQ(list(o.scale_slots, 5), (std::vector<int32_t>{-1, 6, -1, -1, -1}));
  EXPECT_EQ(in.room.lora_tiles, 1);
  EXPECT_EQ(list(o.lora_tiles, 3), (std::vector<int32_t>{2, 0, 1}));
  int64_t wanted[3];
  std::memcpy(wanted, v + o.wanted_rows, sizeof(wanted));
  EXPECT_EQ(wanted[0], 0);
  EXPECT_EQ(wanted[1], 1);
  EXPECT_EQ(wanted[2], 4);
  EXPECT_EQ(in.room.singles.segments, 2);
  EXPECT_EQ(list(o.singles.query_starts, 3), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(list(o.singles.page_starts, 3), (std::vector<int32_t>{0, 2, 3}));
  EXPECT_EQ(list(o.singles.last_page_tokens, 2), (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(v[o.singles.rows_used], 2);
  EXPECT_EQ(list(o.longer.query_starts, 2), (std::vector<int32_t>{0, 3}));
  EXPECT_EQ(list(o.longer.page_starts, 2), (std::vector<int32_t>{3, 5}));
  EXPECT_EQ(list(o.longer.last_page_tokens, 1), (std::vector<int32_t>{2}));
  EXPECT_EQ(list(o.pages, 5), (std::vector<int32_t>{3, 1, 2, 5, 0}));
}

// Neighbours under one adapter share tiles, whichever sequence they are of.
TEST(StepInputsTest, LoraTilesAreCutWhereAdaptersChange) {
  const std::vector<int32_t> tokens(40, 1), pages = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const std::vector<StepSegment> segments = {{tokens.data(), -1, 1, 0, &pages, 3, 0},
                                             {tokens.data(), -1, 1, 0, &pages, 3, 0},
                                             {tokens.data(), -1, 20, 0, &pages, 3, 0},
                                             {tokens.data(), -1, 5, 0, &pages, 0, 0},
                                             {tokens.data(), -1, 3, 0, &pages, -1, 0}};
  const StepInputs in = MakeStepInputs(segments, kPage, 1, 0);
  EXPECT_EQ(in.room.lora_tiles, 3);
  const int32_t* tiles = in.values.data() + in.offsets.lora_tiles;
  EXPECT_EQ(std::vector<int32_t>(tiles, tiles + 9), (std::vector<int32_t>{3, 0, 16, 3, 16, 6, 0, 22, 5}));
}

// In a captured step's room, the places that are left do nothing.
TEST(StepInputsTest, PaddedToACapturedStepsRoom) {
  const std::vector<int32_t> token = {7}, pages = {3};
  const std::vector<StepSegment> segments = {{token.data(), -1, 1, 0, &pages, -1, 0},
                                             {token.data(), -1, 1, 2, &pages, 1, 0}};
  const StepRoom room{4, 0, 4, 4, {4, 4, 6}, {}};
  const StepInputs in = MakeStepInputs(segments, kPage, 1, room.singles.tiles, &room);
  const StepOffsets o = OffsetsFor(room);
  const int32_t* v = in.values.data();
  EXPECT_EQ(in.offsets.pages, o.pages);
  EXPECT_EQ(v[o.slots + 2], -1);
  EXPECT_EQ(v[o.slots + 3], -1);
  EXPECT_EQ(v[o.scale_slots + 3], -1);
  // One row of none, one of an adapter, the padding's two, and no fourth tile.
  EXPECT_EQ(std::vector<int32_t>(v + o.lora_tiles, v + o.lora_tiles + 12),
            (std::vector<int32_t>{-1, 0, 1, 1, 1, 1, -1, 2, 2, 0, 0, 0}));
  const auto* used = reinterpret_cast<const uint8_t*>(v + o.singles.tile_used);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(used[i], i < 2);
  EXPECT_EQ(v[o.singles.rows_used], 2);
  EXPECT_EQ(v[o.singles.row_parts + 4], 2);
}

// Only rows that may be under LoRAs have tiles: what lies behind is nobody's.
TEST(StepInputsTest, RowsBehindTheLastLoraHaveNoTile) {
  const std::vector<int32_t> token = {7}, pages = {3};
  std::vector<StepSegment> segments(6, {token.data(), -1, 1, 0, &pages, -1, 0});
  segments[0].adapter_slot = 5;
  segments[1].adapter_slot = 2;
  const StepRoom room{8, 0, 4, 4, {8, 8, 8}, {}};
  const StepInputs in = MakeStepInputs(segments, kPage, 1, room.singles.tiles, &room);
  const int32_t* tiles = in.values.data() + in.offsets.lora_tiles;
  EXPECT_EQ(std::vector<int32_t>(tiles, tiles + 12), (std::vector<int32_t>{5, 0, 1, 2, 1, 1, -1, 2, 2, 0, 0, 0}));
  EXPECT_EQ(CountLoraTiles(segments, 4), 3);
  EXPECT_FALSE(in.shares_loras);
  segments[1].adapter_slot = 5;
  EXPECT_TRUE(MakeStepInputs(segments, kPage, 1, room.singles.tiles, &room).shares_loras);
}

}  // namespace
}  // namespace attune
