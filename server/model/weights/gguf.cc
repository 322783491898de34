#include "server/model/weights/gguf.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "server/model/weights/byte_reader.h"
#include "server/model/weights/mapped_file.h"

namespace attune {
namespace {

constexpr uint64_t kMagicBytes = 4;
constexpr uint32_t kMaxDimensions = 4;
constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kMaxAlignment = int64_t{1} << 20;
// Bytes that the shortest metadata entry and tensor entry take: counts are
// checked against them before anything is allocated.
constexpr uint64_t kMinMetadataBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;

// The kinds of metadata values, by GGUF's own numbers.
enum class Kind : uint32_t {
  kU8 = 0, kI8 = 1, kU16 = 2, kI16 = 3, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9,
  kU64 = 10, kI64 = 11, kF64 = 12,
};

absl::Status Bad(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_GGUF", absl::StrCat("Not a usable GGUF file: ", message));
}

absl::Status Cut(absl::string_view where) { return Bad(absl::StrCat("it ends inside ", where)); }

// Bytes of one value of a fixed-size kind; the length field for strings; 0 for the rest.
uint64_t KindBytes(Kind kind) {
  switch (kind) {
    case Kind::kU8: case Kind::kI8: case Kind::kBool: return 1;
    case Kind::kU16: case Kind::kI16: return 2;
    case Kind::kU32: case Kind::kI32: case Kind::kF32: return 4;
    case Kind::kU64: case Kind::kI64: case Kind::kF64: case Kind::kString: return 8;
    case Kind::kArray: return 0;
  }
  return 0;
}

template <typename T, typename Out>
bool ReadAs(ByteReader* reader, Out* out) {
  T value;
  if (!reader->Read(&value)) return false;
  *out = static_cast<Out>(value);
  return true;
}

bool ReadInteger(ByteReader* reader, Kind kind, int64_t* out) {
  switch (kind) {
    case Kind::kU8: return ReadAs<uint8_t>(reader, out);
    case Kind::kI8: return ReadAs<int8_t>(reader, out);
    case Kind::kU16: return ReadAs<uint16_t>(reader, out);
    case Kind::kI16: return ReadAs<int16_t>(reader, out);
    case Kind::kU32: return ReadAs<uint32_t>(reader, out);
    case Kind::kI32: return ReadAs<int32_t>(reader, out);
    case Kind::kU64: return ReadAs<uint64_t>(reader, out);
    case Kind::kI64: return ReadAs<int64_t>(reader, out);
    case Kind::kBool: {
      uint8_t value = 0;
      if (!reader->Read(&value)) return false;
      *out = value != 0;
      return true;
    }
    default: return false;
  }
}

bool ReadReal(ByteReader* reader, Kind kind, double* out) {
  return kind == Kind::kF32 ? ReadAs<float>(reader, out) : ReadAs<double>(reader, out);
}

absl::StatusOr<GgufValue> ReadArray(ByteReader* reader, const std::string& key) {
  uint32_t number = 0;
  uint64_t count = 0;
  if (!reader->Read(&number) || !reader->Read(&count)) return Cut(key);
  Kind kind = static_cast<Kind>(number);
  uint64_t bytes = KindBytes(kind);
  if (bytes == 0) return Bad(absl::StrCat(key, " is an array of kind ", number, ", which is not supported"));
  if (count > reader->remaining() / bytes) return Bad(absl::StrCat(key, " claims more elements than the file holds"));
  if (kind == Kind::kString) {
    std::vector<std::string> texts;
    texts.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      absl::string_view text;
      if (!reader->ReadString(&text)) return Cut(key);
      texts.emplace_back(text);
    }
    return GgufValue(std::move(texts));
  }
  if (kind == Kind::kF32 || kind == Kind::kF64) {
    std::vector<double> reals(count);
    for (double& real : reals) ReadReal(reader, kind, &real);  // in range: count was checked
    return GgufValue(std::move(reals));
  }
  std::vector<int64_t> integers(count);
  for (int64_t& integer : integers) ReadInteger(reader, kind, &integer);
  return GgufValue(std::move(integers));
}

absl::StatusOr<GgufValue> ReadValue(ByteReader* reader, const std::string& key) {
  uint32_t number = 0;
  if (!reader->Read(&number)) return Cut(key);
  Kind kind = static_cast<Kind>(number);
  if (kind == Kind::kArray) return ReadArray(reader, key);
  if (KindBytes(kind) == 0) return Bad(absl::StrCat(key, " has the unknown kind ", number));
  if (kind == Kind::kString) {
    absl::string_view text;
    if (!reader->ReadString(&text)) return Cut(key);
    return GgufValue(std::string(text));
  }
  if (kind == Kind::kF32 || kind == Kind::kF64) {
    double real = 0;
    if (!ReadReal(reader, kind, &real)) return Cut(key);
    return GgufValue(real);
  }
  int64_t integer = 0;
  if (!ReadInteger(reader, kind, &integer)) return Cut(key);
  if (kind == Kind::kBool) return GgufValue(integer != 0);
  if (kind == Kind::kU64 && integer < 0) return GgufValue(static_cast<uint64_t>(integer));
  return GgufValue(integer);
}

// Sets `elements` to the product of `shape`; false if it is 0 or too large to address.
bool CountElements(const std::vector<int64_t>& shape, int64_t* elements) {
  int64_t count = 1;
  for (int64_t size : shape) {
    if (size <= 0 || __builtin_mul_overflow(count, size, &count)) return false;
  }
  *elements = count;
  return count <= std::numeric_limits<int64_t>::max() / 8;
}

// A tensor entry before it is known where the data section starts.
struct Entry {
  GgufTensor tensor;
  uint64_t offset = 0;
  uint64_t size = 0;
};

absl::StatusOr<Entry> ReadEntry(ByteReader* reader) {
  Entry entry;
  absl::string_view name;
  uint32_t dimensions = 0, type = 0;
  if (!reader->ReadString(&name) || !reader->Read(&dimensions)) return Cut("the list of tensors");
  entry.tensor.name = std::string(name);
  if (dimensions > kMaxDimensions) return Bad(absl::StrCat("tensor ", name, " has ", dimensions, " dimensions"));
  for (uint32_t i = 0; i < dimensions; ++i) {
    uint64_t size = 0;
    if (!reader->Read(&size)) return Cut("the list of tensors");
    entry.tensor.shape.insert(entry.tensor.shape.begin(), static_cast<int64_t>(size));
  }
  if (!reader->Read(&type) || !reader->Read(&entry.offset)) return Cut("the list of tensors");
  entry.tensor.type = static_cast<GgmlType>(type);
  int64_t block = GgmlBlockElements(entry.tensor.type);
  if (block == 0) return Bad(absl::StrCat("tensor ", name, " has the type ", type, ", which is not supported"));
  int64_t elements = 0;
  if (!CountElements(entry.tensor.shape, &elements)) return Bad(absl::StrCat("tensor ", name, " has a bad shape"));
  int64_t row = dimensions == 0 ? 1 : entry.tensor.shape.back();
  if (row % block != 0) {
    return Bad(absl::StrCat("tensor ", name, " has rows of ", row, " values, not a multiple of ", block));
  }
  entry.size = static_cast<uint64_t>(elements / block) * static_cast<uint64_t>(GgmlBlockBytes(entry.tensor.type));
  return entry;
}

// Points the tensors into the data section; refuses what is outside, unaligned or overlapping.
absl::Status Place(absl::string_view data, uint64_t alignment, std::vector<Entry>* entries) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (Entry& entry : *entries) {
    const std::string& name = entry.tensor.name;
    if (entry.offset % alignment != 0) return Bad(absl::StrCat("tensor ", name, " is not aligned"));
    if (entry.offset > data.size() || entry.size > data.size() - entry.offset) {
      return Bad(absl::StrCat("tensor ", name, " reaches past the end of the file"));
    }
    entry.tensor.bytes = data.substr(entry.offset, entry.size);
    ranges.emplace_back(entry.offset, entry.offset + entry.size);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) return Bad("two tensors overlap");
  }
  return absl::OkStatus();
}

