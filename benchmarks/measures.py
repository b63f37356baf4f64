"""What compare.py measures: each function runs this package and its competitors on the same file, one after the other,
in processes of their own, and returns plain numbers.

Knows: the programs and their arguments. Must not know: tables, plots.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from check_llama_cpp import Probe, relative
from gemma4.command.bench import shares_in_turns
from gemma4.gguf import read_gguf
from llama_cpp import LlamaCpp, faster_attention, parse_load, run
from make_model import RandomModel
from numpy.typing import NDArray

HERE = Path(__file__).parent
CACHES = {"f32": "f32", "bf16": "bf16", "q8_0": "q8_0", "q4_0": "q4_0"}


@dataclass(frozen=True)
class Setup:
    """Files, competitors and how much to measure."""

    shape: str
    model: Path
    mmproj: Path
    small: Path
    """The same widths with few layers: for what does not depend on their number."""
    llama: LlamaCpp | None
    threads: int
    rounds: int
    quick: bool
    reference: bool = True
    """Measure transformers' encoders too."""
    rounded: Path | None = None
    """The encoders in Q8_0; `mmproj` has them in 16 bits."""


def entry(samples: Iterable[float], **more: Any) -> dict[str, Any]:
    """Samples with their median and spread (largest minus smallest, over the median)."""
    values = list(samples)
    middle = statistics.median(values)
    return {"samples": values, "median": middle, "spread": (max(values) - min(values)) / middle, **more}


def alternate(rounds: int, works: dict[str, Callable[[], None]]) -> None:
    """Everyone once in each round, in turns forwards and backwards: drift of the machine hits all alike."""
    for index in range(rounds):
        for name in list(works) if index % 2 == 0 else reversed(works):
            say(f"round {index + 1} of {rounds}: {name}")
            works[name]()


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def ours(setup: Setup, *arguments: Any, model: Path | None = None) -> dict[str, Any]:
    """`gemma4 bench --json` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "gemma4.command.cli",
        "bench",
        "--json",
        "-m",
        model or setup.model,
        "-t",
        setup.threads,
    ]
    done = subprocess.run([str(part) for part in [*command, *arguments]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"gemma4 bench failed: {done.stderr[-600:]}")
    return dict(json.loads(done.stdout))


_NO_MEDIA = ("--picture", 0, "--audio-seconds", 0)

# -- bounds ------------------------------------------------------------------------------------------------------------


def roofline(threads: int, seconds: float = 3.0) -> dict[str, Any]:
    """Read bandwidth and arithmetic peaks of this machine, by roofline.cpp."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "roofline")
        flags = ["-O3", "-march=native", "-pthread"]
        subprocess.run(["g++", *flags, str(HERE / "roofline.cpp"), "-o", str(program)], check=True)
        text = subprocess.run([program, str(threads), str(seconds)], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(text))


def operations(model: Path) -> dict[str, float]:
    """8-bit operations (two for a multiply-add) for a token: of all layers, and of the output matrix."""
    file = read_gguf(model)
    sizes = {"layers": 0.0, "head": 0.0}
    used = file.integer("gemma4.expert_used_count", 0) / max(1, file.integer("gemma4.expert_count", 0))
    for tensor in file.tensors.values():
        if len(tensor.shape) > 1 and tensor.name != "per_layer_token_embd.weight":
            part = "head" if tensor.name == "token_embd.weight" else "layers"
            sizes[part] += 2 * math.prod(tensor.shape) * (used if "_exps" in tensor.name else 1)
    return sizes


# -- speed -------------------------------------------------------------------------------------------------------------


