#include "server/model/weights/gguf.h"

#include <cstring>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/error.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/temp_folder.h"

namespace attune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The bytes of a header and what follows it, piece by piece, with no care for rules.
class Raw {
 public:
  template <typename T>
  Raw& Put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Raw& Text(const std::string& text) {
    Put(static_cast<uint64_t>(text.size()));
    bytes_ += text;
    return *this;
  }
  Raw& Header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    bytes_ = "GGUF";
    return Put(version).Put(tensors).Put(keys);
  }
  Raw& Tensor(const std::string& name, const std::vector<uint64_t>& sizes, uint32_t type, uint64_t offset) {
    Text(name).Put(static_cast<uint32_t>(sizes.size()));
    for (uint64_t size : sizes) Put(size);
    return Put(type).Put(offset);
  }
  // Pads to the data section and adds zeros.
  Raw& Data(size_t size) {
    bytes_.resize((bytes_.size() + 31) / 32 * 32 + size, '\0');
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

void ExpectBad(const std::string& bytes, const std::string& part) {
  absl::StatusOr<std::unique_ptr<GgufFile>> file = GgufFile::Parse(bytes);
  ASSERT_FALSE(file.ok()) << part;
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetErrorDetails(file.status()).reason, "BAD_GGUF");
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(part));
}

std::string GoodFile() {
  return GgufWriter()
      .Int("a.int", -5)
      .Real("a.real", 0.25)
      .Bool("a.bool", true)
      .Text("a.text", "hello")
      .Texts("a.texts", {"x", "", "yz"})
      .Ints("a.ints", {1, -2, 3})
      .Floats("first", {2, 3}, {1, 2, 3, 4, 5, 6})
      .Floats("second", {1}, {7})
      .Bytes();
}

TEST(GgufTest, ReadsMetadata) {
  std::string bytes = GoodFile();
  auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Int("a.int", 0).value(), -5);
  EXPECT_EQ((*file)->Real("a.real", 0).value(), 0.25);
  EXPECT_EQ((*file)->Real("a.int", 0).value(), -5.0);
  EXPECT_TRUE((*file)->Bool("a.bool", false).value());
  EXPECT_EQ((*file)->Text("a.text", "").value(), "hello");
  EXPECT_THAT(*(*file)->Texts("a.texts"), ElementsAre("x", "", "yz"));
  EXPECT_THAT(*(*file)->Ints("a.ints"), ElementsAre(1, -2, 3));
  EXPECT_TRUE((*file)->Has("a.int"));
  EXPECT_FALSE((*file)->Has("absent"));
}

TEST(GgufTest, AbsentKeysGiveTheDefaultAndWrongKindsAnError) {
  std::string bytes = GoodFile();
  auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Int("absent", 9).value(), 9);
  EXPECT_EQ((*file)->Real("absent", 1.5).value(), 1.5);
  EXPECT_TRUE((*file)->Bool("absent", true).value());
  EXPECT_EQ((*file)->Text("absent", "d").value(), "d");
  EXPECT_EQ((*file)->Texts("absent"), nullptr);
  for (const absl::Status& status : {(*file)->Int("a.text", 0).status(), (*file)->Real("a.text", 0).status(),
                                     (*file)->Bool("a.int", false).status(), (*file)->Text("a.int", "").status()}) {
    EXPECT_EQ(GetErrorDetails(status).reason, "BAD_GGUF");
    EXPECT_THAT(std::string(status.message()), HasSubstr("a."));
  }
  EXPECT_EQ((*file)->Texts("a.ints"), nullptr);
  EXPECT_EQ((*file)->Ints("a.texts"), nullptr);
  EXPECT_EQ((*file)->Reals("a.ints"), nullptr);
}

