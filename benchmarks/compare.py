"""This package and its competitors on the same files, in one run, alternating; the results as tables and plots.

    python benchmarks/compare.py build                          # llama.cpp; once, twenty minutes on two cores
    python benchmarks/compare.py all e2b                        # makes the model if it is missing, measures everything
    python benchmarks/compare.py speed e4b --rounds 2
    python benchmarks/compare.py report                         # RESULTS.md and plots from all that was measured

`all` is speed, memory, load, images, audio, soft, error, cache and long; each can be asked for alone, and what it
measures joins what was measured before on the same machine; each part says at which commit. With GEMMA4_ISA in the
environment it is a machine of its own; build llama.cpp for the same instructions then. `--quick` makes everything
small: it shows that the programs work, and its figures mean nothing; they go to another folder unless `--out` says
where.

The competitors: llama.cpp in its best configuration (see llama_cpp.py), transformers' encoders in float32 (where torch
and transformers are installed), LiteRT-LM with `--litert MODEL.litertlm` (see README.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import encoders
import llama_cpp
import measures
import results
from make_model import RandomModel
from measures import Setup, say
from shapes import FAMILY

HERE = Path(__file__).parent
# In the order of `all`: the quick and important ones first.
PARTS = ("speed", "memory", "load", "images", "audio", "soft", "error", "cache", "long")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all", *PARTS, "litert", "roofline", "build", "report"))
    parser.add_argument("model", nargs="?", choices=FAMILY, default="e2b")
    parser.add_argument("--dtype", default="q4_0", help="format of the random model")
    parser.add_argument("--file", type=Path, help="a .gguf file of that shape instead of a random one")
    parser.add_argument("--mmproj", type=Path, help="its encoders, in 16 bits")
    parser.add_argument("--mmproj-q8", type=Path, help="its encoders in Q8_0")
    parser.add_argument("--layers", type=int, help="measure a model with fewer layers")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="where models are made and found")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--llama-source", type=Path, help="llama.cpp's source tree; default: the source package's")
    parser.add_argument("--llama-build", type=Path, default=HERE / "llama-build")
    parser.add_argument("--no-llama", action="store_true")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--llama-long", action="store_true", help="llama.cpp at 32K too: its prompt takes 15 minutes")
    parser.add_argument("--error-layers", type=int, help="layers of the model that errors are measured on; 0: all")
    parser.add_argument("--litert", type=Path, help="a .litertlm file to benchmark beside")
    parser.add_argument("--out", type=Path, help="folder of the results; default: results, or results-quick")
    return parser.parse_args()


def source_of(args: argparse.Namespace) -> Path:
    return Path(args.llama_source) if args.llama_source else llama_cpp.fetch(HERE / "llama-source")


def prepare(args: argparse.Namespace) -> Setup:
    """Make the files that are missing."""
    period = FAMILY[args.model].period
    args.models.mkdir(parents=True, exist_ok=True)
    label = f"{args.model}-{args.dtype}" + (f"-{args.layers}-layers" if args.layers else "")
    model = args.file or made(args, args.models / f"{label}.gguf", args.layers)
    small = made(args, args.models / f"{args.model}-{args.dtype}-{period}-layers.gguf", period)
    mmproj = args.mmproj or args.models / f"{args.model}-mmproj.gguf"
    rounded = args.mmproj_q8 or args.models / f"{args.model}-mmproj-q8_0.gguf"
    for path, kind in ((mmproj, "bf16"), (rounded, "q8_0")):
        if not path.is_file():
            say(f"making {path}")
            RandomModel(args.model, period).write_encoders(path, kind)
    llama = None
    if not args.no_llama and args.what != "litert":
        llama = llama_cpp.LlamaCpp(args.llama_build, source_of(args), args.threads)
        llama_cpp.program(llama, "llama-bench")
    reference = not args.no_transformers and bool(find_spec("torch") and find_spec("transformers"))
    return Setup(args.model, model, mmproj, small, llama, args.threads, 1 if args.quick else args.rounds,
                 args.quick, reference, rounded)  # fmt: skip


def made(args: argparse.Namespace, path: Path, layers: int | None) -> Path:
    if not path.is_file():
        say(f"making {path}")
        RandomModel(args.model, layers).write(path, args.dtype)
    return path


def error_file(args: argparse.Namespace, setup: Setup) -> Path:
    """The file that errors are measured on: one round of the pattern, unless asked for more. All weights are in memory
    as f32 there."""
    if args.error_layers == 0:
        return setup.model
    layers = args.error_layers or FAMILY[args.model].period
    return made(args, args.models / f"{args.model}-{args.dtype}-{layers}-layers.gguf", layers)


def main() -> None:
    args = arguments()
    out = args.out or HERE / ("results-quick" if args.quick else "results")
    if args.what == "build":
        print("\n".join(llama_cpp.build(source_of(args), args.llama_build)))
    elif args.what == "report":
        results.write_report(out)
    elif args.what == "roofline":
        print(measures.roofline(args.threads))
    else:
        try:
            measure(args, out)
        except (RuntimeError, OSError, ValueError) as error:
            sys.exit(f"compare: {error}")
        results.write_report(out)


def measure(args: argparse.Namespace, out: Path) -> None:
    """Measure what is asked for; every part is saved as soon as it is done."""
    setup = prepare(args)
    works: dict[str, Callable[[], Any]] = {
        "speed": lambda: measures.speed(setup),
        "memory": lambda: measures.memory(setup),
        "load": lambda: measures.loading(setup),
        "images": lambda: encoders.images(setup),
        "audio": lambda: encoders.audio(setup),
        "soft": lambda: encoders.soft(setup),
        "error": lambda: measures.error(setup, error_file(args, setup)),
        "cache": lambda: measures.caches(setup),
        "long": lambda: measures.long(setup, args.llama_long),
        "litert": lambda: measures.litert(setup, args.litert),
    }
    chosen = PARTS if args.what == "all" else (args.what,)
    if args.litert and "litert" not in chosen:
        chosen = (*chosen, "litert")
    if "litert" in chosen and not args.litert:
        sys.exit("compare: litert needs --litert MODEL.litertlm")
    record = results.Record(out, setup)
    say("bounds of this machine")
    record.add("roofline", measures.roofline(args.threads, 0.5 if args.quick else 3.0))
    for part in chosen:
        say(f"== {part}")
        found = works[part]()
        if found is not None:
            record.add(part, found)


if __name__ == "__main__":
    main()
