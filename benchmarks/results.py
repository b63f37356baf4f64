"""What compare.py found: kept as JSON, written as RESULTS.md and plots. Nothing here is written by hand.

Knows: the shape of the measurements. Must not know: how they are made.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

from found import (
    Audio,
    Caches,
    Images,
    Litert,
    Loading,
    Logits,
    Long,
    Memory,
    Roofline,
    Samples,
    Soft,
    Speed,
    Speeds,
    read,
)  # fmt: skip
from llama_cpp import PACKAGE
from measures import Setup

HERE = Path(__file__).parent
OURS = "gemma4"


def machine() -> dict[str, Any]:
    """Processor, memory and system."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    name = re.search(r"^model name\s*:\s*(.*)$", info, re.M)
    family = re.search(r"^cpu family\s*:\s*(\d+)\nmodel\s*:\s*(\d+)", info, re.M)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": (name[1] if name else platform.processor()) + (f" ({family[1]}/{family[2]})" if family else ""),
        "cpus": os.cpu_count(),
        "memory_gb": round(pages / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def commit() -> str:
    """The commit that is measured, marked where the working tree differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../cpp", "../python")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+changes" if changed else "")


class Record:
    """The measurements of one model. They are only joined with earlier ones of the same machine and file; each says at
    which commit it was made."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        import gemma4

        folder.mkdir(parents=True, exist_ok=True)
        forced = os.environ.get("GEMMA4_ISA")
        self._path = folder / (f"{setup.model.stem}-{forced}.json" if forced else f"{setup.model.stem}.json")
        about = {
            "model": setup.model.stem,
            "shape": setup.shape,
            "bytes": setup.model.stat().st_size,
            "machine": machine(),
            "isa": gemma4.cpu_info()["isa"],
            "forced_isa": bool(forced),
            "threads": setup.threads,
            "quick": setup.quick,
        }
        earlier = json.loads(self._path.read_text()) if self._path.is_file() else {}
        self._data = earlier if earlier.get("about") == about else {"about": about, "parts": {}}

    def add(self, part: str, found: Any) -> None:
        stamp = {"at": time.strftime("%Y-%m-%d %H:%M"), "commit": commit()}
        stamp["load"] = " ".join(f"{value:.1f}" for value in os.getloadavg())
        self._data["parts"][part] = {**stamp, "found": found}
        temporary = self._path.with_suffix(".part")
        temporary.write_text(json.dumps(self._data, indent=1, default=vars) + "\n")
        os.replace(temporary, self._path)


# -- tables ------------------------------------------------------------------------------------------------------------


def write_report(folder: Path) -> None:
    """RESULTS.md beside this program (in `folder` for quick runs), and the plots."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise RuntimeError(f"{folder}: nothing was measured yet")
    target = HERE if folder == HERE / "results" else folder
    plots = draw(records, target / "plots")
    text = "\n".join(lines(records, plots, target))
    (target / "RESULTS.md").write_text(text + "\n")
    print(target / "RESULTS.md")


def lines(records: list[dict[str, Any]], plots: list[Path], target: Path) -> Iterator[str]:
    yield "# Measured speeds"
    yield ""
    yield "Written by `python benchmarks/compare.py`; do not edit. Figures are medians; in brackets is the spread,"
    yield "largest minus smallest over the median. Ratios above 1 are in favour of gemma4."
    yield f"llama.cpp is the one in {PACKAGE}."
    for plot in plots:
        yield ""
        yield f"![{plot.stem.replace('-', ' ')}]({plot.relative_to(target)})"
    for record in records:
        about, parts = record["about"], record["parts"]
        yield ""
        yield f"## {title(about)}"
        yield ""
        if about["quick"]:
            yield "**A quick run: it shows that the programs work. Its figures mean nothing.**"
            yield ""
        box = about["machine"]
        yield f"{box['processor']}, {about['threads']} threads of {box['cpus']} CPUs, {box['memory_gb']} GB, "
        yield f"{box['system']}; kernels `{about['isa']}`; a file of {about['bytes'] / 1e9:.2f} GB."
        for name, write in _SECTIONS.items():
            if name in parts:
                part = parts[name]
                yield ""
                yield from write(read(get_type_hints(write)["found"], part["found"]))
                yield ""
                yield f"<sub>{part['at']}, commit {part['commit']}, load {part['load']}</sub>"


def title(about: dict[str, Any]) -> str:
    """The model, and the kernels where they were not the machine's own choice."""
    return f"{about['model']}, {about['isa']}" if about["forced_isa"] else str(about["model"])


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    columns = list(head)
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def shown(found: Samples | None, digits: int = 1) -> str:
    return f"{found.median:.{digits}f} ({found.spread:.0%})" if found else "-"


def ratio(ours: Samples | None, theirs: Samples | None) -> str:
    return f"{ours.median / theirs.median:.2f} x" if ours and theirs else "-"


def _roofline(found: Roofline) -> Iterator[str]:
    yield (
        f"Bounds: {found.read_gb_s:.1f} GB/s read by {found.threads} threads, "
        f"{found.int8_gops:.0f} GOPS with 8 bits ({found.int8_instruction})"
        + (f", {found.f32_gflops:.0f} GFLOPS in f32" if found.f32_gflops else "")
        + (f", {found.tile_gflops:.0f} GFLOPS in bf16 by tiles (tdpbf16ps)." if found.tile_gflops else ".")
    )


def _speed(found: Speed) -> Iterator[str]:
    mine, other = (found.rates.get(name, Speeds()) for name in (OURS, "llama.cpp"))

    def row(label: str, a: Samples, b: Samples, depth: int = -1) -> list[str]:
        speeds = [x.median * found.bytes_per_token[depth] / 1e9 if x and depth >= 0 else 0.0 for x in (a, b)]
        reads = [f"{x:.1f} GB/s, {x / found.read_bandwidth_gb_s:.0%}" if x else "" for x in speeds]
        return [label, shown(a), reads[0], shown(b), reads[1], ratio(a, b)]

    prompt, decode = f"prompt of {found.prompt}, ", f"decode {found.new}"
    rows = [
        row(prompt + "last logits", mine.prefill, other.prefill),
        row(prompt + "all layers; llama.cpp the last logits", mine.prefill_all_logits, other.prefill),
        row(prompt + "all logits of both", mine.prefill_all_logits, other.prefill_all_logits),
    ]
    for depth in (0, found.depth):
        label = f"{decode} after {depth}" if depth else decode
        rows.append(row(label, mine.decode.get(depth, Samples()), other.decode.get(depth, Samples()), depth))
    yield from table(("tokens/s", OURS, "reads", "llama.cpp", "reads", "ratio"), rows)
    yield ""
    yield f"In the same run memory was read at {found.read_bandwidth_gb_s:.1f} GB/s."
    turns = found.in_turns
    yield (
        f"In turns with plain reads of the same weights, token by token, gemma4 decoded with "
        f"{turns.decode_gb_s:.1f} of {turns.read_gb_s:.1f} GB/s: {turns.share:.0%} "
        f"(quartiles {turns.low:.0%} and {turns.high:.0%})."
    )
    each = (found.operations.layers + found.operations.head) / 1e9
    computed = {name: speeds.prefill_all_logits for name, speeds in found.rates.items()}
    done = ", ".join(f"{name} {speed.median * each:.0f} GOPS" for name, speed in computed.items() if speed)
    yield f"Prompts with nothing skipped: {done}."
    if found.flash_attention:
        chosen = found.flash_attention
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in chosen.seconds.items())
        yield f"llama.cpp runs with flash attention {chosen.flash} ({times}) and repacked weights."


