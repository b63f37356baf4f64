"""What an answer may not say, compared with the logits processors and whole answers of transformers."""

from __future__ import annotations

from typing import Any

import gemma4
import numpy as np
import pytest
import torch
from gemma4.answer.bans import Bans
from gemma4.config import BanOptions
from transformers import GenerationConfig
from transformers.generation import logits_process as processors

from .prompts import text_ids
from .reference import Reference
from .tiny_tokenizer import IDS
from .variants import Variant

VOCAB, EOS = 70, [1, 33, 69]  # no multiple of 32
SEQUENCES = [[5], [1], [6, 7], [7, 6, 7], [3, 1], [9, 9, 9, 9]]


def _reference(options: dict[str, Any], least: int, ids: list[int], prompt: int) -> set[int]:
    """The ids that transformers' processors leave a logit."""
    chain = processors.LogitsProcessorList()
    if options.get("no_repeat_ngram_size"):
        chain.append(processors.NoRepeatNGramLogitsProcessor(options["no_repeat_ngram_size"]))
    if options.get("bad_words_ids"):
        chain.append(processors.NoBadWordsLogitsProcessor(options["bad_words_ids"], torch.tensor(EOS)))
    if least:
        chain.append(processors.MinNewTokensLengthLogitsProcessor(prompt, least, torch.tensor(EOS)))
    if options.get("suppress_tokens"):
        chain.append(processors.SuppressTokensLogitsProcessor(options["suppress_tokens"]))
    if options.get("begin_suppress_tokens"):
        chain.append(processors.SuppressTokensAtBeginLogitsProcessor(options["begin_suppress_tokens"], prompt))
    scores = chain(torch.tensor([ids]), torch.zeros(1, VOCAB))[0]
    return set(torch.nonzero(scores > -torch.inf).flatten().tolist())


OPTIONS: dict[str, tuple[dict[str, Any], int]] = {
    "suppressed": ({"suppress_tokens": [0, 31, 32, 69]}, 0),
    "at the beginning": ({"begin_suppress_tokens": [0, 31, 32, 69]}, 0),
    "words": ({"bad_words_ids": SEQUENCES}, 0),
    "1-grams": ({"no_repeat_ngram_size": 1}, 0),
    "2-grams": ({"no_repeat_ngram_size": 2}, 0),
    "3-grams": ({"no_repeat_ngram_size": 3}, 0),
    "a least length": ({}, 4),
    "everything": (
        {"suppress_tokens": [8], "begin_suppress_tokens": [2], "bad_words_ids": SEQUENCES, "no_repeat_ngram_size": 4},
        2,
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("prompt", [1, 2, 3, 12])
def test_the_same_ids_are_left(name: str, prompt: int) -> None:
    options, least = OPTIONS[name]
    rng = np.random.default_rng(prompt)
    ids = rng.integers(0, 10, prompt).tolist()  # few, so that words and n-grams meet
    fields = {key: tuple(map(tuple, value)) if key == "bad_words_ids" else value for key, value in options.items()}
    bans = Bans(BanOptions(**fields), least, np.array(ids, np.int32), VOCAB, EOS)
    for _ in range(40):
        left = bans.forbid(None)
        words = np.full(3, 0xFFFFFFFF, np.uint32) if left is None else left
        found = set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")[:VOCAB]).tolist())
        assert found == _reference(options, least, ids, prompt)
        few = sorted(found & set(range(10))) or sorted(found)
        ids.append(int(rng.choice(few)))
        bans.take(ids[-1])


def test_nothing_left_is_said() -> None:
    bans = Bans(BanOptions(suppress_tokens=(3,)), 0, np.array([1], np.int32), VOCAB, EOS)
    only = np.zeros(3, np.uint32)
    only[0] = 1 << 3
    with pytest.raises(gemma4.RequestError, match="suppress_tokens"):
        bans.forbid(only)
    with pytest.raises(gemma4.RequestError, match="bad_words_ids: token id 70 is outside the vocabulary"):
        Bans(BanOptions(bad_words_ids=((5, 70),)), 0, np.array([1], np.int32), VOCAB, EOS)


WHOLE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "suppressed": {"suppress_tokens": "likely"},
    "2-grams, least": {"no_repeat_ngram_size": 2, "min_new_tokens": 30},
    "words, beginning, penalty": {
        "bad_words_ids": "likely",
        "begin_suppress_tokens": "likely",
        "repetition_penalty": 1.2,
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_answers(name: str, variant: Variant, reference: Reference, model: Any) -> None:
    """Greedy, and with what would be said otherwise forbidden."""
    ids = text_ids(variant, 20, seed=5)
    free = model.generate(ids, max_new_tokens=40, temperature=0, ignore_eos=True).token_ids.tolist()
    likely = sorted(set(free))[::2]
    options = {key: likely if value == "likely" else value for key, value in WHOLE[name].items()}
    if "bad_words_ids" in options:
        options["bad_words_ids"] = [[index] for index in likely[::2]] + [free[2:4], free[7:10]]
    eos = [IDS["<eos>"], IDS["<turn|>"]]
    config = GenerationConfig(max_new_tokens=40, do_sample=False, eos_token_id=eos, pad_token_id=0, **options)
    with torch.no_grad():
        expected = reference.model.generate(torch.tensor(ids)[None].long(), generation_config=config)[0, len(ids) :]
    ours = model.generate(ids, max_new_tokens=40, temperature=0, repetition_guard=False, **options)
    assert ours.token_ids.tolist() == expected.tolist()