TEST(GgufTest, ReadsEveryIntegerWidth) {
  Raw raw;
  raw.Header(0, 10);
  raw.Text("u8").Put(uint32_t{0}).Put(uint8_t{200});
  raw.Text("i8").Put(uint32_t{1}).Put(int8_t{-3});
  raw.Text("u16").Put(uint32_t{2}).Put(uint16_t{60000});
  raw.Text("i16").Put(uint32_t{3}).Put(int16_t{-300});
  raw.Text("u32").Put(uint32_t{4}).Put(uint32_t{4000000000});
  raw.Text("i32").Put(uint32_t{5}).Put(int32_t{-70000});
  raw.Text("f32").Put(uint32_t{6}).Put(0.5f);
  raw.Text("u64").Put(uint32_t{10}).Put(uint64_t{1} << 40);
  raw.Text("huge").Put(uint32_t{10}).Put(~uint64_t{0});
  raw.Text("reals").Put(uint32_t{9}).Put(uint32_t{6}).Put(uint64_t{2}).Put(1.5f).Put(-2.0f);
  auto file = GgufFile::Parse(raw.bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Int("u8", 0).value(), 200);
  EXPECT_EQ((*file)->Int("i8", 0).value(), -3);
  EXPECT_EQ((*file)->Int("u16", 0).value(), 60000);
  EXPECT_EQ((*file)->Int("i16", 0).value(), -300);
  EXPECT_EQ((*file)->Int("u32", 0).value(), 4000000000);
  EXPECT_EQ((*file)->Int("i32", 0).value(), -70000);
  EXPECT_EQ((*file)->Real("f32", 0).value(), 0.5);
  EXPECT_EQ((*file)->Int("u64", 0).value(), int64_t{1} << 40);
  EXPECT_FALSE((*file)->Int("huge", 0).ok());
  EXPECT_THAT(*(*file)->Reals("reals"), ElementsAre(1.5, -2.0));
}

TEST(GgufTest, PointsTensorsIntoTheFile) {
  TempFolder folder;
  auto file = GgufFile::Open(folder.Write("m.gguf", GoodFile()));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), 2u);
  const GgufTensor* first = (*file)->Find("first");
  ASSERT_NE(first, nullptr);
  EXPECT_THAT(first->shape, ElementsAre(2, 3));
  EXPECT_EQ(first->elements(), 6);
  float values[6];
  ASSERT_TRUE(Dequantize(first->type, first->bytes, 6, values).ok());
  EXPECT_THAT(values, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ((*file)->Find("third"), nullptr);
}

