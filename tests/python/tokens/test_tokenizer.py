"""The engine's byte-pair encoding against Hugging Face's `tokenizers` on the same file, and files that lie."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from gemma4 import _core
from gemma4.checkpoint import DirectoryCheckpoint
from gemma4.errors import ModelFileError, RequestError
from gemma4.tokens.form import read_form
from gemma4.tokens.library import LibraryTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tokenizer import tokenizer_json

DEMO = Path(str(resources.files("gemma4").joinpath("demo_model")))
DEMO_DATA = (DEMO / "tokenizer.json").read_bytes()


class Pair:
    """One tokenizer.json, read by the engine and by the library."""

    def __init__(self, data: bytes) -> None:
        form = read_form(data, "tokenizer.json")
        assert form is not None
        self.ours, self.theirs = form.engine(), LibraryTokenizer(data, "tokenizer.json")
        assert self.ours.size == self.theirs.size

    def check(self, text: str) -> list[int]:
        ids = self.ours.encode(text)
        assert ids == self.theirs.encode(text), repr(text)
        assert self.ours.decode(ids) == self.theirs.decode(ids), repr(text)
        return ids


@pytest.fixture(scope="module")
def demo() -> Pair:
    return Pair(DEMO_DATA)


@pytest.fixture(scope="module")
def large() -> Pair:
    """A vocabulary of Gemma's form with every way to merge each word, as the published one has."""
    return Pair(json.dumps(tokenizer_json(40_000), ensure_ascii=False).encode())


# -- any text ----------------------------------------------------------------------------------------------------------

PIECES = [
    "a", "the ", "red circle", "hello world", "zzzz", "qu", "<|turn>", "<turn|>", "<bos>", "<unk>", "<0x41>", "<table>",
    "<|", "|>", "▁", "▁▁", " ", "   ", " " * 40, "\n", "\n\n\n", "\t", "\r\n", "\x00", "\x7f", "é", "e\u0301", "ß", "İ",
    "漢字", "한국어", "עברית", "🙂", "👨‍👩‍👧", "\U0010ffff", "\ufffd", "\u2028", "\u00a0", "\ufeff", "0123456789", "[{",
    '"label": "',
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_demo(demo: Pair, text: str) -> None:
    demo.check(text)


@settings(max_examples=500, deadline=None)
@given(st.one_of(TEXTS, st.text("abcdefghij ", max_size=80)))
def test_large_vocabulary(large: Pair, text: str) -> None:
    large.check(text)


def test_every_byte_and_the_edges(demo: Pair, large: Pair) -> None:
    for pair in (demo, large):
        assert pair.check("") == []
        for code in (*range(0x250), 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF):
            pair.check(chr(code))
        every = [pair.ours.find(f"<0x{byte:02X}>") for byte in range(256)]
        assert [pair.ours.byte(index) for index in every if index is not None] == list(range(256))


def test_names_are_the_library_s(demo: Pair, large: Pair) -> None:
    for pair in (demo, large):
        tokens = [pair.theirs.token(index) for index in range(pair.theirs.size)]
        assert [pair.ours.token(index) for index in range(pair.ours.size)] == tokens
        assert [pair.ours.find(token) for token in tokens] == list(range(len(tokens)))
        assert [pair.ours.byte(index) for index in range(len(tokens))] == list(
            map(pair.theirs.byte, range(len(tokens)))
        )
        assert pair.ours.pieces() == pair.theirs.pieces()
        for missing in ("", "no such token", "<0xGG>", "\x00"):
            assert pair.ours.find(missing) == pair.theirs.find(missing)
        assert pair.ours.token(-1) == pair.ours.token(pair.ours.size) == ""


# -- any vocabulary ----------------------------------------------------------------------------------------------------


def random_tokenizer(seed: int) -> dict[str, Any]:
    """A tokenizer of the form whose merges were drawn: across spaces, of bytes, of tokens that no text reaches, some
    of them twice; with and without a token for the space, for all bytes, and with added tokens that begin alike."""
    rng = random.Random(seed)
    bytes_missing = rng.choice([0, 0, 1, 64, 256])
    base = ["<unk>", *rng.sample("ab\n<>é漢🙂", rng.randint(3, 8)), *(["▁"] if rng.random() < 0.8 else [])]
    base += rng.sample([f"<0x{byte:02X}>" for byte in range(256)], 256 - bytes_missing)
    vocab = {text: index for index, text in enumerate(base)}
    merges: list[list[str]] = []
    for _ in range(rng.randint(0, 120)):
        left, right = (rng.choice(list(vocab)[: 12 if rng.random() < 0.6 else None]) for _ in range(2))
        if len(left + right) <= 14:
            merges.append([left, right])
            vocab.setdefault(left + right, len(vocab))
    control = ["<unk>", "<c>", "<ab>", "<ab><ab>"]
    text = ["\n\n", "\n\n\n", "▁▁", "<b>", "</b>"]
    added = [
        {"content": token, "special": rng.random() < special, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": rng.random() < 0.5 and tokens is control}
        for special, tokens in ((0.8, control), (0.1, text)) for token in tokens if rng.random() < 0.7
    ]  # fmt: skip
    free = len(vocab)
    for token in added:
        token["id"] = vocab.get(token["content"], free)
        free += token["id"] == free
    data = tokenizer_json(500)
    data["model"] |= {"vocab": vocab, "merges": merges}
    return {**data, "added_tokens": added, "pre_tokenizer": rng.choice([data["pre_tokenizer"], None])}


@pytest.mark.parametrize("seed", range(40))
def test_any_vocabulary(seed: int) -> None:
    data = random_tokenizer(seed)
    pair = Pair(json.dumps(data, ensure_ascii=seed % 2 == 0).encode())
    rng = random.Random(seed)
    alphabet = [*"ab▁ \n<>é漢🙂x\u0301", "<ab>", "<c>", "<unk>", "  ", "\n\n"]
    for _ in range(50):
        pair.check("".join(rng.choices(alphabet, k=rng.randint(1, 30))))
        ids = [rng.randrange(pair.ours.size) for _ in range(20)]
        assert pair.ours.decode(ids) == pair.theirs.decode(ids)


def test_a_vocabulary_without_bytes_and_without_the_unknown() -> None:
    data = tokenizer_json(500)
    data["added_tokens"] = []
    data["model"] |= {"vocab": {"a": 0}, "merges": []}
    form = read_form(json.dumps(data).encode(), "t")
    assert form is not None and form.engine().encode("aa") == [0, 0]
    with pytest.raises(RequestError, match="cannot encode 'é'"):
        form.engine().encode("aé")


# -- long texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["abcde fgh ", "qwertyuiop", "a", " ", "\n", "é", "<|turn", "漢"])
def test_long_texts_take_nearly_linear_time(large: Pair, unit: str) -> None:
    def seconds(length: int) -> float:  # of the processor, so that others on the machine do not count
        text = unit * (length // len(unit))
        begin = time.process_time()
        large.ours.encode(text)
        return time.process_time() - begin

    seconds(10_000)
    assert seconds(400_000) < 70 * max(seconds(20_000), 0.002)


def test_long_text_is_the_library_s(large: Pair) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(1, 9))) for _ in range(500)]
    large.check(" ".join(rng.choices(words, k=8000)) + "\n" + "".join(rng.choices("abcdefgh", k=40_000)))


