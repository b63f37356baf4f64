"""Messages to token ids: the reference's tokenizer and template renderer on the same files."""

from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from transformers import AutoTokenizer

from .prompts import messages, picture
from .reference import Reference
from .variants import Variant

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "words": [{"role": "user", "content": "the quick  brown fox, 12 boxes"}],
    "lines": [{"role": "user", "content": "first\nsecond\n\n\tthird "}],
    "bytes": [{"role": "user", "content": "caf\u00e9 \u65e5\u672c \U0001f600 \u2581 na\u00efve"}],
    "turns": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": " there"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "go on"},
    ],
}


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(checkpoint)


def _reference_ids(tokenizer: Any, conversation: list[dict[str, Any]], counts: list[int]) -> list[int]:
    """As the reference's processor does it: the rendered text, placeholders repeated in it, then tokens."""
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    before, *after = text.split("<|image|>")
    assert len(after) == len(counts)
    expanded = (f"<|image>{'<|image|>' * n}<image|>{rest}" for n, rest in zip(counts, after, strict=True))
    return list(tokenizer(before + "".join(expanded), add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", list(CONVERSATIONS))
def test_conversations(model: gemma4.Model, tokenizer: Any, name: str) -> None:
    conversation = CONVERSATIONS[name]
    assert model.prepare(conversation).input_ids.tolist() == _reference_ids(tokenizer, conversation, [])


def test_pictures(variant: Variant, model: gemma4.Model, reference: Reference, tokenizer: Any) -> None:
    images = [picture(33, 47), picture(64, 21), picture(2, 900)]
    counts = [reference.soft_token_count(image, 140) for image in images]
    conversation = messages(images, "how many")
    got = model.prepare(conversation, max_soft_tokens=140).input_ids
    assert got.tolist() == _reference_ids(tokenizer, conversation, counts)


def test_every_token_decodes_alike(variant: Variant, model: gemma4.Model, tokenizer: Any) -> None:
    """Ordinary tokens and bytes, one at a time and in a row."""
    ids = np.random.default_rng(1).integers(0, 1500, 400)
    special = set(tokenizer.all_special_ids)
    plain = [int(i) for i in ids if int(i) not in special]
    assert model.tokenizer.decode(plain) == tokenizer.decode(plain, clean_up_tokenization_spaces=False)