TEST(GgufTest, MissingFilesAndFoldersAreErrors) {
  TempFolder folder;
  EXPECT_EQ(GgufFile::Open(folder.File("absent")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GetErrorDetails(GgufFile::Open(folder.path()).status()).reason, "NOT_A_FILE");
  EXPECT_EQ(GetErrorDetails(GgufFile::Open(folder.Write("empty", "")).status()).reason, "BAD_GGUF");
}

TEST(GgufTest, RefusesWrongHeaders) {
  ExpectBad("", "does not start");
  ExpectBad("GGML....", "does not start");
  ExpectBad("GGUF", "ends inside the header");
  ExpectBad(Raw().Header(0, 0, 1).bytes(), "version 1");
  ExpectBad(Raw().Header(0, 0, 4).bytes(), "version 4");
  ExpectBad(Raw().Header(~uint64_t{0}, 0).bytes(), "more entries");
  ExpectBad(Raw().Header(0, ~uint64_t{0}).bytes(), "more entries");
}

TEST(GgufTest, RefusesHostileMetadata) {
  std::string room(64, '\0');
  ExpectBad(Raw().Header(0, 1).Put(~uint64_t{0}).bytes() + room, "ends inside the metadata");
  ExpectBad(Raw().Header(0, 1).Text("k").Put(uint32_t{13}).bytes() + room, "unknown kind 13");
  ExpectBad(Raw().Header(0, 1).Text("k").Put(uint32_t{8}).Put(~uint64_t{0}).bytes() + room, "ends inside k");
  ExpectBad(Raw().Header(0, 1).Text("k").Put(uint32_t{9}).Put(uint32_t{9}).Put(uint64_t{1}).bytes() + room,
            "array of kind 9");
  ExpectBad(Raw().Header(0, 1).Text("k").Put(uint32_t{9}).Put(uint32_t{11}).Put(uint64_t{1} << 61).bytes() + room,
            "more elements");
  ExpectBad(Raw().Header(0, 1).Text("k").Put(uint32_t{9}).Put(uint32_t{8}).Put(uint64_t{3}).bytes() +
                std::string(24, '\xff'),
            "ends inside k");
  ExpectBad(GgufWriter().Int("k", 1).Int("k", 2).Bytes(), "k twice");
}

TEST(GgufTest, AlignmentMustBeAPowerOfTwo) {
  for (int64_t bad : {int64_t{0}, int64_t{-32}, int64_t{48}, std::numeric_limits<int64_t>::min(), int64_t{1} << 40}) {
    ExpectBad(GgufWriter().Int("general.alignment", bad).Bytes(), "alignment");
  }
  ExpectBad(GgufWriter().Text("general.alignment", "32").Bytes(), "general.alignment");
  EXPECT_TRUE(GgufFile::Parse(GgufWriter().Int("general.alignment", 64).Bytes()).ok());
}

TEST(GgufTest, RefusesHostileTensors) {
  ExpectBad(Raw().Header(1, 0).Tensor("t", {1, 1, 1, 1, 1}, 0, 0).Data(64).bytes(), "5 dimensions");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {4}, 10, 0).Data(64).bytes(), "type 10");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {0}, 0, 0).Data(64).bytes(), "bad shape");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {~uint64_t{0}}, 0, 0).Data(64).bytes(), "bad shape");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {1u << 31, 1u << 31, 1u << 31}, 0, 0).Data(64).bytes(), "bad shape");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {33}, 2, 0).Data(64).bytes(), "not a multiple of 32");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {17}, 0, 0).Data(64).bytes(), "past the end");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {4}, 0, ~uint64_t{31}).Data(64).bytes(), "past the end");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {4}, 0, 4).Data(64).bytes(), "not aligned");
  ExpectBad(Raw().Header(2, 0).Tensor("t", {4}, 0, 0).Tensor("t", {4}, 0, 32).Data(64).bytes(), "t twice");
  ExpectBad(Raw().Header(2, 0).Tensor("t", {16}, 0, 0).Tensor("u", {4}, 0, 32).Data(64).bytes(), "overlap");
  ExpectBad(Raw().Header(1, 0).Tensor("t", {4}, 0, 0).bytes(), "past the end");
  EXPECT_TRUE(GgufFile::Parse(Raw().Header(1, 0).Tensor("t", {16}, 0, 0).Data(64).bytes()).ok());
}

TEST(GgufTest, EveryCutFileIsRefused) {
  std::string bytes = GoodFile();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(GgufFile::Parse(absl::string_view(bytes).substr(0, size)).ok()) << size;
  }
}

TEST(GgufTest, FlippedBytesNeverLeadOutsideTheFile) {
  std::mt19937 random(7);
  const std::string good = GoodFile();
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = good;
    for (int flips = 1 + static_cast<int>(random() % 3); flips > 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    auto file = GgufFile::Parse(bytes);
    if (!file.ok()) continue;
    ++accepted;
    for (const GgufTensor& tensor : (*file)->tensors()) {
      EXPECT_GE(tensor.bytes.data(), bytes.data());
      EXPECT_LE(tensor.bytes.data() + tensor.bytes.size(), bytes.data() + bytes.size());
      std::vector<float> values(tensor.elements());
      EXPECT_TRUE(Dequantize(tensor.type, tensor.bytes, tensor.elements(), values.data()).ok());
    }
  }
  EXPECT_GT(accepted, 100);  // flips in values and data do no harm
}

}  // namespace
}  // namespace attune
