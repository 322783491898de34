#ifndef ATTUNE_TESTS_FUZZ_FUZZ_FOLDER_H_
#define ATTUNE_TESTS_FUZZ_FUZZ_FOLDER_H_

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace attune {

// The one folder of this process.
inline const std::string& FuzzFolder() {
  static const auto* const folder = [] {
    std::string pattern = (std::filesystem::temp_directory_path() / "attune-fuzz-XXXXXX").string();
    return new std::string(mkdtemp(pattern.data()));
  }();
  return *folder;
}

inline void WriteFuzzFile(const std::string& name, const uint8_t* data, size_t size) {
  std::ofstream(FuzzFolder() + "/" + name, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
}

}  // namespace attune

#endif  // ATTUNE_TESTS_FUZZ_FUZZ_FOLDER_H_
