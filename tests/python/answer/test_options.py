"""What a call and a checkpoint may say about an answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gemma4 import ModelFileError, RequestError
from gemma4.answer.options import GenerationOptions
from gemma4.config import GenerationDefaults


def resolve(**options: Any) -> GenerationOptions:
    return GenerationOptions.resolve(GenerationDefaults(), **options)


NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty"]
NEVER = [math.nan, math.inf, -math.inf, -1, -0.5, 1e309, 2**63, "1", [], [0.5], True, False, np.bool_(True), b"1", 1j]
INTEGERS = ["max_new_tokens", "max_tokens", "min_new_tokens", "no_repeat_ngram_size", "top_k", "seed"]
NO_INTEGERS = [math.nan, math.inf, -1, 1.5, 2.0, 2**64, "1", [], True, np.bool_(False), np.float32(1)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", NEVER, ids=repr)
def test_bad_numbers(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name):
        resolve(**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_bad_integers(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name):
        resolve(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("do_sample", 1),
        ("suppress_tokens", 5),
        ("suppress_tokens", "5"),
        ("suppress_tokens", [[5]]),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", [5]),
        ("bad_words_ids", ["ab"]),
        ("max_new_tokens", 2**31),
        ("temperature", 101),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", 1.01),
        ("repetition_penalty", 0),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [3]),
        ("stop", 3),
        ("stop", {"a"}),
        ("stop", ["x"] * 100_000),
        ("stop", "x" * 100_000),
        ("logprobs", 0),
        ("logprobs", -1),
        ("logprobs", 1001),
        ("logprobs", 1.0),
        ("logprobs", None),
        ("thinking", 0),
        ("thinking", "yes"),
        ("thinking", 2**31),
        ("repetition_guard", 1),
        ("ignore_eos", "yes"),
        ("ignore_eos", 0),
    ],
)
def test_bad_values(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name):
        resolve(**{name: value})


def test_good_values() -> None:
    options = resolve(
        max_new_tokens=np.int64(3), temperature=np.float32(0.5), top_k=10**6, top_p=1, min_p=0, seed=2**64 - 1, stop="x"
    )
    assert (options.max_new_tokens, options.temperature, options.top_k) == (3, 0.5, 10**6)
    assert (options.top_p, options.min_p, options.seed, options.stop) == (1.0, 0.0, 2**64 - 1, ("x",))
    assert resolve(temperature=1e-45).temperature == 0  # greedy, not a division by next to nothing
    assert resolve(seed=None).seed != resolve(seed=None).seed


def defaults(**data: Any) -> GenerationDefaults:
    return GenerationDefaults.from_config(data, "generation_config.json", vocab_size=1000)


def test_defaults_of_a_checkpoint() -> None:
    sampled = defaults(do_sample=True, temperature=0.7, top_k=64, top_p=0.95, eos_token_id=[1, 106])
    options = GenerationOptions.resolve(sampled)
    assert (options.temperature, options.top_k, options.top_p) == (0.7, 64, 0.95)
    assert sampled.eos_ids == (1, 106)
    assert GenerationOptions.resolve(sampled, temperature=0).temperature == 0
    assert GenerationOptions.resolve(sampled, do_sample=False).temperature == 0
    bare = GenerationOptions.resolve(defaults(do_sample=True))
    assert (bare.temperature, bare.top_k, bare.max_new_tokens) == (1, 50, 512)
    assert GenerationOptions.resolve(defaults(do_sample=True, top_k=None)).top_k == 50
    assert GenerationOptions.resolve(defaults(do_sample=True, top_k=0)).top_k == 0
    greedy = defaults(do_sample=False, temperature=0.7, top_k=64, repetition_penalty=1.1)
    options = GenerationOptions.resolve(greedy)
    assert (options.temperature, options.top_k, options.repetition_penalty) == (0, 0, 1.1)
    options = GenerationOptions.resolve(greedy, do_sample=True)
    assert (options.temperature, options.top_k) == (0.7, 64)
    assert GenerationOptions.resolve(defaults(temperature=0.7)).temperature == 0
    # A cut of the distribution asks for sampling.
    assert GenerationOptions.resolve(greedy, top_k=5).temperature == 1
    assert GenerationOptions.resolve(greedy, temperature=0, top_k=5).temperature == 0


def test_lengths_and_stops_of_a_checkpoint() -> None:
    said = defaults(max_new_tokens=7, min_new_tokens=3, stop_strings=["a"], max_length=5)
    options = GenerationOptions.resolve(said)
    assert (options.limit(100), options.least(100), options.stop) == (7, 3, ("a",))
    options = GenerationOptions.resolve(said, max_tokens=9, min_new_tokens=0, stop_strings="b")
    assert (options.limit(100), options.least(100), options.stop) == (9, 0, ("b",))
    options = GenerationOptions.resolve(defaults(max_length=30, min_length=20))
    assert [options.limit(n) for n in (10, 29, 30, 99)] == [20, 1, 1, 1]
    assert [options.least(n) for n in (10, 20)] == [10, 0]
    with pytest.raises(RequestError, match="max_tokens: another name of max_new_tokens"):
        resolve(max_new_tokens=3, max_tokens=3)
    with pytest.raises(RequestError, match="stop_strings: another name"):
        resolve(stop="a", stop_strings="a")


NOT_OBEYED = {
    "num_beams": 4, "guidance_scale": 1.5, "sequence_bias": [[[5], 1.0]], "forced_eos_token_id": 1, "max_time": 3.0,
    "exponential_decay_length_penalty": [3, 1.1], "encoder_no_repeat_ngram_size": 2, "watermarking_config": {},
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_OBEYED)
def test_what_cannot_be_obeyed_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelFileError, match=rf"generation_config\.json: {name}"):
        GenerationOptions.resolve(defaults(**{name: NOT_OBEYED[name]}), temperature=0)


def test_what_changes_nothing_is_no_reason_to_refuse() -> None:
    neutral = {
        "num_beams": 1, "guidance_scale": 1.0, "num_return_sequences": 1, "penalty_alpha": None, "length_penalty": 2.0,
        "cache_implementation": "hybrid", "transformers_version": "4.1", "use_cache": False, "anything": float("nan"),
    }  # fmt: skip
    GenerationOptions.resolve(defaults(**neutral))
    for name, value in {"typical_p": 0.5, "top_h": 0.4, "epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3}.items():
        drawn = defaults(do_sample=True, **{name: value})
        GenerationOptions.resolve(drawn, temperature=0)
        with pytest.raises(ModelFileError, match=name):
            GenerationOptions.resolve(drawn)


BAD_FIELDS: dict[str, Any] = {
    "do_sample": "yes", "top_k": 1.5, "temperature": math.nan, "max_new_tokens": 0, "min_new_tokens": -1,
    "stop_strings": [3], "suppress_tokens": "x", "begin_suppress_tokens": [-1], "bad_words_ids": [1],
    "no_repeat_ngram_size": 10**30,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_fields_of_a_checkpoint(name: str) -> None:
    with pytest.raises(ModelFileError, match=rf"generation_config\.json: {name}"):
        defaults(**{name: BAD_FIELDS[name]})
    with pytest.raises(RequestError, match=name):
        resolve(**{name: BAD_FIELDS[name]})


def test_ids_that_a_checkpoint_need_not_forbid() -> None:
    said = defaults(suppress_tokens=[258883, 999], begin_suppress_tokens=[1000], bad_words_ids=[[5, 1000], [5, 6]])
    assert said.bans.suppress_tokens == (999,)
    assert said.bans.begin_suppress_tokens == ()
    assert said.bans.bad_words_ids == ((5, 6),)
    assert GenerationOptions.resolve(said, suppress_tokens=[]).bans.suppress_tokens == ()
