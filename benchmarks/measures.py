"""What compare.py measures: each function runs this package and its competitors on the same file, one after the other,
in processes of their own, and returns a record of found.py.

Knows: the programs and their arguments. Must not know: tables, plots.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from check_llama_cpp import Probe, relative
from found import Caches, Litert, Loading, Logits, Long, Memory, Operations, Roofline, Samples, Speed, Speeds, Turns
from gemma4.command.bench import shares_in_turns
from gemma4.gguf import read_gguf
from llama_cpp import Attention, LlamaCpp, faster_attention, parse_load, run
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


def roofline(threads: int, seconds: float = 3.0) -> Roofline:
    """Read bandwidth and arithmetic peaks of this machine, by roofline.cpp."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "roofline")
        flags = ["-O3", "-march=native", "-pthread"]
        subprocess.run(["g++", *flags, str(HERE / "roofline.cpp"), "-o", str(program)], check=True)
        text = subprocess.run([program, str(threads), str(seconds)], capture_output=True, text=True, check=True).stdout
    return Roofline(**json.loads(text))


def operations(model: Path) -> Operations:
    file = read_gguf(model)
    layers = head = 0.0
    used = file.integer("gemma4.expert_used_count", 0) / max(1, file.integer("gemma4.expert_count", 0))
    for tensor in file.tensors.values():
        if len(tensor.shape) > 1 and tensor.name != "per_layer_token_embd.weight":
            size = 2 * math.prod(tensor.shape) * (used if "_exps" in tensor.name else 1)
            if tensor.name == "token_embd.weight":
                head += size
            else:
                layers += size
    return Operations(layers, head)


# -- speed -------------------------------------------------------------------------------------------------------------


def speed(setup: Setup) -> Speed:
    """A prompt with the last logits and with all, and decoding at the start and after 512 tokens.

    llama-bench asks for the last logits only; with all of them, llama.cpp is asked by llama_probe.cpp.
    """
    prompt, new, depth = (64, 8, 64) if setup.quick else (512, 64, 512)
    rates = {"gemma4": Speeds()}
    chosen: Attention | None = None
    bytes_per_token: dict[int, int] = {}
    bandwidths: list[float] = []
    turns: dict[str, Any] = {"pairs": []}

    def own() -> None:
        # The first of three warms caches and pages up, as llama-bench's own warm-up does; it is not counted.
        options = ["-p", prompt, "-n", new, "--depth", 0, "--depth", depth, "-r", 3, "--all-logits"]
        result = ours(setup, *options, *_NO_MEDIA)
        mine = rates["gemma4"]
        mine.prefill.samples.extend(prompt / s for s in result["prefill"]["seconds"][1:])
        mine.prefill_all_logits.samples.extend(prompt / s for s in result["prefill_all_logits"]["seconds"][1:])
        for done in result["decode"]:
            mine.decode[done["depth"]].samples.extend(new / s for s in done["seconds"][1:])
            bytes_per_token[done["depth"]] = done["bytes_per_token"]
        bandwidths.append(result["read_bandwidth_gb_s"])
        turns["bytes"] = result["in_turns"]["bytes"]
        turns["pairs"] += result["in_turns"]["pairs"]

    works: dict[str, Callable[[], None]] = {"gemma4": own}
    with tempfile.TemporaryDirectory() as folder:
        if setup.llama is not None:
            llama, other = setup.llama, rates.setdefault("llama.cpp", Speeds())
            say("llama.cpp: flash attention on or off")
            chosen = faster_attention(llama, setup.model, prompt, new)
            flash = chosen.flash
            probe = Probe(llama.source, llama.build.resolve(), Path(folder))

            def theirs() -> None:
                seconds = probe.prompt_seconds(setup.model, prompt, setup.threads, flash == "on")
                other.prefill_all_logits.samples.extend(prompt / s for s in seconds)
                begin, _ = llama.bench(setup.model, "-p", prompt, "-n", new, flash=flash)
                later, _ = llama.bench(setup.model, "-p", 0, "-n", new, "-d", depth, flash=flash)
                for row in begin + later:
                    (other.decode[row.depth] if row.new else other.prefill).samples.extend(row.tokens_per_s)

            works["llama.cpp"] = theirs
        alternate(setup.rounds, works)
    return Speed(
        prompt, new, depth, operations(setup.model), max(bandwidths), bytes_per_token,
        in_turns=Turns(**shares_in_turns(turns)), rates=rates, flash_attention=chosen,
    )  # fmt: skip


