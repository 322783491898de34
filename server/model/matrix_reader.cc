#include "server/model/matrix_reader.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "server/model/torch_target.h"

namespace attune {
namespace {

// Of pinned memory, at a time.
constexpr int64_t kPieceBytes = 16 << 20;
// Rows that a thread takes at least.
constexpr int64_t kGrainRows = 64;

bool IsKeptAs(GgmlType file, at::ScalarType type) {
  return (file == GgmlType::kBF16 && type == at::kBFloat16) || (file == GgmlType::kF32 && type == at::kFloat);
}

// Rows [first, last) of the matrix into `out`.
void ReadRowsAs(const TensorSource::Entry& entry, int64_t first, int64_t last, at::ScalarType type, char* out) {
  const int64_t row_bytes = entry.columns * static_cast<int64_t>(at::elementSize(type));
  if (IsKeptAs(entry.type, type)) {
    for (int64_t row = first; row < last; ++row, out += row_bytes) {
      std::memcpy(out, entry.RowBytes(row).data(), static_cast<size_t>(row_bytes));
    }
    return;
  }
  if (type == at::kFloat) return entry.ReadRows(first, last, reinterpret_cast<float*>(out));
  std::vector<float> values(entry.columns);
  for (int64_t row = first; row < last; ++row, out += row_bytes) {
    entry.ReadRows(row, row + 1, values.data());
    std::copy(values.begin(), values.end(), reinterpret_cast<at::BFloat16*>(out));
  }
}

// The same on all threads, into a contiguous tensor on the host.
void ReadPiece(const TensorSource::Entry& entry, int64_t first, const at::Tensor& out_OI) {
  char* const out = static_cast<char*>(out_OI.mutable_data_ptr());
  const int64_t row_bytes = out_OI.stride(0) * static_cast<int64_t>(out_OI.element_size());
  at::parallel_for(0, out_OI.size(0), kGrainRows, [&](int64_t begin, int64_t end) {
    ReadRowsAs(entry, first + begin, first + end, out_OI.scalar_type(), out + begin * row_bytes);
  });
}

void ReadToDevice(const TensorSource::Entry& entry, const at::Tensor& out_OI) {
  const at::TensorOptions pinned = at::TensorOptions(out_OI.scalar_type()).pinned_memory(true);
  const int64_t row_bytes = entry.columns * static_cast<int64_t>(out_OI.element_size());
  const int64_t step = std::max<int64_t>(1, kPieceBytes / row_bytes);
  for (int64_t first = 0; first < entry.rows; first += step) {
    const int64_t count = std::min(step, entry.rows - first);
    // Memory that a copy still reads is not handed out again before that is done.
    const at::Tensor piece = at::empty({count, entry.columns}, pinned);
    ReadPiece(entry, first, piece);
    out_OI.narrow(0, first, count).copy_(piece, /*non_blocking=*/true);
  }
}

}  // namespace

at::Tensor ReadMatrix(const std::vector<TensorSource::Entry>& entries, const ComputeTarget& target) {
  int64_t rows = 0;
  for (const TensorSource::Entry& entry : entries) rows += entry.rows;
  const at::Tensor all = at::empty({rows, entries[0].columns}, at::TensorOptions(TypeOf(target)).device(DeviceOf(target)));
  int64_t row = 0;
  for (const TensorSource::Entry& entry : entries) {
    const at::Tensor part = all.narrow(0, row, entry.rows);
    if (all.is_cpu()) {
      ReadPiece(entry, 0, part);
    } else {
      ReadToDevice(entry, part);
    }
    row += entry.rows;
  }
  return all;
}

}  // namespace attune
