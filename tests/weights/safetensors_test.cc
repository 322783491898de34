#include "server/model/weights/safetensors.h"

#include <cstring>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"
#include "common/file.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string File(const std::string& header, size_t data) {
  uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + header + std::string(data, 'd');
}

std::string Tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

void ExpectBad(const std::string& bytes, const std::string& part) {
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> file = SafetensorsFile::Parse(bytes);
  ASSERT_FALSE(file.ok()) << part;
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetErrorDetails(file.status()).reason, "BAD_SAFETENSORS");
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(part));
}

TEST(SafetensorsTest, ReadsTensorsAndMetadata) {
  std::string bytes = File("{\"__metadata__\":{\"format\":\"pt\"}," + Tensor("b", "F32", "[1,2]", "[4,12]") + "," +
                               Tensor("a", "BF16", "[2]", "[0,4]") + "," + Tensor("none", "I64", "[0,3]", "[12,12]") +
                               "}  ",
                           12);
  auto file = SafetensorsFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  ASSERT_EQ((*file)->tensors().size(), 3u);
  EXPECT_EQ((*file)->tensors()[0].name, "a");
  const SafetensorsTensor* b = (*file)->Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_THAT(b->shape, ElementsAre(1, 2));
  EXPECT_EQ(b->type, SafetensorsType::kF32);
  EXPECT_EQ(b->elements(), 2);
  EXPECT_EQ(b->bytes.size(), 8u);
  EXPECT_EQ((*file)->Find("none")->elements(), 0);
  EXPECT_EQ((*file)->Find("absent"), nullptr);
}

