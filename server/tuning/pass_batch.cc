#include "server/tuning/pass_batch.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>

namespace attune {
namespace {

// Up to the next multiple of a sixteenth of the power of two below, at least `least`; of
// a sixty-fourth where that is much, for the padding is computed like the rest.
int64_t RoundUp(int64_t n, int64_t least) {
  constexpr int64_t kMuch = 8192;
  const int64_t power = std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(n, 1)));
  const int64_t step = std::max<int64_t>(least, power / (n > kMuch ? 64 : 16));
  return (n + step - 1) / step * step;
}

// Least steps. Each shape costs a capture, which takes as long as dozens of small passes, and
// the passes of small batches are bound by their kernels' number, not by rows: few shapes.
constexpr int64_t kTokenStep = 128, kSequenceStep = 8, kLossRowStep = 256, kLongestStep = 256;

// Where the parts of a packed vector begin.
struct Layout {
  explicit Layout(const PassShape& shape)
      : tokens(2),
        positions(tokens + shape.tokens),
        row_of(positions + shape.tokens),
        starts(row_of + shape.tokens),
        loss_rows(starts + shape.sequences + 1),
        targets(loss_rows + shape.loss_rows),
        alone_end(targets + shape.loss_rows),
        // Of a joint batch alone.
        place_of(alone_end),
        step_seeds(place_of + shape.tokens),
        own_rows(step_seeds + shape.tokens),
        place_of_loss(own_rows + shape.tokens),
        loss_tokens(place_of_loss + shape.loss_rows),
        // Of preferences alone.
        pair_of(alone_end),
        signs(pair_of + shape.loss_rows),
        margins(signs + shape.loss_rows),
        is_pair(margins + shape.pairs),
        // With a teacher alone.
        teacher(alone_end),
        end(shape.places > 0  ? loss_tokens + shape.loss_rows
            : shape.pairs > 0 ? is_pair + shape.pairs
            : shape.top_k > 0 ? teacher + shape.loss_rows * shape.top_k
                              : alone_end) {}
  int64_t tokens, positions, row_of, starts, loss_rows, targets, alone_end;
  int64_t place_of, step_seeds, own_rows, place_of_loss, loss_tokens;
  int64_t pair_of, signs, margins, is_pair, teacher, end;
};

}  // namespace

PassShape ExactShape(const MicroBatch& batch) {
  PassShape shape{static_cast<int64_t>(batch.tokens.size()), static_cast<int64_t>(batch.starts.size()) - 1,
                  static_cast<int64_t>(batch.targets.size()), 0};
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    shape.longest = std::max(shape.longest, batch.starts[i + 1] - batch.starts[i]);
  }
  shape.pairs = static_cast<int64_t>(batch.reference_margins.size());
  shape.top_k = batch.teacher.k;
  return shape;
}

int64_t BucketTokens(int64_t tokens) { return RoundUp(tokens, kTokenStep); }

namespace {

PassShape Bucket(const MicroBatch& batch, int64_t times) {
  const PassShape exact = ExactShape(batch);
  PassShape shape{RoundUp(exact.tokens, times * kTokenStep), RoundUp(exact.sequences + 1, times * kSequenceStep),
                  RoundUp(exact.loss_rows, times * kLossRowStep), 0};
  shape.pairs = exact.pairs > 0 ? RoundUp(exact.pairs, times * kSequenceStep / 2) : 0;
  shape.top_k = exact.top_k;
  // The padding is a sequence, too.
  shape.longest = RoundUp(std::max(exact.longest, shape.tokens - exact.tokens), times * kLongestStep);
  return shape;
}

}  // namespace

PassShape BucketShape(const MicroBatch& batch) { return Bucket(batch, 1); }

PassShape JointShape(const MicroBatch& batch, int64_t places) {
  PassShape shape = Bucket(batch, 4);
  shape.places = places;
  return shape;
}

