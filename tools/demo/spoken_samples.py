"""A few utterances as files with their texts, for tests on machines without espeak-ng.

    python spoken_samples.py ../../tests/python/data/speech

Speakers are those that training never hears, in turn. Only short utterances are taken, so that the repository stays
small; `evaluate_skills.py` measures all lengths.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped]
from gemma4.media.mel import SAMPLE_RATE
from utterances import HELD_OUT, make_utterance, text_of

COUNT = 12
MOST_BYTES = 16_000  # of one file
QUALITY = (25.0, 40.0)  # dB of speech over noise; more noise does not compress


def make_sample(number: int) -> tuple[bytes, str]:
    """The FLAC file of one utterance, and what is said in it."""
    rng = np.random.default_rng([2033, number])
    while True:
        utterance = make_utterance(rng, (HELD_OUT[number % len(HELD_OUT)],), QUALITY)
        file = io.BytesIO()
        soundfile.write(file, utterance.samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        if len(file.getvalue()) <= MOST_BYTES and len(utterance.words) > number % 3:  # one to three words at least
            return file.getvalue(), text_of(utterance.words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    texts = {}
    for number in range(COUNT):
        name = f"{number:02d}.flac"
        data, texts[name] = make_sample(number)
        (out / name).write_bytes(data)
    (out / "texts.json").write_text(json.dumps(texts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
