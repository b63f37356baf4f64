"""The programs under benchmarks/: what they write can be loaded, what others print is read, what they find is shown.

Whole comparisons are not run here: they need a build of llama.cpp and a quiet machine.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4.command import cli
from gemma4.command.bench import BenchOptions, measure, read_bandwidth, report, shares_in_turns, token_bytes
from gemma4.errors import RequestError
from gemma4.gguf import read_gguf
from typer.testing import CliRunner

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("only in the repository", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import llama_cpp  # noqa: E402
import make_checkpoint  # noqa: E402
import make_model  # noqa: E402
import measures  # noqa: E402
import results  # noqa: E402
import shapes  # noqa: E402
from found import (  # noqa: E402
    Audio,
    Caches,
    Litert,
    Loading,
    Logits,
    Long,
    Memory,
    Operations,
    Roofline,
    Samples,
    Speed,
    Speeds,
    Turns,
)  # fmt: skip
from make_model import RandomModel, llama_cpp_format  # noqa: E402

# -- random models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A toy of E2B: the decoder, the encoders."""
    folder = tmp_path_factory.mktemp("tiny")
    RandomModel("e2b", small=True).write(folder / "tiny.gguf", "q4_0", mmproj=folder / "tiny-mmproj.gguf")
    return folder / "tiny.gguf", folder / "tiny-mmproj.gguf"


@pytest.fixture(scope="module")
def model(tiny: tuple[Path, Path]) -> gemma4.Model:
    return gemma4.Model.from_pretrained(tiny[0], mmproj=tiny[1], num_threads=1)


def test_a_random_model_computes(model: gemma4.Model) -> None:
    ids = np.random.default_rng(0).integers(300, 2000, 90).astype(np.int32)
    logits = model.forward(ids)
    assert np.isfinite(logits).all()
    # Neither flat nor at the cap: a speed or an error measured on such logits would mean nothing.
    assert 1 < logits.std() < 20
    assert len({int(row.argmax()) for row in logits}) > 10
    assert model.modalities == {"text", "image", "audio", "video"}
    assert len(model.generate("abc def", max_new_tokens=3, ignore_eos=True).token_ids) == 3


def test_its_encoders_compute(model: gemma4.Model) -> None:
    rng = np.random.default_rng(1)
    seen = model.encode_image(rng.integers(0, 256, (7 * 48, 10 * 48, 3), np.uint8), max_soft_tokens=70)
    heard = model.encode_audio(rng.normal(0, 0.1, 8000).astype(np.float32))
    assert seen.shape == (70, 256) and len(heard) == 13
    for rows in (seen, heard):
        assert np.isfinite(rows).all() and rows.std() > 0.01
        assert abs(np.corrcoef(rows[0], rows[-1])[0, 1]) < 0.999


@pytest.mark.parametrize("name", shapes.FAMILY)
def test_every_shape_loads(name: str, tmp_path: Path) -> None:
    RandomModel(name, small=True).write(tmp_path / "a.gguf", "q8_0", mmproj=tmp_path / "b.gguf")
    model = gemma4.Model.from_pretrained(tmp_path / "a.gguf", mmproj=tmp_path / "b.gguf", num_threads=1)
    assert np.isfinite(model.forward(np.arange(300, 340, dtype=np.int32))).all()


@pytest.mark.parametrize(
    ("name", "billions", "encoders"),
    [("e2b", 5.1, True), ("e4b", 8.0, True), ("26b-a4b", 25.2, False), ("31b", 30.7, False)],
)
def test_the_official_shapes_have_their_size(name: str, billions: float, encoders: bool) -> None:
    """The published numbers of parameters, with or without the encoders. Nothing is written."""
    config = shapes.config(shapes.FAMILY[name], shapes.VOCAB, make_model.control_ids(shapes.VOCAB))
    core = make_model.parse_config(config).core
    tensors = [*shapes.text_tensors(core.text), *(shapes.encoder_tensors(core) if encoders else ())]
    assert sum(math.prod(shape) for _, shape in tensors) / 1e9 == pytest.approx(billions, rel=0.01)


