"""How fast a model runs on this machine, and which bound it hits.

Knows: a loaded model, clocks, what a token reads. Must not know: text, other programs.
Reading is measured in the same run as decoding, because a decoded token reads every weight once: what is left between
the two is the engine's own.
"""

from __future__ import annotations

import math
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..gguf import TYPES

if TYPE_CHECKING:
    from ..model import Model

__all__ = ["BenchOptions", "measure", "peak_memory", "read_bandwidth", "report", "shares_in_turns", "token_bytes"]

_READ_BYTES = 1 << 29  # well beyond any cache that one machine's cores share
_PIECE = 1 << 22  # bytes that one thread reads at a time
_TURNS = 24  # tokens that are decoded in turns with plain reads, in each repeat
_CELL = 48  # pixels of a side that one soft token covers
# Cells of a picture that is exactly a budget, so that nothing is resized.
_CELLS = {70: (7, 10), 140: (10, 14), 280: (14, 20), 560: (20, 28), 1120: (28, 40)}
_EMBEDDINGS = (".embed_tokens.", ".embed_tokens_per_layer.")  # of which a token reads a row, and its scale


@dataclass(frozen=True)
class BenchOptions:
    """What to measure."""

    prompt_tokens: int = 512
    new_tokens: int = 64
    depths: tuple[int, ...] = (0,)
    """Tokens in the cache where decoding begins."""
    repeats: int = 3
    all_logits: bool = False
    """Measure a prompt with the logits of every position, too."""
    budgets: tuple[int, ...] | None = None
    """Soft tokens of pictures; None is 280 where the model sees, () is none."""
    audio_seconds: float | None = None
    """None is 30 where the model hears, 0 is none."""
    bandwidth: bool = True
    """Measure how fast memory is read, alone and in turns with decoding."""
    seed: int = 0

    def check(self, context: int) -> None:
        """Raises RequestError for what the model cannot do."""
        if min(self.prompt_tokens, self.new_tokens, self.repeats) < 1 or min(self.depths, default=0) < 0:
            raise RequestError("bench: tokens and repeats must be at least 1, depths at least 0")
        longest = max(self.prompt_tokens, max((*self.depths, 1)) + self.new_tokens)
        if longest > context:
            raise RequestError(f"bench: {longest} tokens are asked for, the context holds {context}")
        for budget in self.budgets or ():
            if budget not in _CELLS:
                raise RequestError(f"bench: a picture's budget is one of {sorted(_CELLS)}, found {budget}")
        if self.audio_seconds is not None and not 0 <= self.audio_seconds <= 30:
            raise RequestError(f"bench: expected 0 to 30 seconds of sound, found {self.audio_seconds:g}")


def measure(model: Model, options: BenchOptions | None = None) -> dict[str, Any]:
    """Speeds of a model.

    Returns:
        For `prefill`, `prefill_all_logits`, each of `decode`, `images` and for `audio`: `seconds`, a list with one for
        each repeat, and a rate from their median. `read_bandwidth_gb_s` is the best of several in the same run,
        `peak_memory_bytes` that of the process after the first prompt and its decoding. `in_turns` has `bytes` and
        `pairs`, the seconds of a decoded token and of a plain read of what it reads, one after the other. Both bounds
        are there only with `bandwidth`.

    Raises:
        RequestError: an option is out of range.

    >>> import gemma4
    >>> quick = BenchOptions(prompt_tokens=8, new_tokens=2, repeats=1, budgets=(), audio_seconds=0, bandwidth=False)
    >>> sorted(measure(gemma4.Model.from_pretrained("demo"), quick))[:4]
    ['decode', 'kv_cache', 'peak_memory_bytes', 'prefill']
    """
    options = options or BenchOptions()
    options.check(model.context_length)
    runs = _Runs(model, options)
    rates: list[float] = []
    peak = 0
    for repeat in range(options.repeats):
        runs.prompt("last")
        for depth in options.depths:
            runs.decode(depth)
        peak = peak or peak_memory()
        if options.all_logits:
            runs.prompt("all")
        runs.media()
        if options.bandwidth and repeat < 5:
            rates.append(read_bandwidth(model.num_threads))
            runs.in_turns()
    result = {"threads": model.num_threads, "kv_cache": model._runtime.kv_cache, "peak_memory_bytes": peak}
    if rates:
        result["read_bandwidth_gb_s"] = max(rates)
    return result | runs.summary(max(rates, default=None))


