// Checks the rules of server/README.md about who may include what, over the source tree itself.
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attune {
namespace {

namespace fs = std::filesystem;

// Which modules a module may include, itself and common aside. A new module needs a line.
const std::map<std::string, std::set<std::string>>& Allowed() {
  static const auto* const allowed = new std::map<std::string, std::set<std::string>>{
      {"common", {}},
      {"client", {}},
      {"server/jobs", {}},
      {"server/device", {}},
      {"server/comparison/report", {"server/comparison", "server/jobs", "server/evaluation/measures"}},
      {"server/comparison", {"server/jobs", "server/evaluation", "server/evaluation/measures",
                             "server/evaluation/probe", "server/engine", "server/adapters", "server/data",
                             "server/tokenizer"}},
      {"server/advice",
       {"server/comparison", "server/jobs", "server/evaluation", "server/evaluation/measures", "server/engine",
        "server/adapters", "server/data", "server/tokenizer"}},
      {"server/metrics", {}},
      {"server/model/weights", {}},
      {"server/model/kernels/cuda", {}},
      {"server/model/kernels", {"server/model/kernels/cuda", "server/model/weights"}},
      {"server/tokenizer", {"server/model/weights"}},
      {"server/data", {"server/tokenizer"}},
      {"server/grammar", {"server/tokenizer"}},
      {"server/model", {"server/model/weights", "server/model/kernels", "server/tokenizer"}},
      {"server/adapters", {"server/model", "server/model/weights", "server/model/kernels", "server/model/kernels/cuda",
                           "server/tokenizer", "server/data", "server/device"}},
      {"server/tuning/methods", {"server/adapters", "server/model", "server/model/weights", "server/model/kernels",
                                 "server/tokenizer", "server/data", "server/jobs"}},
      {"server/tuning", {"server/tuning/methods", "server/adapters", "server/model", "server/model/weights",
                         "server/model/kernels", "server/model/kernels/cuda", "server/tokenizer", "server/data",
                         "server/device", "server/jobs"}},
      {"server/engine", {"server/adapters", "server/model", "server/model/weights",
                         "server/model/kernels", "server/model/kernels/cuda", "server/tokenizer", "server/device", "server/grammar"}},
      {"server/evaluation/probe", {}},
      {"server/evaluation/measures", {}},
      {"server/evaluation", {"server/evaluation/measures", "server/evaluation/probe", "server/engine", "server/adapters",
                             "server/data", "server/tokenizer"}},
      {"server/evaluation/prompt_search", {"server/evaluation", "server/evaluation/measures", "server/engine",
                                           "server/adapters", "server/data", "server/tokenizer", "server/jobs",
                                           "server/device"}},
      {"server/rpc", {"server/jobs", "server/engine", "server/adapters", "server/evaluation",
                      "server/evaluation/measures", "server/comparison", "server/comparison/report",
                      "server/advice", "server/data", "server/tokenizer",
                      "server/metrics", "server/grammar"}},
      {"server", {"server/rpc", "server/jobs", "server/device", "server/metrics", "server/engine", "server/model", "server/model/weights", "server/model/kernels", "server/tokenizer", "server/data", "server/grammar",
                  "server/adapters", "server/tuning", "server/tuning/methods", "server/evaluation", "server/evaluation/prompt_search",
                  "server/comparison", "server/comparison/report", "server/advice"}},
  };
  return *allowed;
}

struct File {
  std::vector<std::string> types;    // structs and classes that it defines for others to see
  std::vector<std::string> project;  // included files of ours, by path from the root
  std::vector<std::string> foreign;  // the rest, as written
};

// Every source below common, server and client, by path from the root.
const std::map<std::string, File>& Sources() {
  static const auto* const sources = [] {
    auto* files = new std::map<std::string, File>;
    const fs::path root = ATTUNE_SOURCE_DIR;
    const std::regex type(R"re((?:struct|class) (?:ABSL_\w+ |alignas\(\w+\) )?(\w+)(?: final)?(?: :.*)? \{.*)re");
    const std::regex include(R"re(^\s*#\s*include\s*[<"]([^>"]+)[>"].*)re");
    for (const char* top : {"common", "server", "client"}) {
      for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
        const std::string extension = entry.path().extension().string();
        if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") continue;
        File& file = (*files)[fs::relative(entry.path(), root).string()];
        std::ifstream in(entry.path());
        std::smatch match;
        bool is_hidden = false;  // in a namespace without a name
        for (std::string line; std::getline(in, line);) {
          if (line == "namespace {") is_hidden = true;
          if (line == "}  // namespace") is_hidden = false;
          if (!is_hidden && std::regex_match(line, match, type)) file.types.push_back(match[1]);
          if (!std::regex_match(line, match, include)) continue;
          const std::string path = match[1];
          (fs::exists(root / path) ? file.project : file.foreign).push_back(path);
        }
      }
    }
    return files;
  }();
  return *sources;
}

// The module of a file: its folder; all of client is one, and adapters with their formats.
std::string Module(const std::string& path) {
  if (absl::StartsWith(path, "client/")) return "client";
  if (absl::StartsWith(path, "server/adapters/")) return "server/adapters";
  return fs::path(path).parent_path().string();
}

bool IsTorch(const std::string& include) {
  for (const char* prefix : {"ATen/", "torch/", "c10/", "caffe2/"}) {
    if (absl::StartsWith(include, prefix)) return true;
  }
  return false;
}

bool IsRpc(const std::string& include) {
  for (const char* prefix : {"grpc/", "grpc++/", "grpcpp/", "google/", "attune/v1/"}) {
    if (absl::StartsWith(include, prefix)) return true;
  }
  return false;
}

// Whether `path` reaches an include that `matches`, through headers of ours too.
// `way`, if found, gets the chain of files.
bool Reaches(const std::string& path, bool (*matches)(const std::string&), std::set<std::string>* seen,
             std::vector<std::string>* way) {
  auto it = Sources().find(path);
  if (it == Sources().end() || !seen->insert(path).second) return false;
  way->push_back(path);
  for (const std::string& include : it->second.foreign) {
    if (matches(include)) return way->push_back(include), true;
  }
  for (const std::string& include : it->second.project) {
    if (Reaches(include, matches, seen, way)) return true;
  }
  way->pop_back();
  return false;
}

// The chain by which `path` reaches such an include; empty if it does not.
std::string Chain(const std::string& path, bool (*matches)(const std::string&)) {
  std::set<std::string> seen;
  std::vector<std::string> way;
  return Reaches(path, matches, &seen, &way) ? absl::StrJoin(way, " -> ") : "";
}

bool Below(const std::string& path, std::initializer_list<const char*> prefixes) {
  for (const char* prefix : prefixes) {
    if (absl::StartsWith(path, prefix)) return true;
  }
  return false;
}

TEST(IncludesTest, SourcesWereFound) {
  EXPECT_GE(Sources().size(), 20);
  EXPECT_TRUE(Sources().count("common/status.h"));
}

TEST(IncludesTest, IncludesPointOneWay) {
  for (const auto& [path, file] : Sources()) {
    const std::string module = Module(path);
    ASSERT_TRUE(Allowed().count(module)) << path << " is in a module that this test does not know";
    for (const std::string& include : file.project) {
      const std::string target = Module(include);
      if (target == module || target == "common") continue;
      EXPECT_TRUE(Allowed().at(module).count(target)) << path << " must not include " << include;
    }
  }
}

// Two types of one name in one program are one to the linker, which takes the destructor of either for both.
TEST(IncludesTest, TypesHaveNamesOfTheirOwn) {
  std::map<std::string, std::string> where;
  for (const auto& [path, file] : Sources()) {
    for (const std::string& type : file.types) {
      const auto [known, is_new] = where.emplace(type, path);
      EXPECT_TRUE(is_new) << type << " is defined in " << path << " and in " << known->second;
    }
  }
  EXPECT_GE(where.size(), 100u);
}

TEST(IncludesTest, TheRulesThemselvesHaveNoCycle) {
  for (const auto& [module, targets] : Allowed()) {
    for (const std::string& target : targets) {
      ASSERT_TRUE(Allowed().count(target)) << target;
      EXPECT_FALSE(Allowed().at(target).count(module)) << module << " and " << target << " allow each other";
    }
  }
}

TEST(IncludesTest, TorchStaysWhereTensorsAre) {
  for (const auto& [path, file] : Sources()) {
    const bool may =
        Below(path, {"server/model/", "server/tuning/", "server/adapters/", "server/engine/", "server/data/batcher"}) &&
        !Below(path, {"server/engine/batch_scheduler", "server/engine/kv_pages", "server/engine/swap_space",
                      "server/engine/sequence", "server/model/weights/"});
    if (may) continue;
    for (const std::string& include : file.foreign) EXPECT_FALSE(IsTorch(include)) << path << " includes " << include;
  }
}

TEST(IncludesTest, GrpcStaysAtTheEdge) {
  for (const auto& [path, file] : Sources()) {
    const bool may = Below(path, {"server/rpc/", "client/", "common/status."}) || Module(path) == "server";
    if (!may) {
      EXPECT_EQ(Chain(path, IsRpc), "") << path << " must not see gRPC or generated headers";
    }
  }
}

TEST(IncludesTest, NoFileSeesTorchAndProtobuf) {
  // torch ships protobuf headers of another version.
  for (const auto& [path, file] : Sources()) {
    const std::string torch = Chain(path, IsTorch), rpc = Chain(path, IsRpc);
    EXPECT_TRUE(torch.empty() || rpc.empty()) << torch << "\nand " << rpc;
  }
}

TEST(IncludesTest, PureModulesSeeNeither) {
  for (const auto& [path, file] : Sources()) {
    if (!Below(path, {"server/jobs/", "server/device/", "server/data/", "server/evaluation/measures/", "server/evaluation/probe/", "server/engine/batch_scheduler", "server/engine/kv_pages", "server/engine/swap_space", "server/engine/sequence", "server/model/weights/"}) ||
        Below(path, {"server/data/batcher"})) {
      continue;
    }
    EXPECT_EQ(Chain(path, IsTorch), "");
    EXPECT_EQ(Chain(path, IsRpc), "");
  }
}

TEST(IncludesTest, SentencePieceAndAbseilDoNotMeet) {
  // SentencePiece's header declares an absl::string_view of its own.
  for (const auto& [path, file] : Sources()) {
    const auto is_sentencepiece = [](const std::string& include) { return absl::StartsWith(include, "sentencepiece"); };
    const std::string sentencepiece = Chain(path, +is_sentencepiece);
    if (sentencepiece.empty()) continue;
    EXPECT_TRUE(Below(path, {"server/tokenizer/"})) << sentencepiece;
    const auto is_abseil = [](const std::string& include) { return absl::StartsWith(include, "absl/"); };
    EXPECT_EQ(Chain(path, +is_abseil), "") << path << " sees sentencepiece's header too";
  }
}

}  // namespace
}  // namespace attune