absl::Status WrongKind(absl::string_view key) { return Bad(absl::StrCat(key, " has an unexpected kind")); }

}  // namespace

int64_t GgufTensor::elements() const {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return count;
}

GgufFile::~GgufFile() = default;

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapping, MappedFile::Open(path));
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, Parse(mapping->bytes()));
  file->mapping_ = std::move(mapping);
  return file;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(absl::string_view bytes) {
  ByteReader reader(bytes);
  absl::string_view magic;
  uint32_t version = 0;
  uint64_t tensor_count = 0, metadata_count = 0;
  if (!reader.ReadBytes(kMagicBytes, &magic) || magic != "GGUF") return Bad("it does not start with 'GGUF'");
  if (!reader.Read(&version)) return Cut("the header");
  if (version != 2 && version != 3) return Bad(absl::StrCat("version ", version, " is not supported"));
  if (!reader.Read(&tensor_count) || !reader.Read(&metadata_count)) return Cut("the header");
  if (metadata_count > reader.remaining() / kMinMetadataBytes || tensor_count > reader.remaining() / kMinTensorBytes) {
    return Bad("it claims more entries than it has room for");
  }

  auto file = std::unique_ptr<GgufFile>(new GgufFile());
  for (uint64_t i = 0; i < metadata_count; ++i) {
    absl::string_view text;
    const uint64_t begin = reader.position();
    if (!reader.ReadString(&text)) return Cut("the metadata");
    std::string key(text);
    ATTUNE_ASSIGN_OR_RETURN(GgufValue value, ReadValue(&reader, key));
    if (!file->metadata_.emplace(key, std::move(value)).second) return Bad(absl::StrCat("it has ", key, " twice"));
    file->keys_.push_back({key, bytes.substr(begin, reader.position() - begin)});
  }
  ATTUNE_ASSIGN_OR_RETURN(int64_t alignment, file->Int("general.alignment", kDefaultAlignment));
  if (alignment <= 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
    return Bad(absl::StrCat("its alignment is ", alignment));
  }

  std::vector<Entry> entries;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    ATTUNE_ASSIGN_OR_RETURN(Entry entry, ReadEntry(&reader));
    if (!file->by_name_.emplace(entry.tensor.name, entries.size()).second) {
      return Bad(absl::StrCat("it has tensor ", entry.tensor.name, " twice"));
    }
    entries.push_back(std::move(entry));
  }
  uint64_t step = static_cast<uint64_t>(alignment);
  uint64_t start = std::min<uint64_t>((reader.position() + step - 1) / step * step, bytes.size());
  ATTUNE_RETURN_IF_ERROR(Place(bytes.substr(start), step, &entries));
  for (Entry& entry : entries) file->tensors_.push_back(std::move(entry.tensor));
  return file;
}

