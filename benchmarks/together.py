"""What many at once gain: lists against loops, sequences decoded together, questions about one picture, drafts.

Everything is measured in turns in one process, medians with the middle half of the samples; both sides and their ratio
are printed.

    python benchmarks/together.py                       # the demo model
    python benchmarks/together.py --model e2b.gguf --sequences 8
    python benchmarks/together.py --model e2b.gguf --server llama-server   # the same requests to llama.cpp's server
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
from gemma4 import _core
from gemma4.answer.drafts import Draft, Drafts
from gemma4.runtime.scheduler import MOST_GUESSES, Scheduler
from numpy.typing import NDArray
from PIL import Image, ImageDraw

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


def shapes(seed: int) -> Image.Image:
    """A few circles and squares."""
    draw, picture = np.random.default_rng(seed), Image.new("RGB", (320, 240), "white")
    brush = ImageDraw.Draw(picture)
    for place in range(4):
        x, y, side = 20 + 150 * (place % 2), 10 + 115 * (place // 2), int(draw.integers(40, 100))
        box, color = (x, y, x + side, y + side), ["red", "blue", "green", "yellow"][draw.integers(4)]
        (brush.ellipse if draw.integers(2) else brush.rectangle)(box, fill=color)
    return picture


def lists(model: gemma4.Model, count: int, rounds: int) -> None:
    pictures = [shapes(seed) for seed in range(count)]
    works = {
        "loop": lambda: [model.detect(picture) for picture in pictures],
        "list": lambda: model.detect(pictures),
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
    drafts = Drafts(frozenset(index for piece, index in ids.items() if piece.isdigit()))
    for answer in answers[:8]:
        drafts.learn(answer)
    out = np.empty((1 + MOST_GUESSES, vocab), np.float32)
    kept, made, steps = 0, 0, 0
    scheduler = Scheduler()
    scheduler._company = 1

    def decode(answer: list[int], guessing: bool) -> None:
        nonlocal kept, made, steps
        sequence = core.sequence(600, model._runtime.kv_cache)
        sequence.prefill(np.array([2], np.int32), (), "none")
        draft, at = Draft(drafts, np.array([2], np.int32)), 0
        while at < len(answer):
            draft.say(answer[at])
            guesses = draft.guess(MOST_GUESSES) if guessing else []
            guesses = guesses[: scheduler.worth(len(guesses))]
            started = time.perf_counter()
            given = np.array([answer[at], *guesses], np.int32)
            _core.step([_core.Input(sequence, given, (), "all", True, out[: len(given)])])
            scheduler.note(len(given), time.perf_counter() - started)
            right = 0
            while right < len(guesses) and at + 1 + right < len(answer) and guesses[right] == answer[at + 1 + right]:
                right += 1
            sequence.rewind(1 + at + 1 + right)
            draft.judge(len(guesses), right)
            for index in guesses[:right]:
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


@contextmanager
def running(server: Path, model: str, slots: int, threads: int, context: int) -> Iterator[str]:
    """llama.cpp's server; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    given = ["-m", model, "-np", str(slots), "-t", str(threads), "-c", str(slots * context), "--port", str(port)]
    process = subprocess.Popen(
        [str(server), *given, "-fa", "on", "--no-webui"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"{server} ended with {process.returncode}")
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.kill()
        process.wait()


def serving(model: gemma4.Model, source: str, server: Path, clients: int, tokens: int, rounds: int) -> None:
    """So many clients that ask at the same time, each with a prompt of its own of 96 ids, for `tokens` ids: ours by
    threads that stream, theirs over HTTP. Tokens a second of all, and seconds until a client has its first token."""
    draw, vocab, length = np.random.default_rng(5), min(model._runtime.vocab_size, 200_000), 96

    def ours(ids: NDArray[np.int32], first: list[float], started: float) -> None:
        stream = model.stream(ids, max_new_tokens=tokens, temperature=0, ignore_eos=True)
        got = 0
        for chunk in stream:
            if got == 0:
                first.append(time.perf_counter() - started)
            got += len(chunk.token_ids)
        assert got == tokens, got

    def theirs(ids: NDArray[np.int32], first: list[float], started: float) -> None:
        body = {"prompt": ids.tolist(), "n_predict": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "cache_prompt": False, "return_tokens": True}  # fmt: skip
        request = urllib.request.Request(f"{address}/completion", json.dumps(body).encode())
        got = 0
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    data = json.loads(line[6:])
                    if got == 0:
                        first.append(time.perf_counter() - started)
                    got += len(data.get("tokens", ())) if not data.get("stop") else 0
        assert got >= tokens - 1, got

    taken: dict[str, list[float]] = {"theirs": [], "ours": []}
    firsts: dict[str, list[float]] = {"theirs": [], "ours": []}
    with running(server, source, clients, model.num_threads, length + tokens + 32) as address:
        for index in range(rounds):
            turns = {"ours": ours, "theirs": theirs}
            for name in turns if index % 2 == 0 else reversed(turns):
                prompts, first = draw.integers(1000, vocab, (clients, length)).astype(np.int32), list[float]()
                started = time.perf_counter()
                with ThreadPoolExecutor(clients) as threads:
                    list(threads.map(turns[name], prompts, repeat(first), repeat(started)))
                taken[name].append(time.perf_counter() - started)
                firsts[name] += first
    show(f"{clients} clients, {length} + {tokens} tokens each", taken, "theirs", "ours")
    for name, values in firsts.items():
        print(
            f"  {name}: {clients * tokens / statistics.median(taken[name]):.1f} tokens/s, first token after "
            f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=64, help="0: none")
    parser.add_argument("--questions", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--server", type=Path, help="llama-server, to be asked the same")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    model = gemma4.Model.from_pretrained(given.model, num_threads=given.threads)
    print(f"{model!r}, {model.num_threads} threads, {_core.isa()}")
    if given.server:
        serving(model, given.model, given.server, given.sequences, given.tokens, given.rounds)
        return
    decoding(model, given.sequences, given.tokens, given.rounds)
    drafting(model, given.rounds)
    if "image" in model.modalities and given.pictures:
        lists(model, given.pictures, given.rounds)
    if "image" in model.modalities and given.questions:
        questions(given.model, given.rounds, num_threads=given.threads)


if __name__ == "__main__":
    main()
