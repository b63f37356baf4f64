"""What a process has in memory: the weights that a prompt touches, keys and values, and little else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MB = 10**6


def child(program: str, *arguments: Any) -> dict[str, Any]:
    """What a Python process of its own prints as JSON."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return dict(json.loads(done.stdout))


_IMPORTED = """
import json, sys
import gemma4
from gemma4.model import Model
model = Model.from_pretrained("demo", num_threads=1)
before = sorted(sys.modules)
model.generate([5, 6, 7], max_new_tokens=1)
print(json.dumps({"loaded": before, "generated": sorted(sys.modules)}))
"""
# Libraries of what a prompt of token ids has none of: templates, pictures, sounds, grammars, a hub.
_UNUSED = {
    "jinja2",
    "PIL",
    "av",
    "soundfile",
    "soxr",
    "llguidance",
    "huggingface_hub",
    "tokenizers",
    "_hashlib",
    "tqdm",
}


def test_what_a_prompt_of_ids_needs_is_all_that_is_imported() -> None:
    modules = child(_IMPORTED)
    for moment, names in modules.items():
        assert not _UNUSED.intersection(names), moment
        assert "gemma4.media.picturefiles" not in names, moment


_SESSIONS = """
import json, os, random, sys
import numpy as np
import gemma4
from gemma4.command.bench import peak_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

model = gemma4.Model.from_pretrained("demo", num_threads=1)
context = model.context_length
ids = np.array(random.Random(0).choices(range(300, 600), k=context), np.int32)
warm = model._runtime.loaded.core.sequence(256, "f32")  # maps the weights, fills buffers that threads keep
warm.prefill(ids[:256], (), "last")
del warm
facts = {"before": resident()}
empty = [model._runtime.loaded.core.sequence(context, "f32") for _ in range(16)]
facts["kv"] = empty[0].kv_bytes()
facts["empty"] = resident()
del empty
peaks = []
for _ in range(3):
    session = model._runtime.loaded.core.sequence(context, "f32")
    session.prefill(ids, (), "last")
    peaks.append(peak_memory())
    del session
print(json.dumps({**facts, "peaks": peaks, "after": resident()}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_sequences_take_what_is_written_and_give_it_back() -> None:
    found = child(_SESSIONS)
    kv = found["kv"]
    assert kv > 2 * MB  # else the bounds below say nothing
    # Sixteen contexts that nobody has written to cost no more than one that is full: a page for each tensor, scratch
    # for a row.
    assert found["empty"] - found["before"] < kv
    # Keys and values of one sequence at a time, and 4 MB for scratch of 128 rows, logits and what malloc keeps.
    assert found["peaks"][-1] - found["before"] < kv + 4 * MB
    assert found["peaks"][-1] - found["peaks"][0] < kv / 4
    assert found["after"] - found["before"] < kv / 4 + 4 * MB
