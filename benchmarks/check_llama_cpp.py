"""Does llama.cpp say the same of the files that `gemma4.convert` writes?

    python benchmarks/check_llama_cpp.py --llama LLAMA_CPP_SOURCE --build LLAMA_CPP_BUILD [MODEL…]
    python benchmarks/check_llama_cpp.py --recipe [MODEL…]

`--llama` is the source tree of llama.cpp, e.g. `vendor/llama.cpp` in the source package `llama-cpp-python==0.3.36`,
and `--build` a directory where its targets `llama` and `mtmd` were built. MODEL is a checkpoint in Hugging Face layout
(default: the bundled one). Each is converted in several formats; both programs compute the logits of the same token ids
from the same file, greedy continuations, the ids of a few texts, and soft tokens of a picture and a sound.

`--recipe` needs no llama.cpp: it measures what the recipe of quantized formats does to the logits of each checkpoint,
beside the same format for every matrix.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import gemma4
import numpy as np
from gemma4.checkpoint import conversion
from gemma4.checkpoint import recipe as recipes
from numpy.typing import NDArray

HERE = Path(__file__).parent
FORMATS = ("f32", "bf16", "f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0")
GREEDY = 24
TEXTS = [
    "Hello world", " leading", "trailing ", "two  spaces", "\n", "\n\n", "a\n\nb", "\t\t", "3.14159 and 42",
    "é ü 漢字 かな 🦙 👩‍👩‍👧", "<turn|> <|image|> <eos>", "def f(x):\n    return x ** 2", "x" * 100, "don't can't",
]  # fmt: skip


def relative(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Root mean square of the difference over that of the expected values."""
    a, b = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2))) if a.shape == b.shape else float("inf")


