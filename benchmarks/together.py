"""What many at once gain: lists against loops, sequences decoded together, questions about one picture, drafts.

Everything is measured in turns in one process, medians with the middle half of the samples; both sides and their ratio
are printed.

    python benchmarks/together.py                       # the demo model
    python benchmarks/together.py --model e2b.gguf --sequences 8
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import gemma4
import numpy as np
from gemma4 import _core
from gemma4.answer.drafts import Draft, Drafts
from gemma4.runtime.scheduler import MOST_GUESSES
from numpy.typing import NDArray

PICTURE: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(rounds: int, works: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each work, everyone once a round, in turns forwards and backwards."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds):
        for name in list(works) if index % 2 == 0 else reversed(works):
            taken[name].append(seconds(works[name]))
    return taken


def show(title: str, taken: dict[str, list[float]], over: str, under: str) -> None:
    print(title)
    for name, values in taken.items():
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
        print(f"  {name}: {1e3 * statistics.median(values):.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})")
    ratios = [a / b for a, b in zip(taken[over], taken[under], strict=True)]
    print(f"  {over} / {under}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def decoding(model: gemma4.Model, count: int, tokens: int, rounds: int) -> None:
    """`count` sequences of which each gets `tokens` tokens, together; against one sequence."""
    core, vocab = model._runtime.loaded.core, model._runtime.vocab_size
    draw = np.random.default_rng(1)

    def begun() -> Any:
        sequence = core.sequence(64 + tokens, model._runtime.kv_cache)
        sequence.prefill(draw.integers(0, vocab, 16).astype(np.int32), (), "none")
        return sequence

    outs = [np.empty((1, vocab), np.float32) for _ in range(count)]

    def decode(sequences: list[Any]) -> None:
        for _ in range(tokens):
            step = [
                _core.Input(one, draw.integers(0, vocab, 1).astype(np.int32), (), "last", True, out)
                for one, out in zip(sequences, outs, strict=False)
            ]
            _core.step(step)

    alone: list[float] = []
    together: list[float] = []
    for _ in range(rounds):
        one, all_of_them = [begun()], [begun() for _ in range(count)]
        alone.append(count * seconds(lambda: decode(one)))  # noqa: B023
        together.append(seconds(lambda: decode(all_of_them)))  # noqa: B023
    name = f"{count} times one sequence"
    show(f"{tokens} tokens for each of {count} sequences", {name: alone, "together": together}, name, "together")


def lists(model: gemma4.Model, count: int, rounds: int) -> None:
    draw = np.random.default_rng(2)
    pictures = [draw.integers(0, 256, (240, 320, 3), np.uint8) for _ in range(count)]
    works = {
        "loop": lambda: [model.detect(picture, "red circle") for picture in pictures],
        "list": lambda: model.detect(pictures, "red circle"),
    }
    show(f"detect on {count} pictures", in_turns(rounds, works), "loop", "list")


def questions(source: str, rounds: int, **options: Any) -> None:
    """Ten questions about one picture, against one and the decoding of nine more."""
    taken: dict[str, list[float]] = {"one question and nine decodes": [], "ten questions": []}
    texts = [f"Question {i}: what is in the image?" for i in range(10)]
    for _ in range(rounds):
        model = gemma4.Model.from_pretrained(source, **options)
        model.generate("x", max_new_tokens=1)
        started = time.perf_counter()
        outs = [
            model.generate(text, images=PICTURE, temperature=0, max_new_tokens=16, ignore_eos=True) for text in texts
        ]
        taken["ten questions"].append(time.perf_counter() - started)
        first = sum(outs[0].timings[name] for name in ("encode_s", "prefill_s", "decode_s"))
        taken["one question and nine decodes"].append(first + sum(out.timings["decode_s"] for out in outs[1:]))
    show("ten questions about one picture", taken, "ten questions", "one question and nine decodes")


def scripted(count: int) -> list[list[str]]:
    """Answers in the family's form, with random boxes and labels, in pieces of text such as its vocabulary has: each
    digit alone, words with the space before them, runs of punctuation."""
    draw = np.random.default_rng(3)
    labels = ["red circle", "person", "traffic light", "dog", "blue square", "cup"]
    answers = []
    for _ in range(count):
        items = [
            {"box_2d": draw.integers(0, 1001, 4).tolist(), "label": labels[draw.integers(len(labels))]}
            for _ in range(draw.integers(2, 7))
        ]
        answers.append(re.findall(r"\d| ?[a-z_]+|[^\w\s]+| ", json.dumps(items)))
    return answers


def drafting(model: gemma4.Model, rounds: int) -> None:
    """Scripted answers with guesses, as `detect` makes them, and without: what the model says is not asked, only what
    it costs to compute; a guess is right where the script goes on so."""
    core, vocab = model._runtime.loaded.core, model._runtime.vocab_size
    ids: dict[str, int] = {}
    answers = [[ids.setdefault(piece, 1000 + len(ids)) % vocab for piece in answer] for answer in scripted(rounds + 8)]
    drafts = Drafts()
    for answer in answers[:8]:
        drafts.learn(answer)
    out = np.empty((1 + MOST_GUESSES, vocab), np.float32)
    kept, made, steps = 0, 0, 0

    def decode(answer: list[int], guessing: bool) -> None:
        nonlocal kept, made, steps
        sequence = core.sequence(600, model._runtime.kv_cache)
        sequence.prefill(np.array([2], np.int32), (), "none")
        draft, at = Draft(drafts, np.array([2], np.int32)), 0
        while at < len(answer):
            guesses = draft.guess(MOST_GUESSES) if guessing else []
            given = np.array([answer[at], *guesses], np.int32)
            _core.step([_core.Input(sequence, given, (), "all", True, out[: len(given)])])
            right = 0
            while right < len(guesses) and at + 1 + right < len(answer) and guesses[right] == answer[at + 1 + right]:
                right += 1
            sequence.rewind(1 + at + 1 + right)
            draft.judge(len(guesses), right)
            for index in answer[at : at + 1 + right]:
                draft.say(index)
            at += 1 + right
            kept, made, steps = kept + right, made + len(guesses), steps + guessing
        if guessing:
            draft.end()

    taken: dict[str, list[float]] = {"plain": [], "drafted": []}
    for index, answer in enumerate(answers[8:]):
        for guessing in (False, True) if index % 2 == 0 else (True, False):
            taken["drafted" if guessing else "plain"].append(seconds(lambda: decode(answer, guessing)))  # noqa: B023
    show("answers of detections, scripted", taken, "plain", "drafted")
    print(f"  {kept} of {made} guesses right, {sum(map(len, answers[8:]))} tokens in {steps} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=64, help="0: none")
    parser.add_argument("--questions", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    model = gemma4.Model.from_pretrained(given.model, num_threads=given.threads)
    print(f"{model!r}, {model.num_threads} threads, {_core.isa()}")
    decoding(model, given.sequences, given.tokens, given.rounds)
    drafting(model, given.rounds)
    if "image" in model.modalities and given.pictures:
        lists(model, given.pictures, given.rounds)
    if "image" in model.modalities and given.questions:
        questions(given.model, given.rounds, num_threads=given.threads)


if __name__ == "__main__":
    main()