LONG_CACHES = ("bf16", "q8_0", "q4_0")


def long(setup: Setup, with_llama: bool) -> Long:
    """Decoding after 512 and after 32,768 tokens, by the format of keys and values. The prompt before it is computed
    every time, by both; minutes, in which the machine drifts, so that 512 are measured before and after it."""
    near, far = depths = (64, 1024) if setup.quick else (512, 32_768)
    new = 8 if setup.quick else 64
    result = Long(list(depths), new, {"gemma4": {}})
    for kind in LONG_CACHES:
        say(f"keys and values in {kind}")
        rates: dict[int, list[float]] = {near: [], far: []}
        for depth in (near, far, near):
            done = ours(setup, "-p", 16, "-n", new, "--depth", depth, "-r", 1, "--kv-cache", kind, *_NO_MEDIA)
            rates[depth].append(done["decode"][0]["tokens_per_s"])
        result.rates["gemma4"][kind] = {depth: statistics.mean(found) for depth, found in rates.items()}
    if with_llama and setup.llama is not None:
        rows, _ = setup.llama.bench(setup.model, "-p", 0, "-n", new, "-d", ",".join(map(str, depths)), repeats=1)
        result.rates["llama.cpp"] = {"f16": {row.depth: row.tokens_per_s[0] for row in rows}}
    return result


# -- memory and loading ------------------------------------------------------------------------------------------------


def memory(setup: Setup) -> Memory:
    """Peak of physical memory of a process that reads 2,048 varied tokens and decodes a few."""
    prompt, new = (128, 4) if setup.quick else (2048, 16)
    done = run([sys.executable, "-c", _LONG_PROMPT, setup.model, setup.threads, prompt, new])
    peaks = {"gemma4": done.peak_bytes}
    if setup.llama is not None:
        for name, arguments in (("llama.cpp", ()), ("llama.cpp without repacking", ("--repack", 0))):
            test = ["-p", 0, "-n", 0, "-pg", f"{prompt},{new}", "--no-warmup", *arguments]
            peaks[name] = setup.llama.bench(setup.model, *test, repeats=1)[1].peak_bytes
    return Memory(prompt, peaks)


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


def loading(setup: Setup) -> Loading:
    """Whole processes, from start to end, that load a file which the system holds in memory and say one token."""
    seconds: dict[str, Samples] = defaultdict(Samples)
    parts: dict[str, list[float]] = defaultdict(list)

    def own() -> None:
        done = run([sys.executable, "-c", _FIRST_TOKEN, setup.model, setup.threads])
        seconds["gemma4"].samples.append(done.seconds)
        for name, value in json.loads(done.text.splitlines()[-1]).items():
            parts[name].append(value)

    def theirs(name: str, repack: bool) -> Callable[[], None]:
        def work() -> None:
            assert setup.llama is not None
            done = setup.llama.first_token(setup.model, repack)
            seconds[name].samples.append(done.seconds)
            said = parse_load(done.text)
            if said is not None:
                parts[f"{name}: load"].append(said)

        return work

    works: dict[str, Callable[[], None]] = {"gemma4": own}
    if setup.llama is not None:
        works["llama.cpp"] = theirs("llama.cpp", True)
        works["llama.cpp without repacking"] = theirs("llama.cpp without repacking", False)
    _warm(setup.model)
    alternate(setup.rounds, works)
    return Loading(seconds, {name: statistics.median(values) for name, values in parts.items()})


