"""Options, sampling, stop strings, thoughts, and that a stream is the answer."""

from __future__ import annotations

import math
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import ContextLengthError, RequestError
from gemma4.answer.markup import parse_response
from gemma4.answer.options import GenerationOptions
from gemma4.answer.reader import AnswerReader
from gemma4.config import GenerationDefaults
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import answer, say

GREEDY = {"temperature": 0, "max_new_tokens": 12}
WILD = {"temperature": 3.0, "max_new_tokens": 40, "ignore_eos": True}  # far from what the model would say


def resolve(**options: Any) -> GenerationOptions:
    return GenerationOptions.resolve(GenerationDefaults(), **options)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_greedy_is_deterministic(gemma4_model: Any) -> None:
    first = gemma4_model.generate("Describe the image.", **GREEDY)
    second = gemma4_model.generate("Describe the image.", **GREEDY)
    assert first.token_ids.dtype == np.int32
    assert first.token_ids.tolist() == second.token_ids.tolist()
    assert str(first) == first.text
    assert first.usage["completion_tokens"] == len(first.token_ids) <= 12
    assert first.usage["total_tokens"] == first.usage["prompt_tokens"] + len(first.token_ids)
    assert first.logprobs is None
    assert first.tool_calls == []
    assert set(first.timings) == {
        "encode_s", "prefill_s", "decode_s", "prefill_tps", "decode_tps", "reused_tokens", "drafted_tokens",
        "accepted_tokens",
    }  # fmt: skip
    assert all(math.isfinite(value) and value >= 0 for value in first.timings.values())


def test_seeds(gemma4_model: Any) -> None:
    def ids(seed: int | None) -> list[int]:
        return list(gemma4_model.generate("Hello", seed=seed, **WILD).token_ids)

    assert ids(1) == ids(1)
    assert len({tuple(ids(seed)) for seed in (1, 2, None, None)}) > 2


def test_top_k_of_one_is_greedy(gemma4_model: Any) -> None:
    greedy = gemma4_model.generate("Hello", **GREEDY).token_ids.tolist()
    for cut in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1e-6}):
        options = {"temperature": 1.0, "max_new_tokens": 12, "seed": 3, **cut}
        assert gemma4_model.generate("Hello", **options).token_ids.tolist() == greedy
    huge = {"temperature": 1.0, "max_new_tokens": 12, "seed": 3}
    assert (
        gemma4_model.generate("Hello", top_k=10**9, **huge).token_ids.tolist()
        == gemma4_model.generate("Hello", **huge).token_ids.tolist()
    )


def test_logprobs(gemma4_model: Any) -> None:
    inputs = gemma4_model.prepare("Hello")
    out = gemma4_model.generate(inputs, logprobs=True, **GREEDY)
    assert out.logprobs.dtype == np.float32
    assert out.logprobs.shape == out.token_ids.shape
    ids = np.concatenate([inputs.input_ids, out.token_ids[:-1]])
    logits = np.array(gemma4_model.forward(ids))[len(inputs) - 1 :].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert np.allclose(out.logprobs, expected[np.arange(len(out.token_ids)), out.token_ids], atol=0.05)


def test_repetition_penalty_looks_at_the_prompt_and_the_answer(gemma4_model: Any) -> None:
    ids = gemma4_model.generate("Hello", repetition_penalty=100.0, ignore_eos=True, **GREEDY).token_ids.tolist()
    assert len(set(ids)) == len(ids)


def test_length_and_eos(gemma4_model: Any) -> None:
    out = gemma4_model.generate("Hello", max_new_tokens=1, temperature=0, ignore_eos=True)
    assert (len(out.token_ids), out.finish_reason) == (1, "length")
    again = gemma4_model.generate("Hello", max_new_tokens=30, temperature=0, ignore_eos=True)
    assert (len(again.token_ids), again.finish_reason) == (30, "length")
    assert again.token_ids[0] == out.token_ids[0]


