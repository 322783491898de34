#include "server/model/weights/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "server/model/weights/byte_reader.h"
#include "server/model/weights/mapped_file.h"

namespace attune {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = uint64_t{32} << 20;
constexpr size_t kMaxDimensions = 8;
constexpr int kMaxHeaderDepth = 3;

struct TypeName {
  SafetensorsType type;
  const char* name;
  int64_t bytes;
};
constexpr TypeName kTypes[] = {
    {SafetensorsType::kF32, "F32", 4}, {SafetensorsType::kF16, "F16", 2}, {SafetensorsType::kBF16, "BF16", 2},
    {SafetensorsType::kF64, "F64", 8}, {SafetensorsType::kI64, "I64", 8}, {SafetensorsType::kI32, "I32", 4},
    {SafetensorsType::kU8, "U8", 1},
};

absl::Status Bad(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, "BAD_SAFETENSORS",
                   absl::StrCat("Not a usable safetensors file: ", message));
}

const TypeName& Describe(SafetensorsType type) {
  return *std::find_if(std::begin(kTypes), std::end(kTypes), [type](const TypeName& t) { return t.type == type; });
}

// Parses JSON without exceptions; refuses deep nesting and objects with a key twice
// (which readers disagree on).
absl::StatusOr<Json> ParseStrictly(absl::string_view text, int max_depth) {
  std::vector<std::set<std::string>> keys;
  std::string problem;
  auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      if (depth >= max_depth) problem = "its JSON is nested too deeply";
      if (event == Json::parse_event_t::object_start) keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      problem = absl::StrCat("it has '", parsed.get<std::string>(), "' twice");
    }
    return problem.empty();  // what follows a problem is not kept
  };
  Json json = Json::parse(text.data(), text.data() + text.size(), check, /*allow_exceptions=*/false);
  if (!problem.empty()) return Bad(problem);
  if (json.is_discarded() || !json.is_object()) return Bad("its header is not a JSON object");
  return json;
}

// Reads a JSON number that fits and is not negative.
bool ReadCount(const Json& json, int64_t* out) {
  if (!json.is_number_integer()) return false;
  if (json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) return false;
  *out = json.get<int64_t>();
  return *out >= 0;
}

// Sets `bytes` to what the shape needs; false if that cannot be addressed.
bool CountBytes(const std::vector<int64_t>& shape, int64_t element_bytes, int64_t* bytes) {
  int64_t count = element_bytes;
  // A zero makes the product zero, whatever the other sizes are.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    *bytes = 0;
    return true;
  }
  for (int64_t size : shape) {
    if (__builtin_mul_overflow(count, size, &count)) return false;
  }
  *bytes = count;
  return true;
}

absl::StatusOr<SafetensorsTensor> ReadTensor(const std::string& name, const Json& json, absl::string_view data) {
  auto bad = [&](absl::string_view what) { return Bad(absl::StrCat("tensor ", name, " ", what)); };
  if (!json.is_object()) return bad("is described by something else than an object");
  auto dtype = json.find("dtype"), shape = json.find("shape"), offsets = json.find("data_offsets");
  if (dtype == json.end() || !dtype->is_string()) return bad("has no dtype");
  if (shape == json.end() || !shape->is_array() || shape->size() > kMaxDimensions) return bad("has no usable shape");
  if (offsets == json.end() || !offsets->is_array() || offsets->size() != 2) return bad("has no data_offsets");

  SafetensorsTensor tensor;
  tensor.name = name;
  const std::string& type_name = dtype->get_ref<const std::string&>();
  auto type = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeName& t) { return t.name == type_name; });
  if (type == std::end(kTypes)) return bad(absl::StrCat("has the dtype '", type_name, "', which is not supported"));
  tensor.type = type->type;
  for (const Json& size : *shape) {
    tensor.shape.push_back(0);
    if (!ReadCount(size, &tensor.shape.back())) return bad("has a bad shape");
  }
  int64_t begin = 0, end = 0, bytes = 0;
  if (!ReadCount((*offsets)[0], &begin) || !ReadCount((*offsets)[1], &end) || begin > end ||
      static_cast<uint64_t>(end) > data.size()) {
    return bad("has data_offsets outside the file");
  }
  if (!CountBytes(tensor.shape, type->bytes, &bytes) || bytes != end - begin) {
    return bad("has data_offsets that do not fit its shape");
  }
  tensor.bytes = data.substr(begin, bytes);
  return tensor;
}

