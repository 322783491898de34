#include "server/model/weights/gguf_writer.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"

namespace attune {
namespace {

constexpr uint32_t kVersion = 3;
// The format's numbers of kinds of values.
constexpr uint32_t kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kText = 8, kArray = 9;
constexpr size_t kAlignment = 32;

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

void PutText(absl::string_view text, std::string* out) {
  Put(static_cast<uint64_t>(text.size()), out);
  out->append(text.data(), text.size());
}

std::string KeyOfKind(absl::string_view key, uint32_t kind) {
  std::string out;
  PutText(key, &out);
  Put(kind, &out);
  return out;
}

// An array of `kind`, which is T's.
template <typename T>
std::string EncodeNumbers(absl::string_view key, uint32_t kind, const std::vector<T>& values) {
  std::string out = KeyOfKind(key, kArray);
  Put(kind, &out);
  Put(static_cast<uint64_t>(values.size()), &out);
  for (const T value : values) Put(value, &out);
  return out;
}

size_t Aligned(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

size_t BytesOf(const GgufTensorToWrite& tensor) {
  int64_t elements = 1;
  for (int64_t size : tensor.shape) elements *= size;
  return static_cast<size_t>(elements / GgmlBlockElements(tensor.type) * GgmlBlockBytes(tensor.type));
}

std::string Header(const std::vector<std::string>& keys, const std::vector<GgufTensorToWrite>& tensors) {
  std::string header = "GGUF";
  Put(kVersion, &header);
  Put(static_cast<uint64_t>(tensors.size()), &header);
  Put(static_cast<uint64_t>(keys.size()), &header);
  for (const std::string& key : keys) header += key;
  uint64_t offset = 0;
  for (const GgufTensorToWrite& tensor : tensors) {
    PutText(tensor.name, &header);
    Put(static_cast<uint32_t>(tensor.shape.size()), &header);
    for (size_t i = tensor.shape.size(); i > 0; --i) Put(static_cast<uint64_t>(tensor.shape[i - 1]), &header);
    Put(static_cast<uint32_t>(tensor.type), &header);
    Put(offset, &header);
    offset += Aligned(BytesOf(tensor));
  }
  header.resize(Aligned(header.size()), '\0');
  return header;
}

absl::Status WriteTo(const std::string& path, const std::vector<std::string>& keys,
                     const std::vector<GgufTensorToWrite>& tensors) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << Header(keys, tensors);
  for (const GgufTensorToWrite& tensor : tensors) {
    ATTUNE_ASSIGN_OR_RETURN(std::string bytes, tensor.bytes());
    if (bytes.size() != BytesOf(tensor)) {
      return MakeError(absl::StatusCode::kInternal, "BAD_GGUF",
                       absl::StrCat("tensor '", tensor.name, "' has ", bytes.size(), " bytes, not ", BytesOf(tensor)));
    }
    bytes.resize(Aligned(bytes.size()), '\0');
    if (!file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()))) break;
  }
  file.close();
  if (!file) return ErrnoStatus(errno, absl::StrCat("writing ", path));
  return SyncPath(path);
}

}  // namespace

std::string EncodeGgufKey(absl::string_view key, uint32_t value) {
  std::string out = KeyOfKind(key, kUint32);
  Put(value, &out);
  return out;
}

std::string EncodeGgufReal(absl::string_view key, double value) {
  std::string out = KeyOfKind(key, kFloat32);
  Put(static_cast<float>(value), &out);
  return out;
}

std::string EncodeGgufBool(absl::string_view key, bool value) {
  std::string out = KeyOfKind(key, kBool);
  Put(static_cast<uint8_t>(value ? 1 : 0), &out);
  return out;
}

std::string EncodeGgufText(absl::string_view key, absl::string_view value) {
  std::string out = KeyOfKind(key, kText);
  PutText(value, &out);
  return out;
}

std::string EncodeGgufTexts(absl::string_view key, const std::vector<std::string>& values) {
  std::string out = KeyOfKind(key, kArray);
  Put(kText, &out);
  Put(static_cast<uint64_t>(values.size()), &out);
  for (const std::string& value : values) PutText(value, &out);
  return out;
}

std::string EncodeGgufInts(absl::string_view key, const std::vector<int32_t>& values) {
  return EncodeNumbers(key, kInt32, values);
}

std::string EncodeGgufReals(absl::string_view key, const std::vector<float>& values) {
  return EncodeNumbers(key, kFloat32, values);
}

absl::Status WriteGguf(const std::string& path, const std::vector<std::string>& keys,
                       const std::vector<GgufTensorToWrite>& tensors) {
  const std::string temporary = path + ".tmp";
  absl::Status status = WriteTo(temporary, keys, tensors);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) status = ErrnoStatus(errno, absl::StrCat("writing ", path));
  if (!status.ok()) {
    std::remove(temporary.c_str());
    return status;
  }
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  return SyncPath(folder.empty() ? "." : folder.string());
}

}  // namespace attune
