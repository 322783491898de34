#ifndef ATTUNE_SERVER_MODEL_KERNELS_CUDA_LAUNCH_H_
#define ATTUNE_SERVER_MODEL_KERNELS_CUDA_LAUNCH_H_

#include <cstdint>

struct CUstream_st;

// The hand-written CUDA kernels, on raw device pointers so that nvcc sees no torch
// header. Matrices are row-major and contiguous unless a stride is given; statistics
// are fp32. Each call launches on `stream` and returns; none synchronises, allocates
// or adds in an order that varies, so all may be captured into a CUDA graph and give
// the same bits each time. A launch that fails throws std::runtime_error; what fails
// while it runs surfaces at the next synchronisation.
namespace attune::cuda {

// False in a build without nvcc, and on a GPU that the kernels were not built for: then
// nothing else here may be called.
bool Available();

using Stream = CUstream_st*;
enum class Type { kFloat32, kBfloat16 };  // of `void*` matrices

// y = x * r * w with r = 1 / sqrt(mean(x^2) + epsilon), one a row, written to inverse_rms_T.
// With delta_TD not null, of x + delta, which is written to sum_TD.
void RmsNormForward(Type type, const void* x_TD, const void* delta_TD, const void* w_D, double epsilon, void* sum_TD,
                    void* y_TD, float* inverse_rms_T, int64_t rows, int64_t columns, Stream stream);
// dx of the above, plus `residual_TD` if not null (may be dx_TD itself).
void RmsNormBackward(Type type, const void* dy_TD, const void* x_TD, const void* w_D, const float* inverse_rms_T,
                     const void* residual_TD, void* dx_TD, int64_t rows, int64_t columns, Stream stream);
// The same, and dw_D (fp32) += the gradient of w. `partials`: kNormStrips x columns floats of
// scratch. Only for rows as wide as RmsNormBackwardTakesWeight allows: 8192 in bf16.
inline constexpr int kNormStrips = 1056;
bool RmsNormBackwardTakesWeight(Type type, int64_t columns);
void RmsNormBackwardAndWeight(Type type, const void* dy_TD, const void* x_TD, const void* w_D,
                              const float* inverse_rms_T, const void* residual_TD, void* dx_TD, float* partials,
                              float* dw_D, int64_t rows, int64_t columns, Stream stream);

// out = silu(gate) * up of gate_up_T2I, gate's columns first.
void SwiGluForward(Type type, const void* gate_up_T2I, void* out_TI, int64_t rows, int64_t inner, Stream stream);
void SwiGluBackward(Type type, const void* gate_up_T2I, const void* dout_TI, void* dgate_up_T2I, int64_t rows,
                    int64_t inner, Stream stream);

struct RopeShape {
  int64_t heads, kv_heads, head_dim;
};
// Rotates the query and key columns of qkv_TE in place; `inverse` rotates back.
// cos_PH and sin_PH have H = head_dim / 2 columns.
void RopeInPlace(Type type, void* qkv_TE, int64_t row_stride, const float* cos_PH, const float* sin_PH,
                 const int64_t* positions_T, int64_t tokens, RopeShape shape, bool inverse, Stream stream);
// Gradients of rotated queries and keys and of values, T x heads x head_dim each,
// rotated back and packed into dqkv_TE.
void RopeBackwardPack(Type type, const void* dq, const void* dk, const void* dv, const float* cos_PH,
                      const float* sin_PH, const int64_t* positions_T, int64_t tokens, RopeShape shape, void* dqkv_TE,
                      Stream stream);

// y = x where the mask of (seed, index) keeps it, scaled by 1 / (1 - p), plus
// `addend` if not null (may be y itself); else 0 plus addend. The mask is the CPU's.
// `step_seed`, if not null, is a value on the device that the seed is mixed from
// (DropoutSeed of mixed_bits.h): a captured launch then draws anew at each replay. `first`
// is x's place in the matrix that the mask is for.
void Dropout(Type type, const void* x, const void* addend, double p, const int64_t* step_seed, uint32_t seed,
             int64_t first, void* y, int64_t count, Stream stream);
// The same where rows are of several steps' matrices: row t's mask is that of row rows_T[t]
// of the matrix that mask number `which` of step_seeds_T[t] is for.
void DropoutRows(Type type, const void* x_TD, const void* addend_TD, double p, const int64_t* step_seeds_T,
                 const int64_t* rows_T, uint32_t which, void* y_TD, int64_t rows, int64_t columns, Stream stream);

// Adds NEFTune's noise to x_TD in place: see embedding_noise.h. `starts`: sequences + 1 rows. The seed is on the
// device where `step_seed` is not null.
void EmbeddingNoise(Type type, void* x_TD, const int64_t* ids_T, const int32_t* starts, int64_t sequences,
                    int64_t virtual_tokens, double alpha, const int64_t* step_seed, int64_t seed_value, int64_t rows,
                    int64_t columns, Stream stream);

// Per row: losses_N[r] = -log softmax(logits)[target], correct_N[r] whether the target
// is the likeliest, and the logits become (softmax - onehot) * scale[r * scale_stride] (1 if null).
// A negative target leaves zeros.
void SoftmaxLoss(Type type, void* logits_NV, const int64_t* targets_N, const float* scale, int64_t scale_stride,
                 float* losses_N, uint8_t* correct_N, int64_t rows, int64_t vocabulary, Stream stream);

// Pages of a KV cache and where in pinned host memory each goes, or comes from.
struct PageMoves {
  static constexpr int kMost = 128;
  int32_t count, pages[kMost];
  void* slots[kMost];
};
// Copies whole pages, of `page_bytes` in each of the stores, whose addresses are on the device; a slot holds
// the page of each store, one behind the other. REQUIRES: page_bytes is a multiple of 16.
void MovePages(const PageMoves& moves, const int64_t* stores, int64_t store_count, int64_t page_bytes, bool is_out,
               Stream stream);

// The same from pages to other pages of each store.
struct PagePairs {
  static constexpr int kMost = 128;
  int32_t count, from[kMost], to[kMost];
};
void CopyPages(const PagePairs& pairs, const int64_t* stores, int64_t store_count, int64_t page_bytes, Stream stream);

// Matrices that stand one behind the other in `packed`, and with room between their rows in
// `spread`: value (r, c) is packed[b.packed + r * columns + c], and, of part number `part`,
// spread[b.spread + part * b.part + r * b.stride + c].
struct BlockCopy {
  int64_t packed, spread, part;
  int32_t rows, columns, stride;
};
void SpreadBlocks(Type type, const void* packed, void* spread, const BlockCopy* blocks, int64_t count, int64_t part,
                  Stream stream);
// packed = or, with `adds`, += those values.
void CollectBlocks(const float* spread, float* packed, const BlockCopy* blocks, int64_t count, int64_t part, bool adds,
                   Stream stream);

// out row t = x row index_T[t], or zeros where that is negative.
void TakeRows(Type type, const void* x, const int64_t* index_T, void* out_TD, int64_t rows, int64_t columns,
              Stream stream);
// out_ND[n] += the sum over sequences s, in order, of x row starts[s] + n, where that
// still lies in the sequence. out_ND is fp32.
void AddPrefixRows(Type type, const void* x_TD, const int32_t* starts, int64_t sequences, int64_t prefix,
                   float* out_ND, int64_t columns, Stream stream);

// Codes of a quantised matrix; see quantized_matrix.h.
enum class Codes { kInt8, kNf4 };
inline constexpr int kQuantizedBlock = 64;  // values that share a scale
// Levels of the 4-bit NormalFloat (Dettmers et al. 2023).
inline constexpr float kNf4Levels[16] = {
    -1.0f,           -0.6961928009986877f, -0.5250730514526367f,  -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f,  0.16093020141124725f,  0.24611230194568634f,  0.33791524171829224f,
    0.44070982933044434f,  0.5626170039176941f,   0.7229568362236023f,   1.0f};
// out = the `count` values, a multiple of kQuantizedBlock.
void Dequantize(Codes codes, const void* data, const float* scales, Type type, void* out, int64_t count,
                Stream stream);

// How a GGUF file stores numbers; the values are GGUF's own type numbers, as GgmlType's (weights/gguf.h).
enum class GgufFormat : uint32_t {
  kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7, kQ8_0 = 8,
  kQ4_K = 12, kQ5_K = 13, kQ6_K = 14, kBF16 = 30,
};
// out = the `count` values, whole blocks, plus `offset`, rounded from fp32 in which they have the bits that
// attune::Dequantize gives, NaNs apart. `blocks` may lie anywhere; out on 32 bytes unless the format is a plain one.
void GgufValues(GgufFormat format, const void* blocks, float offset, Type type, void* out, int64_t count, Stream stream);

// Settings of an AdamW step (Loshchilov and Hutter 2019).
struct AdamWSettings {
  float learning_rate, beta1, beta2, epsilon, weight_decay, max_norm;
  float correction1, correction2;  // 1 - beta^t
};
// *norm = the Euclidean norm of `count` values. partials: kNormPartials doubles of scratch.
inline constexpr int kNormPartials = 1024;
void GradientNorm(const float* gradients, int64_t count, double* partials, float* norm, Stream stream);
// Clips to max_norm (if > 0) and updates parameters and moments; the parameters also as
// bf16 in `copy` if that is not null. Changes nothing if *norm is no finite number.
void AdamW(const AdamWSettings& settings, const float* norm, float* parameters, void* copy, const float* gradients,
           float* first, float* second, int64_t count, Stream stream);

// The same over moments in 8 bits (Dettmers et al. 2022): `first` and `second` are indexes
// into tables of 256 rising values up to 1, and kMomentBlock of them share a scale.
inline constexpr int kMomentBlock = 256;
void AdamW8Bit(const AdamWSettings& settings, const float* norm, const float* first_table, const float* second_table,
               float* parameters, void* copy, const float* gradients, uint8_t* first, float* first_scales,
               uint8_t* second, float* second_scales, int64_t count, Stream stream);

// Serving. Everything below is bf16, and reads what differs from step to step, all int32,
// from memory on the device: a captured step serves every batch that it has room for.

// When a kernel begins: when the one before it on the stream is over, or while that still runs, up to where it reads
// what that one writes. Early only if nothing but that one kernel is waited for, no event of another stream. The same
// in a graph.
enum class Start { kAfter, kEarly };
// When a kernel behind this one that begins early may do so: at once; or not before this one's input is there, so that the other,
// if it reads but that input, need not wait for this one.
enum class Next { kAtOnce, kWithInput };

// A weight matrix (rows are outputs) as TiledProduct reads it. bf16: row-major. Else in tiles of kTiledRows x kTiledColumns,
// as tiled_weight.h describes.
enum class TileCodes { kBf16, kInt8, kFp8, kInt4 };
inline constexpr int kTiledRows = 16, kTiledColumns = 64, kTiledBlock = 32;  // values that share a scale
struct TiledMatrix {
  TileCodes codes;
  int64_t rows, columns;
  const void *data, *scales;
};
// How the work is shared out, which decides the order of the sums; kBest: by the sizes.
enum class TiledSplit { kBest, kColumns, kRows };
// y_TO = x_TI W^T in bf16, the sums in fp32. For few tokens, up to 64; more are done 64 at a time, each reading the weight.
// But for kBest a token's result is the same, bit for bit, whatever tokens stand beside it. x rows lie on 16 bytes.
void TiledProduct(const void* x_TI, int64_t x_stride, const TiledMatrix& w_OI, void* y_TO, int64_t y_stride,
                  int64_t tokens, Stream stream, Start start = Start::kAfter, TiledSplit split = TiledSplit::kBest,
                  Next next = Next::kAtOnce);

// The same for up to 32 tokens of a dense weight, rows of which are fetched by the tensor memory accelerator: from Hopper on. For
// an even number of rows, and whole pieces of kStreamedColumns columns.
inline constexpr int kStreamedColumns = 64, kStreamedTokens = 32;
// Rows of the weight that a block has, in sixteens (2 to 12; 14 or 16), and into how many parts the columns are cut (1, 2, 4, 8).
struct StreamedCut {
  int row_tiles = 0, split = 0;  // 0: as suits the sizes and the device
};
bool StreamedProductTakes(int64_t rows, int64_t columns);
// x and its rows lie on 16 bytes, y and its rows on 4, the weight on 16. A token's result is the same, bit for bit, whatever tokens
// stand beside it, as long as the cut is the same: what suits up to 16 tokens may be another than what suits more. The devices of
// a process must be alike.
void StreamedProduct(const void* x_TI, int64_t x_stride, const void* w_OI, int64_t rows, int64_t columns, void* y_TO,
                     int64_t y_stride, int64_t tokens, Stream stream, Start start = Start::kAfter, Next next = Next::kAtOnce,
                     StreamedCut cut = {});

// x row t = row tokens_T[t] of the embedding; where that is negative, of the token that
// sampled[-1 - tokens_T[t]] holds.
void EmbedTokens(const void* embedding_VD, const int32_t* tokens_T, const int32_t* sampled, void* x_TD, int64_t rows,
                 int64_t columns, Stream stream);

// What is to be added to a matrix before use: `values`, contiguous, of its width, to its first rows, and `bias` to every row.
struct Addend {
  const void* values = nullptr;
  int64_t rows = 0;
  const void* bias = nullptr;  // null: none
};

// IA3's and DoRA's scales, by which (a matrix + its addend) is multiplied before use. A slot has kScaleEntries pointers a
// layer: the scales of each projection's outputs, then those of down_proj's inputs; null where there are none. Last a mark:
// not null if biases are no part of what is scaled but come behind it, as DoRA's do.
inline constexpr int kScaleEntries = 9, kInnerScale = 7, kBiasComesLast = 8;
struct RowScales {
  const void* const* entries = nullptr;  // of slot 0 and the layer at hand; null: no row is scaled
  int64_t stride = 0;                    // pointers from slot to slot
  const int32_t* slots_T = nullptr;      // of each row; negative: it is not scaled
};

// qkv_TE + addend, scaled, and then, where these are not null, an RMS norm of each head's query and key: in place. Only for
// heads as PrepareHeadsTakes allows: up to 256 dimensions.
bool PrepareHeadsTakes(RopeShape shape);
void PrepareHeads(void* qkv_TE, Addend addend, RowScales scales, const void* q_norm_A, const void* k_norm_A, double epsilon,
                  int64_t tokens, RopeShape shape, Stream stream, Start start = Start::kAfter);

// Rotates the query columns of qkv_TE + addend in place, and writes rotated keys, and values, to their
// slots of the cache; rows whose slot is negative are left out.
void RopeAndCache(void* qkv_TE, Addend addend, RowScales scales, const float* cos_PH, const float* sin_PH,
                  const int32_t* positions_T, const int32_t* slots_T, void* keys, void* values, int64_t tokens,
                  RopeShape shape, Stream stream, Start start = Start::kAfter);
// x += delta + addend, and its RMS norm times w, as RmsNormForward's; delta is scaled by the entry of
// projection `scaled`. Only for rows as wide as
// AddAndNormTakes allows: 8192.
bool AddAndNormTakes(int64_t columns);
void AddAndNorm(void* x_TD, const void* delta_TD, Addend addend, RowScales scales, int scaled, const void* w_D,
                double epsilon, void* y_TD, int64_t rows, int64_t columns, Stream stream, Start start = Start::kAfter);
// silu(gate) * up of gate_up_T2I + addend, scaled as down_proj's input, too.
void SwiGluAdded(const void* gate_up_T2I, Addend addend, RowScales scales, void* out_TI, int64_t rows, int64_t inner,
                 Stream stream, Start start = Start::kAfter);

// How attention over a paged cache is cut: `segments` have consecutive queries each, which see
// the keys up to themselves. A tile is tile_rows rows (query times head of a group) of a
// segment, against a chunk of its keys.
struct PagedAttentionPlan {
  int64_t segments = 0, rows = 0, tiles = 0;  // that there is room for
  int tile_rows = 16;                         // 16, 64 or 128
  const int32_t* query_starts;                // segments + 1
  const int32_t* page_starts;                 // segments + 1, into `pages`
  const int32_t* pages;
  const int32_t* last_page_tokens;            // segments: keys in a segment's last page
  const int32_t *tile_segments, *tile_queries, *tile_chunks;  // tiles
  const uint8_t* tile_used;                   // tiles
  const int32_t* row_parts;                   // rows + 1: where a row's parts begin
  const int32_t* out_starts;                  // segments + 1: where a segment's parts begin
  const int32_t* chunk_tokens;                // one
  const int32_t* rows_used;                   // one
};
struct PagedAttentionCall {
  RopeShape shape;
  int64_t page_tokens, row_stride;  // of q
  float scale;
  int32_t window_before = -1;       // tokens before its own that a query sees, which rules out cut keys; -1: all
  const void *q, *keys, *values;    // cache: page, token in the page, head, dimension
  void* out;                        // rows x heads x head_dim
  // Segments have one query each, and nobody minds that its sums are added up in another order than those of longer ones.
  bool are_single_queries = false;
  // Keys are cut into chunks if these are given: room for a part of a row for each tile row, of
  // out's width, and its fp32 sum for each head.
  void* partial_out = nullptr;
  float* partial_sums = nullptr;
  PagedAttentionPlan plan;
};
bool PagedAttentionTakes(RopeShape shape);
// Whether it is a kernel for single queries that does it; else FlashInfer's do.
bool DecodeAttentionTakes(const PagedAttentionCall& call);
// Begins as with Start::kEarly, where it can. The plan, and of single queries all keys but their own token's, have to be there before the kernel before
// this one: they are read while that still runs.
void PagedAttention(const PagedAttentionCall& call, Stream stream);

// sampled[n] = the likeliest token of a row, the lowest id among equals.
void Argmax(const void* logits_NV, int32_t* sampled, int64_t rows, int64_t vocabulary, Stream stream);

// What a request changes of a token's logit, in this order: the repetition penalty if it was seen,
// frequency and presence penalties for `count` times in the answer, `bias`; a banned one is never chosen.
struct LogitChange {
  int32_t token;
  int32_t count;
  float bias;
  uint8_t is_seen, is_banned;
};
// How the token after one row of logits is chosen: the likeliest after the changes if the temperature
// is 0; else drawn by `uniform`, a double in [0, 1) in two halves, from what top-k, top-p and
// min-p leave, in that order. The same row and `uniform` give the same token, whatever rows there are.
struct ChosenRow {
  int32_t row;                      // of the step's wanted ones
  float temperature, top_p, min_p;  // 0 or more; 1: all; 0: all
  int32_t top_k;                    // 0: all
  int32_t uniform_low, uniform_high;
  float repetition_penalty, frequency_penalty, presence_penalty;
  int32_t first_change, changes;  // in the list of changes, each token once
  int32_t pending;  // row of the step before that chose the answer's last token, which the changes do not know; or -1
  int32_t scratch_row;                 // where the changed logits go; -1: nothing is changed
  int32_t alternatives, logprobs_row;  // likeliest tokens wanted; -1: no log-probabilities, else their row
  int32_t mask_row;    // of the masks: which tokens there may be, whatever else is changed; -1: any
  int32_t logits_row;  // of logits_NV; -1: row - first_row
};
inline constexpr int kMostAlternatives = 20;
// The chosen token's log-probability before all changes; then the likeliest tokens, as int32 bits, with
// theirs, likeliest first.
inline constexpr int kLogprobsWidth = 1 + 2 * kMostAlternatives;
struct ChoiceCall {
  const ChosenRow* rows;
  const LogitChange* changes;
  const void* logits_NV;  // bf16, from the wanted row first_row on
  int64_t first_row, vocabulary;
  int32_t* sampled;  // of first_row; written for the chosen rows alone
  const int32_t* sampled_before;
  float* scratch_CV;
  float* logprobs;  // rows of kLogprobsWidth
  const uint32_t* masks = nullptr;  // rows of mask_words: bit i of word i / 32 for token i, none beyond the last word
  int64_t mask_words = 0;
};
void ChooseRows(const ChoiceCall& call, int64_t count, Stream stream);

// A wanted row whose log-probability of a token is asked for.
struct ScoredRow {
  int32_t row, token;
};
// logprobs[i] = log softmax(logits of rows[i])[its token]; logits_NV begin with the wanted row first_row.
void ScoreRows(const ScoredRow* rows, int64_t count, const void* logits_NV, int64_t first_row, int64_t vocabulary,
               float* logprobs, Stream stream);

// A LoRA's matrices as int8: A[r][i] is about a_RI[r][i] times a scale of r, and so is B[o][r]; scale_R is the product of both. Each row of B is filled up
// to `rank` codes, kLeastCodes or a multiple of kCodesOfLoad. All on 16 bytes; inputs are multiples of kCodesOfLoad.
inline constexpr int kCodesOfLoad = 16, kLeastCodes = 8;
struct LoraCodes {
  const int8_t* a_RI;
  const int8_t* b_OR;
  const float* scale_R;
  int32_t rank;
};
// One projection's LoRA, as the grouped kernels read it; rank 0 where there is none.
struct LoraEntry {
  const void* a_RI;
  const void* b_OR;
  int32_t rank;
  float scale;
  LoraCodes codes;  // rank 0 if it has none
};
// A product's projections: where each one's entry lies and its outputs begin.
struct LoraTarget {
  int32_t count = 0;
  int32_t entry[3], first_column[3], columns[3];
};
// Rows of one adapter, side by side: up to kLoraTileRows of them. No rows: nothing is to be done.
inline constexpr int kLoraTileRows = 16;
struct LoraTile {
  int32_t slot;  // negative: no adapter
  int32_t first_row, rows;
};
// Which rows are under one adapter; it decides how the work is cut.
enum class LoraSharing {
  kNone,   // REQUIRES: no tile of an adapter has several rows; of one that has, all but the first would be left as they were
  kSome,
  kMost,   // most tiles that are used have
  kAlike,  // whatever they have: a row's numbers must not depend on how many tiles there are
};
struct LoraBatch {
  const LoraEntry* entries;  // of a slot: entries_per_slot, from slot * entries_per_slot on
  int64_t entries_per_slot;
  const LoraTile* tiles;
  int64_t tile_count;
  LoraSharing sharing = LoraSharing::kSome;
  // Where no tile of an adapter has several rows, they are multiplied by its codes, if ReadsLoraCodes(). REQUIRES: all entries of a rank have some.
  bool reads_codes = false;
};
// delta_TO = scale * (x A^T) B^T for each tile's rows by their adapter; zeros if there is none. In tiles of
// several rows x A^T is rounded to bf16. REQUIRES: x and A on 16 bytes where inputs and x_stride are multiples of 8, B on 8 bytes where ranks are of 4.
inline constexpr int kMostLoraRanks = 512;
// That, or 0 where there are no kernels.
int MostGroupedRanks();
// Whether this device has kernels for codes: from Hopper on.
bool ReadsLoraCodes();
// kBesideTiled, kBesideStreamed: launched right behind a TiledProduct or StreamedProduct of the same x with Next::kWithInput, it runs beside that
// one and is over after it, so that a kernel behind it, early or not, waits for both. Where launches cannot begin early it comes after.
enum class LoraStart { kAfter, kBesideTiled, kBesideStreamed };
void GroupedLora(const void* x_TI, int64_t x_stride, const LoraBatch& batch, LoraTarget target, void* delta_TO,
                 int64_t delta_stride, int64_t inputs, Stream stream, LoraStart start = LoraStart::kAfter);

}  // namespace attune::cuda

#endif  // ATTUNE_SERVER_MODEL_KERNELS_CUDA_LAUNCH_H_