class _Runs:
    """Seconds of every kind of work, by repeat."""

    def __init__(self, model: Model, options: BenchOptions) -> None:
        self._model = model
        self._options = options
        self._draw = random.Random(options.seed)  # NumPy's generators weigh 6 MB, which are not the model's
        self._prompts: dict[str, list[float]] = {}
        self._decodes: dict[int, list[float]] = {depth: [] for depth in options.depths}
        self._kv_bytes: dict[int, int] = {}
        self._pairs: list[tuple[float, float]] = []
        self._images: dict[int, list[float]] = {}
        self._audio: list[float] = []
        self._audio_tokens = 0
        self._logits: dict[str, NDArray[np.float32]] = {}  # kept: only the first prompt pays for their memory

    def _ids(self, count: int) -> NDArray[np.int32]:
        """Varied tokens: each reads another row of the tables."""
        text = self._model._runtime.loaded.parsed.core.text
        ids = np.array([self._draw.randrange(text.vocab) for _ in range(count)], np.int32)
        ids[np.isin(ids, text.placeholders)] = text.pad_id
        return ids

    def prompt(self, logits: str) -> None:
        session = self._model._runtime.sequence(self._options.prompt_tokens)
        ids = self._ids(self._options.prompt_tokens)
        shape = (len(ids) if logits == "all" else 1, self._model._runtime.loaded.parsed.core.text.vocab)
        out = self._logits.setdefault(logits, np.empty(shape, np.float32))
        self._prompts.setdefault(logits, []).append(_seconds(lambda: session.prefill(ids, (), logits, out=out)))

    def decode(self, depth: int) -> None:
        count = self._options.new_tokens
        before = max(depth, 1)  # a sequence begins with a prompt, if only of one token, which is not timed
        session = self._model._runtime.sequence(before + count)
        session.prefill(self._ids(before), (), "last")
        ids = self._ids(count)
        self._decodes[depth].append(_seconds(lambda: [session.decode(int(token)) for token in ids]))
        self._kv_bytes[depth] = session.kv_bytes()

    def in_turns(self) -> None:
        """Tokens in turns with plain reads of the same weights: memory that others use, too, is as fast for both."""
        session = self._model._runtime.sequence(_TURNS + 1)
        session.prefill(self._ids(1), (), "last")
        pieces = _pieces(self._model)
        with ThreadPoolExecutor(self._model.num_threads) as pool:
            for token in self._ids(_TURNS):
                decoded = _seconds(partial(session.decode, int(token)))
                self._pairs.append((decoded, _seconds(lambda: _read(pool, pieces, self._model.num_threads))))

    def media(self) -> None:
        budgets, seconds = self._options.budgets, self._options.audio_seconds
        if "image" in self._model.modalities:
            for budget in (280,) if budgets is None else budgets:
                self._picture(budget)
        if "audio" in self._model.modalities and (30.0 if seconds is None else seconds):
            self._sound(30.0 if seconds is None else seconds)

    def _picture(self, budget: int) -> None:
        rows, columns = _CELLS[budget]
        pixels = np.random.default_rng(self._options.seed).integers(
            0, 256, (rows * _CELL, columns * _CELL, 3), np.uint8
        )
        taken = _seconds(lambda: self._model.encode_image(pixels, max_soft_tokens=budget))
        self._images.setdefault(budget, []).append(taken)

    def _sound(self, seconds: float) -> None:
        samples = np.random.default_rng(self._options.seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)
        kept: list[Any] = []
        self._audio.append(_seconds(lambda: kept.append(self._model.encode_audio(samples))))
        self._audio_tokens = len(kept[0])

    def summary(self, bandwidth: float | None) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for logits, name in (("last", "prefill"), ("all", "prefill_all_logits")):
            if logits in self._prompts:
                out[name] = _rated(self._prompts[logits], self._options.prompt_tokens)
        out["decode"] = [self._decoded(depth, bandwidth) for depth in self._options.depths]
        if self._pairs:
            out["in_turns"] = {"bytes": sum(piece.nbytes for piece in _pieces(self._model)), "pairs": self._pairs}
        if self._images:
            out["images"] = [
                {**_rated(taken, budget), "ms_per_soft_token": 1e3 * statistics.median(taken) / budget}
                for budget, taken in self._images.items()
            ]
        if self._audio:
            out["audio"] = _rated(self._audio, self._audio_tokens)
        return out

    def _decoded(self, depth: int, bandwidth: float | None) -> dict[str, Any]:
        count = self._options.new_tokens
        result = {"depth": depth, **_rated(self._decodes[depth], count), "kv_bytes": self._kv_bytes[depth]}
        read = token_bytes(self._model, depth + count // 2)
        rate = read * result["tokens_per_s"] / 1e9
        result |= {"bytes_per_token": read, "gb_per_s": rate}
        if bandwidth:
            result["share_of_bandwidth"] = rate / bandwidth
        return result


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _rated(seconds: Sequence[float], tokens: int) -> dict[str, Any]:
    return {"tokens": tokens, "seconds": list(seconds), "tokens_per_s": tokens / statistics.median(seconds)}


# -- bounds ------------------------------------------------------------------------------------------------------------


def token_bytes(model: Model, position: int = 0) -> int:
    """Bytes that must be read to decode one token: every matrix of the decoder once (of experts those that are used),
    the output matrix, one row of each embedding table, and the keys and values of the positions before it."""
    weights = sum(tensor.nbytes * share for tensor, share in _tensors_of_a_token(model))
    return int(weights) + _cache_bytes(model, position)


def _tensors_of_a_token(model: Model) -> Iterator[tuple[NDArray[Any], float]]:
    """The decoder's tensors, and which share of each a token reads."""
    text = model._runtime.loaded.parsed.core.text
    for name, tensor in model.tensors.items():
        if not name.startswith((model._runtime.loaded.parsed.text_prefix, "lm_head")):
            continue
        share = 1.0
        if _EMBEDDINGS[1] in name or (_EMBEDDINGS[0] in name and not text.tied_embeddings):
            share = 1 / tensor.shape[0]
        elif ".experts." in name:
            share = text.experts_used / text.experts
        yield tensor, share


def _pieces(model: Model) -> list[NDArray[np.uint8]]:
    """What a token reads of the weights, as bytes; of experts the first ones."""
    pieces = []
    for tensor, share in _tensors_of_a_token(model):
        data = tensor.reshape(-1).view(np.uint8)[: int(tensor.nbytes * share)]
        pieces += [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
    return pieces


def _read(pool: ThreadPoolExecutor, pieces: Sequence[NDArray[Any]], threads: int) -> None:
    """Every piece once, by so many threads."""

    def read(first: int) -> None:
        for piece in pieces[first::threads]:
            piece.max()  # vectorised, and releases the interpreter

    list(pool.map(read, range(threads)))


def _cache_bytes(model: Model, position: int) -> int:
    """Keys and values that one token reads, in layers with caches of their own and in those that share."""
    text = model._runtime.loaded.parsed.core.text
    kind = TYPES[model._runtime.kv_cache.upper()]
    seen = (
        (min(position, text.window) if layer.sliding else position) * layer.kv_heads * layer.head_dim
        for layer in text.layers
    )
    return 2 * sum(seen) * kind.block_bytes // kind.block_elems


def read_bandwidth(threads: int, size: int = _READ_BYTES, repeats: int = 3) -> float:
    """GB per second that `threads` threads read from memory together, the best of `repeats`."""
    data = np.ones(size, np.uint8)
    pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
    with ThreadPoolExecutor(threads) as pool:
        best = min(_seconds(lambda: _read(pool, pieces, threads)) for _ in range(repeats + 1))
    return data.nbytes / best / 1e9


def shares_in_turns(turns: dict[str, Any]) -> dict[str, float]:
    """Medians of `in_turns`: GB per second of both.

    `low`, `share` and `high` are the quartiles of a read's time over that of its token.

    >>> found = shares_in_turns({"bytes": 10**9, "pairs": [(0.1, 0.09)] * 3})
    >>> {name: round(value, 2) for name, value in found.items()}
    {'decode_gb_s': 10.0, 'read_gb_s': 11.11, 'low': 0.9, 'share': 0.9, 'high': 0.9}
    """
    decoded, read = zip(*turns["pairs"], strict=True)
    low, share, high = statistics.quantiles([b / a for a, b in turns["pairs"]], n=4)
    return {
        "decode_gb_s": turns["bytes"] / statistics.median(decoded) / 1e9,
        "read_gb_s": turns["bytes"] / statistics.median(read) / 1e9,
        "low": low, "share": share, "high": high,
    }  # fmt: skip


def peak_memory() -> int:
    """The most bytes of physical memory that this process has had, mapped files included."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


# -- for people --------------------------------------------------------------------------------------------------------


def report(result: dict[str, Any]) -> str:
    """The measurements as lines of text."""
    lines = [f"{'work':<28}{'tokens':>8}{'tokens/s':>12}{'spread':>9}"]

    def line(name: str, entry: dict[str, Any], more: str = "") -> None:
        taken = entry["seconds"]
        spread = (max(taken) - min(taken)) / statistics.median(taken)
        shown = f"{entry['tokens_per_s']:.1f}" if math.isfinite(entry["tokens_per_s"]) else "-"
        lines.append(f"{name:<28}{entry['tokens']:>8}{shown:>12}{spread:>8.0%}{more}")

    line("prefill", result["prefill"])
    if "prefill_all_logits" in result:
        line("prefill, all logits", result["prefill_all_logits"])
    for entry in result["decode"]:
        more = f"   {entry['gb_per_s']:.1f} GB/s"
        if "share_of_bandwidth" in entry:
            more += f", {entry['share_of_bandwidth']:.0%} of what can be read"
        line(f"decode after {entry['depth']}" if entry["depth"] else "decode", entry, more)
    for entry in result.get("images", ()):
        line(f"picture of {entry['tokens']}", entry, f"   {statistics.median(entry['seconds']):.2f} s")
    if "audio" in result:
        line("sound", result["audio"], f"   {statistics.median(result['audio']['seconds']):.2f} s")
    if "read_bandwidth_gb_s" in result:
        lines.append(f"reading memory: {result['read_bandwidth_gb_s']:.1f} GB/s with {result['threads']} threads")
        turns = shares_in_turns(result["in_turns"])
        lines.append(f"decoding in turns with plain reads of the same weights: {turns['decode_gb_s']:.1f} of "
                     f"{turns['read_gb_s']:.1f} GB/s, {turns['share']:.0%}")  # fmt: skip
    lines.append(f"peak memory: {result['peak_memory_bytes'] / 1e6:,.0f} MB, of which the cache at the deepest point: "
                 f"{max(entry['kv_bytes'] for entry in result['decode']) / 1e6:,.1f} MB")  # fmt: skip
    return "\n".join(lines)
