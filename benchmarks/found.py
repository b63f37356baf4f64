"""What compare.py finds, as records: made by measures.py and encoders.py, kept as JSON, shown by results.py.

Knows: figures and their names. Must not know: how they are measured, how they are shown.
Mappings by name have one entry for each program, this package's being "gemma4".
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from llama_cpp import Attention


@dataclass(frozen=True)
class Samples:
    """One work, measured several times; empty where it was not."""

    samples: list[float] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Largest minus smallest, over the median."""
        return (max(self.samples) - min(self.samples)) / self.median


@dataclass(frozen=True)
class Roofline:
    threads: int
    read_gb_s: float
    int8_gops: float
    int8_instruction: str
    tile_gflops: float = 0
    f32_gflops: float = 0


@dataclass(frozen=True)
class Turns:
    """As :func:`gemma4.command.bench.shares_in_turns` finds them."""

    decode_gb_s: float
    read_gb_s: float
    low: float
    share: float
    high: float


@dataclass(frozen=True)
class Operations:
    """8-bit operations (two for a multiply-add) for a token: of all layers, and of the output matrix."""

    layers: float
    head: float


@dataclass(frozen=True)
class Speeds:
    """Tokens per second of one program."""

    prefill: Samples = field(default_factory=Samples)
    prefill_all_logits: Samples = field(default_factory=Samples)
    decode: dict[int, Samples] = field(default_factory=lambda: defaultdict(Samples))
    """By the tokens before it."""


@dataclass(frozen=True)
class Speed:
    prompt: int
    new: int
    depth: int
    operations: Operations
    read_bandwidth_gb_s: float
    bytes_per_token: dict[int, int]
    in_turns: Turns
    rates: dict[str, Speeds]
    flash_attention: Attention | None = None


@dataclass(frozen=True)
class Litert:
    prompt: int
    new: int
    rates: dict[str, Speeds]
    bytes: int
    peak_memory_bytes: int


@dataclass(frozen=True)
class Long:
    depths: list[int]
    new: int
    rates: dict[str, dict[str, dict[int, float]]]
    """By program, format of the cache, depth."""


@dataclass(frozen=True)
class Memory:
    prompt: int
    peaks: dict[str, int]


@dataclass(frozen=True)
class Loading:
    seconds: dict[str, Samples]
    parts: dict[str, float]


Images = dict[str, dict[int, Samples]]
"""Milliseconds for each soft token, by program and budget."""


@dataclass(frozen=True)
class Audio:
    length: float
    seconds: dict[str, Samples]


Soft = dict[str, dict[str, float]]
"""Errors by program and medium."""


@dataclass(frozen=True)
class Logits:
    model: str
    tokens: int
    finite: bool
    errors: dict[str, dict[str, float]]
    """By program and way of computing."""


@dataclass(frozen=True)
class Caches:
    context: int
    sizes: dict[str, dict[str, int | str]]
    """By program and format; why not, where it has none."""


def read(kind: Any, data: Any) -> Any:
    """A record, or a mapping of them, from the JSON that it was kept as."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: read(hints[name], value) for name, value in data.items()})
    parts = get_args(kind)
    if get_origin(kind) is dict:
        return {parts[0](key): read(parts[1], value) for key, value in data.items()}
    return read(parts[0], data) if type(None) in parts and data is not None else data
