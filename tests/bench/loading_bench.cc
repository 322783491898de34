// Times how fast a model comes into memory, beside reading its files alone: a GGUF file, or a folder as transformers saves one.
//
//   loading_bench MODEL [--device cuda] [--precision bfloat16] [--rounds 5]
//
// The files are read once before, so that they are in the page cache. Reading alone is what `cat FILE >/dev/null` does, in
// pieces of 128 KiB. Prints both in turn, and the best of each in GiB/s.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "server/model/base_model.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

namespace fs = std::filesystem;
using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

int64_t ReadAlone(const std::vector<std::string>& files) {
  std::vector<char> buffer(128 << 10);
  int64_t bytes = 0;
  for (const std::string& file : files) {
    const int fd = open(file.c_str(), O_RDONLY);
    for (ssize_t count; (count = read(fd, buffer.data(), buffer.size())) > 0;) bytes += count;
    close(fd);
  }
  return bytes;
}

int Run(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: loading_bench MODEL [--device cuda] [--precision bfloat16] [--rounds 5]\n";
    return 2;
  }
  std::string folder = argv[1], device = "cpu", precision;
  int rounds = 5;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--device") device = argv[i + 1];
    else if (option == "--precision") precision = argv[i + 1];
    else if (option != "--rounds" || !absl::SimpleAtoi(argv[i + 1], &rounds)) return 2;
  }
  TempFolder temp;
  if (fs::is_regular_file(folder)) {
    fs::create_symlink(fs::absolute(folder), temp.File("model.gguf"));
    folder = temp.path();
  }
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (absl::EndsWith(entry.path().string(), ".safetensors") || absl::EndsWith(entry.path().string(), ".gguf")) files.push_back(entry.path());
  }
  absl::StatusOr<ComputeTarget> target = ChooseComputeTarget(device, precision.empty() ? "auto" : precision);
  if (!target.ok()) {
    std::cerr << target.status() << "\n";
    return 1;
  }
  const double gib = static_cast<double>(ReadAlone(files)) / (1 << 30);
  double read = 1e9, load = 1e9;
  for (int round = 0; round < rounds; ++round) {
    SteadyClock::time_point start = SteadyClock::now();
    ReadAlone(files);
    read = std::min(read, SecondsSince(start));
    start = SteadyClock::now();
    const auto model = LoadBaseModel(folder, folder, *target);
    if (!model.ok()) {
      std::cerr << model.status() << "\n";
      return 1;
    }
    const double seconds = SecondsSince(start);
    load = std::min(load, seconds);
    std::printf("round %d: loaded in %.3f s\n", round, seconds);
  }
  std::printf("%.3f GiB; read alone %.3f s, %.2f GiB/s; loaded %.3f s, %.2f GiB/s; share %.2f\n", gib, read, gib / read, load, gib / load,
              read / load);
  return 0;
}

}  // namespace
}  // namespace attune

int main(int argc, char** argv) { return attune::Run(argc, argv); }