def test_encoding_can_be_interrupted(large: Pair) -> None:
    def ring(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with pytest.raises(TimeoutError):
            large.ours.encode("a" * 20_000_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- what is read ------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(0, 300), max_size=20), st.booleans(), st.booleans())
def test_cutting_is_json(vocab: dict[str, int], ascii_only: bool, spread: bool) -> None:
    vocab = {text: index for index, text in {index: text for text, index in vocab.items()}.items()}
    words = [text for text in vocab if " " not in text]
    merges = [[left, right] for left, right in itertools.pairwise(words)]
    data = {"a\"'[{": [1, {"vocab": 2}], "model": {"x": "}", "vocab": vocab, "merges": merges, "y": None}, "z": "\\"}
    cut = _core.cut_vocabulary(json.dumps(data, ensure_ascii=ascii_only, indent=2 if spread else None).encode())
    assert cut is not None
    rest, tokens, found = cut
    assert json.loads(rest) == {**data, "model": {**data["model"], "vocab": None, "merges": None}}  # type: ignore[dict-item]
    assert {text: index for index, text in enumerate(tokens) if text} == vocab
    assert list(found) == [" ".join(pair) for pair in merges]


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_cutting_what_was_damaged(data: st.DataObject) -> None:
    """Nothing, or what Python reads."""
    whole = b'{"n": "\\u00e9", "model": {"vocab": {"a": 0, "b\\n": 1, "\xc3\xa9": 2}, "merges": [["a", "b"], "a b"]}}'
    at = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(
        st.sampled_from([b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b" ", b"\xff", b"\n"])
    )
    damaged = whole[:at] + piece + whole[at + data.draw(st.integers(0, 2)) :]
    damaged = damaged[: data.draw(st.sampled_from([None, at]))]
    cut = _core.cut_vocabulary(damaged)
    if cut is None:
        return
    try:
        read = json.loads(damaged)
    except ValueError:
        with pytest.raises(ValueError):  # the damage is outside, for whoever reads the rest
            json.loads(cut[0])
        return
    vocab = {text: index for index, text in enumerate(cut[1]) if text}
    assert vocab == read["model"]["vocab"]
    assert list(cut[2]) == [pair if isinstance(pair, str) else " ".join(pair) for pair in read["model"]["merges"]]