def _long(found: Long) -> Iterator[str]:
    near, far = found.depths
    rows = [
        [f"{name}, {kind}", f"{rates[near]:.1f}", f"{rates[far]:.1f}", f"{rates[far] / rates[near]:.0%}"]
        for name, kinds in found.rates.items()
        for kind, rates in kinds.items()
    ]
    yield from table(("decode, tokens/s, by the format of the cache", f"after {near}", f"after {far}", "kept"), rows)


def _memory(found: Memory) -> Iterator[str]:
    own = found.peaks[OURS]
    yield from table(
        (f"peak physical memory, {found.prompt} varied tokens", "GB", "ratio"),
        ([name, f"{peak / 1e9:.2f}", f"{peak / own:.2f} x"] for name, peak in found.peaks.items()),
    )


def _load(found: Loading) -> Iterator[str]:
    own = found.seconds[OURS]
    yield from table(
        ("process that loads a warm file and says one token", "s", "ratio"),
        ([name, shown(done, 2), ratio(done, own)] for name, done in found.seconds.items()),
    )
    yield ""
    yield "Of it: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.parts.items()) + "."


def _same_file(name: str) -> list[str]:
    """What of ours a competitor is compared with: the same file of encoders; all where it reads none."""
    return [OURS + " q8_0"] if name.endswith(" q8_0") else [OURS] if name == "llama.cpp" else [OURS, OURS + " q8_0"]


def _images(found: Images) -> Iterator[str]:
    own = [name for name in found if name.startswith(OURS)]
    others = {name: [mine for mine in _same_file(name) if mine in own] for name in found if name not in own}
    head = ["ms per soft token", *own]
    for name, rivals in others.items():
        head += [name, *("ratio" if len(rivals) == 1 else f"to {mine}" for mine in rivals)]

    def row(budget: int) -> list[str]:
        cells = [str(budget), *(shown(found[mine][budget], 2) for mine in own)]
        for name, rivals in others.items():
            done = found[name].get(budget)
            cells += [shown(done, 2), *(ratio(done, found[m][budget]) for m in rivals)]
        return cells

    yield from table(head, map(row, found[OURS]))