absl::StatusOr<int64_t> GgufFile::Int(absl::string_view key, int64_t fallback) const {
  auto it = metadata_.find(key);
  if (it == metadata_.end()) return fallback;
  const int64_t* value = std::get_if<int64_t>(&it->second);
  if (value == nullptr) return WrongKind(key);
  return *value;
}

absl::StatusOr<double> GgufFile::Real(absl::string_view key, double fallback) const {
  auto it = metadata_.find(key);
  if (it == metadata_.end()) return fallback;
  if (const double* value = std::get_if<double>(&it->second)) return *value;
  if (const int64_t* value = std::get_if<int64_t>(&it->second)) return static_cast<double>(*value);
  return WrongKind(key);
}

absl::StatusOr<bool> GgufFile::Bool(absl::string_view key, bool fallback) const {
  auto it = metadata_.find(key);
  if (it == metadata_.end()) return fallback;
  const bool* value = std::get_if<bool>(&it->second);
  if (value == nullptr) return WrongKind(key);
  return *value;
}

absl::StatusOr<std::string> GgufFile::Text(absl::string_view key, absl::string_view fallback) const {
  auto it = metadata_.find(key);
  if (it == metadata_.end()) return std::string(fallback);
  const std::string* value = std::get_if<std::string>(&it->second);
  if (value == nullptr) return WrongKind(key);
  return *value;
}

const std::vector<std::string>* GgufFile::Texts(absl::string_view key) const {
  auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : std::get_if<std::vector<std::string>>(&it->second);
}

const std::vector<int64_t>* GgufFile::Ints(absl::string_view key) const {
  auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : std::get_if<std::vector<int64_t>>(&it->second);
}

const std::vector<double>* GgufFile::Reals(absl::string_view key) const {
  auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : std::get_if<std::vector<double>>(&it->second);
}

bool GgufFile::Has(absl::string_view key) const { return metadata_.find(key) != metadata_.end(); }

const GgufTensor* GgufFile::Find(absl::string_view name) const {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace attune
