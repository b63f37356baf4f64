"""A small tokenizer of the family's kind: BPE with byte fallback, "▁" for the space, and every control token.

Knows: tokenizer files. Must not know: models. The vocabulary has exactly the size that it is asked for, so that every
id a random model chooses decodes to something.
"""

import json
import string
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

# Token texts by the name under which the reference's configuration knows them.
CONTROL = {
    "boi_token": "<|image>",
    "image_token": "<|image|>",
    "eoi_token": "<image|>",
    "boa_token": "<|audio>",
    "audio_token": "<|audio|>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
    "sot_token": "<|turn>",
    "eot_token": "<turn|>",
    "think_token": "<|think|>",
    "soc_token": "<|channel>",
    "eoc_token": "<channel|>",
    "std_token": "<|tool>",
    "etd_token": "<tool|>",
    "stc_token": "<|tool_call>",
    "etc_token": "<tool_call|>",
    "str_token": "<|tool_response>",
    "etr_token": "<tool_response|>",
    "escape_token": '<|"|>',
}
BASE = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>", "mask_token": "<mask>"}
SPECIAL = [*BASE.values(), *CONTROL.values()]
IDS: dict[str, int] = {text: i for i, text in enumerate(SPECIAL)}
# The first id that is neither a control token nor a byte.
FIRST_PLAIN = len(SPECIAL) + 256

TEMPLATE = """{{ bos_token }}{% for message in messages %}<|turn>\
{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<|image|>{% elif part['type'] == 'audio' %}<|audio|>\
{% elif part['type'] == 'video' %}<|video|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<turn|>
{% endfor %}{% if add_generation_prompt %}<|turn>model
{% endif %}"""


def build_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` tokens."""
    vocab = dict(IDS)
    vocab.update({f"<0x{byte:02X}>": len(SPECIAL) + byte for byte in range(256)})
    letters = string.ascii_lowercase
    singles = ["\n", "▁", *string.ascii_letters, *string.digits, *string.punctuation]
    pairs = [("▁", letter) for letter in letters] + [(a, b) for a in letters for b in letters]
    triples = [("▁" + a, b) for a in letters for b in letters]
    merges = [pair for pair in pairs + triples if len(pair) == 2]
    for piece in singles + [a + b for a, b in merges]:
        vocab.setdefault(piece, len(vocab))
    if len(vocab) > vocab_size:
        raise ValueError(f"{vocab_size} tokens are too few, {len(vocab)} are needed")
    unused = [f"<unused{i}>" for i in range(vocab_size - len(vocab))]
    vocab.update({text: len(vocab) + i for i, text in enumerate(unused)})
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return tokenizer


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    build_tokenizer(vocab_size).save(str(directory / "tokenizer.json"))
    config = {**BASE, **CONTROL, "tokenizer_class": "GemmaTokenizer", "padding_side": "left", "add_bos_token": True}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
