"""Run by test_machines.py as `isa_probe.py CHECKPOINT PROMPT.npz OUT.npz` with GEMMA4_ISA set: computes and saves.

A process of its own, because kernels are chosen once, at the first use.
"""

import sys
from pathlib import Path

import gemma4
import numpy as np
from gemma4 import _core
from PIL import Image


def main(checkpoint: str, prompt_file: str, out_file: str) -> None:
    """Logits of a text and of a prompt with pictures, and 20 greedy tokens."""
    model = gemma4.Model.from_pretrained(checkpoint, kv_cache="f32", num_threads=2)
    core = model._runtime.loaded.core
    with np.load(prompt_file) as prompt:
        text, ids, runs = prompt["text"], prompt["ids"], prompt["runs"]
    images = [Image.open(Path(prompt_file).with_name(f"{i}.png")) for i in range(len(runs))]
    soft = [
        _core.SoftTokens(int(begin), model.encode_image(image, max_soft_tokens=70), True)
        for (begin, _), image in zip(runs, images, strict=True)
    ]
    np.savez(
        out_file,
        isa=_core.isa(),
        text=core.sequence(512, "f32", 512).prefill(text, [], "all"),
        image=core.sequence(512, "f32", 512).prefill(ids, soft, "all"),
        tokens=model.generate(text, max_new_tokens=20, temperature=0, ignore_eos=True).token_ids,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