def _audio(found: Audio) -> Iterator[str]:
    own = [name for name in found.seconds if name.startswith(OURS)]

    def row(name: str, taken: Samples) -> list[str]:
        rivals = [name] if name in own else _same_file(name)
        return [name, shown(taken, 2), *(ratio(taken, found.seconds[mine]) if mine in rivals else "" for mine in own)]

    head = (f"{found.length:g} s of sound", "s", *(f"ratio to {mine}" if len(own) > 1 else "ratio" for mine in own))
    yield from table(head, (row(*taken) for taken in found.seconds.items()))


def _errors(head: str, errors: dict[str, dict[str, float]]) -> Iterator[str]:
    kinds = list(errors[OURS])
    yield from table((head, *kinds), ([name, *(f"{e[kind]:.2e}" for kind in kinds)] for name, e in errors.items()))
    yield ""


def _soft(found: Soft) -> Iterator[str]:
    yield from _errors("error of the soft tokens", found)
    yield "Root mean square over that of the soft tokens which the same file gives in f32."


def _error(found: Logits) -> Iterator[str]:
    yield from _errors(f"error of the logits of {found.tokens} tokens, {found.model}", found.errors)
    yield "Root mean square over that of the logits which the same weights give in f32."


def _cache(found: Caches) -> Iterator[str]:
    base = found.sizes[OURS]["bf16"]

    def cell(value: int | str | None) -> str:
        return f"{value / 1e6:.1f} ({value / base:.0%})" if isinstance(value, int) else "not supported"

    kinds = list(found.sizes[OURS])
    yield from table(
        (f"MB of keys and values for {found.context} tokens (of ours in bf16)", *kinds),
        ([name, *(cell(sizes.get(kind)) for kind in kinds)] for name, sizes in found.sizes.items() if sizes),
    )


def _litert(found: Litert) -> Iterator[str]:
    a, b = found.rates[OURS], found.rates["LiteRT-LM"]
    works = {
        f"prompt of {found.prompt}, last logits": (a.prefill, b.prefill),
        f"decode {found.new} after it": (a.decode[found.prompt], b.decode[found.prompt]),
    }
    rows = ([label, shown(mine), shown(other), ratio(mine, other)] for label, (mine, other) in works.items())
    yield from table(("tokens/s", OURS, "LiteRT-LM", "ratio"), rows)
    yield ""
    yield f"LiteRT-LM: a file of {found.bytes / 1e9:.2f} GB, {found.peak_memory_bytes / 1e9:.2f} GB at its peak."


_SECTIONS = {
    "roofline": _roofline, "speed": _speed, "litert": _litert, "long": _long, "memory": _memory, "load": _load,
    "images": _images, "audio": _audio, "soft": _soft, "error": _error, "cache": _cache,
}  # fmt: skip


# -- plots -------------------------------------------------------------------------------------------------------------


def draw(records: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Bars of the speeds, and pictures by budget; none where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "gemma4", "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for record in records:
        name, parts = title(record["about"]).replace(", ", "-"), record["parts"]
        if "speed" in parts:
            drawn.append(_draw_speed(folder / f"{name}-speed.svg", read(Speed, parts["speed"]["found"])))
        if "images" in parts:
            drawn.append(_draw_images(folder / f"{name}-images.svg", read(Images, parts["images"]["found"])))
    return drawn


def _draw_speed(path: Path, found: Speed) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    prompts = [(name, speeds.prefill) for name, speeds in found.rates.items()]
    prompts += [(f"{name}, all logits", speeds.prefill_all_logits) for name, speeds in found.rates.items()]
    _bars(left, prompts)
    left.set_title(f"prompt of {found.prompt}, tokens/s")
    _bars(right, [(f"{name} after {depth}", taken) for name, speeds in found.rates.items()
                  for depth, taken in speeds.decode.items()])  # fmt: skip
    bound = found.read_bandwidth_gb_s * 1e9 / found.bytes_per_token[0]
    right.axvline(bound, linestyle="--", color="black", linewidth=1)
    right.annotate(f"memory: {bound:.1f}", (bound, 0.02), xycoords=("data", "axes fraction"), ha="right", fontsize=8)
    right.set_title(f"decode {found.new}, tokens/s")
    _save(figure, path)
    return path


def _bars(axes: Any, rates: list[tuple[str, Samples]]) -> None:
    values = {label: samples.median for label, samples in rates if samples}
    labels = list(values)
    colours = ["#1a73e8" if label.startswith(OURS) else "#9aa0a6" for label in labels]
    bars = axes.barh(labels, list(values.values()), color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.invert_yaxis()


def _draw_images(path: Path, found: Images) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, by_budget in found.items():
        budgets = sorted(by_budget)
        axes.plot(budgets, [by_budget[budget].median for budget in budgets], marker="o", label=name)
        axes.set_xticks(budgets)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("soft tokens of the picture")
    axes.set_ylabel("ms per soft token")
    axes.legend(frameon=False)
    _save(figure, path)
    return path


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
