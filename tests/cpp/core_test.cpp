// cpp/core, without the thread pool: checked sizes, number formats, tensor views, mapped files, interrupts.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "core/checked.h"
#include "core/dtype.h"
#include "core/interrupt.h"
#include "core/lines.h"
#include "core/mapped_file.h"
#include "core/pages.h"
#include "core/tensor.h"
#include "expect_error.h"

namespace gemma4 {
namespace {

// --- pages
// ------------------------------------------------------------------------------------------------------

// Bytes of the process in memory.
size_t resident() {
  std::ifstream file("/proc/self/statm");
  size_t all = 0, here = 0;
  file >> all >> here;
  return here * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(LinesTest, BeginOnALineAndGrow) {
  Lines<float> lines;
  EXPECT_EQ(lines.data(), nullptr);
  for (size_t n : {1, 17, 1000}) {
    float* at = lines.room(n);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % 64, 0u);
    EXPECT_EQ(lines.size(), n);
    at[n - 1] = 3;
    EXPECT_EQ(lines.room(n / 2), at);  // enough: nothing moves
    EXPECT_EQ(lines[n - 1], 3);
  }
  EXPECT_EQ(Lines<char>(0).data(), nullptr);
  EXPECT_THROW(Lines<float>(std::numeric_limits<size_t>::max() / 2), std::bad_alloc);
}

// Also those that come after others of the same size, which malloc would keep and clear.
TEST(PagesTest, CostOnlyWhatIsWritten) {
  constexpr size_t kBytes = size_t{24} << 20, kSlack = kBytes / 8;
  const size_t before = resident();
  for (int time = 0; time < 3; ++time) {
    Pages pages(kBytes);
    EXPECT_LT(resident(), before + kSlack);
    auto* bytes = static_cast<unsigned char*>(pages.data());
    EXPECT_EQ(bytes[kBytes - 1], 0);
    std::memset(bytes, 1, kBytes);
    EXPECT_GT(resident() + kSlack, before + kBytes);
    const Pages moved = std::move(pages);
    EXPECT_EQ(moved.data(), bytes);
  }
  EXPECT_LT(resident(), before + kSlack);
  EXPECT_EQ(Pages(0).data(), nullptr);
  EXPECT_THROW(Pages(size_t{1} << 60), std::bad_alloc);
}

// --- sizes and formats
// ------------------------------------------------------------------------------------------------

TEST(CheckedTest, OverflowIsAnErrorThatNamesWhat) {
  const size_t most = std::numeric_limits<size_t>::max();
  EXPECT_EQ(checked_mul(6, 7, "x"), 42u);
  EXPECT_EQ(checked_mul(0, most, "x"), 0u);
  EXPECT_EQ(checked_mul(1, most, "x"), most);
  EXPECT_EQ(checked_add(most - 1, 1, "x"), most);
  expect_error(ErrorKind::kModelFile, "tensor t", [&] { checked_mul(most / 2 + 1, 2, "tensor t"); });
  expect_error(ErrorKind::kModelFile, "tensor t", [&] { checked_mul(size_t{1} << 32, size_t{1} << 32, "tensor t"); });
  expect_error(ErrorKind::kModelFile, "tensor t", [&] { checked_add(most, 1, "tensor t"); });
}

TEST(DTypeTest, RowsOfTheTableAreInOrder) {
  for (int i = 0; i < kDTypeCount; ++i) EXPECT_EQ(static_cast<int>(kFormats[i].dtype), i);
  EXPECT_EQ(row_bytes(DType::kF32, 7), 28u);
  EXPECT_EQ(row_bytes(DType::kF16, 7), 14u);
  EXPECT_EQ(row_bytes(DType::kBF16, 7), 14u);
}

TEST(DTypeTest, EveryF16) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const int exponent = static_cast<int>(h >> 10 & 31), mantissa = static_cast<int>(h & 1023);
    const double sign = h & 0x8000 ? -1 : 1;
    const float f = f16_to_f32(static_cast<uint16_t>(h));
    EXPECT_EQ(std::signbit(f), (h & 0x8000) != 0) << h;
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(f), mantissa != 0) << h;
      EXPECT_EQ(std::isinf(f), mantissa == 0) << h;
    } else {
      const double expected = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
      EXPECT_EQ(f, sign * expected) << h;
    }
  }
}

TEST(DTypeTest, EveryBf16SurvivesARoundTrip) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const auto bits = static_cast<uint16_t>(h);
    const float f = bf16_to_f32(bits);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(f)))) << h;
    } else {
      EXPECT_EQ(f32_to_bf16(f), bits);
    }
  }
}

TEST(DTypeTest, Bf16RoundsToNearestEven) {
  struct Golden {
    uint32_t in;
    uint16_t out;
    const char* rule;
  };
  const Golden table[] = {
      {0x3f800000, 0x3f80, "exact"},
      {0x3f807fff, 0x3f80, "below half: down"},
      {0x3f808000, 0x3f80, "half, even below: down"},
      {0x3f808001, 0x3f81, "above half: up"},
      {0x3f818000, 0x3f82, "half, odd below: up"},
      {0xbf818000, 0xbf82, "the sign does not matter"},
      {0x3fffffff, 0x4000, "carries into the exponent"},
      {0x7f7fffff, 0x7f80, "beyond the largest: infinity"},
      {0x7f800000, 0x7f80, "infinity"},
      {0xff800000, 0xff80, "minus infinity"},
      {0x00008001, 0x0001, "subnormal"},
      {0x00000001, 0x0000, "rounds to zero"},
      {0x80000000, 0x8000, "minus zero"},
  };
  for (const Golden& g : table) EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(g.in)), g.out) << g.rule;
  // The payload's high bits are gone; it must not become an infinity, nor carry into the sign.
  for (uint32_t nan : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu, 0x7fc00000u}) {
    EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(nan))))) << nan;
  }
}