def test_context_end() -> None:
    model = gemma4.Model.from_pretrained("demo", max_context=40)
    assert model.context_length == 40
    prompt = np.full(37, 30, np.int32)
    out = model.generate(prompt, temperature=0, ignore_eos=True)
    assert (len(out.token_ids), out.finish_reason) == (3, "length")
    assert len(model.generate(prompt[:36], temperature=0, ignore_eos=True).token_ids) == 4
    for length in (40, 41, 100_000):
        with pytest.raises(ContextLengthError, match=f"{length} tokens.*40"):
            model.generate(np.full(length, 30, np.int32))
    assert model.forward(np.full(40, 30, np.int32)).shape[0] == 40
    with pytest.raises(ContextLengthError, match="41"):
        model.forward(np.full(41, 30, np.int32))
    with pytest.raises(ContextLengthError, match="10000000"):
        model.generate(np.full(10_000_000, 30, np.int32))


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_is_the_answer(gemma4_model: Any, seed: int) -> None:
    out = gemma4_model.generate("Hello", seed=seed, **WILD)
    chunks = list(gemma4_model.stream("Hello", seed=seed, **WILD))
    assert "".join(chunk.text for chunk in chunks) == out.text
    assert "".join(chunk.thinking for chunk in chunks) == (out.thinking or "")
    assert [index for chunk in chunks for index in chunk.token_ids] == out.token_ids.tolist()
    for chunk in chunks:
        chunk.text.encode()


def test_wrong_arguments_raise_before_iteration(gemma4_model: Any) -> None:
    with pytest.raises(RequestError, match="temperature"):
        gemma4_model.stream("Hello", temperature=math.nan)


@pytest.mark.parametrize("after", [0, 1, 5])
def test_closing_a_stream(gemma4_model: Any, after: int) -> None:
    before = gemma4_model.generate("Hello", **GREEDY).token_ids.tolist()
    stream = gemma4_model.stream("Hello", seed=1, **WILD)
    for _ in range(after):
        next(stream)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert gemma4_model.generate("Hello", **GREEDY).token_ids.tolist() == before


def test_streams_side_by_side(gemma4_model: Any) -> None:
    alone = [gemma4_model.generate("Hello", seed=seed, **WILD).text for seed in (1, 2)]
    streams = [gemma4_model.stream("Hello", seed=seed, **WILD) for seed in (1, 2)]
    parts: list[list[str]] = [[], []]
    open_streams = [0, 1]
    while open_streams:
        for which in list(open_streams):
            chunk = next(streams[which], None)
            if chunk is None:
                open_streams.remove(which)
            else:
                parts[which].append(chunk.text)
    assert ["".join(part) for part in parts] == alone


