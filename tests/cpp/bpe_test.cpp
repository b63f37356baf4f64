// Byte-pair encoding on vocabularies that fit a page; the comparison with the reference is
// tests/python/test_tokenizer.py.
#include "text/bpe.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "text/utf8.h"
#include "text/vocabulary_json.h"

namespace gemma4 {
namespace {

using Ids = std::vector<int32_t>;

std::shared_ptr<Strings> strings(std::initializer_list<std::string_view> texts) {
  auto out = std::make_shared<Strings>();
  for (const std::string_view text : texts) out->push(text);
  return out;
}

Bpe bpe(std::initializer_list<std::string_view> tokens, std::initializer_list<std::string_view> merges,
        std::vector<AddedToken> added = {}) {
  const auto pairs = strings(merges);
  return Bpe({strings(tokens), *pairs, std::move(added), "tokens", "merges", "added"});
}

Ids encoded(const Bpe& tokenizer, std::string_view text) {
  Interrupt never;
  return tokenizer.encode(text, never);
}

template <class Work>
std::string message(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Utf8, IsStrict) {
  for (const std::string_view good : {"", "a", "é", "漢", "🙂", "abcdefgh\u00e9", "\U0010ffff", "\ud7ff"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  for (const std::string_view bad : {"\x80", "\xc0\x80", "\xc3", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                                     "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "abcdefgh\xff", "\xe2\x82"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
  for (const uint32_t code : {0x00u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    append_utf8(text, code);
    EXPECT_EQ(utf8_character(text, 0), text.size());
    EXPECT_EQ(text.size(), code < 0x80 ? 1u : code < 0x800 ? 2u : code < 0x10000 ? 3u : 4u);
  }
}

TEST(Bpe, LowestRankThenLeftmost) {
  const Bpe tokenizer = bpe({"a", "b", "ab", "ba", "aba"}, {"b a", "a b", "a ba"});
  EXPECT_EQ(encoded(tokenizer, "abab"), (Ids{4, 1}));  // a ba b -> aba b
  EXPECT_EQ(encoded(tokenizer, "ab"), (Ids{2}));
  EXPECT_EQ(encoded(tokenizer, ""), (Ids{}));
}

TEST(Bpe, TheLastOfAPairThatIsThereTwiceCounts) {
  const Bpe tokenizer = bpe({"a", "b", "c", "ab", "bc"}, {"a b", "b c", "a b"});
  EXPECT_EQ(encoded(tokenizer, "abc"), (Ids{0, 4}));
}

// One left token with very many right ones, of which one is missing.
TEST(Bpe, FindsEveryMergeOfATokenThatHasMany) {
  constexpr int32_t kMany = 1000, kMissing = 500;
  auto tokens = std::make_shared<Strings>();
  Strings merges;
  std::vector<std::string> characters(kMany);
  tokens->push("a");
  for (int32_t i = 0; i < kMany; ++i) {
    append_utf8(characters[i], 0x4E00 + i);
    tokens->push(characters[i]);
  }
  for (int32_t i = 0; i < kMany; ++i) {
    tokens->push("a" + characters[i]);
    if (i != kMissing) merges.push("a " + characters[i]);
  }
  const Bpe tokenizer({tokens, merges, {}, "tokens", "merges", "added"});
  for (int32_t i = 0; i < kMany; ++i) {
    EXPECT_EQ(encoded(tokenizer, "a" + characters[i]), i == kMissing ? (Ids{0, 1 + i}) : Ids{1 + kMany + i});
  }
}

TEST(Bpe, WordsAreCutOnlyWhereNoMergeCrosses) {
  EXPECT_EQ(encoded(bpe({"a", "▁", "▁a"}, {"▁ a"}), "a a  a"), (Ids{0, 2, 1, 2}));
  const Bpe crossing = bpe({"a", "▁", "a▁", "▁a", "a▁a"}, {"a ▁", "a▁ a"});
  EXPECT_EQ(encoded(crossing, "a a a"), (Ids{2, 4}));
  EXPECT_EQ(crossing.decode(Ids{2, 4}), "a a a");
}

TEST(Bpe, BytesAndTheUnknown) {
  const Bpe tokenizer = bpe({"<unk>", "a", "<0xC3>", "<0xA9>", "<0x0A>"}, {});
  EXPECT_EQ(encoded(tokenizer, "aé\n"), (Ids{1, 2, 3, 4}));
  EXPECT_EQ(encoded(tokenizer, "xya"), (Ids{0, 1}));
  EXPECT_EQ(tokenizer.decode(Ids{2, 3, 1, 2, 1, 3}), "éa\uFFFDa\uFFFD");
  EXPECT_EQ(tokenizer.byte(2), 0xC3);
  EXPECT_EQ(tokenizer.byte(1), -1);
  EXPECT_EQ(message([] { encoded(bpe({"a"}, {}), "x"); }), "text: this tokenizer cannot encode 'x'");
}

TEST(Bpe, AddedTokens) {
  const Bpe tokenizer = bpe({"a", "<", ">", "<a>"}, {}, {{"<a>", 3, true}, {"aa", 4, false}, {"aaa", 5, false}});
  EXPECT_EQ(encoded(tokenizer, "<a>"), (Ids{1, 0, 2}));  // control: stays text
  EXPECT_EQ(encoded(tokenizer, "aaaaa<aa"), (Ids{5, 4, 1, 4}));
  EXPECT_EQ(tokenizer.find("aaa"), 5);
  EXPECT_EQ(tokenizer.token(5), "aaa");
  EXPECT_EQ(tokenizer.size(), 6);
}

TEST(Bpe, Contradictions) {
  EXPECT_EQ(message([] { bpe({"a", "a"}, {}); }), "tokens: the token 'a' appears twice");
  EXPECT_EQ(message([] { bpe({"a"}, {"aa"}); }), "merges: expected two tokens with a space between them, found 'aa'");
  EXPECT_EQ(message([] { bpe({"a"}, {"a a"}); }), "merges: do not fit the vocabulary: no token is 'aa'");
  EXPECT_EQ(message([] { bpe({"a"}, {}, {{"a", 1, true}}); }), "added: the token 'a' has two ids, 0 and 1");
  EXPECT_EQ(message([] { bpe({"a"}, {}, {{"b", 1, true}, {"b", 2, true}}); }), "added: 'b' appears twice");
  EXPECT_NE(message([] { bpe({"a"}, {}, {{"b", 7, true}}); }).find("expected 1"), std::string::npos);
}

TEST(Bpe, CanBeStopped) {
  const Bpe tokenizer = bpe({"a", "aa"}, {"a a"});
  Interrupt at_once([] { return true; });
  EXPECT_THROW(tokenizer.encode(std::string(20'000'000, 'a'), at_once), Error);
}

TEST(Vocabulary, IsCutOut) {
  const auto cut = cut_vocabulary(R"({"x": ["}"], "model": {"merges": ["a b", ["\u00e9", "\ud83d\ude42"]], "vocab" : {
      "a": 2, "\"\n": 0}, "y": 1}, "z": {}})");
  ASSERT_TRUE(cut);
  EXPECT_EQ(cut->rest, R"({"x": ["}"], "model": {"merges":null, "vocab" :null, "y": 1}, "z": {}})");
  EXPECT_TRUE(cut->tokens == *strings({"\"\n", "", "a"}));
  EXPECT_TRUE(cut->merges == *strings({"a b", "é 🙂"}));
}

TEST(Vocabulary, IsLeftAlone) {
  for (const std::string_view parts :
       {R"("vocab": {}})", R"("vocab": {"a": 1, "b": 1}, "merges": []})", R"("vocab": {"a": 16777216}, "merges": []})",
        R"("vocab": {"a": -1}, "merges": []})", R"("vocab": {"a": 01}, "merges": []})",
        R"("vocab": {"": 1}, "merges": []})", R"("vocab": {"\ud800": 1}, "merges": []})",
        R"("vocab": {"\x": 1}, "merges": []})", R"("vocab": {"a" 1}, "merges": []})", R"("vocab": [], "merges": []})",
        R"("vocab": {}, "merges": ["ab"]})", R"("vocab": {}, "merges": ["a b c"]})",
        R"("vocab": {}, "merges": [["a ", "b"]]})", R"("vocab": {}, "merges": [["a", "b", "c"]]})",
        R"("vocab": {}, "merges": ["a b"})", "\"vocab\": {\"\xff\": 1}, \"merges\": []}"}) {
    EXPECT_FALSE(cut_vocabulary("{\"model\": {" + std::string(parts) + "}")) << parts;
  }
  EXPECT_FALSE(cut_vocabulary(""));
  EXPECT_FALSE(cut_vocabulary("[]"));
  EXPECT_TRUE(cut_vocabulary(R"({"model": {"vocab": {}, "merges": []}})"));
}

}  // namespace
}  // namespace gemma4