def speed(setup: Setup) -> dict[str, Any]:
    """A prompt with the last logits and with all, and decoding at the start and after 512 tokens.

    llama-bench asks for the last logits only; with all of them, llama.cpp is asked by llama_probe.cpp.
    """
    prompt, new, depth = (64, 8, 64) if setup.quick else (512, 64, 512)
    samples: dict[str, list[float]] = {}
    extra: dict[str, Any] = {"prompt": prompt, "new": new, "depth": depth}
    turns: dict[str, Any] = {"pairs": []}

    def add(name: str, values: Iterable[float]) -> None:
        samples.setdefault(name, []).extend(values)

    def own() -> None:
        # The first of three warms caches and pages up, as llama-bench's own warm-up does; it is not counted.
        options = ["-p", prompt, "-n", new, "--depth", 0, "--depth", depth, "-r", 3, "--all-logits"]
        result = ours(setup, *options, *_NO_MEDIA)
        for name in ("prefill", "prefill_all_logits"):
            add(f"gemma4 {name}", (prompt / s for s in result[name]["seconds"][1:]))
        for done in result["decode"]:
            add(f"gemma4 decode@{done['depth']}", (new / s for s in done["seconds"][1:]))
            extra[f"bytes_per_token@{done['depth']}"] = done["bytes_per_token"]
        add("read_bandwidth_gb_s", [result["read_bandwidth_gb_s"]])
        turns["bytes"] = result["in_turns"]["bytes"]
        turns["pairs"] += result["in_turns"]["pairs"]

    works: dict[str, Callable[[], None]] = {"gemma4": own}
    with tempfile.TemporaryDirectory() as folder:
        if setup.llama is not None:
            llama = setup.llama
            say("llama.cpp: flash attention on or off")
            extra["flash_attention"] = chosen = faster_attention(llama, setup.model, prompt, new)
            probe = Probe(llama.source, llama.build.resolve(), Path(folder))

            def theirs() -> None:
                seconds = probe.prompt_seconds(setup.model, prompt, setup.threads, chosen["flash"] == "on")
                add("llama.cpp prefill_all_logits", (prompt / s for s in seconds))
                begin, _ = llama.bench(setup.model, "-p", prompt, "-n", new, flash=chosen["flash"])
                later, _ = llama.bench(setup.model, "-p", 0, "-n", new, "-d", depth, flash=chosen["flash"])
                for row in begin + later:
                    add(f"llama.cpp decode@{row['depth']}" if row["new"] else "llama.cpp prefill", row["tokens_per_s"])

            works["llama.cpp"] = theirs
        alternate(setup.rounds, works)
    bandwidth = max(samples.pop("read_bandwidth_gb_s"))
    result = {name: entry(values) for name, values in samples.items()}
    for name, done in result.items():
        place = name.split("@")
        if len(place) == 2:
            done["gb_per_s"] = done["median"] * extra[f"bytes_per_token@{place[1]}"] / 1e9
            done["share_of_bandwidth"] = done["gb_per_s"] / bandwidth
    extra["operations"] = operations(setup.model)
    extra["in_turns"] = shares_in_turns(turns)
    return {**extra, "read_bandwidth_gb_s": bandwidth, "rates": result}


LONG_CACHES = ("bf16", "q8_0", "q4_0")


def long(setup: Setup, with_llama: bool) -> dict[str, Any]:
    """Decoding after 512 and after 32,768 tokens, by the format of keys and values. The prompt before it is computed
    every time, by both; minutes, in which the machine drifts, so that 512 are measured before and after it."""
    near, far = depths = (64, 1024) if setup.quick else (512, 32_768)
    new = 8 if setup.quick else 64
    result: dict[str, Any] = {"depths": depths, "new": new, "gemma4": {}}
    for kind in LONG_CACHES:
        say(f"keys and values in {kind}")
        rates: dict[int, list[float]] = {near: [], far: []}
        for depth in (near, far, near):
            done = ours(setup, "-p", 16, "-n", new, "--depth", depth, "-r", 1, "--kv-cache", kind, *_NO_MEDIA)
            rates[depth].append(done["decode"][0]["tokens_per_s"])
        result["gemma4"][kind] = {depth: statistics.mean(found) for depth, found in rates.items()}
    if with_llama and setup.llama is not None:
        rows, _ = setup.llama.bench(setup.model, "-p", 0, "-n", new, "-d", ",".join(map(str, depths)), repeats=1)
        result["llama.cpp"] = {"f16": {row["depth"]: row["tokens_per_s"][0] for row in rows}}
    return result


# -- memory and loading ------------------------------------------------------------------------------------------------


