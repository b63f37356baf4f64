"""Drafters, against the reference's classes; and answers with one, against those without."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import _core
from gemma4.runtime.scheduler import Scheduler
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from .assistants import AssistantReference, to_gguf, write_assistant
from .engine import CONTEXT, core_of
from .prompts import text_ids
from .reference import Reference
from .tolerance import assert_close
from .unified import UNIFIED, UnifiedReference, write_unified
from .variants import VARIANTS, Variant

STEPS = 5
LONG = 190


@pytest.fixture(autouse=True)
def all_guesses_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little it pays on the machine that tests."""
    monkeypatch.setattr(Scheduler, "worth", lambda _, guesses: guesses)


@pytest.fixture(scope="session")
def make_assistant(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(variant: Variant, unified: bool = False, dtype: str = "F32") -> Path:
        return write_assistant(tmp_path_factory.mktemp(f"{variant.name}-assistant"), variant, unified, dtype)

    return make


def load(directory: Path, drafter: Path, **options: Any) -> gemma4.Model:
    return gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2, drafter=drafter, **options)


def drafter_of(model: gemma4.Model) -> Any:
    return model._runtime.drafter.core


def computed(model: gemma4.Model, ids: NDArray[np.int32], chunk: int = CONTEXT) -> tuple[Any, int, NDArray[np.float32]]:
    """A sequence that holds a prompt, the token that comes next, and the state that says so."""
    sequence = core_of(model).sequence(CONTEXT, "f32", chunk)
    prompt = _core.Input(sequence, ids, states=True)
    while not prompt.done:
        _core.step([prompt])
    assert prompt.logits is not None
    return sequence, int(prompt.logits[0].argmax()), prompt.states[0]


def drafted(
    model: gemma4.Model, sequence: Any, token: int, state: NDArray[np.float32], steps: int = STEPS
) -> tuple[list[int], NDArray[np.float32]]:
    """Guesses and the logits (steps, vocab) that they come from; what gets none stands below the lowest."""
    ids, rows = list[int](), []
    vocab = model.config["text_config"]["vocab_size"]
    for _ in range(steps):
        candidates, logits, state = drafter_of(model).step(sequence, token, state)
        row = np.full(vocab, logits.min() - 1, np.float32)
        row[candidates if len(candidates) else slice(None)] = logits
        rows.append(row)
        token = int(row.argmax())
        ids.append(token)
    return ids, np.stack(rows)


@pytest.mark.parametrize("length", ["1", "20", "window", "window+1", "window+2", "190"])
def test_logits(
    variant: Variant, checkpoint: Path, reference: Reference, make_assistant: Callable[..., Path], length: str
) -> None:
    """Every step of a draft, with prompts on both sides of the window."""
    base, _, more = length.partition("+")
    count = variant.window + int(more or 0) if base == "window" else int(base)
    directory = make_assistant(variant)
    token, expected_ids, expected = AssistantReference(directory, reference).draft(
        ids := text_ids(variant, count), STEPS
    )
    model = load(checkpoint, directory)
    sequence, own, state = computed(model, ids)
    assert own == token
    guesses, logits = drafted(model, sequence, own, state)
    assert guesses == expected_ids
    assert_close(logits, expected)
    assert drafter_of(model).draft(sequence, own, state, STEPS) == guesses
    assert drafter_of(model).draft(sequence, own, state, STEPS, 1.5) == []
    assert sequence.position == count


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_unified(tmp_path: Path, make_assistant: Callable[..., Path], dtype: str) -> None:
    directory, drafter = write_unified(tmp_path / "model", UNIFIED), make_assistant(UNIFIED, True, dtype)
    ids = text_ids(UNIFIED, LONG)
    theirs = AssistantReference(drafter, UnifiedReference(directory), unified=True).draft(ids, STEPS)
    model = load(directory, drafter)
    sequence, token, state = computed(model, ids)
    guesses, logits = drafted(model, sequence, token, state)
    assert (token, guesses) == theirs[:2]
    assert_close(logits, theirs[2])


@pytest.mark.parametrize("chunk", [16, 33])
def test_what_was_rejected_leaves_nothing(
    variant: Variant, checkpoint: Path, make_assistant: Callable[..., Path], chunk: int
) -> None:
    """A draft after tokens that were computed and taken back has the bits of one without them."""
    model = load(checkpoint, make_assistant(variant))
    ids = text_ids(variant, LONG)
    sequence, token, state = computed(model, ids, chunk)
    expected = drafted(model, sequence, token, state)[1]
    _core.step([_core.Input(sequence, np.arange(7, 15, dtype=np.int32), logits="all", tokens=True)])
    assert sequence.rewind(LONG)
    assert np.array_equal(drafted(model, sequence, token, state)[1], expected)