@pytest.mark.parametrize("seed", range(4))
def test_stop_strings(gemma4_model: Any, seed: int) -> None:
    whole = gemma4_model.generate("Hello", seed=seed, **WILD)
    text = whole.text
    assert len(text) > 8
    for start, length in [(0, 1), (3, 2), (5, 3), (len(text) // 2, 4)]:
        stop = text[start : start + length]
        if not stop:
            continue
        out = gemma4_model.generate("Hello", seed=seed, stop=["never said, surely", stop], **WILD)
        assert out.text == text[: text.index(stop)]
        assert out.finish_reason == "stop"
        assert len(out.token_ids) <= len(whole.token_ids)
        chunks = gemma4_model.stream("Hello", seed=seed, stop=stop, **WILD)
        assert "".join(chunk.text for chunk in chunks) == out.text
    out = gemma4_model.generate("Hello", seed=seed, stop="never said, surely", **WILD)
    assert (out.text, out.finish_reason) == (text, "length")


# -- reading -----------------------------------------------------------------------------------------------------------


def read(model: Any, ids: list[int], *stops: str) -> tuple[str, str, AnswerReader]:
    reader = AnswerReader(model.tokenizer, stops)
    text = thinking = ""
    for index in ids:
        more = reader.push(index)
        text, thinking = text + more[0], thinking + more[1]
        if reader.stopped:
            break
    more = reader.finish()
    return text + more[0], thinking + more[1], reader


def encoded(model: Any, *parts: str) -> list[int]:
    return list(model.tokenizer.encode("".join(parts), allow_special=True))


def test_thoughts_are_kept_apart(gemma4_model: Any) -> None:
    ids = encoded(gemma4_model, "<|channel>thought\nIt is round.\nSo:<channel|>A circle.<turn|>")
    text, thinking, reader = read(gemma4_model, ids)
    assert (text, thinking) == ("A circle.", "It is round.\nSo:")
    assert reader.thought
    for start, end in reader.spans:
        assert 0 <= start <= end <= len(text)
    covered = "".join(text[start:end] for start, end in reader.spans)
    assert covered == text


def test_thoughts_that_never_end(gemma4_model: Any) -> None:
    ids = encoded(gemma4_model, "<|channel>thought\nHm, hm")
    assert read(gemma4_model, ids)[:2] == ("", "Hm, hm")


def test_empty_thoughts_and_none(gemma4_model: Any) -> None:
    assert read(gemma4_model, encoded(gemma4_model, "<|channel>thought\n<channel|>Yes."))[:2] == ("Yes.", "")
    text, thinking, reader = read(gemma4_model, encoded(gemma4_model, "Yes."))
    assert (text, thinking, reader.thought) == ("Yes.", "", False)


def test_ids_without_a_token_have_no_text(gemma4_model: Any) -> None:
    ids = encoded(gemma4_model, "red")
    padding = gemma4_model.tokenizer.vocab_size + 5
    assert read(gemma4_model, [padding, *ids, padding])[:2] == ("red", "")


def test_a_tool_call_ends_a_thought(gemma4_model: Any) -> None:
    ids = encoded(gemma4_model, "<|channel>thought\nhm<|tool_call>call")
    assert read(gemma4_model, ids)[:2] == ("call", "hm")


def test_stop_strings_do_not_look_at_thoughts(gemma4_model: Any) -> None:
    ids = encoded(gemma4_model, "<|channel>thought\nstop<channel|>go stop on")
    assert read(gemma4_model, ids, "stop")[:2] == ("go ", "stop")


@settings(max_examples=80, deadline=None)
@given(
    words=st.lists(st.sampled_from(["a", "ab", "aab", "b", "<", "é", "👩", " "]), max_size=12),
    stops=st.lists(st.sampled_from(["ab", "aab", "b ", "é", "👩b", "aaa"]), max_size=3),
)
def test_stop_strings_crossing_tokens(words: list[str], stops: list[str]) -> None:
    model = gemma4_demo()
    whole = "".join(words)
    text, _, reader = read(model, list(model.tokenizer.encode(whole)), *stops)
    ends = [whole.index(stop) for stop in stops if stop in whole]
    if not ends:
        assert text == whole
        return
    # It stops at the first token that completes a stop string, so a longer one that began earlier may not be seen.
    assert reader.stopped
    assert any(whole.startswith(stop, len(text)) for stop in stops)


MODELS: list[Any] = []


def gemma4_demo() -> Any:
    """Hypothesis runs a test many times within one call of a fixture."""
    if not MODELS:
        MODELS.append(gemma4.Model.from_pretrained("demo"))
    return MODELS[0]


@pytest.mark.parametrize(
    ("text", "content", "thinking"),
    [
        ("A cat.", "A cat.", None),
        ("A cat.<turn|>", "A cat.", None),
        ("A cat.<turn|>\n", "A cat.", None),
        ("<|channel>thought\nround<channel|>A circle.", "A circle.", "round"),
        ("<|channel>thought\n<channel|>A circle.", "A circle.", None),
        ("<|channel>thought\nnever ends", "", "never ends"),
        ("a<|channel>thought\nb<channel|>c<|channel>thought\nd<channel|>e", "ace", "b\nd"),
        ("", "", None),
    ],
)
def test_parse_response(text: str, content: str, thinking: str | None) -> None:
    expected = {"role": "assistant", "content": content, "thinking": thinking, "tool_calls": []}
    assert parse_response(text) == expected


@pytest.mark.parametrize("text", [None, 3, b"x"])
def test_parse_response_takes_text(text: Any) -> None:
    with pytest.raises(RequestError, match="text"):
        parse_response(text)


def test_parse_response_is_linear() -> None:
    parse_response("<|channel>" * 100_000)
    parse_response("<|channel>thought\n" + "x" * 1_000_000)


# -- thoughts, tools, likely tokens ------------------------------------------------------------------------------------

OPEN = "<|turn>model\n<|channel>thought\n"
Q = '<|"|>'


def joined(chunks: list[Any]) -> tuple[str, str, list[Any], list[int]]:
    return (
        "".join(chunk.text for chunk in chunks),
        "".join(chunk.thinking for chunk in chunks),
        [call for chunk in chunks for call in chunk.tool_calls],
        [index for chunk in chunks for index in chunk.token_ids],
    )


@pytest.mark.parametrize("budget", [1, 2, 7, 50])
def test_a_budget_closes_a_thought(gemma4_model: Any, budget: int) -> None:
    script = "<|channel>thought\n" + "a b " * 40
    close, opening = (gemma4_model.tokenizer.id_of(marker) for marker in ("<channel|>", "<|channel>"))
    out = say(gemma4_model, script, thinking=budget, temperature=0, max_new_tokens=200, logprobs=True)
    ids = out.token_ids.tolist()
    assert (ids[0], ids.index(close)) == (opening, 1 + budget)
    # As likely as it was, under the model's own distribution.
    assert out.logprobs[1 + budget] < -5
    free = say(gemma4_model, script, temperature=0, max_new_tokens=200).thinking
    assert out.thinking is not None and free.startswith(out.thinking)
    assert out.text.strip()  # what the model goes on with is the answer
    assert joined(list(answer(gemma4_model, script, thinking=budget, temperature=0, max_new_tokens=200).chunks())) == (
        out.text, out.thinking, [], ids,
    )  # fmt: skip


def test_a_budget_that_is_not_used_up_changes_nothing(gemma4_model: Any) -> None:
    script = "<|channel>thought\nround<channel|>A circle."
    for thinking in (True, 30):
        out = say(gemma4_model, script, thinking=thinking, temperature=0)
        assert (out.text, out.thinking, out.finish_reason) == ("A circle.", "round", "stop")


def test_a_spent_budget_begins_no_other_thought(gemma4_model: Any) -> None:
    script = "<|channel>thought\na b c d e f" + "<|channel>" * 300
    out = say(gemma4_model, script, thinking=4, temperature=0, max_new_tokens=600)
    marks = [gemma4_model.tokenizer.id_of(marker) for marker in ("<|channel>", "<channel|>")]
    assert [out.token_ids.tolist().count(mark) for mark in marks] == [1, 1]
    assert out.text.strip() and out.thinking
    two = say(
        gemma4_model, "<|channel>thought\na<channel|>b<|channel>thought\nc<channel|>d", thinking=40, temperature=0
    )
    assert (two.text, two.thinking) == ("bd", "a\nc")  # within the budget it may think again


def test_a_budget_of_a_thought_that_the_prompt_opens(gemma4_model: Any) -> None:
    for prompt, script in ((OPEN, "Hm, hm"), (OPEN[: -len("thought\n")], "thought\nHm, hm")):
        out = say(gemma4_model, script, prompt, temperature=0)
        assert (out.text, out.thinking) == ("", "Hm, hm")
    out = say(gemma4_model, "a" * 30, OPEN + "Well,", thinking=3, temperature=0, max_new_tokens=40)
    assert out.token_ids.tolist()[3] == gemma4_model.tokenizer.id_of("<channel|>")
    assert out.thinking == "aaa"


def test_a_budget_waits_for_the_end_of_a_character(gemma4_model: Any) -> None:
    tokenizer = gemma4_model.tokenizer
    character = [tokenizer.id_of(f"<0x{byte:02X}>") for byte in "犬".encode()]
    close = tokenizer.id_of("<channel|>")
    for budget, expected in [(1, 3), (2, 3), (3, 3), (4, 6), (5, 6), (6, 6)]:
        out = say(gemma4_model, character * 5, OPEN, thinking=budget, temperature=0, max_new_tokens=30)
        assert out.token_ids.tolist().index(close) == expected
        assert out.thinking == "犬" * (expected // 3)
    broken = say(gemma4_model, character[:1] * 20, OPEN, thinking=4, temperature=0, max_new_tokens=60)
    assert broken.token_ids.tolist().index(close) <= 8


def test_prepared_prompts_take_a_budget(gemma4_model: Any) -> None:
    inputs = gemma4_model.prepare("Hello", thinking=True)
    assert len(gemma4_model.generate(inputs, thinking=5, **GREEDY).token_ids) > 0
    with pytest.raises(RequestError, match="thinking"):
        gemma4_model.generate(inputs, thinking=True)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from([
            "<|channel>thought\n", "<|channel>", "<channel|>", "a", " red", "<", "<|", "<|chan", "nel>", "é", "犬",
            "\n", f"<|tool_call>call:f{{x:{Q}<channel|>{Q}}}<tool_call|>",
            "stop", "<turn|>", "<|image|>", "<tool_call|>", Q,
        ]),
        max_size=12,
    ),
    tools=st.booleans(),
)  # fmt: skip
def test_streamed_or_not_the_parts_are_the_same(parts: list[str], tools: bool) -> None:
    model = gemma4_demo()
    prompt = "<|tool>declaration:f{}<tool|>" if tools else "x"
    options = {"temperature": 0, "stop": "stop", "logprobs": 2, "ignore_eos": True, "max_new_tokens": 60}
    script = model.tokenizer.encode("".join(parts), allow_special=True) + model.tokenizer.encode(" end")
    options["max_new_tokens"] = len(script)
    out = say(model, script, prompt, **options)
    chunks = list(answer(model, script, prompt, **options).chunks())
    assert joined(chunks) == (out.text, out.thinking or "", out.tool_calls, out.token_ids.tolist())
    assert [p for chunk in chunks for p in chunk.logprobs or ()] == pytest.approx(out.logprobs.tolist())
    assert len(out.token_spans) == len(out.token_ids)
    said = model.tokenizer.decode(out.token_ids, skip_special=False).replace("<turn|>", "").replace("<|image|>", "")
    ends = [end for _, end in out.token_spans]
    assert ends == sorted(ends) and all(start <= end for start, end in out.token_spans)
    if "stop" not in said:
        pieces = [out.text[start:end] for start, end in out.token_spans]
        assert "".join(pieces) == out.text
        for piece, index in zip(pieces, out.token_ids, strict=True):
            assert piece == "" or not model.tokenizer.is_special(index)
    if not tools:
        assert out.tool_calls == []
    elif "stop" not in said:
        assert len(out.tool_calls) == said.count("call:f")


def test_a_tool_call_that_is_cut_off(gemma4_model: Any) -> None:
    prompt = "<|tool>declaration:f{}<tool|>"
    for script in ("<|tool_call>call:f{x:1", "<|tool_call>call f<tool_call|>"):
        with pytest.raises(gemma4.ToolCallError) as caught:
            say(gemma4_model, script, prompt, temperature=0)
        assert script in caught.value.raw_text
        with pytest.raises(gemma4.ToolCallError):
            list(answer(gemma4_model, script, prompt, temperature=0).chunks())
        assert say(gemma4_model, script, temperature=0).tool_calls == []  # no tools, no calls


def test_finish_reasons_of_calls(gemma4_model: Any) -> None:
    prompt, call = "<|tool>declaration:f{}<tool|>", "<|tool_call>call:f{x:1}<tool_call|>"
    for script, reason in [
        (call, "tool_calls"), ("I call." + call, "tool_calls"), (call + call, "tool_calls"), ("Done.", "stop"),
        (call + "\n", "tool_calls"), (call + "<|tool_response>", "tool_calls"), (call + " Done.", "stop"),
        (call + "stop", "stop"),
    ]:  # fmt: skip
        out = say(gemma4_model, script, prompt, temperature=0, stop="stop")
        assert (out.finish_reason, len(out.tool_calls)) == (reason, script.count(call)), script
    ids = gemma4_model.tokenizer.encode(call, allow_special=True)
    assert say(gemma4_model, ids, prompt, temperature=0, max_new_tokens=len(ids)).finish_reason == "length"


def test_top_logprobs() -> None:
    gemma4_model = gemma4.Model.from_pretrained("demo", kv_cache="f32")  # which forward() computes with
    out = gemma4_model.generate("Hello", logprobs=5, seed=3, **WILD)
    plain = gemma4_model.generate("Hello", logprobs=True, seed=3, **WILD)
    assert plain.top_logprobs is None and out.token_ids.tolist() == plain.token_ids.tolist()
    assert np.array_equal(out.logprobs, plain.logprobs)
    inputs = gemma4_model.prepare("Hello")
    ids = np.concatenate([inputs.input_ids, out.token_ids[:-1]])
    logits = np.array(gemma4_model.forward(ids))[len(inputs) - 1 :].astype(np.float64)
    expected = (
        logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1)[:, None]
    )
    assert len(out.top_logprobs) == len(out.token_ids)
    for place, row, index, logprob in zip(out.top_logprobs, expected, out.token_ids, out.logprobs, strict=True):
        assert len(place) == 5
        values = [one.logprob for one in place]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx(np.sort(row)[::-1][:5].tolist(), abs=1e-3)
        assert [one.token for one in place] == [gemma4_model.tokenizer.piece(one.id) for one in place]
        assert logprob <= values[0]
        assert index not in [one.id for one in place] or logprob == dict((i, p) for i, _, p in place)[index]


