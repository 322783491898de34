#include "server/model/matrix_reader.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "server/model/kernels/cuda_dispatch.h"
#include "server/model/torch_target.h"

namespace attune {
namespace {

// Of pinned memory, at a time.
constexpr int64_t kPieceBytes = 16 << 20;
// Rows that a thread takes at least.
constexpr int64_t kGrainRows = 64;

bool IsKeptAs(const TensorSource::Entry& entry, at::ScalarType type) {
  return entry.offset == 0 && ((entry.type == GgmlType::kBF16 && type == at::kBFloat16) ||
                               (entry.type == GgmlType::kF32 && type == at::kFloat));
}

// Rows [first, last) of the matrix as in the file.
void CopyRows(const TensorSource::Entry& entry, int64_t first, int64_t last, char* out) {
  for (int64_t row = first; row < last; ++row) {
    const absl::string_view bytes = entry.RowBytes(row);
    out = std::copy(bytes.begin(), bytes.end(), out);
  }
}

// The same as values.
void ConvertRows(const TensorSource::Entry& entry, int64_t first, int64_t last, at::ScalarType type, char* out) {
  if (type == at::kFloat) return entry.ReadRows(first, last, reinterpret_cast<float*>(out));
  std::vector<float> values(entry.columns);
  for (int64_t row = first; row < last; ++row, out += entry.columns * static_cast<int64_t>(sizeof(at::BFloat16))) {
    entry.ReadRows(row, row + 1, values.data());
    std::copy(values.begin(), values.end(), reinterpret_cast<at::BFloat16*>(out));
  }
}

// On all threads, into a contiguous tensor on the host: values, or, if it is one of bytes, rows as in the file.
void ReadPiece(const TensorSource::Entry& entry, int64_t first, const at::Tensor& out) {
  const at::ScalarType type = out.scalar_type();
  const bool is_copied = type == at::kByte || IsKeptAs(entry, type);
  char* const data = static_cast<char*>(out.mutable_data_ptr());
  const int64_t row_bytes = out.stride(0) * static_cast<int64_t>(out.element_size());
  at::parallel_for(0, out.size(0), kGrainRows, [&](int64_t begin, int64_t end) {
    char* const to = data + begin * row_bytes;
    if (is_copied) {
      CopyRows(entry, first + begin, first + end, to);
    } else {
      ConvertRows(entry, first + begin, first + end, type, to);
    }
  });
}

// Values of rows that are on the device as in the file.
void ConvertOnDevice(const TensorSource::Entry& entry, const at::Tensor& rows, const at::Tensor& out_OI) {
  // Both are numbered as GGUF numbers its types.
  cuda::GgufValues(static_cast<cuda::GgufFormat>(entry.type), rows.const_data_ptr(), entry.offset, CudaTypeOf(out_OI),
                   out_OI.mutable_data_ptr(), out_OI.numel(), CurrentCudaStream());
}

void ReadToDevice(const TensorSource::Entry& entry, const at::Tensor& out_OI) {
  const bool is_converted_there = UsesCudaKernels(out_OI) && !IsKeptAs(entry, out_OI.scalar_type());
  const at::ScalarType type = is_converted_there ? at::kByte : out_OI.scalar_type();
  const int64_t width = is_converted_there ? entry.row_bytes() : entry.columns;
  const int64_t step = std::max<int64_t>(1, kPieceBytes / (width * static_cast<int64_t>(at::elementSize(type))));
  for (int64_t first = 0; first < entry.rows; first += step) {
    const at::Tensor out = out_OI.narrow(0, first, std::min(step, entry.rows - first));
    // Memory that a copy still reads is not handed out again before that is done.
    const at::Tensor piece = at::empty({out.size(0), width}, at::TensorOptions(type).pinned_memory(true));
    ReadPiece(entry, first, piece);
    if (is_converted_there) {
      ConvertOnDevice(entry, piece.to(out.device(), /*non_blocking=*/true), out);
    } else {
      out.copy_(piece, /*non_blocking=*/true);
    }
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
