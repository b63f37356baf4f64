"""A tokenizer of the family's kind and size that no one trained: every control token at its published id, the bytes,
and pieces of letters for the rest, with as many merges as the real one has.

Knows: tokenizer files. Must not know: models. Loading it takes what loading the real one takes.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shapes import VOCAB

MERGES = 514_906  # of the published tokenizer
_FIRST = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
_PUBLISHED = {
    "<|tool>": 46, "<tool|>": 47, "<|tool_call>": 48, "<tool_call|>": 49, "<|tool_response>": 50,
    "<tool_response|>": 51, '<|"|>': 52, "<|think|>": 98, "<|channel>": 100, "<channel|>": 101, "<|turn>": 105,
    "<turn|>": 106, "<|image>": 255_999, "<|audio>": 256_000, "<|image|>": 258_880, "<|audio|>": 258_881,
    "<image|>": 258_882, "<audio|>": 258_883, "<|video|>": 258_884,
}  # fmt: skip
_NAMES = {
    "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>", "mask_token": "<mask>",
    "boi_token": "<|image>", "image_token": "<|image|>", "eoi_token": "<image|>", "boa_token": "<|audio>",
    "audio_token": "<|audio|>", "eoa_token": "<audio|>", "video_token": "<|video|>", "sot_token": "<|turn>",
    "eot_token": "<turn|>", "think_token": "<|think|>", "soc_token": "<|channel>", "eoc_token": "<channel|>",
    "std_token": "<|tool>", "etd_token": "<tool|>", "stc_token": "<|tool_call>", "etc_token": "<tool_call|>",
    "str_token": "<|tool_response>", "etr_token": "<tool_response|>", "escape_token": '<|"|>',
}  # fmt: skip
_TEMPLATE = """{{ bos_token }}{% for message in messages %}<|turn>\
{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<|image|>{% elif part['type'] == 'audio' %}<|audio|>\
{% elif part['type'] == 'video' %}<|video|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<turn|>
{% endfor %}{% if add_generation_prompt %}<|turn>model
{% endif %}"""


def control_ids(vocab: int) -> dict[str, int]:
    """Ids of the control tokens: the published ones, or the first where the vocabulary is smaller."""
    ids = {text: index for index, text in enumerate(_FIRST)}
    smaller = {text: len(ids) + index for index, text in enumerate(_PUBLISHED)}
    return ids | (_PUBLISHED if vocab >= VOCAB else smaller)


def _pieces() -> Iterator[str]:
    """Words of letters, shorter ones first, each also behind a space."""
    for length in itertools.count(2):
        for letters in itertools.product(string.ascii_lowercase, repeat=length - 1):
            word = "".join(letters)
            yield "▁" + word
            yield from (word + letter for letter in string.ascii_lowercase)


def tokenizer_json(vocab: int) -> dict[str, Any]:
    """The object in tokenizer.json, with exactly `vocab` tokens."""
    control = control_ids(vocab)
    ids = dict(control)
    taken = set(control.values())
    free = (index for index in range(vocab) if index not in taken)
    singles = [f"<0x{byte:02X}>" for byte in range(256)]
    singles += ["\n", "▁", *string.ascii_letters, *string.digits, *string.punctuation]
    for piece, index in zip(itertools.chain(singles, _pieces()), free, strict=False):
        ids[piece] = index
    if len(ids) != vocab:
        raise ValueError(f"{vocab} tokens are too few for control tokens, bytes and letters")
    words = [piece for piece in ids if piece not in control and len(piece) > 1 and not piece.startswith("<0x")]
    splits = ([word[:cut], word[cut:]] for word in words for cut in range(len(word) - 1, 0, -1))
    merges = list(itertools.islice((pair for pair in splits if pair[0] in ids and pair[1] in ids), MERGES))
    added = [
        {"id": index, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for text, index in sorted(control.items(), key=lambda item: item[1])
    ]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": ids,
            "merges": merges,
        },
    }  # fmt: skip


def write_tokenizer(directory: Path, vocab: int) -> None:
    """tokenizer.json, tokenizer_config.json, generation_config.json and chat_template.jinja."""
    control = control_ids(vocab)
    generation = {"eos_token_id": [control["<eos>"], control["<turn|>"]], "do_sample": False}
    files = {
        "tokenizer.json": tokenizer_json(vocab),
        "tokenizer_config.json": {**_NAMES, "tokenizer_class": "GemmaTokenizer", "add_bos_token": True},
        "generation_config.json": generation,
    }
    for name, data in files.items():
        (directory / name).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