TEST(SafetensorsTest, WritesWhatItReads) {
  TempFolder folder;
  std::string first(24, 'x'), second("\x01\x02\x03", 3);
  std::vector<SafetensorsTensor> tensors = {{"z.weight", {2, 3}, SafetensorsType::kF32, first},
                                            {"a.bytes", {3}, SafetensorsType::kU8, second},
                                            {"scalar", {}, SafetensorsType::kF16, absl::string_view(first).substr(0, 2)}};
  ASSERT_TRUE(WriteSafetensors(folder.File("out.safetensors"), tensors, {{"format", "pt"}, {"note", "\xff"}}).ok());
  auto file = SafetensorsFile::Open(folder.File("out.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 3u);
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ((*file)->tensors()[i].name, tensors[i].name);
    EXPECT_EQ((*file)->tensors()[i].shape, tensors[i].shape);
    EXPECT_EQ((*file)->tensors()[i].bytes, tensors[i].bytes);
  }
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  EXPECT_FALSE(std::filesystem::exists(folder.File("out.safetensors.tmp")));
  std::string written = ReadFile(folder.File("out.safetensors")).value();
  uint64_t header_size;
  std::memcpy(&header_size, written.data(), sizeof header_size);
  EXPECT_EQ(header_size % 8, 0u);
}

TEST(SafetensorsTest, WriterRefusesWhatWouldNotRead) {
  TempFolder folder;
  std::string bytes(8, 'x');
  auto write = [&](std::vector<SafetensorsTensor> tensors) {
    return GetErrorDetails(WriteSafetensors(folder.File("out"), tensors, {})).reason;
  };
  EXPECT_EQ(write({{"a", {3}, SafetensorsType::kF32, bytes}}), "BAD_SAFETENSORS");
  EXPECT_EQ(write({{"a", {2}, SafetensorsType::kF32, bytes}, {"a", {2}, SafetensorsType::kF32, bytes}}),
            "BAD_SAFETENSORS");
  EXPECT_EQ(write({{"__metadata__", {2}, SafetensorsType::kF32, bytes}}), "BAD_SAFETENSORS");
  EXPECT_FALSE(std::filesystem::exists(folder.File("out")));
  EXPECT_EQ(WriteSafetensors(folder.File("no/such/folder"), {}, {}).code(), absl::StatusCode::kNotFound);
}

TEST(SafetensorsTest, ReadsDirectoriesAndShards) {
  TempFolder single, sharded;
  single.Write("model.safetensors", File("{" + Tensor("a", "U8", "[2]", "[0,2]") + "}", 2));
  EXPECT_NE(SafetensorsFile::Open(single.path()).value()->Find("a"), nullptr);

  sharded.Write("one.safetensors", File("{" + Tensor("a", "U8", "[2]", "[0,2]") + "}", 2));
  sharded.Write("two.safetensors", File("{" + Tensor("b", "U8", "[1]", "[0,1]") + "}", 1));
  auto open = [&](const std::string& map) {
    sharded.Write("model.safetensors.index.json", "{\"weight_map\":" + map + "}");
    return SafetensorsFile::Open(sharded.path());
  };
  auto both = open(R"({"a":"one.safetensors","b":"two.safetensors"})");
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ((*both)->tensors().size(), 2u);
  EXPECT_THAT(std::string(open(R"({"a":"one.safetensors","c":"two.safetensors"})").status().message()),
              HasSubstr("tensor c"));
  EXPECT_THAT(std::string(open(R"({"a":"../one.safetensors"})").status().message()), HasSubstr("not a file beside"));
  EXPECT_THAT(std::string(open(R"({"a":5})").status().message()), HasSubstr("something else"));
  EXPECT_THAT(std::string(open("{}").status().message()), HasSubstr("no weight_map"));
  EXPECT_EQ(open(R"({"a":"three.safetensors"})").status().code(), absl::StatusCode::kNotFound);
  sharded.Write("two.safetensors", File("{" + Tensor("a", "U8", "[1]", "[0,1]") + "}", 1));
  EXPECT_THAT(std::string(open(R"({"a":"one.safetensors","b":"two.safetensors"})").status().message()),
              HasSubstr("in two shards"));
}

TEST(SafetensorsTest, MissingFilesAreNotFound) {
  TempFolder folder;
  EXPECT_EQ(SafetensorsFile::Open(folder.File("absent")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open(folder.path()).status().code(), absl::StatusCode::kNotFound);
}

TEST(SafetensorsTest, RefusesHostileHeaders) {
  ExpectBad("", "shorter");
  ExpectBad(std::string("\x10\0\0\0\0\0\0\0{}", 10), "shorter");
  ExpectBad(std::string(8, '\xff'), "claims");
  ExpectBad(File("", 0), "JSON object");
  ExpectBad(File("[]", 0), "JSON object");
  ExpectBad(File("{", 0), "JSON object");
  ExpectBad(File("{\"a\":\"\xff\"}", 0), "JSON object");
  ExpectBad(File("{\"a\":1}", 0), "something else");
  ExpectBad(File("{\"__metadata__\":[]}", 0), "__metadata__");
  ExpectBad(File("{\"__metadata__\":{\"a\":1}}", 0), "__metadata__");
  ExpectBad(File("{" + Tensor("a", "U8", "[1]", "[0,1]") + "," + Tensor("a", "U8", "[1]", "[0,1]") + "}", 1), "twice");
  ExpectBad(File("{\"a\":" + std::string(100000, '['), 0), "deep");
  ExpectBad(File("{}", 1), "belong to no tensor");
}

TEST(SafetensorsTest, RefusesHostileTensors) {
  auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return File("{" + Tensor("a", dtype, shape, offsets) + "}", 8);
  };
  EXPECT_TRUE(SafetensorsFile::Parse(one("F32", "[2]", "[0,8]")).ok());
  ExpectBad(one("F8_E4M3", "[8]", "[0,8]"), "dtype 'F8_E4M3'");
  ExpectBad(one("F32", "2", "[0,8]"), "no usable shape");
  ExpectBad(one("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), "no usable shape");
  ExpectBad(one("F32", "[-2]", "[0,8]"), "bad shape");
  ExpectBad(one("F32", "[2.0]", "[0,8]"), "bad shape");
  ExpectBad(one("F32", "[18446744073709551615]", "[0,8]"), "bad shape");
  ExpectBad(one("F32", "[2]", "[0]"), "no data_offsets");
  ExpectBad(one("F32", "[2]", "[0,-8]"), "outside the file");
  ExpectBad(one("F32", "[2]", "[8,0]"), "outside the file");
  ExpectBad(one("F32", "[2]", "[8,16]"), "outside the file");
  ExpectBad(one("F32", "[3]", "[0,8]"), "do not fit");
  ExpectBad(one("F32", "[4294967296,4294967296,2]", "[0,8]"), "do not fit");
  ExpectBad(one("U8", "[4]", "[0,4]"), "belong to no tensor");
  ExpectBad(one("U8", "[4]", "[4,8]"), "gap");
  ExpectBad(File("{" + Tensor("a", "U8", "[5]", "[0,5]") + "," + Tensor("b", "U8", "[4]", "[4,8]") + "}", 8), "overlaps");
  ExpectBad(File(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1), "no dtype");
}

TEST(SafetensorsTest, EveryCutFileIsRefused) {
  std::string bytes = File("{" + Tensor("a", "F32", "[2]", "[0,8]") + "}", 8);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(SafetensorsFile::Parse(absl::string_view(bytes).substr(0, size)).ok()) << size;
  }
}

TEST(SafetensorsTest, FlippedBytesNeverLeadOutsideTheFile) {
  std::mt19937 random(11);
  const std::string good = File("{" + Tensor("a", "F32", "[2]", "[0,8]") + "," + Tensor("b", "U8", "[4]", "[8,12]") + "}", 12);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = good;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    auto file = SafetensorsFile::Parse(bytes);
    if (!file.ok()) continue;
    for (const SafetensorsTensor& tensor : (*file)->tensors()) {
      EXPECT_GE(tensor.bytes.data(), bytes.data());
      EXPECT_LE(tensor.bytes.data() + tensor.bytes.size(), bytes.data() + bytes.size());
    }
  }
}

}  // namespace
}  // namespace attune
