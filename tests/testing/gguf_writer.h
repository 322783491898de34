#ifndef ATTUNE_TESTS_TESTING_GGUF_WRITER_H_
#define ATTUNE_TESTS_TESTING_GGUF_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "server/model/weights/gguf.h"

namespace attune {

// Puts a GGUF file (version 3) together, for tests. Not thread-safe.
class GgufWriter {
 public:
  GgufWriter& Int(const std::string& key, int64_t value) { return Key(key, 11).Put(value); }
  GgufWriter& Real(const std::string& key, double value) { return Key(key, 12).Put(value); }
  GgufWriter& Bool(const std::string& key, bool value) { return Key(key, 7).Put(static_cast<uint8_t>(value)); }
  GgufWriter& Text(const std::string& key, const std::string& value) { return Key(key, 8).PutText(value); }
  GgufWriter& Texts(const std::string& key, const std::vector<std::string>& values) {
    Key(key, 9).Put(uint32_t{8}).Put(static_cast<uint64_t>(values.size()));
    for (const std::string& value : values) PutText(value);
    return *this;
  }
  GgufWriter& Ints(const std::string& key, const std::vector<int32_t>& values) {
    Key(key, 9).Put(uint32_t{5}).Put(static_cast<uint64_t>(values.size()));
    for (int32_t value : values) Put(value);
    return *this;
  }
  // `shape` is outermost first.
  GgufWriter& Tensor(const std::string& name, const std::vector<int64_t>& shape, GgmlType type, std::string bytes) {
    data_.resize((data_.size() + kAlignment - 1) / kAlignment * kAlignment, '\0');
    tensors_.push_back({name, shape, type, data_.size()});
    data_ += bytes;
    return *this;
  }
  GgufWriter& Floats(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    return Tensor(name, shape, GgmlType::kF32,
                  std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
  }

  std::string Bytes() const {
    GgufWriter out;
    out.metadata_ = "GGUF";
    out.Put(uint32_t{3}).Put(static_cast<uint64_t>(tensors_.size())).Put(keys_);
    out.metadata_ += metadata_;
    for (const Entry& tensor : tensors_) {
      out.PutText(tensor.name).Put(static_cast<uint32_t>(tensor.shape.size()));
      for (size_t i = tensor.shape.size(); i > 0; --i) out.Put(tensor.shape[i - 1]);
      out.Put(static_cast<uint32_t>(tensor.type)).Put(static_cast<uint64_t>(tensor.offset));
    }
    out.metadata_.resize((out.metadata_.size() + kAlignment - 1) / kAlignment * kAlignment, '\0');
    return out.metadata_ + data_;
  }

 private:
  static constexpr size_t kAlignment = 32;
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    GgmlType type;
    size_t offset;
  };

  GgufWriter& Key(const std::string& key, uint32_t kind) {
    ++keys_;
    return PutText(key).Put(kind);
  }
  GgufWriter& PutText(const std::string& text) {
    Put(static_cast<uint64_t>(text.size()));
    metadata_ += text;
    return *this;
  }
  template <typename T>
  GgufWriter& Put(T value) {
    metadata_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }

  uint64_t keys_ = 0;
  std::string metadata_, data_;
  std::vector<Entry> tensors_;
};

}  // namespace attune

#endif  // ATTUNE_TESTS_TESTING_GGUF_WRITER_H_