TEST(TensorViewTest, RowsAndMatrices) {
  std::vector<std::byte> bytes(2 * 3 * 5 * 2);
  const TensorView t{bytes.data(), DType::kBF16, 3, {2, 3, 5}};
  EXPECT_EQ(t.elements(), 30u);
  EXPECT_EQ(t.rows(), 6u);
  EXPECT_EQ(t.cols(), 5u);
  EXPECT_EQ(t.row(4), bytes.data() + 40);
  const TensorView second = t.matrix(1);
  EXPECT_EQ(second.rank, 2);
  EXPECT_EQ(second.rows(), 3u);
  EXPECT_EQ(second.row(1), t.row(4));
  EXPECT_TRUE(TensorView{}.empty());
  EXPECT_FALSE(t.empty());
}

// --- files
// ------------------------------------------------------------------------------------------------------------

class MappedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "gemma4_core_XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  std::string write(const std::string& name, const std::string& content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }

  std::filesystem::path directory_;
};

TEST_F(MappedFileTest, ShowsTheBytes) {
  const std::string content("weights\0\xff", 9);
  const MappedFile file(write("a", content));
  ASSERT_EQ(file.size(), content.size());
  EXPECT_EQ(std::memcmp(file.data(), content.data(), content.size()), 0);
  EXPECT_EQ(file.path(), path("a"));
  EXPECT_NO_THROW(file.check_unchanged());
}

TEST_F(MappedFileTest, RefusesWhatIsNotAFileWithContent) {
  const auto open = [](const std::string& p) { return [p] { MappedFile file(p); }; };
  expect_error(ErrorKind::kModelFile, path("missing"), open(path("missing")));
  expect_error(ErrorKind::kModelFile, directory_.string(), open(directory_.string()));
  expect_error(ErrorKind::kModelFile, path("empty"), open(write("empty", "")));
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  expect_error(ErrorKind::kModelFile, path("fifo"), open(path("fifo")));  // and does not wait for a writer
  expect_error(ErrorKind::kModelFile, "/dev/null", open("/dev/null"));
  expect_error(ErrorKind::kModelFile, "", open(""));
  if (::geteuid() != 0) {
    ASSERT_EQ(::chmod(write("secret", "x").c_str(), 0), 0);
    expect_error(ErrorKind::kModelFile, path("secret"), open(path("secret")));
  }
}

TEST_F(MappedFileTest, NoticesAChange) {
  // Whoever truncates a mapped file must be noticed before its bytes are read.
  const MappedFile truncated(write("truncated", "0123456789"));
  ASSERT_EQ(::truncate(path("truncated").c_str(), 4), 0);
  expect_error(ErrorKind::kModelFileChanged, path("truncated"), [&] { truncated.check_unchanged(); });

  const MappedFile grown(write("grown", "0123456789"));
  std::ofstream(path("grown"), std::ios::app) << "more";
  expect_error(ErrorKind::kModelFileChanged, path("grown"), [&] { grown.check_unchanged(); });

  const MappedFile rewritten(write("rewritten", "0123456789"));
  write("rewritten", "9876543210");
  // Two writes within one tick of the clock would look alike: the time is set for certain.
  const timespec times[2] = {{0, UTIME_OMIT}, {1, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path("rewritten").c_str(), times, 0), 0);
  expect_error(ErrorKind::kModelFileChanged, path("rewritten"), [&] { rewritten.check_unchanged(); });
}

TEST_F(MappedFileTest, AReplacedFileKeepsTheOldBytes) {
  // Writing a new file and renaming it over the old one is safe: the mapping holds the old one.
  const MappedFile file(write("a", "old"));
  std::filesystem::rename(write("b", "new!"), path("a"));
  EXPECT_NO_THROW(file.check_unchanged());
  EXPECT_EQ(std::memcmp(file.data(), "old", 3), 0);
}

// --- interrupts
// -------------------------------------------------------------------------------------------------------

TEST(InterruptTest, AsksNowAndThenAndThrowsWhenTold) {
  Interrupt none;
  EXPECT_NO_THROW(none.check());

  int asked = 0;
  bool wanted = false;
  Interrupt interrupt([&] {
    ++asked;
    return wanted;
  });
  const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(25)); };
  pause();
  interrupt.check();
  EXPECT_EQ(asked, 1);
  pause();
  wanted = true;
  expect_error(ErrorKind::kCancelled, "cancelled", [&] { interrupt.check(); });
  EXPECT_EQ(asked, 2);

  Interrupt own([]() -> bool { throw std::domain_error("mine"); });
  pause();
  EXPECT_THROW(own.check(), std::domain_error);
}

}  // namespace
}  // namespace gemma4
