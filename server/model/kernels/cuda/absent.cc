// In place of the kernels where there is no CUDA compiler: Available() is false, and
// nothing else is called.
#include <cstdlib>

#include "server/model/kernels/cuda/launch.h"

namespace attune::cuda {

bool Available() { return false; }

void RmsNormForward(Type, const void*, const void*, const void*, double, void*, void*, float*, int64_t, int64_t,
                    Stream) {
  std::abort();
}
void RmsNormBackward(Type, const void*, const void*, const void*, const float*, const void*, void*, int64_t, int64_t,
                     Stream) {
  std::abort();
}
bool RmsNormBackwardTakesWeight(Type, int64_t) { return false; }
void RmsNormBackwardAndWeight(Type, const void*, const void*, const void*, const float*, const void*, void*, float*,
                              float*, int64_t, int64_t, Stream) {
  std::abort();
}
void SwiGluForward(Type, const void*, void*, int64_t, int64_t, Stream) { std::abort(); }
void SwiGluBackward(Type, const void*, const void*, void*, int64_t, int64_t, Stream) { std::abort(); }
void RopeInPlace(Type, void*, int64_t, const float*, const float*, const int64_t*, int64_t, RopeShape, bool, Stream) {
  std::abort();
}
void RopeBackwardPack(Type, const void*, const void*, const void*, const float*, const float*, const int64_t*, int64_t,
                      RopeShape, void*, Stream) {
  std::abort();
}
void Dropout(Type, const void*, const void*, double, const int64_t*, uint32_t, int64_t, void*, int64_t, Stream) {
  std::abort();
}
void SoftmaxLoss(Type, void*, const int64_t*, const float*, int64_t, float*, uint8_t*, int64_t, int64_t, Stream) {
  std::abort();
}
void TakeRows(Type, const void*, const int64_t*, void*, int64_t, int64_t, Stream) { std::abort(); }
void AddPrefixRows(Type, const void*, const int32_t*, int64_t, int64_t, float*, int64_t, Stream) { std::abort(); }
void Dequantize(Codes, const void*, const float*, Type, void*, int64_t, Stream) { std::abort(); }
void GgufValues(GgufFormat, const void*, float, Type, void*, int64_t, Stream) { std::abort(); }
void TiledProduct(const void*, int64_t, const TiledMatrix&, void*, int64_t, int64_t, Stream, Start, TiledSplit, Next) {
  std::abort();
}
bool StreamedProductTakes(int64_t, int64_t) { return false; }
void StreamedProduct(const void*, int64_t, const void*, int64_t, int64_t, void*, int64_t, int64_t, Stream, Start, Next, StreamedCut) {
  std::abort();
}
void GradientNorm(const float*, int64_t, double*, float*, Stream) { std::abort(); }
void AdamW(const AdamWSettings&, const float*, float*, void*, const float*, float*, float*, int64_t, Stream) {
  std::abort();
}
void AdamW8Bit(const AdamWSettings&, const float*, const float*, const float*, float*, void*, const float*, uint8_t*,
               float*, uint8_t*, float*, int64_t, Stream) {
  std::abort();
}

void DropoutRows(Type, const void*, const void*, double, const int64_t*, const int64_t*, uint32_t, void*, int64_t,
                 int64_t, Stream) {
  std::abort();
}
void EmbeddingNoise(Type, void*, const int64_t*, const int32_t*, int64_t, int64_t, double, const int64_t*, int64_t,
                    int64_t, int64_t, Stream) {
  std::abort();
}
void CopyPages(const PagePairs&, const int64_t*, int64_t, int64_t, Stream) { std::abort(); }
void MovePages(const PageMoves&, const int64_t*, int64_t, int64_t, bool, Stream) { std::abort(); }
void SpreadBlocks(Type, const void*, void*, const BlockCopy*, int64_t, int64_t, Stream) { std::abort(); }
void CollectBlocks(const float*, float*, const BlockCopy*, int64_t, int64_t, bool, Stream) { std::abort(); }
void EmbedTokens(const void*, const int32_t*, const int32_t*, void*, int64_t, int64_t, Stream) { std::abort(); }
void RopeAndCache(void*, Addend, RowScales, const float*, const float*, const int32_t*, const int32_t*, void*, void*, int64_t,
                  RopeShape, Stream, Start) {
  std::abort();
}
bool PrepareHeadsTakes(RopeShape) { return false; }
void PrepareHeads(void*, Addend, RowScales, const void*, const void*, double, int64_t, RopeShape, Stream, Start) {
  std::abort();
}
bool AddAndNormTakes(int64_t) { return false; }
void AddAndNorm(void*, const void*, Addend, RowScales, int, const void*, double, void*, int64_t, int64_t, Stream, Start) {
  std::abort();
}
void SwiGluAdded(const void*, Addend, RowScales, void*, int64_t, int64_t, Stream, Start) { std::abort(); }
bool PagedAttentionTakes(RopeShape) { return false; }
bool DecodeAttentionTakes(const PagedAttentionCall&) { return false; }
void PagedAttention(const PagedAttentionCall&, Stream) { std::abort(); }
void Argmax(const void*, int32_t*, int64_t, int64_t, Stream) { std::abort(); }
void ScoreRows(const ScoredRow*, int64_t, const void*, int64_t, int64_t, float*, Stream) { std::abort(); }
void ChooseRows(const ChoiceCall&, int64_t, Stream) { std::abort(); }
int MostGroupedRanks() { return 0; }
bool ReadsLoraCodes() { return false; }
void GroupedLora(const void*, int64_t, const LoraBatch&, LoraTarget, void*, int64_t, int64_t, Stream, LoraStart) {
  std::abort();
}

}  // namespace attune::cuda