def test_the_recipe_and_llama_cpps_mix(tiny: tuple[Path, Path]) -> None:
    ours = {t.name: t.dtype for t in read_gguf(tiny[0]).tensors.values()}
    assert ours["token_embd.weight"] == "Q6_K" and ours["blk.0.ffn_up.weight"] == "Q4_0"
    assert ours["blk.0.inp_gate.weight"] == "Q8_0" and ours["blk.0.attn_norm.weight"] == "F32"
    parsed = RandomModel("e2b", small=True).parsed

    def theirs(name: str, kind: str) -> str:
        return llama_cpp_format(name, (256, 256), kind, parsed)

    assert theirs("blk.0.inp_gate.weight", "Q4_0") == "Q4_0"
    assert theirs("per_layer_model_proj.weight", "Q4_0") == "BF16"
    assert theirs("token_embd.weight", "Q4_K") == "Q6_K" and theirs("token_embd.weight", "Q8_0") == "Q8_0"
    # 10 layers: the first (10 // 8) and the last (from 7 * 10 // 8 on) have more bits, and every third between.
    downs = [theirs(f"blk.{i}.ffn_down.weight", "Q4_K") for i in range(10)]
    assert downs == ["Q6_K" if i in (0, 3, 6, 8, 9) else "Q4_K" for i in range(10)]
    # Rows that are no whole number of super-blocks.
    shape = (8, 256, 704)
    assert llama_cpp_format("blk.1.ffn_down_exps.weight", shape, "Q4_K", parsed) == "Q5_0"
    assert llama_cpp_format("blk.1.ffn_down_exps.weight", shape, "Q5_K", parsed) == "Q5_1"
    assert llama_cpp_format("blk.0.ffn_down_exps.weight", shape, "Q4_K", parsed) == "Q8_0"