def test_states_do_not_depend_on_company(variant: Variant, model: gemma4.Model) -> None:
    """Of tokens computed at once, each has the state that it has alone."""
    ids, more = text_ids(variant, 40), np.array([5, 6, 7, 8], np.int32)
    sequence, *_ = computed(model, ids)
    together = _core.Input(sequence, more, logits="all", tokens=True, states=True)
    _core.step([together])
    assert sequence.rewind(40)
    for row, token in enumerate(more):
        alone = _core.Input(sequence, np.array([token], np.int32), tokens=True, states=True)
        _core.step([alone])
        assert np.array_equal(alone.states[0], together.states[row])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_stay_the_same(
    variant: Variant, checkpoint: Path, model: gemma4.Model, make_assistant: Callable[..., Path], temperature: float
) -> None:
    """Bit for bit, log-probabilities too; sampled ones draw as often as without a drafter."""
    other = load(checkpoint, make_assistant(variant))
    options: dict[str, Any] = dict(temperature=temperature, seed=3, max_new_tokens=60, ignore_eos=True, logprobs=True)
    for seed in range(3):
        ids = text_ids(variant, 30 + seed, seed=seed)
        expected, got = model.generate(ids, **options), other.generate(ids, **options)
        assert got.token_ids.tolist() == expected.token_ids.tolist()
        assert np.array_equal(got.logprobs, expected.logprobs)
        assert got.timings["drafted_tokens"] > 0


@pytest.mark.parametrize("wrong_every", [1, 3, 1000])
def test_right_and_wrong_guesses(
    checkpoint: Path, variant: Variant, model: gemma4.Model, monkeypatch: pytest.MonkeyPatch, wrong_every: int
) -> None:
    """With a drafter that knows the answer but for some of it, the answer is the same in fewer steps."""
    ids = text_ids(variant, 30, seed=21)
    expected = model.generate(ids, temperature=0, max_new_tokens=90, ignore_eos=True).token_ids.tolist()
    fresh = gemma4.Model.from_pretrained(checkpoint, kv_cache="f32", num_threads=2)
    knowing = _Knowing(len(ids), expected, wrong_every)
    object.__setattr__(fresh._runtime, "drafter", knowing)
    out = fresh.generate(ids, temperature=0, max_new_tokens=90, ignore_eos=True)
    assert out.token_ids.tolist() == expected
    made, kept = out.timings["drafted_tokens"], out.timings["accepted_tokens"]
    assert knowing.asked
    if wrong_every == 1000:
        assert kept == made >= 60
    if wrong_every == 1:
        assert len(knowing.asked) <= 45  # it rests


class _Knowing:
    """Guesses what comes, and something else in every n-th place."""

    def __init__(self, prompt: int, answer: list[int], wrong_every: int) -> None:
        self.prompt, self.answer, self.wrong_every = prompt, answer, wrong_every
        self.asked: list[int] = []

    def check_unchanged(self) -> None:
        pass

    def guess(self, sequence: Any, index: int, state: NDArray[np.float32], most: int) -> list[int]:
        at = sequence.position - self.prompt
        assert self.answer[at] == index and state.ndim == 1
        self.asked.append(most)
        rest = enumerate(self.answer[at + 1 : at + 1 + most], at + 1)
        return [token if (place + 1) % self.wrong_every else token ^ 1 for place, token in rest]


def test_gguf(variant: Variant, checkpoint: Path, make_assistant: Callable[..., Path], tmp_path: Path) -> None:
    """A file as llama.cpp has them is the directory with a head over all tokens."""
    directory = make_assistant(variant)
    said = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    ids, found = text_ids(variant, LONG), []
    file = to_gguf(directory, tmp_path / "drafter.gguf")
    with pytest.raises(gemma4.ModelFileError, match="drafter="):
        gemma4.Model.from_pretrained(file)
    model = load(checkpoint, file)
    found.append(drafted(model, *computed(model, ids)))
    if said["use_ordered_embeddings"]:
        tensors = {name: t for name, t in load_file(directory / "model.safetensors").items() if "masked" not in name}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps({**said, "use_ordered_embeddings": False}), encoding="utf-8")
    model = load(checkpoint, directory)
    found.append(drafted(model, *computed(model, ids)))
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["26b-a4b", "31b"])
def test_a_drafter_that_has_learned(name: str, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Nearly all that it guesses is right, so each draft began with the right state, place, keys and values."""
    variant, directory = VARIANTS[name], make_checkpoint(name)
    drafter = write_assistant(tmp_path / "drafter", variant, hidden=360)
    plain = gemma4.Model.from_pretrained(directory, kv_cache="f32", num_threads=2)
    ids = text_ids(variant, 40, seed=11)
    options: dict[str, Any] = dict(temperature=0, max_new_tokens=50, ignore_eos=True)
    expected = plain.generate(ids, **options).token_ids.tolist()
    AssistantReference(drafter, Reference(directory)).learn(ids, expected, drafter)
    out = load(directory, drafter).generate(ids, **options)
    assert out.token_ids.tolist() == expected
    made, kept = out.timings["drafted_tokens"], out.timings["accepted_tokens"]
    assert kept >= 25 and kept >= 0.8 * made, (made, kept)


def test_pictures_lists_and_conversations(make_checkpoint: Callable[..., Path], make_assistant: Any) -> None:
    """Beside what else changes how an answer is computed."""
    variant = VARIANTS["e2b"]
    plain = gemma4.Model.from_pretrained(make_checkpoint("e2b"), kv_cache="f32", num_threads=2)
    other = load(make_checkpoint("e2b"), make_assistant(variant))
    prompts = [text_ids(variant, 20 + 7 * i, seed=i) for i in range(5)]
    options: dict[str, Any] = dict(temperature=0, max_new_tokens=24, ignore_eos=True)
    expected = [plain.generate(ids, **options).token_ids.tolist() for ids in prompts]
    assert [out.token_ids.tolist() for out in other.generate(prompts, **options)] == expected
