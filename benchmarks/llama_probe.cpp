// What llama.cpp makes of a GGUF file: token ids, logits, greedy continuations, soft tokens of pictures and sounds.
// Built and run by check_llama_cpp.py; everything goes through files of raw numbers.
//   probe tokens MODEL TEXTS OUT            TEXTS: NUL-terminated strings; OUT: one line of ids for each
//   probe logits MODEL IDS OUT COUNT [UBATCH REPACK]
//                                           IDS: int32; OUT: (T, vocab) float32, then COUNT greedy ids as int32;
//                                           UBATCH tokens are computed at once (0: all), REPACK is 0 (default) or 1
//   probe speed MODEL OUT COUNT THREADS FLASH REPEATS
//                                           OUT: seconds of a prompt of COUNT tokens with all its logits, a line for
//                                           each of REPEATS, after one that is not counted; weights are repacked
//   probe image MODEL MMPROJ RGB W H OUT    RGB: (H, W, 3) bytes; OUT: (n, hidden) float32
//   probe audio MODEL MMPROJ SAMPLES OUT    SAMPLES: float32 at 16 kHz; OUT: (n, hidden) float32
#include <llama.h>
#include <mtmd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr int kThreads = 2;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "probe: %s\n", what.c_str());
  std::exit(1);
}

template <class T>
std::vector<T> read(const char* path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(std::string("cannot read ") + path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  std::vector<T> out(bytes.size() / sizeof(T));
  std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
  return out;
}

template <class T>
void write(std::ofstream& out, const T* data, size_t n) {
  out.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(n * sizeof(T)));
}

llama_model* load(const char* path, bool repack = false) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  params.use_extra_bufts = repack;  // without repacked copies the blocks of the file themselves are under test
  llama_model* model = llama_model_load_from_file(path, params);
  if (model == nullptr) fail(std::string("cannot load ") + path);
  return model;
}

// Place i of a batch; its logits are wanted.
void put(llama_batch& batch, int i, llama_token id, int position) {
  batch.token[i] = id;
  batch.pos[i] = position;
  batch.n_seq_id[i] = 1;
  batch.seq_id[i][0] = 0;
  batch.logits[i] = 1;
}

int tokens(char** a) {
  const llama_vocab* vocab = llama_model_get_vocab(load(a[0]));
  const std::vector<char> texts = read<char>(a[1]);
  std::ofstream out(a[2]);
  for (size_t at = 0; at < texts.size();) {
    const std::string text(texts.data() + at);
    std::vector<llama_token> ids(text.size() + 8);
    const int n = llama_tokenize(vocab, text.data(), static_cast<int>(text.size()), ids.data(),
                                 static_cast<int>(ids.size()), false, false);
    if (n < 0) fail("tokenize");
    for (int i = 0; i < n; ++i) out << (i ? " " : "") << ids[i];
    out << '\n';
    at += text.size() + 1;
  }
  return 0;
}

int logits(char** a, int ubatch, bool repack) {
  llama_model* model = load(a[0], repack);
  std::vector<llama_token> ids = read<llama_token>(a[1]);
  const int count = std::atoi(a[3]), n = static_cast<int>(ids.size());
  const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(n + count + 8);
  params.n_batch = static_cast<uint32_t>(std::max(n, 32));
  params.n_ubatch = ubatch > 0 ? static_cast<uint32_t>(ubatch) : params.n_batch;
  params.n_threads = params.n_threads_batch = kThreads;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.swa_full = true;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) fail("no context");

  llama_batch batch = llama_batch_init(std::max(n, 1), 0, 1);
  for (int i = 0; i < n; ++i) put(batch, i, ids[static_cast<size_t>(i)], i);
  batch.n_tokens = n;
  if (llama_decode(context, batch) != 0) fail("decode");
  std::ofstream out(a[2], std::ios::binary);
  for (int i = 0; i < n; ++i) write(out, llama_get_logits_ith(context, i), static_cast<size_t>(vocab));
  const float* last = llama_get_logits_ith(context, n - 1);
  for (int i = 0; i < count; ++i) {
    const llama_token next = static_cast<llama_token>(std::max_element(last, last + vocab) - last);
    write(out, &next, 1);
    put(batch, 0, next, n + i);
    batch.n_tokens = 1;
    if (llama_decode(context, batch) != 0) fail("decode");
    last = llama_get_logits_ith(context, 0);
  }
  return 0;
}