@pytest.mark.parametrize("dtype", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_drawn_blocks_have_the_spread_that_is_asked_for(dtype: str) -> None:
    from gemma4 import _core

    rng = np.random.default_rng(3)
    drawn = np.concatenate(list(make_model._blocks(dtype, 0.02, 512 * 256, rng)))
    values = _core.decode(dtype, drawn.reshape(512, -1))
    assert values.shape == (512, 256)
    assert values.std() == pytest.approx(0.02, rel=0.03) and abs(values.mean()) < 0.001


def test_a_random_checkpoint_computes(tmp_path: Path) -> None:
    make_checkpoint.write("e2b", tmp_path / "checkpoint", small=True)
    model = gemma4.Model.from_pretrained(tmp_path / "checkpoint", num_threads=1)
    logits = model.forward(np.arange(300, 340, dtype=np.int32))
    assert np.isfinite(logits).all() and logits.std() > 0 and model.modalities == {"text"}
    with pytest.raises(FileExistsError):
        make_checkpoint.write("e2b", tmp_path / "checkpoint", small=True)


def test_large_checkpoints_are_several_files() -> None:
    half = make_checkpoint._SHARD // 4  # elements of two bytes
    files = make_checkpoint.shards({"a": (half,), "b": (half, 1), "c": (3 * half,), "d": (1,)})
    assert list(files) == [["a", "b"], ["c"], ["d"]]


def test_fewer_layers_keep_the_roles() -> None:
    for name, family in shapes.FAMILY.items():
        for layers in range(family.period, family.layers + 1, family.period):
            fewer = shapes.with_layers(family, layers)
            assert (fewer.layers - fewer.readers) % family.period == 0 and fewer.readers >= 0
        assert shapes.with_layers(family, family.layers) == family, name
    with pytest.raises(ValueError, match="multiple of 5"):
        shapes.with_layers(shapes.FAMILY["e2b"], 7)


def test_a_full_disk_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_model.shutil, "disk_usage", lambda _: type("usage", (), {"free": 1 << 20}))
    with pytest.raises(OSError, match="are free"):
        RandomModel("e2b", small=True).write(tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


# -- gemma4 bench ------------------------------------------------------------------------------------------------------

QUICK = ["-p", "16", "-n", "4", "-r", "2", "--picture", "70", "--audio-seconds", "1"]


def test_the_command_prints_json() -> None:
    done = CliRunner().invoke(cli.app, ["bench", "--json", *QUICK, "--depth", "0", "--depth", "40", "--all-logits"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["model"] == "demo" and found["cpu"]["isa"] and found["load_s"] > 0
    for name in ("prefill", "prefill_all_logits"):
        assert found[name]["tokens"] == 16 and len(found[name]["seconds"]) == 2
        assert found[name]["tokens_per_s"] == pytest.approx(16 / np.median(found[name]["seconds"]))
    near, far = found["decode"]
    assert (near["depth"], far["depth"]) == (0, 40) and far["bytes_per_token"] > near["bytes_per_token"]
    assert near["gb_per_s"] == pytest.approx(near["bytes_per_token"] * near["tokens_per_s"] / 1e9)
    assert near["share_of_bandwidth"] == pytest.approx(near["gb_per_s"] / found["read_bandwidth_gb_s"])
    assert len(found["in_turns"]["pairs"]) == 2 * 24 and np.min(found["in_turns"]["pairs"]) > 0
    assert [image["tokens"] for image in found["images"]] == [70]
    assert found["peak_memory_bytes"] > 20e6


def test_the_command_prints_a_table() -> None:
    done = CliRunner().invoke(cli.app, ["bench", *QUICK, "--no-bandwidth"])
    assert done.exit_code == 0, done.output
    words = ("prefill", "decode", "picture of 70", "peak memory")
    assert all(word in done.stdout for word in words)
    assert "what can be read" not in done.stdout and "in turns" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-p", "5000"], "the context holds 4096"), (["--picture", "71"], "budget"), (["--audio-seconds", "31"], "31")],
)
def test_wrong_options_are_refused(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(cli.app, ["bench", *arguments])
    assert done.exit_code == 1 and message in done.stderr


def test_bytes_of_a_token(model: gemma4.Model) -> None:
    """All matrices but the tables, of which a row; a cache that grows in global layers and stops in sliding ones."""
    sizes = {name: tensor.nbytes for name, tensor in model.tensors.items() if "language_model" in name}
    table = next(size for name, size in sizes.items() if name.endswith("embed_tokens_per_layer.weight"))
    assert token_bytes(model) == sum(sizes.values()) - table + table // 2048
    text = model._runtime.loaded.parsed.core.text
    rows = {sliding: sum(2 * 2 * layer.kv_heads * layer.head_dim for layer in text.layers if layer.sliding == sliding)
            for sliding in (True, False)}  # fmt: skip
    assert token_bytes(model, 10) - token_bytes(model) == 10 * (rows[True] + rows[False])
    assert token_bytes(model, 200) - token_bytes(model, 100) == 100 * rows[False]


def test_experts_that_are_not_used_are_not_read(tmp_path: Path) -> None:
    RandomModel("26b-a4b", small=True).write(tmp_path / "a.gguf")
    model = gemma4.Model.from_pretrained(tmp_path / "a.gguf", num_threads=1)
    total = sum(tensor.nbytes for tensor in model.tensors.values())
    experts = sum(tensor.nbytes for name, tensor in model.tensors.items() if ".experts." in name)
    assert token_bytes(model) == total - experts + experts * 2 // 8


def test_plain_reads_take_what_a_token_reads(model: gemma4.Model) -> None:
    options = BenchOptions(prompt_tokens=4, new_tokens=2, repeats=1, budgets=(), audio_seconds=0)
    found = measure(model, options)
    assert found["in_turns"]["bytes"] == token_bytes(model)
    given = {"bytes": 2 * 10**9, "pairs": [(0.2, 0.1), (0.2, 0.18), (0.4, 0.2), (0.1, 0.1)]}
    turns = shares_in_turns(given)
    assert turns["share"] == pytest.approx(0.7) and turns["low"] <= 0.7 <= turns["high"]
    assert turns["decode_gb_s"] == pytest.approx(10) and turns["read_gb_s"] == pytest.approx(2 / 0.14)
    line = "decoding in turns with plain reads of the same weights: 10.0 of 14.3 GB/s, 70%"
    assert line in report(found | {"in_turns": given})


def test_operations_of_a_token(tmp_path: Path) -> None:
    RandomModel("26b-a4b", small=True).write(tmp_path / "a.gguf")
    tensors = read_gguf(tmp_path / "a.gguf").tensors.values()
    matrices = {t.name: math.prod(t.shape) for t in tensors if len(t.shape) > 1}
    experts = sum(size for name, size in matrices.items() if "_exps" in name)
    found = measures.operations(tmp_path / "a.gguf")
    assert found.head == 2 * 256 * 2048
    assert found.head + found.layers == 2 * (sum(matrices.values()) - experts * 6 // 8)


def test_reading_takes_time() -> None:
    assert 0.01 < read_bandwidth(1, 1 << 24, 1) < 2000


def test_prompts_beyond_the_window_repeat(model: gemma4.Model) -> None:
    options = BenchOptions(prompt_tokens=700, new_tokens=1, repeats=2, budgets=(), audio_seconds=0, bandwidth=False)
    assert model._runtime.loaded.parsed.core.text.window < 700 // 2
    assert len(measure(model, options)["prefill"]["seconds"]) == 2


def test_a_table_of_everything(model: gemma4.Model) -> None:
    text = report(measure(model, BenchOptions(8, 2, (0, 8), 1, True, (70,), 0.5, False)))
    assert [line.split("  ")[0] for line in text.splitlines()[1:7]] == [
        "prefill", "prefill, all logits", "decode", "decode after 8", "picture of 70", "sound",
    ]  # fmt: skip
    with pytest.raises(RequestError, match="at least 1"):
        measure(model, BenchOptions(repeats=0))


# -- what others print -------------------------------------------------------------------------------------------------

LLAMA_BENCH = """ggml_backend_load: noise before
[
  {
    "build_commit": "unknown", "n_threads": 2, "flash_attn": 1, "n_prompt": 512, "n_gen": 0, "n_depth": 0,
    "avg_ns": 10500000000, "avg_ts": 48.8,
    "samples_ns": [ 10000000000, 11000000000 ],
    "samples_ts": [ 51.2, 46.5454 ]
  },
  {
    "build_commit": "unknown", "n_threads": 2, "flash_attn": 1, "n_prompt": 0, "n_gen": 64, "n_depth": 512,
    "samples_ns": [ 4000000000 ],
    "samples_ts": [ 16.0 ]
  }
]
load: noise [behind]
"""
MTMD = """main: loading model: e2b.gguf
encoding mtmd batch, n_chunks = 1 (done = 0, total = 3)
mtmd batch encoding done in 4630 ms
image decoded (batch 1/1) in 812 ms
encoding mtmd batch, n_chunks = 1 (done = 2, total = 3)
mtmd batch encoding done in 95 ms
"""
COMPLETION = """llama_kv_cache:        CPU KV buffer size =    96.00 MiB
llama_kv_cache: size =   96.00 MiB (  4096 cells,   3 layers,  1/1 seqs), K (f16):   48.00 MiB, V (f16):   48.00 MiB
llama_kv_cache:        CPU KV buffer size =    12.50 MiB
common_perf_print:        load time =    3104.25 ms
"""
CPUINFO = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse4_2 avx avx2 fma f16c bmi2 avx512f avx512cd avx512vl avx512dq avx512bw avx512_vnni amx_tile amx_int8
"""


def test_llama_bench_is_read() -> None:
    prompt, new = llama_cpp.parse_bench(LLAMA_BENCH)
    assert prompt == llama_cpp.Row(512, 0, 0, [10.0, 11.0], [51.2, 46.5454])
    assert new == llama_cpp.Row(0, 64, 512, [4.0], [16.0])
    with pytest.raises(RuntimeError, match="no JSON"):
        llama_cpp.parse_bench("error: failed to load model\n")


def test_the_media_program_is_read() -> None:
    assert llama_cpp.parse_media(MTMD) == [4.63, 0.095]
    assert llama_cpp.parse_media("image slice encoded in 120 ms\n") == [0.12]


def test_its_cache_and_load_time_are_read() -> None:
    assert llama_cpp.parse_cache(COMPLETION) == int(108.5 * (1 << 20))
    assert llama_cpp.parse_load(COMPLETION) == pytest.approx(3.10425)
    assert llama_cpp.parse_load("nothing") is None
    with pytest.raises(RuntimeError, match="cache"):
        llama_cpp.parse_cache("")


def test_litert_is_read() -> None:
    text = "Prefill turns: 1\n  Prefill Speed: 175.21 tokens/sec.\n  Decode Speed: 16.60 tokens/sec.\n"
    assert measures.parse_litert(text) == [175.21, 16.6]
    with pytest.raises(RuntimeError, match="decode"):
        measures.parse_litert("Prefill Speed: 175.21 tokens/sec.")


def test_another_instruction_set_is_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA4_ISA", "avx2")
    options = llama_cpp.cmake_options(llama_cpp.cpu_flags(CPUINFO), amx=False)
    assert {"-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_AVX512=OFF", "-DGGML_AVX512_VNNI=OFF"} <= set(options)
    monkeypatch.setenv("GEMMA4_ISA", "avx512vnni")
    flags = llama_cpp.cpu_flags(CPUINFO.replace("avx512_vnni", "avx512_vnni avx512_bf16"))
    assert "avx512_vnni" in flags and not {"avx512_bf16", "amx_tile"} & flags


def test_build_options_name_what_runs() -> None:
    flags = llama_cpp.cpu_flags(CPUINFO)
    options = llama_cpp.cmake_options(flags, amx=False)
    assert {"-DGGML_NATIVE=OFF", "-DGGML_AVX512=ON", "-DGGML_AVX512_VNNI=ON", "-DGGML_AVX_VNNI=OFF"} <= set(options)
    assert {"-DGGML_AMX_TILE=OFF", "-DGGML_AMX_INT8=OFF", "-DGGML_AVX512_BF16=OFF"} <= set(options)
    with_amx = llama_cpp.cmake_options(flags, amx=True)
    assert {"-DGGML_AMX_TILE=ON", "-DGGML_AMX_INT8=ON", "-DGGML_AMX_BF16=OFF"} <= set(with_amx)
    assert not any("GGML" in option for option in llama_cpp.cmake_options(set(), amx=False))


def test_a_child_is_measured_and_its_failure_told() -> None:
    done = llama_cpp.run([sys.executable, "-c", "x = bytearray(300 << 20); print(len(x))"])
    assert done.text.strip() == str(300 << 20) and done.peak_bytes > 300 << 20 and done.seconds > 0
    with pytest.raises(RuntimeError, match="failed \\(3\\): oh"):
        llama_cpp.run([sys.executable, "-c", "print('oh'); raise SystemExit(3)"])


# -- the report --------------------------------------------------------------------------------------------------------


def _found() -> dict[str, Any]:
    def rate(value: float) -> Samples:
        return Samples([value, value * 1.1, value * 0.9])

    decode = {0: rate(20), 512: rate(20)}
    rates = {"gemma4": Speeds(rate(300), rate(120), decode), "llama.cpp": Speeds(rate(60), rate(40), decode)}
    return {
        "roofline": Roofline(2, 27.9, 900.0, "vpdpbusd", 3000.0, 230.0),
        "speed": Speed(
            512, 64, 512, Operations(3.7e9, 0.8e9), 27.5, {0: 1_300_000_000, 512: 1_310_000_000},
            in_turns=Turns(18.0, 20.0, 0.88, 0.91, 0.93), rates=rates,
            flash_attention=llama_cpp.Attention("on", {"on": 10.0, "off": 12.0}),
        ),
        "litert": Litert(
            512, 64, {
                "gemma4": Speeds(rate(350), decode={512: rate(20)}),
                "LiteRT-LM": Speeds(rate(175), decode={512: rate(16)}),
            }, 2_600_000_000, 1_500_000_000,
        ),
        "long": Long(
            [512, 32768], 64, {"gemma4": {"bf16": {512: 20.0, 32768: 15.0}, "q8_0": {512: 20.0, 32768: 18.0}}}
        ),
        "memory": Memory(2048, {"gemma4": 1_400_000_000, "llama.cpp": 4_300_000_000}),
        "load": Loading({"gemma4": rate(1), "llama.cpp": rate(5)}, {"import": 0.3}),
        "images": {
            name: {70: rate(ms), 280: rate(12)}
            for name, ms in (
                ("gemma4", 10), ("gemma4 q8_0", 5), ("llama.cpp", 30), ("llama.cpp q8_0", 20), ("transformers f32", 40)
            )
        },
        "audio": Audio(30.0, {"gemma4": rate(1.2), "gemma4 q8_0": rate(0.6), "transformers f32": rate(4)}),
        "soft": {"gemma4": {"image": 1e-6}, "gemma4 q8_0": {"image": 0.01}},
        "error": Logits("x.gguf", 64, True, {"gemma4": {"prompt": 0.01, "token by token": 0.02}}),
        "cache": Caches(4096, {"gemma4": {"bf16": 1000, "q4_0": "not yet"}, "llama.cpp": {"bf16": 1100}}),
    }  # fmt: skip


def test_results_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model = tmp_path / "e2b-q4_0.gguf"
    model.write_bytes(bytes(1000))
    setup = measures.Setup("e2b", model, model, model, None, 2, 3, False)
    record = results.Record(tmp_path / "out", setup)
    for part, found in _found().items():
        record.add(part, found)
    again = results.Record(tmp_path / "out", setup)  # joins what is there
    again.add("memory", Memory(2048, {"gemma4": 1_300_000_000, "llama.cpp": 4_300_000_000}))
    results.write_report(tmp_path / "out")
    text = (tmp_path / "out/RESULTS.md").read_text()
    for line in (
        "| prompt of 512, last logits | 300.0 (20%) |  | 60.0 (20%) |  | 5.00 x |",
        ", 230 GFLOPS in f32, 3000 GFLOPS in bf16 by tiles (tdpbf16ps).",
        "| decode 64 after 512 | 20.0 (20%) | 26.2 GB/s, 95% | 20.0 (20%) | 26.2 GB/s, 95% | 1.00 x |",
        "gemma4 decoded with 18.0 of 20.0 GB/s: 91% (quartiles 88% and 93%).",
        "| prompt of 512, all layers; llama.cpp the last logits | 120.0 (20%) |  | 60.0 (20%) |  | 2.00 x |",
        "| prompt of 512, all logits of both | 120.0 (20%) |  | 40.0 (20%) |  | 3.00 x |",
        "Prompts with nothing skipped: gemma4 540 GOPS, llama.cpp 180 GOPS.",
        "| prompt of 512, last logits | 350.0 (20%) | 175.0 (20%) | 2.00 x |",
        "LiteRT-LM: a file of 2.60 GB, 1.50 GB at its peak.",
        "| llama.cpp | 4.30 | 3.31 x |",
        "| gemma4, q8_0 | 20.0 | 18.0 | 90% |",
        "| 70 | 10.00 (20%) | 5.00 (20%) | 30.00 (20%) | 3.00 x | 20.00 (20%) | 4.00 x | 40.00 (20%) | 4.00 x | 8.00",
        "| transformers f32 | 4.00 (20%) | 3.33 x | 6.67 x |",
        "| gemma4 q8_0 | 1.00e-02 |",
        "| gemma4 | 0.0 (100%) | not supported |",
    ):
        assert line in text
    assert results.commit().split("+")[0] in text
    assert {path.name for path in (tmp_path / "out/plots").iterdir()} == {"e2b-q4_0-speed.svg", "e2b-q4_0-images.svg"}


def test_every_part_says_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(bytes(10))
    setup = measures.Setup("e2b", model, model, model, None, 2, 3, False)
    monkeypatch.setattr(results, "commit", lambda: "one")
    results.Record(tmp_path, setup).add("memory", _found()["memory"])
    monkeypatch.setattr(results, "commit", lambda: "another")
    results.Record(tmp_path, setup).add("audio", _found()["audio"])
    parts = json.loads((tmp_path / "m.json").read_text())["parts"]
    assert {name: part["commit"] for name, part in parts.items()} == {"memory": "one", "audio": "another"}
    monkeypatch.setenv("GEMMA4_ISA", "avx2")  # a machine of its own
    results.Record(tmp_path, setup).add("memory", _found()["memory"])
    assert set(json.loads((tmp_path / "m-avx2.json").read_text())["parts"]) == {"memory"}


def test_other_machines_are_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(bytes(10))
    setup = measures.Setup("e2b", model, model, model, None, 2, 3, False)
    results.Record(tmp_path, setup).add("memory", _found()["memory"])
    monkeypatch.setattr(results, "machine", lambda: {**_MACHINE, "cpus": 64})
    results.Record(tmp_path, setup).add("audio", _found()["audio"])
    assert set(json.loads((tmp_path / "m.json").read_text())["parts"]) == {"audio"}


_MACHINE = results.machine()


def test_the_programs_explain_themselves() -> None:
    for name in ("make_model.py", "make_checkpoint.py", "compare.py"):
        done = subprocess.run(
            [sys.executable, str(BENCHMARKS / name), "--help"], capture_output=True, text=True, check=True
        )
        assert "random" in done.stdout.lower()
