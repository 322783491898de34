#include "server/evaluation/prompt_search/search_memo.h"

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "nlohmann/json.hpp"

namespace attune {
namespace {

using Json = nlohmann::json;

// [[row, plain, calibrated], ...]
Json RowsToJson(const std::map<int64_t, RowScore>& rows) {
  Json json = Json::array();
  for (const auto& [row, score] : rows) json.push_back({row, score.plain, score.calibrated});
  return json;
}

Json ContentFreeToJson(const std::map<int64_t, std::vector<double>>& inputs) {
  Json json = Json::array();
  for (const auto& [input, logprobs] : inputs) json.push_back({input, logprobs});
  return json;
}

SearchMemo Decode(const Json& json) {
  SearchMemo memo;
  for (const auto& [prompt, rows] : json.at("scores").items()) {
    for (const Json& row : rows) memo.scores[prompt][row.at(0).get<int64_t>()] = {row.at(1), row.at(2)};
  }
  for (const auto& [prompt, inputs] : json.at("content_free").items()) {
    for (const Json& input : inputs) {
      memo.content_free[prompt][input.at(0).get<int64_t>()] = input.at(1).get<std::vector<double>>();
    }
  }
  json.at("written").get_to(memo.written);
  json.at("calls").get_to(memo.calls);
  json.at("tokens").get_to(memo.tokens);
  json.at("seconds").get_to(memo.seconds);
  memo.embedded = json.value("embedded", std::set<int64_t>());
  return memo;
}

}  // namespace

const RowScore* SearchMemo::Find(const std::string& prompt, int64_t row) const {
  const auto rows = scores.find(prompt);
  if (rows == scores.end()) return nullptr;
  const auto score = rows->second.find(row);
  return score == rows->second.end() ? nullptr : &score->second;
}

std::string SearchMemoToJson(const SearchMemo& memo) {
  Json scores = Json::object(), content_free = Json::object();
  for (const auto& [prompt, rows] : memo.scores) scores[prompt] = RowsToJson(rows);
  for (const auto& [prompt, inputs] : memo.content_free) content_free[prompt] = ContentFreeToJson(inputs);
  return Json{{"scores", scores},         {"content_free", content_free}, {"written", memo.written},
              {"calls", memo.calls},      {"tokens", memo.tokens},        {"seconds", memo.seconds},
              {"embedded", memo.embedded}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::StatusOr<SearchMemo> SearchMemoFromJson(absl::string_view text) {
  try {
    return Decode(Json::parse(text.begin(), text.end()));
  } catch (const Json::exception& error) {
    return MakeError(absl::StatusCode::kDataLoss, "BAD_CHECKPOINT",
                     absl::StrCat("a search's state cannot be read: ", error.what()));
  }
}

}  // namespace attune
