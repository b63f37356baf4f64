"""Do two builds of this package compute the same bits?

    python benchmarks/check_same.py OLD NEW     # folders that hold gemma4/, built: what PYTHONPATH would name

For a change that must not change results. Random checkpoints of every shape, in several formats, and the bundled one go
through both, on every instruction set that this CPU has, with one thread and with two: logits of a text and of a text
with a picture and a sound, soft tokens, greedy answers with each format of the cache. Prints what differs, and how many
arrays are equal.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gemma4 import _core
from make_model import RandomModel
from shapes import FAMILY

FORMATS = ("f32", "bf16", "q8_0", "q4_0", "q4_k")
CACHES = ("f32", "bf16", "q8_0", "q4_0")
# Run by either build. Public names only, so that builds of any age understand it.
PROBE = """
import sys, gemma4, numpy as np
source, mmproj, threads, out = sys.argv[1:]
rng, arrays = np.random.default_rng(0), {}
for cache in CACHES:
    model = gemma4.Model.from_pretrained(source, kv_cache=cache, num_threads=int(threads), mmproj=mmproj or None)
    ids = rng.integers(300, 900, 90).astype(np.int32)
    prompt = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]
    if "image" in model.modalities:
        picture = rng.integers(0, 256, (100, 150, 3), dtype=np.uint8)
        arrays[f"{cache} picture"] = model.encode_image(picture, max_soft_tokens=70)
        prompt[0]["content"].insert(0, {"type": "image", "image": picture})
    if "audio" in model.modalities:
        sound = rng.normal(0, 0.1, 16000).astype(np.float32)
        arrays[f"{cache} sound"] = model.encode_audio(sound)
        prompt[0]["content"].insert(0, {"type": "audio", "audio": sound})
    arrays[f"{cache} text"] = model.forward(ids)
    media = model.prepare(prompt, max_soft_tokens=70)
    arrays[f"{cache} media"] = model.forward(media, last_only=True)
    for what, question in (("ids", ids), ("media", media)):
        answer = model.generate(question, max_new_tokens=40, temperature=0, ignore_eos=True, logprobs=True)
        arrays[f"{cache} answer to {what}"] = answer.token_ids
        arrays[f"{cache} logprobs of {what}"] = answer.logprobs
np.savez(out, **arrays)
"""


def computed(build: Path, source: str, mmproj: str, isa: str, threads: int, out: Path) -> dict[str, bytes]:
    probe = PROBE.replace("CACHES", repr(CACHES))
    environment = {**os.environ, "PYTHONPATH": str(build), "GEMMA4_ISA": isa}
    command = [sys.executable, "-c", probe, source, mmproj, str(threads), str(out)]
    subprocess.run(command, env=environment, check=True)
    with np.load(out) as arrays:
        return {name: arrays[name].tobytes() for name in arrays}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", metavar="BUILD", nargs=2, type=Path)
    args = parser.parse_args()
    builds = [build.resolve() for build in args.builds]
    different, equal = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = {"demo": ("demo", "")}
        for name, dtype in itertools.product(FAMILY, FORMATS):
            model, encoders = folder / f"{name}-{dtype}.gguf", folder / f"mmproj-{name}-{dtype}.gguf"
            RandomModel(name, small=True).write(model, dtype, mmproj=encoders, mmproj_dtype="q8_0")
            sources[f"{name} {dtype}"] = str(model), str(encoders)
        for (name, (source, mmproj)), isa, threads in itertools.product(
            sources.items(), _core.supported_isas(), (1, 2)
        ):
            old, new = (computed(build, source, mmproj, isa, threads, folder / "out.npz") for build in builds)
            assert old.keys() == new.keys()
            wrong = [what for what in old if old[what] != new[what]]
            equal += len(old) - len(wrong)
            different += [f"{name}, {isa}, {threads} threads: {what}" for what in wrong]
            print(f"{name}, {isa}, {threads} threads: {'equal' if not wrong else ', '.join(wrong)}", flush=True)
    print(f"{equal} arrays are equal, {len(different)} are not")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
