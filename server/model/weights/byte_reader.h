#ifndef ATTUNE_SERVER_MODEL_WEIGHTS_BYTE_READER_H_
#define ATTUNE_SERVER_MODEL_WEIGHTS_BYTE_READER_H_

#include <bit>
#include <cstdint>
#include <cstring>

#include "absl/strings/string_view.h"

namespace attune {

static_assert(std::endian::native == std::endian::little, "weights are little-endian and are read in place");

// Reads little-endian values off the front of bytes. Once a read goes past the
// end everything that follows fails too, so a caller may check at the end of a
// group of reads. Not thread-safe.
class ByteReader {
 public:
  explicit ByteReader(absl::string_view bytes) : bytes_(bytes) {}

  // False, leaving `value` alone, if not enough is left.
  template <typename T>
  bool Read(T* value) {
    absl::string_view piece;
    if (!ReadBytes(sizeof(T), &piece)) return false;
    std::memcpy(value, piece.data(), sizeof(T));
    return true;
  }

  bool ReadBytes(uint64_t size, absl::string_view* piece) {
    if (failed_ || size > remaining()) {
      failed_ = true;
      return false;
    }
    *piece = bytes_.substr(position_, size);
    position_ += size;
    return true;
  }

  // A 64-bit length and as many bytes.
  bool ReadString(absl::string_view* piece) {
    uint64_t size = 0;
    return Read(&size) && ReadBytes(size, piece);
  }

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

 private:
  absl::string_view bytes_;
  uint64_t position_ = 0;
  bool failed_ = false;
};

}  // namespace attune

#endif  // ATTUNE_SERVER_MODEL_WEIGHTS_BYTE_READER_H_
