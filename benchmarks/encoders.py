"""What compare.py measures of the vision and audio encoders: speed, and how far soft tokens are from those in f32.

Every file of encoders, in 16 bits and in Q8_0, is read by this package and by llama.cpp; what belongs to the second
has " q8_0" behind its name. transformers computes in float32 with weights of its own.

Knows: the programs and their arguments. Must not know: tables, plots.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from check_llama_cpp import Probe, relative
from found import Audio, Images, Samples, Soft
from llama_cpp import run
from measures import Setup, alternate, ours, say
from numpy.typing import NDArray
from shapes import FAMILY

HERE = Path(__file__).parent
BUDGETS = (70, 140, 280, 560, 1120)
LARGE = 280  # pictures above this budget are measured once
CELLS = {70: (7, 10), 140: (10, 14), 280: (14, 20), 560: (20, 28), 1120: (28, 40)}


def files(setup: Setup) -> dict[str, Path]:
    """What is behind a name, and the encoders that it means."""
    return {"": setup.mmproj} | ({" q8_0": setup.rounded} if setup.rounded is not None else {})


def images(setup: Setup) -> Images:
    """Milliseconds for each soft token of a picture, by budget. Every picture has the size that it is encoded at."""
    budgets = BUDGETS[:2] if setup.quick else BUDGETS
    result: Images = defaultdict(lambda: defaultdict(Samples))

    def add(name: str, budget: int, seconds: float) -> None:
        result[name][budget].samples.append(1e3 * seconds / budget)

    with tempfile.TemporaryDirectory() as folder:
        pictures = {budget: _picture(Path(folder), budget) for budget in budgets}

        def works(chosen: tuple[int, ...]) -> dict[str, Callable[[], None]]:
            def own(name: str, mmproj: Path) -> None:
                asked = [part for budget in (chosen[0], *chosen) for part in ("--picture", budget)]
                done = ours(setup, "-p", 1, "-n", 1, "-r", 1, "--audio-seconds", 0, "--mmproj", mmproj, *asked,
                            "--no-bandwidth", model=setup.small)  # fmt: skip
                for found in done["images"]:
                    add(name, found["tokens"], found["seconds"][-1])

            def llama(name: str, mmproj: Path) -> None:
                assert setup.llama is not None
                taken = setup.llama.media(setup.small, mmproj, "image", [pictures[b] for b in chosen])
                for budget, seconds in zip(chosen, taken, strict=True):
                    add(name, budget, seconds)

            def reference() -> None:
                done = _reference(setup, "--budgets", *chosen)
                for budget, taken in done["images"].items():
                    add("transformers f32", int(budget), taken[0])

            return _works(setup, own, llama, reference)

        # Large pictures take a minute each on the slower side: they are measured in the last round only.
        small = tuple(budget for budget in budgets if budget <= LARGE)
        alternate(setup.rounds - 1, works(small))
        alternate(1, works(budgets))
    return result


def audio(setup: Setup) -> Audio | None:
    """Seconds for half a minute of sound. Ours and nobody else's time holds the making of the mel frames."""
    if FAMILY[setup.shape].audio is None:
        return None
    seconds = 3.0 if setup.quick else 30.0
    result = Audio(seconds, defaultdict(Samples))

    def own(name: str, mmproj: Path) -> None:
        done = ours(setup, "-p", 1, "-n", 1, "-r", 2, "--picture", 0, "--audio-seconds", seconds, "--no-bandwidth",
                    "--mmproj", mmproj, model=setup.small)  # fmt: skip
        result.seconds[name].samples.append(done["audio"]["seconds"][-1])

    def reference() -> None:
        result.seconds["transformers f32"].samples.extend(_reference(setup, "--audio", seconds)["audio"])

    with tempfile.TemporaryDirectory() as folder:
        file = _sound(Path(folder), seconds)

        def llama(name: str, mmproj: Path) -> None:
            assert setup.llama is not None
            # The first of two warms it up.
            taken = setup.llama.media(setup.small, mmproj, "audio", [file, file])
            result.seconds[name].samples.append(taken[-1])

        alternate(setup.rounds, _works(setup, own, llama, reference))
    return result