namespace {

// Whose each loss row is, and what the reference gave. The packed vector is of integers: margins go as their bits.
void PackPreferences(const MicroBatch& batch, const Layout& layout, int64_t* data) {
  std::fill(data + layout.pair_of, data + layout.signs, -1);
  std::fill(data + layout.signs, data + layout.margins, 0);
  std::fill(data + layout.margins, data + layout.end, 0);
  size_t sequence = 0;
  for (size_t i = 0; i < batch.loss_rows.size(); ++i) {
    while (batch.loss_rows[i] >= batch.starts[sequence + 1]) ++sequence;
    data[layout.pair_of + i] = static_cast<int64_t>(sequence / 2);
    data[layout.signs + i] = sequence % 2 == 0 ? 1 : -1;
  }
  for (size_t p = 0; p < batch.reference_margins.size(); ++p) {
    data[layout.margins + p] = std::bit_cast<int64_t>(batch.reference_margins[p]);
    data[layout.is_pair + p] = 1;
  }
}

// An id and its log-probability's bits in each integer.
void PackTeacher(const TeacherTokens& teacher, const PassShape& shape, const Layout& layout, int64_t* data) {
  for (int64_t i = 0; i < shape.loss_rows * shape.top_k; ++i) {
    const bool is_padding = i >= static_cast<int64_t>(teacher.ids.size());
    const int64_t id = is_padding ? i % shape.top_k : teacher.ids[i];
    const uint32_t bits = is_padding ? 0 : std::bit_cast<uint32_t>(teacher.log_probabilities[i]);
    data[layout.teacher + i] = static_cast<int64_t>(static_cast<uint64_t>(bits) << 32) | id;
  }
}

TeacherRows ViewTeacher(const at::Tensor& packed, const PassShape& shape, const Layout& layout) {
  const at::Tensor both = packed.narrow(0, layout.teacher, shape.loss_rows * shape.top_k).view({-1, shape.top_k});
  return {both.bitwise_and(0xFFFFFFFFLL), both.bitwise_right_shift(32).to(at::kInt).view(at::kFloat)};
}

PreferenceRows ViewPreferences(const at::Tensor& packed, const PassShape& shape, const Layout& layout) {
  const at::Tensor pairs = at::arange(shape.pairs, packed.options()).unsqueeze(1);
  const at::Tensor is_of = packed.narrow(0, layout.pair_of, shape.loss_rows).unsqueeze(0).eq(pairs);
  const at::Tensor signs = packed.narrow(0, layout.signs, shape.loss_rows).to(at::kDouble).unsqueeze(0);
  return {is_of.to(at::kDouble) * signs, packed.narrow(0, layout.margins, shape.pairs).view(at::kDouble),
          packed.narrow(0, layout.is_pair, shape.pairs).to(at::kDouble)};
}

}  // namespace

at::Tensor PackBatch(const MicroBatch& batch, const PassShape& shape, int64_t step_seed, int64_t loss_tokens,
                     bool pinned) {
  const Layout layout(shape);
  at::Tensor packed = at::empty({layout.end}, at::TensorOptions(at::kLong).pinned_memory(pinned));
  int64_t* data = packed.mutable_data_ptr<int64_t>();
  data[0] = step_seed;
  data[1] = loss_tokens;
  const int64_t tokens = batch.tokens.size(), rows = batch.targets.size();
  std::fill(data + layout.tokens, data + layout.row_of, 0);
  std::fill(data + layout.row_of, data + layout.starts, -1);
  std::fill(data + layout.starts, data + layout.loss_rows, shape.tokens);
  std::fill(data + layout.loss_rows, data + layout.targets, 0);
  std::fill(data + layout.targets, data + layout.alone_end, -1);
  std::copy(batch.tokens.begin(), batch.tokens.end(), data + layout.tokens);
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    for (int64_t t = batch.starts[i]; t < batch.starts[i + 1]; ++t) data[layout.positions + t] = t - batch.starts[i];
  }
  // The last start is also where the padding begins.
  std::copy(batch.starts.begin(), batch.starts.end(), data + layout.starts);
  if (tokens == shape.tokens) data[layout.starts + batch.starts.size() - 1] = shape.tokens;
  for (int64_t i = 0; i < rows; ++i) {
    data[layout.loss_rows + i] = batch.loss_rows[i];
    data[layout.targets + i] = batch.targets[i];
    data[layout.row_of + batch.loss_rows[i]] = i;
  }
  if (shape.pairs > 0) PackPreferences(batch, layout, data);
  if (shape.top_k > 0) PackTeacher(batch.teacher, shape, layout, data);
  return packed;
}