absl::Status WrongMetadata() { return Bad("its __metadata__ is not an object of strings"); }

// The shard file names of an index and the tensors that they must hold.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  if (file->bytes().size() > kMaxHeaderBytes) return Bad("its index is too large");
  ATTUNE_ASSIGN_OR_RETURN(Json json, ParseStrictly(file->bytes(), kMaxHeaderDepth));
  auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) return Bad("its index has no weight_map");
  std::map<std::string, std::string> out;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) return Bad("its index names a shard by something else than a string");
    const std::string& file_name = shard.get_ref<const std::string&>();
    if (file_name.empty() || file_name == "." || file_name == ".." || file_name.find('/') != std::string::npos ||
        file_name.find('\0') != std::string::npos) {
      return Bad(absl::StrCat("its index names '", file_name, "', which is not a file beside it"));
    }
    out[name] = file_name;
  }
  return out;
}

}  // namespace

int64_t SafetensorsTensor::elements() const {
  return static_cast<int64_t>(bytes.size()) / SafetensorsElementBytes(type);
}

int64_t SafetensorsElementBytes(SafetensorsType type) { return Describe(type).bytes; }

SafetensorsFile::~SafetensorsFile() = default;

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Parse(absl::string_view bytes) {
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile());
  ATTUNE_RETURN_IF_ERROR(file->Add(bytes));
  return file;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::error_code error;
  std::map<std::string, std::string> index;  // tensor to shard
  std::set<std::string> shards = {path};
  if (fs::is_directory(path, error)) {
    if (fs::exists(path + "/model.safetensors", error)) {
      shards = {path + "/model.safetensors"};
    } else {
      ATTUNE_ASSIGN_OR_RETURN(index, ReadIndex(path + "/model.safetensors.index.json"));
      shards.clear();
      for (const auto& [name, shard] : index) shards.insert(absl::StrCat(path, "/", shard));
    }
  }
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile());
  for (const std::string& shard : shards) {
    ATTUNE_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapping, MappedFile::Open(shard));
    ATTUNE_RETURN_IF_ERROR(file->Add(mapping->bytes()));
    file->mappings_.push_back(std::move(mapping));
  }
  for (const auto& [name, shard] : index) {
    if (file->Find(name) == nullptr) return Bad(absl::StrCat("its index names tensor ", name, ", which no shard has"));
  }
  return file;
}

absl::Status SafetensorsFile::Add(absl::string_view bytes) {
  ByteReader reader(bytes);
  uint64_t header_size = 0;
  absl::string_view header;
  if (!reader.Read(&header_size)) return Bad("it is shorter than its header");
  if (header_size > kMaxHeaderBytes) return Bad(absl::StrCat("its header claims ", header_size, " bytes"));
  if (!reader.ReadBytes(header_size, &header)) return Bad("it is shorter than its header");
  ATTUNE_ASSIGN_OR_RETURN(Json json, ParseStrictly(header, kMaxHeaderDepth));
  absl::string_view data = bytes.substr(reader.position());

  std::vector<SafetensorsTensor> found;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return WrongMetadata();
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) return WrongMetadata();
        metadata_[key] = text.get<std::string>();
      }
      continue;
    }
    ATTUNE_ASSIGN_OR_RETURN(SafetensorsTensor tensor, ReadTensor(name, value, data));
    found.push_back(std::move(tensor));
  }
  std::sort(found.begin(), found.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::make_pair(a.bytes.data(), a.bytes.size()) < std::make_pair(b.bytes.data(), b.bytes.size());
  });
  const char* next = data.data();
  for (SafetensorsTensor& tensor : found) {
    if (tensor.bytes.data() != next) return Bad(absl::StrCat("tensor ", tensor.name, " overlaps another or leaves a gap"));
    next += tensor.bytes.size();
    if (!by_name_.emplace(tensor.name, tensors_.size()).second) {
      return Bad(absl::StrCat("tensor ", tensor.name, " is in two shards"));
    }
    tensors_.push_back(std::move(tensor));
  }
  if (next != data.data() + data.size()) return Bad("it has bytes that belong to no tensor");
  return absl::OkStatus();
}

const SafetensorsTensor* SafetensorsFile::Find(absl::string_view name) const {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace attune