class Probe:
    """llama_probe.cpp, compiled against a build of llama.cpp."""

    def __init__(self, source: Path, build: Path, folder: Path) -> None:
        self._folder = folder
        self._program = folder / "probe"
        includes = [f"-I{source / part}" for part in ("include", "ggml/include", "tools/mtmd")]
        libraries = [f"-L{build / 'bin'}", f"-Wl,-rpath,{build / 'bin'}"]
        libraries += ["-lmtmd", "-lllama", "-lggml", "-lggml-base"]
        command = ["g++", "-std=c++17", "-O1", *includes, str(HERE / "llama_probe.cpp"), "-o", str(self._program)]
        subprocess.run([*command, *libraries], check=True)

    def _run(self, what: str, *arguments: Any) -> Path:
        out = self._folder / "out"
        out.unlink(missing_ok=True)
        filled = [str(out) if argument is ... else str(argument) for argument in arguments]
        done = subprocess.run([str(self._program), what, *filled], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.splitlines()
            reasons = [line for line in lines if "ASSERT" in line or "rror" in line or "probe" in line]
            raise RuntimeError(f"llama.cpp failed ({done.returncode}): {'; '.join(reasons[-3:])[-400:]}")
        return out

    def _file(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path

    def tokens(self, model: Path, texts: list[str]) -> list[list[int]]:
        joined = self._file("texts", b"".join(text.encode() + b"\0" for text in texts))
        lines = self._run("tokens", model, joined, ...).read_text().split("\n")[:-1]
        return [[int(index) for index in line.split()] for line in lines]

    def logits(
        self, model: Path, ids: NDArray[np.int32], count: int, ubatch: int = 0, repack: bool = False
    ) -> tuple[NDArray[np.float32], list[int]]:
        """(T, vocab), and `count` greedy tokens; `ubatch` tokens are computed at once, 0 for all."""
        arguments = (model, self._file("ids", ids.tobytes()), ..., count, ubatch, int(repack))
        out = np.fromfile(self._run("logits", *arguments), np.float32)
        greedy = out[len(out) - count :].view(np.int32).tolist()
        return out[: len(out) - count].reshape(len(ids), -1), greedy

    def prompt_seconds(self, model: Path, count: int, threads: int, flash: bool, repeats: int = 2) -> list[float]:
        """What a prompt of `count` varied tokens with all its logits takes, as llama-bench sets llama.cpp up."""
        path = self._run("speed", model, ..., count, threads, int(flash), repeats)
        return [float(line) for line in path.read_text().split()]

    def image(self, model: Path, mmproj: Path, pixels: NDArray[np.uint8], hidden: int) -> NDArray[np.float32]:
        height, width = pixels.shape[:2]
        raw = self._file("rgb", pixels.tobytes())
        return np.fromfile(self._run("image", model, mmproj, raw, width, height, ...), np.float32).reshape(-1, hidden)

    def audio(self, model: Path, mmproj: Path, samples: NDArray[np.float32], hidden: int) -> NDArray[np.float32]:
        raw = self._file("samples", samples.tobytes())
        return np.fromfile(self._run("audio", model, mmproj, raw, ...), np.float32).reshape(-1, hidden)


def prompt(model: gemma4.Model) -> NDArray[np.int32]:
    """A chat prompt where the model has a tokenizer, as the template writes it."""
    return model.prepare("What is in the picture? Say it in a few words.").input_ids


def greedy(model: gemma4.Model, ids: NDArray[np.int32], count: int) -> list[int]:
    options: dict[str, Any] = {"max_new_tokens": count, "temperature": 0, "ignore_eos": True}
    return list(model.generate(ids, **options).token_ids)


def check(source: str, probe: Probe, folder: Path) -> None:
    """Print one line for each format."""
    print(f"\n{source}")
    original = gemma4.Model.from_pretrained(source, kv_cache="f32")
    ids = prompt(original)
    exact = np.array(original.forward(ids))
    print(f"{'format':<8}{'tokens':<10}{'ours - llama.cpp':>18}{'ours - exact':>14}{'llama - exact':>15}  greedy")
    for dtype in FORMATS:
        path, mmproj = folder / f"{dtype}.gguf", folder / f"mmproj-{dtype}.gguf"
        done = gemma4.convert(source, path, dtype, mmproj, progress=False)
        model = gemma4.Model.from_pretrained(path, kv_cache="f32", mmproj=mmproj)
        ours = np.array(model.forward(ids))
        theirs, continued = probe.logits(path, ids, GREEDY)
        wanted = [model.tokenizer.encode(text) for text in TEXTS]
        same = sum(a == b for a, b in zip(probe.tokens(path, TEXTS), wanted, strict=True))
        agree = [a == b for a, b in zip(continued, greedy(model, ids, GREEDY), strict=True)]
        print(
            f"{dtype:<8}{f'{same}/{len(TEXTS)}':<10}{relative(ours, theirs):>18.2e}{relative(ours, exact):>14.2e}"
            f"{relative(theirs, exact):>15.2e}  {[*agree, False].index(False)}/{GREEDY}"
        )
        if dtype in ("f32", "f16"):
            encoders(model, probe, path, mmproj)
    for note in done.notes:
        print(f"note: {note}")


def encoders(model: gemma4.Model, probe: Probe, path: Path, mmproj: Path) -> None:
    """Soft tokens of a picture that needs no resizing, and of three seconds of sound."""
    hidden = int(model.config["text_config"]["hidden_size"])
    rng = np.random.default_rng(0)
    if "image" in model.modalities:
        vision = model.config["vision_config"]
        cell = vision["patch_size"] * vision["pooling_kernel_size"]
        # llama.cpp takes pictures of 70 to 1120 soft tokens as they are, and resizes others.
        pixels = np.kron(rng.integers(0, 256, (10, 14, 3)), np.ones((cell, cell, 1))).astype(np.uint8)
        ours = core_of(model).encode_image(pixels)
        print(f"        image {pixels.shape[:2]}: {relative(ours, probe.image(path, mmproj, pixels, hidden)):.2e}")
    if "audio" in model.modalities:
        time = np.arange(48_000) / 16_000
        samples = (0.2 * np.sin(2 * np.pi * (300 + 200 * time) * time) + rng.normal(0, 0.01, 48_000)).astype(np.float32)
        theirs = probe.audio(path, mmproj, samples, hidden)
        print(f"        audio 3 s: {relative(model.encode_audio(samples), theirs):.2e}")


def core_of(model: gemma4.Model) -> Any:
    """The compiled model behind the public class, which takes pictures as they are."""
    return next(value for value in vars(model).values() if hasattr(value, "encode_image"))


def recipe(source: str) -> None:
    """Error of the logits against the checkpoint, with the recipe and without it."""
    print(f"\n{source}\n{'format':<8}{'recipe':>12}{'MB':>8}{'all alike':>12}{'MB':>8}")
    model = gemma4.Model.from_pretrained(source, kv_cache="f32")
    ids = prompt(model)
    exact = np.array(model.forward(ids))
    for dtype in FORMATS[3:]:
        line = f"{dtype:<8}"
        for alike in (False, True):
            with tempfile.TemporaryDirectory() as folder, plain_recipe(alike):
                path = conversion.convert(source, Path(folder, "x.gguf"), dtype, progress=False).path
                got = np.array(gemma4.Model.from_pretrained(path, kv_cache="f32").forward(ids))
                line += f"{relative(got, exact):>12.3e}{path.stat().st_size / 1e6:>8.2f}"
        print(line)


def plain_recipe(alike: bool) -> Any:
    """The recipe without its exceptions for matrices."""
    if not alike:
        return mock.patch.object(recipes, "DTYPES", recipes.DTYPES)
    nothing = re.compile(r"(?!)")
    return mock.patch.multiple(recipes, _EMBEDDINGS=nothing, _PLE_PROJECTIONS=nothing, _KEYS=nothing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="llama.cpp's source tree")
    parser.add_argument("--build", type=Path, help="where it was built")
    parser.add_argument("--recipe", action="store_true", help="measure the recipe instead")
    parser.add_argument("models", nargs="*", default=["demo"])
    arguments = parser.parse_args()
    if arguments.recipe:
        for model in arguments.models:
            recipe(model)
        return
    if not arguments.llama or not arguments.build:
        sys.exit("--llama and --build are needed")
    with tempfile.TemporaryDirectory() as folder:
        probe = Probe(arguments.llama, arguments.build.resolve(), Path(folder))
        for model in arguments.models:
            try:
                check(model, probe, Path(folder))
            except RuntimeError as error:  # llama.cpp stops with an assertion at what it cannot compute
                print(error)


if __name__ == "__main__":
    main()
