// validate(): what real models say passes; each field out of its range is refused by name.
#include "model/config.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "core/error.h"

namespace gemma4 {
namespace {

// Two owning layers (sliding, global) and a reader of each, with experts and per-layer embeddings.
ModelConfig good() {
  ModelConfig c;
  c.text.vocab = 100;
  c.text.hidden = 64;
  c.text.heads = 4;
  c.text.window = 8;
  c.text.context = 128;
  c.text.ple_dim = 16;
  c.text.ple_vocab = 100;
  c.text.experts = 8;
  c.text.experts_used = 2;
  c.text.expert_ffn = 32;
  c.text.logit_cap = 30;
  LayerSpec sliding;
  sliding.head_dim = 16;
  sliding.kv_heads = 2;
  sliding.ffn = 96;
  sliding.rope_theta = 1e4;
  sliding.rope_pairs = 8;
  LayerSpec global = sliding;
  global.sliding = false;
  global.head_dim = 32;
  global.kv_heads = 1;
  global.rope_theta = 1e6;
  global.rope_pairs = 4;
  global.moe = true;
  global.kv_layer = 1;
  LayerSpec sliding_reader = sliding, global_reader = global;
  sliding_reader.ffn = 192;
  c.text.layers = {sliding, global, sliding_reader, global_reader};
  VisionConfig v;
  v.hidden = 48;
  v.layers = 2;
  v.heads = 4;
  v.kv_heads = 2;
  v.head_dim = 12;
  v.ffn = 100;
  v.patch = 16;
  v.pool = 3;
  v.positions = 64;
  c.vision = v;
  return c;
}

struct BadCase {
  const char* field;  // as the error must name it
  std::function<void(ModelConfig&)> spoil;
};

void expect_refused(const BadCase& bad) {
  ModelConfig c = good();
  bad.spoil(c);
  try {
    validate(c);
    ADD_FAILURE() << bad.field << " was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kModelFile);
    EXPECT_NE(std::string(e.what()).find(bad.field), std::string::npos) << e.what() << " does not name " << bad.field;
  }
}

constexpr int kBig = std::numeric_limits<int>::max();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(ConfigTest, AcceptsWhatIsWellFormed) {
  EXPECT_NO_THROW(validate(good()));
  ModelConfig plain = good();
  plain.vision.reset();
  plain.text.ple_dim = plain.text.ple_vocab = 0;
  plain.text.experts = plain.text.experts_used = plain.text.expert_ffn = 0;
  for (LayerSpec& layer : plain.text.layers) layer.moe = false;
  plain.text.logit_cap = 0;
  plain.text.layers[0].rope_pairs = 0;
  EXPECT_NO_THROW(validate(plain));
}

TEST(ConfigTest, EverySizeIsPositiveAndBounded) {
  const auto text = [](const char* field, int TextConfig::*member, int low) {
    for (int v : {low, -1, -kBig - 1, kBig}) expect_refused({field, [=](ModelConfig& c) { c.text.*member = v; }});
  };
  text("text.vocab", &TextConfig::vocab, 0);
  text("text.hidden", &TextConfig::hidden, 0);
  text("text.heads", &TextConfig::heads, 0);
  text("text.window", &TextConfig::window, 0);
  text("text.context", &TextConfig::context, 0);
  text("text.pad_id", &TextConfig::pad_id, 100);
  text("text.ple_dim", &TextConfig::ple_dim, -1);
  text("text.ple_vocab", &TextConfig::ple_vocab, 99);
  text("text.experts", &TextConfig::experts, -1);
  text("text.experts_used", &TextConfig::experts_used, 9);
  text("text.experts_used", &TextConfig::experts_used, 0);
  text("text.expert_ffn", &TextConfig::expert_ffn, 0);

  const auto vision = [](const char* field, int VisionConfig::*member) {
    for (int v : {0, -1, -kBig - 1, kBig}) expect_refused({field, [=](ModelConfig& c) { (*c.vision).*member = v; }});
  };
  vision("vision.hidden", &VisionConfig::hidden);
  vision("vision.layers", &VisionConfig::layers);
  vision("vision.heads", &VisionConfig::heads);
  vision("vision.kv_heads", &VisionConfig::kv_heads);
  vision("vision.head_dim", &VisionConfig::head_dim);
  vision("vision.ffn", &VisionConfig::ffn);
  vision("vision.patch", &VisionConfig::patch);
  vision("vision.pool", &VisionConfig::pool);
  vision("vision.positions", &VisionConfig::positions);
}

TEST(ConfigTest, SensesWithoutEncodersAreChecked) {
  const PixelConfig eyes{48, 44, 70};
  const SampleConfig ears{640};
  ModelConfig c = good();
  c.vision.reset();
  c.pixels = eyes;
  c.samples = ears;
  EXPECT_NO_THROW(validate(c));

  const auto pixels = [&](const char* field, int PixelConfig::*member) {
    for (int v : {0, -1, -kBig - 1, kBig}) {
      expect_refused({field, [=](ModelConfig& bad) { bad = c, (*bad.pixels).*member = v; }});
    }
  };
  pixels("pixels.side", &PixelConfig::side);
  pixels("pixels.width", &PixelConfig::width);
  pixels("pixels.positions", &PixelConfig::positions);
  for (int v : {0, -1, kBig})
    expect_refused({"samples.frame", [=](ModelConfig& bad) { bad = c, bad.samples->frame = v; }});
  for (float v : {0.0f, 1.0f, kInf, kNaN}) {
    expect_refused({"pixels.norm_eps", [=](ModelConfig& bad) { bad = c, bad.pixels->norm_eps = v; }});
    expect_refused({"samples.norm_eps", [=](ModelConfig& bad) { bad = c, bad.samples->norm_eps = v; }});
  }
  expect_refused({"both vision and pixels", [=](ModelConfig& bad) { bad.pixels = eyes; }});
  expect_refused({"both audio and samples", [=](ModelConfig& bad) {
                    bad.samples = ears, bad.audio.emplace(AudioConfig{.mel_bins = 8,
                                                                      .hidden = 4,
                                                                      .layers = 1,
                                                                      .heads = 1,
                                                                      .channels1 = 8,
                                                                      .channels2 = 4,
                                                                      .conv_kernel = 5,
                                                                      .chunk = 12,
                                                                      .left = 13,
                                                                      .right = 0,
                                                                      .out = 4});
                  }});
  expect_refused({"text.whole_images", [](ModelConfig& bad) { bad.text.whole_images = true; }});
}

TEST(ConfigTest, EveryLayerIsChecked) {
  for (int i : {0, 3}) {
    const std::string prefix = "text.layers[" + std::to_string(i) + "].";
    const auto layer = [&](const char* name, int LayerSpec::*member, std::initializer_list<int> values) {
      const std::string field = prefix + name;
      for (int v : values) expect_refused({field.c_str(), [=](ModelConfig& c) { c.text.layers[i].*member = v; }});
    };
    layer("head_dim", &LayerSpec::head_dim, {0, -2, 1, 17, kBig});
    layer("kv_heads", &LayerSpec::kv_heads, {0, -1, 3, 5, kBig});
    layer("ffn", &LayerSpec::ffn, {0, -1, kBig});
    layer("rope_pairs", &LayerSpec::rope_pairs, {-1, 17, kBig});
    layer("kv_layer", &LayerSpec::kv_layer, {-1, 4, kBig});
    const auto real = [&](const char* name, double LayerSpec::*member, std::initializer_list<double> values) {
      const std::string field = prefix + name;
      for (double v : values) expect_refused({field.c_str(), [=](ModelConfig& c) { c.text.layers[i].*member = v; }});
    };
    real("rope_theta", &LayerSpec::rope_theta, {0, -1, 0.5, kInf, kNaN});
    real("rope_factor", &LayerSpec::rope_factor, {0, -1, kInf, kNaN});
  }
  expect_refused({"text.layers", [](ModelConfig& c) { c.text.layers.clear(); }});
  expect_refused({"text.layers", [](ModelConfig& c) { c.text.layers.resize(100000, c.text.layers[0]); }});
}

TEST(ConfigTest, SharedKeysComeFromAnOwnerThatLooksTheSame) {
  const BadCase cases[] = {
      {"layers[2].kv_layer", [](ModelConfig& c) { c.text.layers[2].kv_layer = 1; }},  // global, not sliding
      {"layers[3].kv_layer", [](ModelConfig& c) { c.text.layers[3].kv_layer = 2; }},  // a reader itself
      {"layers[2].kv_layer", [](ModelConfig& c) { c.text.layers[2].kv_layer = 3; }},  // later
      {"head_dim", [](ModelConfig& c) { c.text.layers[2].head_dim = 32; }},
      {"kv_heads", [](ModelConfig& c) { c.text.layers[2].kv_heads = 4; }},
      {"layers[0].kv_layer", [](ModelConfig& c) { c.text.layers[0].kv_layer = 1; }},
  };
  for (const BadCase& bad : cases) expect_refused(bad);
}

TEST(ConfigTest, HeadsAndExpertsFit) {
  const BadCase cases[] = {
      {"vision.kv_heads", [](ModelConfig& c) { c.vision->kv_heads = 3; }},
      {"vision.kv_heads", [](ModelConfig& c) { c.vision->kv_heads = 8; }},
      {"vision.head_dim", [](ModelConfig& c) { c.vision->head_dim = 14; }},
      {"vision.positions", [](ModelConfig& c) { c.vision->positions = 2; }},  // less than one soft token
      {"layers[1].moe", [](ModelConfig& c) { c.text.experts = 0; }},
  };
  for (const BadCase& bad : cases) expect_refused(bad);
}

TEST(ConfigTest, RealNumbersAreFinite) {
  for (float v : {0.0f, -1.0f, 2.0f, kInf, -kInf, kNaN}) {
    expect_refused({"text.norm_eps", [=](ModelConfig& c) { c.text.norm_eps = v; }});
    expect_refused({"vision.norm_eps", [=](ModelConfig& c) { c.vision->norm_eps = v; }});
  }
  for (float v : {-1.0f, kInf, kNaN}) expect_refused({"text.logit_cap", [=](ModelConfig& c) { c.text.logit_cap = v; }});
  for (double v : {0.0, -1.0, 0.5, double{kInf}, double{kNaN}}) {
    expect_refused({"vision.rope_theta", [=](ModelConfig& c) { c.vision->rope_theta = v; }});
  }
}

TEST(ConfigTest, FirstReaderFollowsTheLastOwner) {
  ModelConfig c = good();
  EXPECT_EQ(c.text.first_reader(), 2);
  c.text.layers.resize(2);
  EXPECT_EQ(c.text.first_reader(), 2);
  c.text.layers.resize(1);
  EXPECT_EQ(c.text.first_reader(), 1);
  // A reader before an owner does not count: positions must still reach the owner.
  c = good();
  c.text.layers[3].kv_layer = 3;
  EXPECT_EQ(c.text.first_reader(), 4);
}

// One sliding and one global layer, in groups of four tokens.
DrafterConfig drafter() {
  DrafterConfig d;
  d.text = good().text;
  d.text.hidden = 24;
  d.text.ple_dim = d.text.ple_vocab = d.text.experts = 0;
  d.text.layers.resize(2);
  for (LayerSpec& layer : d.text.layers) layer.moe = false;
  d.target_hidden = 64;
  d.centroids = 25;
  d.centroids_used = 5;
  return d;
}

TEST(ConfigTest, DraftersReadTheLastKeysOfTheirKind) {
  ModelConfig target = good();
  target.text.layers[2].kv_layer = 2;  // an owner behind the first sliding one
  const DrafterConfig d = fitted(drafter(), target.text);
  EXPECT_EQ(d.text.layers[0].kv_layer, 2);
  EXPECT_EQ(d.text.layers[1].kv_layer, 1);
  // Although the last one has the index of the layer that it reads.
  EXPECT_FALSE(d.text.owns_kv(0) || d.text.owns_kv(1));
  EXPECT_EQ(d.text.first_reader(), 0);
}

TEST(ConfigTest, DraftersThatDoNotFitAreRefused) {
  const auto refused = [](const std::string& field, const std::function<void(DrafterConfig&)>& spoil) {
    DrafterConfig d = drafter();
    spoil(d);
    try {
      fitted(d, good().text);
      ADD_FAILURE() << field << " was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kModelFile);
      EXPECT_NE(std::string(e.what()).find(field), std::string::npos) << e.what() << " does not name " << field;
    }
  };
  refused("target_hidden", [](DrafterConfig& d) { d.target_hidden = 65; });
  refused("text.vocab", [](DrafterConfig& d) { d.text.vocab = 200; });
  refused("text.window", [](DrafterConfig& d) { d.text.window = kBig; });
  refused("text.window", [](DrafterConfig& d) { d.text.window = 9; });
  refused("text.hidden", [](DrafterConfig& d) { d.text.hidden = 0; });
  refused("layers[0].head_dim", [](DrafterConfig& d) { d.text.layers[0].head_dim = 32; });
  refused("layers[1].kv_heads", [](DrafterConfig& d) { d.text.layers[1].kv_heads = 2; });
  refused("experts", [](DrafterConfig& d) { d.text.experts = 2, d.text.experts_used = 1, d.text.expert_ffn = 8; });
  for (int bad : {-1, 3, 101}) refused("centroids", [=](DrafterConfig& d) { d.centroids = bad; });
  for (int bad : {-1, 0, 26}) refused("centroids_used", [=](DrafterConfig& d) { d.centroids_used = bad; });
  TextConfig global = good().text;
  global.layers[0].sliding = global.layers[2].sliding = false;
  EXPECT_THROW(fitted(drafter(), global), Error);
}

}  // namespace
}  // namespace gemma4