int speed(char** a) {
  llama_model* model = load(a[0], true);
  const int n = std::atoi(a[2]), repeats = std::atoi(a[5]);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(n);
  params.n_threads = params.n_threads_batch = std::atoi(a[3]);
  params.flash_attn_type = std::atoi(a[4]) != 0 ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) fail("no context");
  const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
  llama_batch batch = llama_batch_init(n, 0, 1);
  batch.n_tokens = n;
  std::mt19937 random(1);
  for (int i = 0; i < n; ++i) {
    put(batch, i, static_cast<llama_token>(random() % static_cast<uint32_t>(vocab)), i);
  }
  std::ofstream out(a[1]);
  for (int run = 0; run <= repeats; ++run) {
    llama_memory_clear(llama_get_memory(context), true);
    const auto begin = std::chrono::steady_clock::now();
    if (llama_decode(context, batch) != 0) fail("decode");
    if (llama_get_logits(context) == nullptr) fail("no logits");  // waits until they are there
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (run > 0) out << taken.count() << '\n';
  }
  return 0;
}

int encode(char** a, bool image) {
  llama_model* model = load(a[0]);
  mtmd_context_params params = mtmd_context_params_default();
  params.use_gpu = false;
  params.n_threads = kThreads;
  params.warmup = false;
  mtmd_context* context = mtmd_init_from_file(a[1], model, params);
  if (context == nullptr) fail(std::string("cannot load ") + a[1]);
  const std::vector<unsigned char> bytes = read<unsigned char>(a[2]);
  mtmd_bitmap* bitmap =
      image ? mtmd_bitmap_init(static_cast<uint32_t>(std::atoi(a[3])), static_cast<uint32_t>(std::atoi(a[4])),
                               bytes.data())
            : mtmd_bitmap_init_from_audio(bytes.size() / 4, reinterpret_cast<const float*>(bytes.data()));
  const char* marker = mtmd_default_marker();
  const mtmd_input_text text{marker, std::strlen(marker), false, true};
  mtmd_input_chunks* chunks = mtmd_input_chunks_init();
  const mtmd_bitmap* bitmaps[] = {bitmap};
  if (mtmd_tokenize(context, chunks, &text, bitmaps, 1) != 0) fail("mtmd_tokenize");
  std::ofstream out(a[image ? 5 : 3], std::ios::binary);
  for (size_t i = 0; i < mtmd_input_chunks_size(chunks); ++i) {
    const mtmd_input_chunk* chunk = mtmd_input_chunks_get(chunks, i);
    if (mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_TEXT) continue;
    if (mtmd_encode_chunk(context, chunk) != 0) fail("mtmd_encode_chunk");
    const size_t n = mtmd_input_chunk_get_n_tokens(chunk) * static_cast<size_t>(llama_model_n_embd_inp(model));
    write(out, mtmd_get_output_embd(context), n);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) fail("see the head of this file");
  llama_backend_init();
  const std::string what = argv[1];
  if (what == "tokens") return tokens(argv + 2);
  if (what == "logits" && (argc == 6 || argc == 8)) {
    return logits(argv + 2, argc == 8 ? std::atoi(argv[6]) : 0, argc == 8 && std::atoi(argv[7]) != 0);
  }
  if (what == "speed" && argc == 8) return speed(argv + 2);
  if (what == "image" && argc == 8) return encode(argv + 2, true);
  if (what == "audio" && argc == 6) return encode(argv + 2, false);
  fail("unknown command " + what);
}