def memory(setup: Setup) -> dict[str, Any]:
    """Peak of physical memory of a process that reads 2,048 varied tokens and decodes a few."""
    prompt, new = (128, 4) if setup.quick else (2048, 16)
    done = run([sys.executable, "-c", _LONG_PROMPT, setup.model, setup.threads, prompt, new])
    result: dict[str, Any] = {"prompt": prompt, "gemma4": done.peak_bytes}
    if setup.llama is not None:
        for name, arguments in (("llama.cpp", ()), ("llama.cpp without repacking", ("--repack", 0))):
            test = ["-p", 0, "-n", 0, "-pg", f"{prompt},{new}", "--no-warmup", *arguments]
            result[name] = setup.llama.bench(setup.model, *test, repeats=1)[1].peak_bytes
    return result


# The library alone: the command line's framework would add 18 MB that no model needs.
_LONG_PROMPT = """
import sys, random, numpy, gemma4
model = gemma4.Model.from_pretrained(sys.argv[1], num_threads=int(sys.argv[2]))
draw = random.Random(0)
ids = numpy.array([draw.randrange(1000, 200_000) for _ in range(int(sys.argv[3]))], numpy.int32)
model.generate(ids, max_new_tokens=int(sys.argv[4]), temperature=0, ignore_eos=True, repetition_guard=False)
"""

_FIRST_TOKEN = """
import time; begin = time.perf_counter()
import sys, json, numpy, gemma4; imported = time.perf_counter()
model = gemma4.Model.from_pretrained(sys.argv[1], num_threads=int(sys.argv[2])); loaded = time.perf_counter()
ids = numpy.arange(1000, 1016, dtype=numpy.int32)
model.generate(ids, max_new_tokens=1, temperature=0, ignore_eos=True); said = time.perf_counter()
print(json.dumps({"import": imported - begin, "load": loaded - imported, "first_token": said - loaded}))
"""


def loading(setup: Setup) -> dict[str, Any]:
    """Whole processes, from start to end, that load a file which the system holds in memory and say one token."""
    samples: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {}

    def own() -> None:
        done = run([sys.executable, "-c", _FIRST_TOKEN, setup.model, setup.threads])
        samples.setdefault("gemma4", []).append(done.seconds)
        for name, value in json.loads(done.text.splitlines()[-1]).items():
            parts.setdefault(name, []).append(value)

    def theirs(name: str, repack: bool) -> Callable[[], None]:
        def work() -> None:
            assert setup.llama is not None
            done = setup.llama.first_token(setup.model, repack)
            samples.setdefault(name, []).append(done.seconds)
            said = parse_load(done.text)
            if said is not None:
                parts.setdefault(f"{name}: load", []).append(said)

        return work

    works: dict[str, Callable[[], None]] = {"gemma4": own}
    if setup.llama is not None:
        works["llama.cpp"] = theirs("llama.cpp", True)
        works["llama.cpp without repacking"] = theirs("llama.cpp without repacking", False)
    _warm(setup.model)
    alternate(setup.rounds, works)
    return {
        "seconds": {name: entry(values) for name, values in samples.items()},
        "parts": {name: statistics.median(values) for name, values in parts.items()},
    }