OTHER_FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ignores merges": lambda t: t["model"].update(ignore_merges=True),
    "no byte fallback": lambda t: t["model"].update(byte_fallback=False),
    "another unknown": lambda t: t["model"].update(unk_token="<pad>"),
    "prefix": lambda t: t["model"].update(continuing_subword_prefix="##"),
    "no normalizer": lambda t: t.update(normalizer=None),
    "another decoder": lambda t: t["decoder"]["decoders"].append(
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    ),
    "splits": lambda t: t.update(pre_tokenizer={"type": "Whitespace"}),
    "strips": lambda t: t["added_tokens"].append(
        {**t["added_tokens"][0], "content": "\n\n", "id": 900, "lstrip": True}
    ),
    "empty token": lambda t: t["model"]["vocab"].update({"": 899}),
    "merge with a space": lambda t: (
        t["model"]["vocab"].update({"a ": 899, "a a": 898}), t["model"]["merges"].append(["a ", "a"]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_another_form_is_left_to_the_library(name: str, tmp_path: Path) -> None:
    data = tokenizer_json(898)
    OTHER_FORMS[name](data)
    if name == "prefix":
        data["model"]["merges"] = []
    text = json.dumps(data)
    assert read_form(text.encode(), "t") is None
    (tmp_path / "tokenizer.json").write_text(text)
    tokenizer = DirectoryCheckpoint(tmp_path).tokenizer()
    for sample in ("hello world", " a\n\nb", "<turn|> x", ""):
        assert tokenizer.encode(sample) == tokenizer.backend.encode(sample, add_special_tokens=False).ids


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "merge unknown": (lambda t: t["model"]["merges"].append(["zzzz", "q"]), r"model\.merges: do not fit.*'zzzz'"),
    "merge of nothing": (lambda t: t["model"]["merges"].append(["Z", "Q"]), r"model\.merges: do not fit.*'ZQ'"),
    "two ids": (lambda t: t["added_tokens"][3].update(id=700), r"added_tokens: .*'<unk>' has two ids, 3 and 700"),
    "not the next id": (
        lambda t: t["added_tokens"].append({**t["added_tokens"][0], "content": "<new>", "id": 5000}),
        r"added_tokens: .*'<new>' has the id 5000, expected 898",
    ),
    "long": (
        lambda t: t["added_tokens"].append({**t["added_tokens"][0], "content": "<" + "é" * 600, "id": 898}),
        r"added_tokens: .*601 characters, at most 128",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name: str, tmp_path: Path) -> None:
    data = tokenizer_json(898)
    edit, expected = FAULTS[name]
    edit(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ModelFileError, match=expected) as caught:
        DirectoryCheckpoint(tmp_path).tokenizer()
    assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 500


def test_a_token_twice(tmp_path: Path) -> None:
    text = json.dumps(tokenizer_json(898)).replace('"vocab": {', '"vocab": {"a": 898, ')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: model\.vocab: the token 'a' appears twice"):
        DirectoryCheckpoint(tmp_path).tokenizer()


# -- nothing heavy -----------------------------------------------------------------------------------------------------


def test_loading_and_answering_do_not_import_the_library(tmp_path: Path) -> None:
    """It takes seconds to read a vocabulary of 262,144."""
    code = (
        "import sys, gemma4\n"
        "gemma4.convert('demo', sys.argv[1], 'q8_0', progress=False)\n"
        "for source in ('demo', sys.argv[1]):\n"
        "    model = gemma4.Model.from_pretrained(source, num_threads=1)\n"
        "    assert model.generate('Hello', max_new_tokens=2).text is not None\n"
        "    assert model.tokenizer.vocab_size and model.tokenizer.piece(300)\n"
        "    model.generate('Hello', max_new_tokens=2, response_format={'type': 'json_object'})\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('tokenizers', 'transformers')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.gguf")], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_tokenizers_travel() -> None:
    tokenizer = DirectoryCheckpoint(DEMO).tokenizer()
    copy = pickle.loads(pickle.dumps(tokenizer))
    text = "a red circle <turn|> é"
    assert copy.encode(text) == tokenizer.encode(text) == tokenizer.backend.encode(text, add_special_tokens=False).ids