def _warm(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def caches(setup: Setup) -> Caches:
    """Bytes of keys and values for a context, by the format they are kept in."""
    context = 256 if setup.quick else 4096
    mine: dict[str, int | str] = {}
    others: dict[str, int | str] = {}
    for kind, theirs in CACHES.items():
        options = ["-p", 1, "-n", 1, "--depth", context - 2, "-r", 1, "--no-bandwidth", "--kv-cache", kind, *_NO_MEDIA]
        try:
            mine[kind] = ours(setup, *options, model=setup.model)["decode"][0]["kv_bytes"]
        except RuntimeError as error:  # a format that this version does not have
            mine[kind] = str(error).strip().splitlines()[-1][-200:]
        if setup.llama is not None:
            others[kind] = setup.llama.cache_bytes(setup.model, context, theirs)
    return Caches(context, {"gemma4": mine, "llama.cpp": others})


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


def error(setup: Setup, model: Path) -> Logits:
    """Relative error (root mean square) of the logits of a prompt against the same file's weights in f32, for the
    prompt at once and token by token; keys and values in f32 for all, so that only the arithmetic differs."""
    count = 16 if setup.quick else 64
    shape = RandomModel(setup.shape)
    ids = np.random.default_rng(1).integers(300, min(shape.vocab, 250_000), count).astype(np.int32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "ids.npy", ids)

        def logits(dtype: str, way: str) -> NDArray[np.float32]:
            say(f"logits of gemma4, {dtype}, {way}")
            out = folder / "logits.npy"
            run([sys.executable, "-c", _LOGITS, model, dtype, folder / "ids.npy", out, way, setup.threads])
            return np.asarray(np.load(out), np.float32)

        exact = logits("f32", "prompt")
        errors = {"gemma4": {way: relative(logits("auto", way), exact) for way in ("prompt", "token by token")}}
        if setup.llama is not None:
            probe = Probe(setup.llama.source, setup.llama.build.resolve(), folder)
            errors["llama.cpp"] = {}
            for way, ubatch in (("prompt", 0), ("token by token", 1)):
                say(f"logits of llama.cpp, {way}")
                theirs, _ = probe.logits(model, ids, 0, ubatch, True)
                errors["llama.cpp"][way] = relative(theirs, exact)
    return Logits(model.name, count, bool(np.isfinite(exact).all()), errors)


# -- LiteRT-LM ---------------------------------------------------------------------------------------------------------


def litert(setup: Setup, path: Path) -> Litert:
    """A prompt and the tokens after it, by `litert-lm benchmark` of the same shape, exported before (see README.md)."""
    prompt, new = (64, 8) if setup.quick else (512, 64)
    rates = {"gemma4": Speeds(), "LiteRT-LM": Speeds()}
    peaks: list[int] = []

    # Both warm up in every process.
    def own() -> None:
        result = ours(setup, "-p", prompt, "-n", new, "--depth", prompt, "-r", 3, *_NO_MEDIA)
        rates["gemma4"].prefill.samples.extend(prompt / s for s in result["prefill"]["seconds"][1:])
        rates["gemma4"].decode[prompt].samples.extend(new / s for s in result["decode"][0]["seconds"][1:])

    def theirs() -> None:
        sizes = ["--prefill-tokens", prompt, "--decode-tokens", new, "--runs", 2]
        done = run(["litert-lm", "benchmark", path, "--backend", "cpu", "--cpu-thread-count", setup.threads, *sizes])
        prefill, decode = parse_litert(done.text)
        rates["LiteRT-LM"].prefill.samples.append(prefill)
        rates["LiteRT-LM"].decode[prompt].samples.append(decode)
        peaks.append(done.peak_bytes)

    alternate(setup.rounds, {"gemma4": own, "LiteRT-LM": theirs})
    return Litert(prompt, new, rates, path.stat().st_size, max(peaks))


def parse_litert(text: str) -> list[float]:
    """Tokens per second of prefill and of decode, whatever the program writes around them.

    >>> parse_litert("Prefill Speed: 175.21 tokens/sec.\\nDecode Speed: 16.6 tokens/sec.")
    [175.21, 16.6]
    """
    result = []
    for phase in ("prefill", "decode"):
        found = re.findall(rf"{phase}[^\n]*?([\d.]+)\s*(?:tokens?|tok)\s*/\s*s", text, re.I)
        if not found:
            raise RuntimeError(f"litert-lm printed no speed of {phase}: {text[-300:]}")
        result.append(statistics.median(map(float, found)))
    return result
