"""Directories as the reference's own `save_pretrained` writes them, tokenizer and processor included.

Nothing here is written by this repository but the weights' values.
"""

import json
from collections.abc import Callable
from pathlib import Path

import gemma4
from transformers import AutoTokenizer


def test_a_tokenizer_that_transformers_saved(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Its `model_max_length` is 1e30, written as an integer of 31 digits."""
    reference = AutoTokenizer.from_pretrained(make_checkpoint("e2b"))
    reference.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] > 1 << 64
    tokenizer = gemma4.Tokenizer(tmp_path)
    text = "A dog, a red circle;  12 ▁ \n\n é 漢字 🦊"
    ids = reference.encode(text, add_special_tokens=False)
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.special_token("bos_token") == reference.bos_token