def _warm(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def caches(setup: Setup) -> dict[str, Any]:
    """Bytes of keys and values for a context, by the format they are kept in."""
    context = 256 if setup.quick else 4096
    result: dict[str, Any] = {"context": context, "gemma4": {}, "llama.cpp": {}}
    for kind, theirs in CACHES.items():
        options = ["-p", 1, "-n", 1, "--depth", context - 2, "-r", 1, "--no-bandwidth", "--kv-cache", kind, *_NO_MEDIA]
        try:
            result["gemma4"][kind] = ours(setup, *options, model=setup.model)["decode"][0]["kv_bytes"]
        except RuntimeError as error:  # a format that this version does not have
            result["gemma4"][kind] = str(error).strip().splitlines()[-1][-200:]
        if setup.llama is not None:
            result["llama.cpp"][kind] = setup.llama.cache_bytes(setup.model, context, theirs)
    return result


# -- exactness ---------------------------------------------------------------------------------------------------------

_LOGITS = """
import sys, numpy, gemma4
source, dtype, ids, out, way = sys.argv[1:6]
model = gemma4.Model.from_pretrained(source, dtype=dtype, kv_cache="f32", num_threads=int(sys.argv[6]))
ids = numpy.load(ids)
if way == "prompt":
    logits = model.forward(ids)
else:
    session = model._runtime.loaded.core.sequence(len(ids), "f32")
    logits = [session.prefill(ids[:1], (), "all")[0].copy()] + [session.decode(int(i)).copy() for i in ids[1:]]
numpy.save(out, logits)
"""


def error(setup: Setup, model: Path) -> dict[str, Any]:
    """Relative error (root mean square) of the logits of a prompt against the same file's weights in f32, for the
    prompt at once and token by token; keys and values in f32 for all, so that only the arithmetic differs."""
    count = 16 if setup.quick else 64
    shape = RandomModel(setup.shape)
    ids = np.random.default_rng(1).integers(300, min(shape.vocab, 250_000), count).astype(np.int32)
    result: dict[str, Any] = {"model": model.name, "tokens": count}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "ids.npy", ids)

        def logits(dtype: str, way: str) -> NDArray[np.float32]:
            say(f"logits of gemma4, {dtype}, {way}")
            out = folder / "logits.npy"
            run([sys.executable, "-c", _LOGITS, model, dtype, folder / "ids.npy", out, way, setup.threads])
            return np.asarray(np.load(out), np.float32)

        exact = logits("f32", "prompt")
        result["finite"] = bool(np.isfinite(exact).all())
        result["gemma4"] = {way: relative(logits("auto", way), exact) for way in ("prompt", "token by token")}
        if setup.llama is not None:
            probe = Probe(setup.llama.source, setup.llama.build.resolve(), folder)
            result["llama.cpp"] = {}
            for way, ubatch in (("prompt", 0), ("token by token", 1)):
                say(f"logits of llama.cpp, {way}")
                theirs, _ = probe.logits(model, ids, 0, ubatch, True)
                result["llama.cpp"][way] = relative(theirs, exact)
    return result


# -- LiteRT-LM ---------------------------------------------------------------------------------------------------------


def litert(setup: Setup, path: Path) -> dict[str, Any]:
    """A prompt and the tokens after it, by `litert-lm benchmark` of the same shape, exported before (see README.md)."""
    prompt, new = (64, 8) if setup.quick else (512, 64)
    samples: dict[str, list[float]] = defaultdict(list)
    peaks: list[int] = []

    # Both warm up in every process.
    def own() -> None:
        result = ours(setup, "-p", prompt, "-n", new, "--depth", prompt, "-r", 3, *_NO_MEDIA)
        samples["gemma4 prefill"] += (prompt / s for s in result["prefill"]["seconds"][1:])
        samples["gemma4 decode"] += (new / s for s in result["decode"][0]["seconds"][1:])

    def theirs() -> None:
        sizes = ["--prefill-tokens", prompt, "--decode-tokens", new, "--runs", 2]
        done = run(["litert-lm", "benchmark", path, "--backend", "cpu", "--cpu-thread-count", setup.threads, *sizes])
        for phase, speed in parse_litert(done.text).items():
            samples[f"LiteRT-LM {phase}"].append(speed)
        peaks.append(done.peak_bytes)

    alternate(setup.rounds, {"gemma4": own, "LiteRT-LM": theirs})
    rates = {name: entry(values) for name, values in samples.items()}
    return {
        "prompt": prompt, "new": new, "rates": rates, "bytes": path.stat().st_size, "peak_memory_bytes": max(peaks),
    }  # fmt: skip


def parse_litert(text: str) -> dict[str, float]:
    """Tokens per second of both phases, whatever the program writes around them.

    >>> parse_litert("Prefill Speed: 175.21 tokens/sec.\\nDecode Speed: 16.6 tokens/sec.")
    {'prefill': 175.21, 'decode': 16.6}
    """
    import re

    result = {}
    for phase in ("prefill", "decode"):
        found = re.findall(rf"{phase}[^\n]*?([\d.]+)\s*(?:tokens?|tok)\s*/\s*s", text, re.I)
        if not found:
            raise RuntimeError(f"litert-lm printed no speed of {phase}: {text[-300:]}")
        result[phase] = statistics.median(map(float, found))
    return result
