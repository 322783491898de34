#include "server/tokenizer/jinja_json.h"

#include <cstdint>
#include <limits>
#include <string>

#include "nlohmann/json.hpp"

namespace attune::jinja {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMostDepth = 64;

Value Convert(const Json& json, Runtime* runtime, int depth) {
  if (depth > kMostDepth) return runtime->Fail("JSON nests too deep");
  switch (json.type()) {
    case Json::value_t::null:
      return Value::Nothing();
    case Json::value_t::boolean:
      return Value::Of(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::Of(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > std::numeric_limits<int64_t>::max()) return Value::Of(json.get<double>());
      return Value::Of(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value::Of(json.get<double>());
    case Json::value_t::string:
      return runtime->MakeText(json.get<std::string>());
    case Json::value_t::array: {
      List* const list = runtime->NewList();
      for (const Json& item : json) runtime->Append(list, Convert(item, runtime, depth + 1));
      return Value::Of(list);
    }
    case Json::value_t::object: {
      Dict* const dict = runtime->NewDict();
      for (const auto& [key, value] : json.items()) {
        runtime->Put(dict, runtime->MakeText(key), Convert(value, runtime, depth + 1));
      }
      return Value::Of(dict);
    }
    default:
      return runtime->Fail("JSON holds what it cannot");
  }
}

}  // namespace

Value ParseJson(absl::string_view text, Runtime* runtime) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return runtime->Fail("a message's fields, or the tools, are not valid JSON");
  return Convert(json, runtime, 0);
}

}  // namespace attune::jinja