def _works(
    setup: Setup, own: Callable[[str, Path], None], llama: Callable[[str, Path], None], reference: Callable[[], None]
) -> dict[str, Callable[[], None]]:
    """Everyone who is measured, by name; programs once for each file of encoders."""

    def bound(work: Callable[[str, Path], None], name: str, mmproj: Path) -> Callable[[], None]:
        return lambda: work(name, mmproj)

    programs = {"gemma4": own} | ({"llama.cpp": llama} if setup.llama is not None else {})
    works = {
        name + suffix: bound(work, name + suffix, mmproj)
        for name, work in programs.items()
        for suffix, mmproj in files(setup).items()
    }
    return works | ({"transformers f32": reference} if setup.reference else {})


def _picture(folder: Path, budget: int) -> Path:
    from PIL import Image

    path = folder / f"{budget}.png"
    Image.fromarray(_pixels(budget)).save(path)
    return path


def _pixels(budget: int) -> NDArray[np.uint8]:
    rows, columns = CELLS[budget]
    colours = np.random.default_rng(budget).integers(0, 256, (rows, columns, 3), np.uint8)
    return colours.repeat(48, 0).repeat(48, 1)


def _sound(folder: Path, seconds: float) -> Path:
    import soundfile

    path = folder / "noise.wav"
    soundfile.write(path, _samples(seconds), 16_000)
    return path


def _samples(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


def _reference(setup: Setup, *arguments: Any) -> dict[str, Any]:
    command = [sys.executable, HERE / "reference_encoders.py", setup.shape, "--threads", setup.threads, *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"transformers: {done.stderr[-600:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


# -- exactness ---------------------------------------------------------------------------------------------------------

_SOFT = """
import sys, numpy, gemma4
model, mmproj, dtype, pixels, samples, out = sys.argv[1:7]
model = gemma4.Model.from_pretrained(model, mmproj=mmproj, dtype=dtype, num_threads=int(sys.argv[7]))
found = {"image": model.encode_image(numpy.load(pixels), max_soft_tokens=280)}
if "audio" in model.modalities:
    found["audio"] = model.encode_audio(numpy.load(samples))
numpy.savez(out, **found)
"""


def soft(setup: Setup) -> Soft:
    """Relative error (root mean square) of the soft tokens of a picture of 280 and of three seconds of sound, against
    the same file's weights in f32."""
    result: Soft = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels, samples = _pixels(280), _samples(3.0)
        np.save(folder / "pixels.npy", pixels)
        np.save(folder / "samples.npy", samples)

        def own(mmproj: Path, dtype: str) -> dict[str, NDArray[np.float32]]:
            say(f"soft tokens of gemma4, {mmproj.name}, {dtype}")
            arguments = (folder / "pixels.npy", folder / "samples.npy", folder / "soft.npz", setup.threads)
            run([sys.executable, "-c", _SOFT, setup.small, mmproj, dtype, *arguments])
            return dict(np.load(folder / "soft.npz"))

        for suffix, mmproj in files(setup).items():
            exact = own(mmproj, "f32")
            hidden = exact["image"].shape[1]
            result["gemma4" + suffix] = _errors(own(mmproj, "auto"), exact)
            if setup.llama is not None:
                say(f"soft tokens of llama.cpp, {mmproj.name}")
                probe = Probe(setup.llama.source, setup.llama.build.resolve(), folder)
                theirs = {"image": probe.image(setup.small, mmproj, pixels, hidden)}
                if "audio" in exact:
                    theirs["audio"] = probe.audio(setup.small, mmproj, samples, hidden)
                result["llama.cpp" + suffix] = _errors(theirs, exact)
    return result


def _errors(found: dict[str, NDArray[np.float32]], exact: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    return {kind: relative(found[kind], exact[kind]) for kind in exact}