at::Tensor PackJointBatch(const MicroBatch& batch, const std::vector<BatchPart>& parts, const PassShape& shape,
                          bool pinned) {
  const Layout layout(shape);
  at::Tensor packed = PackBatch(batch, shape, 0, 1, pinned);
  int64_t* data = packed.mutable_data_ptr<int64_t>();
  std::fill(data + layout.place_of, data + layout.step_seeds, -1);
  std::fill(data + layout.step_seeds, data + layout.place_of_loss, 0);
  std::fill(data + layout.place_of_loss, data + layout.loss_tokens, -1);
  std::fill(data + layout.loss_tokens, data + layout.end, 1);
  int64_t row = 0, loss_row = 0;
  for (const BatchPart& part : parts) {
    for (int64_t i = 0; i < part.tokens; ++i, ++row) {
      data[layout.place_of + row] = part.place;
      data[layout.step_seeds + row] = part.step_seed;
      data[layout.own_rows + row] = i;
    }
    for (int64_t i = 0; i < part.loss_rows; ++i, ++loss_row) {
      data[layout.place_of_loss + loss_row] = part.place;
      data[layout.loss_tokens + loss_row] = part.loss_tokens;
    }
  }
  return packed;
}

namespace {

JointRows ViewJointRows(const at::Tensor& packed, const PassShape& shape, const Layout& layout) {
  const at::Tensor places = at::arange(shape.places, packed.options());
  auto foreign = [&](int64_t begin, int64_t count) { return packed.narrow(0, begin, count).unsqueeze(1).ne(places); };
  return {foreign(layout.place_of, shape.tokens), foreign(layout.place_of_loss, shape.loss_rows),
          packed.narrow(0, layout.step_seeds, shape.tokens), packed.narrow(0, layout.own_rows, shape.tokens),
          packed.narrow(0, layout.loss_tokens, shape.loss_rows).to(at::kFloat).reciprocal()};
}

}  // namespace

PassBatch ViewBatch(const at::Tensor& packed, const PassShape& shape, const at::Tensor& host) {
  const Layout layout(shape);
  PassBatch batch;
  batch.step_seed = packed.select(0, 0);
  batch.loss_tokens = packed.select(0, 1);
  batch.tokens_T = packed.narrow(0, layout.tokens, shape.tokens);
  batch.row_of_T = packed.narrow(0, layout.row_of, shape.tokens);
  batch.loss_rows_N = packed.narrow(0, layout.loss_rows, shape.loss_rows);
  batch.targets_N = packed.narrow(0, layout.targets, shape.loss_rows);
  batch.sequences.positions_T = packed.narrow(0, layout.positions, shape.tokens);
  batch.sequences.starts_int32 = packed.narrow(0, layout.starts, shape.sequences + 1).to(at::kInt);
  batch.sequences.longest = shape.longest;
  if (shape.pairs > 0) batch.preferences = ViewPreferences(packed, shape, layout);
  if (shape.top_k > 0) batch.teacher = ViewTeacher(packed, shape, layout);
  if (shape.places > 0) batch.joint = ViewJointRows(packed, shape, layout);
  if (host.defined()) {
    const int64_t* data = host.const_data_ptr<int64_t>();
    batch.sequences.starts.assign(data + layout.starts, data + layout.loss_rows);
  }
  return batch;
}

}  // namespace attune