def test_scores_of_a_prompt(gemma4_model: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    long = "red circle, " * 60  # several pieces
    for inputs in (gemma4_model.prepare(long), gemma4_model.prepare("What is this?", images=[picture, picture])):
        scores = gemma4_model.score(inputs, top_logprobs=3)
        logits = np.array(gemma4_model.forward(inputs)).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = table[np.arange(len(inputs) - 1), inputs.input_ids[1:]]
        held = np.zeros(len(inputs), bool)
        for image in inputs.images:
            held[image.start : image.start + image.count] = True
        assert np.isnan(scores.logprobs[0]) and np.isnan(scores.logprobs[held]).all()
        told = ~held[1:]
        assert np.allclose(scores.logprobs[1:][told], expected[told], atol=1e-3)
        assert np.array_equal(scores.token_ids, inputs.input_ids)
        for position, place in enumerate(scores.top_logprobs):
            known = position > 0 and not held[position]
            assert [one.id for one in place] == (
                np.argsort(-table[position - 1], kind="stable")[:3].tolist() if known else []
            )
    assert gemma4_model.score("Hello").top_logprobs is None
    for wrong in (-1, 1001, 1.5, "3"):
        with pytest.raises(RequestError, match="top_logprobs"):
            gemma4_model.score("Hello", top_logprobs=wrong)
