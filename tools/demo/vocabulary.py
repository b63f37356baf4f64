"""The demo model's tokenizer: a small BPE with byte fallback in the form of Gemma's.

Knows which strings the dialogues consist of; knows nothing of training. Numbers from 0 to 1000 in steps of 5 are one
token each, with consecutive ids in ascending order; so are the pieces of JSON between them and the words of the
prompts. Any other text is encoded by letters or bytes, without loss.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

_SPECIAL = """
<pad> <eos> <bos> <unk> <mask> <|tool> <tool|> <|tool_call> <tool_call|> <|tool_response> <tool_response|> <|"|>
<|think|> <|channel> <channel|> <|turn> <turn|> <|image> <|image|> <image|> <|audio> <|audio|> <audio|> <|video|>
"""
SPECIAL = tuple(_SPECIAL.split())
STEP = 5  # of the 0..1000 grid
NUMBERS = tuple(str(n) for n in range(0, 1001, STEP))

BOX_OPEN, BOX_NEXT, SEPARATOR = '[{"box_2d": [', '"}, {"box_2d": [', ", "
POINT_OPEN, POINT_NEXT = '[{"point": [', '"}, {"point": ['
LABEL, CLOSE, NOTHING = '], "label": "', '"}]', "[]"
SCAFFOLD = (NOTHING, CLOSE, LABEL, BOX_OPEN, BOX_NEXT, POINT_OPEN, POINT_NEXT, SEPARATOR)

_WORDS = """
red green blue yellow purple orange black white circle square triangle star circles squares triangles stars object
objects thing things shape shapes one ones something everything all every each the a an and of in on at to is are
was image picture photo scene background plain gradient noisy What What's what Where where Detect detect Find find
Locate locate bounding box boxes for Give give me Show show Point point out Describe describe Caption caption this
Read read text word does say written Write Return return List list with no There there which who how many count
number it as JSON box_2d label two three four five six seven eight nine ten zero please Please can Can you see that
visible mark Mark user model system tool thought call response declaration name description parameters type STRING
OBJECT properties required value city weather temperature get set time date tell Tell about I am My my your The A It
This That be have has had do did will would could should not from by or but if so than then when while into over
under up down left right go stop yes no on off hello Hello world Hi demo Gemma real load small trained said audio
sound speech Transcribe transcribe spoken Translate translate English video frame frames moves moving color colour
size larger smaller biggest smallest big next between above below answer question think Let's first second last
sunny rain cloudy degrees Celsius today tomorrow result add sum plus minus times equals compare same different
cannot sorry know only example from_pretrained Paris London Tokyo Berlin
"""
WORDS = tuple(_WORDS.split())
# Later ones, whose tokens stand at the end, so that those before keep their ids.
_LATER = """
following segment its original language these specific instructions formatting Only output transcription newlines When
transcribing numbers digits i.e instead Which moved move How large Zoom area Answer capital letters more Both Neither
Nothing pixels closely Look shows pictures happens Say only Follow
"""
LATER = tuple(dict.fromkeys(word for word in _LATER.split() if word not in WORDS))


def build() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges."""
    characters = ["▁", "\n", *(chr(code) for code in range(33, 127))]
    numbers = {*NUMBERS, *(str(n) for n in range(10, 100))}
    merges: list[tuple[str, str]] = []
    for number in sorted((n for n in numbers if len(n) > 1), key=lambda n: (len(n), n)):
        splits = [(number[:cut], number[cut:]) for cut in range(1, len(number))]
        merges += [pair for pair in splits if all(part in numbers or len(part) == 1 for part in pair)]

    # merges that many words have in common, then whatever joins the rest of each word
    words = [form for word in WORDS for form in (word, "▁" + word)]
    trainer = BpeTrainer(vocab_size=97 + 330, min_frequency=3, initial_alphabet=characters, show_progress=False)
    shared = Tokenizer(BPE())
    shared.train_from_iterator((word for word in words if not any(c.isdigit() for c in word)), trainer)
    shared_merges = [tuple(merge) for merge in _merges_of(shared)]
    merges += [merge for merge in shared_merges if not _crosses(merge)]
    tokens = list(dict.fromkeys([*characters, *sorted(numbers), *("".join(merge) for merge in merges)]))
    later = [form for word in LATER for form in (word, "▁" + word)]
    for text in [*words, *(piece.replace(" ", "▁") for piece in SCAFFOLD), *later]:
        pieces = _encode(tokens, merges, text)
        joined = pieces[0]
        for piece in pieces[1:]:
            merges.append((joined, piece))
            joined += piece
            tokens.append(joined)
    ordered = [*SPECIAL, *NUMBERS, *(f"<0x{byte:02X}>" for byte in range(256))]
    ordered += [token for token in dict.fromkeys(tokens) if token not in set(ordered)]
    return {token: index for index, token in enumerate(ordered)}, merges


def _crosses(merge: tuple[str, str]) -> bool:
    """Whether a merge would join the end of one word to the next one's space."""
    return merge[1].startswith("▁") or (merge[0] != "▁" and "▁" in merge[0][1:])


def _merges_of(tokenizer: Tokenizer) -> list[list[str]]:
    import json

    return json.loads(tokenizer.to_str())["model"]["merges"]


def _encode(tokens: list[str], merges: list[tuple[str, str]], text: str) -> list[str]:
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return Tokenizer(BPE(vocab=vocabulary, merges=merges)).encode(text).tokens


def save(directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers' GemmaTokenizer does."""
    from transformers import GemmaTokenizer

    vocabulary, merges = build()
    tokenizer = GemmaTokenizer(
        vocab=vocabulary,
        merges=merges,
        model_max_length=4096,
        model_specific_special_tokens={
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
            "video_token": "<|video|>",
            "sot_token": "<|turn>",
            "eot_token": "<turn|>",
            "soc_token": "<|channel>",
            "eoc_token": "<channel|>",
            "think_token": "<|think|>",
            "std_token": "<|tool>",
            "etd_token": "<tool|>",
            "stc_token": "<|tool_call>",
            "etc_token": "<tool_call|>",
            "str_token": "<|tool_response>",
            "etr_token": "<tool_response|>",
            "escape_token": '<|"|>',
        },
    )
    tokenizer.save_pretrained(directory)
