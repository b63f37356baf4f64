"""Sound in prompts: places for every clip, the tasks on speech, and models without ears."""

from __future__ import annotations

import base64
import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import MediaError, ModelFileError, RequestError
from gemma4.answer.decoder import GenerationResult
from gemma4.media.mel import token_count
from gemma4.tasks.speech import Segment, Transcript, Translation, transcription_prompt, translation_prompt
from hearing import encoded, tone, write_deaf_model, write_hearing_model
from scripted import answers_instead

GREEDY = {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}
PICTURE = np.full((40, 60, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hearing_model(tmp_path_factory.mktemp("hearing"))


@pytest.fixture(scope="module")
def model(directory: Path) -> Any:
    return gemma4.Model.from_pretrained(directory, num_threads=2)


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return gemma4.Model.from_pretrained(write_deaf_model(tmp_path_factory.mktemp("deaf")))


def turn(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]}]


def runs(model: Any, ids: Any, kind: str) -> list[tuple[int, int]]:
    """[begin, end) of the soft tokens of every medium, after checking what stands around them."""
    config = model.config
    names = {"audio": ("boa_token_id", "audio_token_id", "eoa_token_id"),
             "image": ("boi_token_id", "image_token_id", "eoi_token_id")}[kind]  # fmt: skip
    first, soft, last = (config[name] for name in names)
    found = []
    for begin in np.flatnonzero(np.asarray(ids) == first) + 1:
        end = begin + int(np.argmax(np.asarray(ids[begin:]) != soft))
        assert ids[end] == last
        found.append((int(begin), int(end)))
    assert sum(end - begin for begin, end in found) == int((np.asarray(ids) == soft).sum())
    return found


# -- places ------------------------------------------------------------------------------------------------------------


def test_modalities(model: Any, deaf: Any) -> None:
    assert model.modalities == {"text", "image", "audio", "video"}
    assert deaf.modalities == {"text", "image", "video"}


def test_soft_tokens_are_as_many_as_placeholders(model: Any) -> None:
    sound = tone(16_000)
    for count in [161, 320, 321, 480, 481, 640, 641, 800, 801, 802, 1_121, 3_999, 4_000, 16_000]:
        soft = model.encode_audio(sound[:count])
        assert soft.shape == (token_count(count), model.config["text_config"]["hidden_size"])
        assert np.isfinite(soft).all()
        inputs = model.prepare(turn({"type": "audio", "audio": sound[:count]}, "what"))
        (run,) = runs(model, inputs.input_ids, "audio")
        assert run == (inputs.audio[0].start, inputs.audio[0].start + inputs.audio[0].count)
        assert inputs.audio[0].count == len(soft) == token_count(count)
        assert inputs.audio[0].seconds == count / 16_000


def test_the_longest_clip(model: Any) -> None:
    for count in (479_840, 480_000):
        assert len(model.encode_audio(np.zeros(count, np.float32))) == 750


def test_too_short_to_be_heard(model: Any) -> None:
    """An array without rows where the caller sees it; an error where the sound would vanish in a prompt."""
    for count in (1, 128, 129, 160):
        assert model.encode_audio(tone(count)).shape == (0, model.config["text_config"]["hidden_size"])
        with pytest.raises(MediaError, match="too short"):
            model.generate("What?", audio=tone(count), **GREEDY)


def test_two_sounds_and_a_picture(model: Any) -> None:
    first, second = tone(9_000), tone(20_000)
    content = turn(
        "a", {"type": "audio", "audio": first}, {"type": "image", "image": PICTURE}, "b", {"type": "audio"}, "c"
    )
    inputs = model.prepare(content, audio=(second, 22_050))
    assert [n.count for n in inputs.audio] == [token_count(9_000), token_count(-(-20_000 * 16_000 // 22_050))]
    assert runs(model, inputs.input_ids, "audio") == [(a.start, a.start + a.count) for a in inputs.audio]
    assert runs(model, inputs.input_ids, "image") == [(i.start, i.start + i.count) for i in inputs.images]
    assert inputs.audio[0].start < inputs.images[0].start < inputs.audio[1].start
    logits = model.forward(inputs, last_only=True)
    assert np.isfinite(logits).all()
    swapped = turn(
        "a", {"type": "audio", "audio": second, "sampling_rate": 22_050}, {"type": "image", "image": PICTURE}, "b",
        {"type": "audio", "audio": first}, "c",
    )  # fmt: skip
    assert not np.array_equal(model.forward(model.prepare(swapped), last_only=True), logits)


def test_forms_of_a_part_agree(model: Any, tmp_path: Path) -> None:
    data = encoded(tone(7_000), rate=8_000)
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    parts: list[dict[str, Any]] = [
        {"type": "audio", "audio": data},
        {"type": "audio", "path": str(path)},
        {"type": "audio", "url": f"data:audio/wav;base64,{text}"},
        {"type": "audio", "base64": text},
        {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{text}"}},
        {"type": "audio_url", "audio_url": f"data:audio/wav;base64,{text}"},
    ]
    whole = [model.prepare(turn(part, "hi")) for part in parts]
    whole += [model.prepare("hi", audio=path), model.prepare("hi", audio=[path])]
    whole += [model.prepare(turn({"type": "audio"}, "hi"), audio=data)]
    for inputs in whole:
        assert np.array_equal(inputs.input_ids, whole[0].input_ids)
        assert np.array_equal(inputs.audio[0].frames, whole[0].audio[0].frames)


def test_keyword_puts_sound_between_pictures_and_text(model: Any) -> None:
    inputs = model.prepare("hi", images=PICTURE, audio=[tone(1_000), tone(2_000)])
    ((_, end),) = runs(model, inputs.input_ids, "image")
    sounds = runs(model, inputs.input_ids, "audio")
    assert sounds[0][0] == end + 2
    assert [b - a for a, b in sounds] == [token_count(1_000), token_count(2_000)]
    text = model.tokenizer.decode(inputs.input_ids[sounds[1][1] + 1 :], skip_special=False)
    assert text.startswith("hi")


def test_generate_and_stream_agree(model: Any) -> None:
    sound = tone(8_000)
    whole = model.generate("What is said?", audio=sound, **GREEDY)
    assert "".join(chunk.text for chunk in model.stream("What is said?", audio=sound, **GREEDY)) == whole.text
    prepared = model.prepare("What is said?", audio=sound)
    assert np.array_equal(model.generate(prepared, **GREEDY).token_ids, whole.token_ids)


def test_threads_do_not_matter(model: Any, directory: Path) -> None:
    alone = gemma4.Model.from_pretrained(directory, num_threads=1)
    for count in (161, 4_000, 40_000):
        assert np.array_equal(model.encode_audio(tone(count)), alone.encode_audio(tone(count)))


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_without_ears_every_way_says_so(deaf: Any) -> None:
    sound = tone(4_000)
    data = base64.b64encode(encoded(sound)).decode()
    part = turn({"type": "audio", "audio": sound}, "hi")
    openai = turn({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, "hi")
    for call in (
        lambda: deaf.encode_audio(sound),
        lambda: deaf.transcribe(sound),
        lambda: deaf.transcribe(sound, chunk_seconds=10),
        lambda: deaf.translate(sound, target="English"),
        lambda: deaf.generate("hi", audio=sound),
        lambda: list(deaf.stream("hi", audio=sound)),
        lambda: deaf.prepare(part),
        lambda: deaf.prepare(openai),
    ):
        with pytest.raises(MediaError, match="no audio"):
            call()


def test_too_long_on_every_way(model: Any, tmp_path: Path) -> None:
    sound = np.zeros(480_001, np.float32)
    path = tmp_path / "long.wav"
    path.write_bytes(encoded(sound))
    for way in (sound, path, path.read_bytes()):
        for call in (
            lambda way=way: model.encode_audio(way),
            lambda way=way: model.transcribe(way),
            lambda way=way: model.translate(way),
            lambda way=way: model.generate("hi", audio=[way]),
            lambda way=way: model.prepare(turn({"type": "audio", "audio": way}, "hi")),
        ):
            with pytest.raises(MediaError, match="longer than 30 s"):
                call()


BAD_PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "two sources": ({"type": "audio", "audio": b"x", "path": "y"}, "both given"),
    "unknown field": ({"type": "audio", "audio": b"x", "detail": "low"}, "detail"),
    "no object": ({"type": "input_audio", "input_audio": "x"}, "input_audio"),
    "no data": ({"type": "input_audio", "input_audio": {"format": "wav"}}, "data"),
    "unknown inner field": ({"type": "input_audio", "input_audio": {"data": "x", "rate": 3}}, "rate"),
    "no url": ({"type": "audio_url"}, "audio_url"),
    "no sound for it": ({"type": "audio"}, "carry no sound"),
    "a rate that is no number": ({"type": "audio", "audio": [0.0] * 999, "sampling_rate": "x"}, "sampling_rate"),
}


@pytest.mark.parametrize("name", BAD_PARTS)
def test_bad_parts(name: str, model: Any) -> None:
    part, expected = BAD_PARTS[name]
    with pytest.raises(RequestError, match=expected):
        model.prepare(turn(part, "hi"))


def test_more_sounds_than_places(model: Any) -> None:
    with pytest.raises(RequestError, match="audio: 1 audio parts carry no sound, 2 were given"):
        model.prepare(turn({"type": "audio"}, "hi"), audio=[tone(1_000), tone(1_000)])
    with pytest.raises(RequestError, match="placeholders"):
        model.forward([2, model.config["audio_token_id"]])


def test_typed_placeholders_are_text(model: Any) -> None:
    inputs = model.prepare(turn({"type": "audio", "audio": tone(1_000)}, "<|audio|> <|audio> <audio|>"))
    assert len(runs(model, inputs.input_ids, "audio")) == 1


def test_broken_configs(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "hidden_act": "gelu", "hidden_size": 25, "num_attention_heads": 5, "subsampling_conv_channels": [128],
        "attention_context_left": 1, "attention_chunk_size": 0, "conv_kernel_size": 0, "output_proj_dims": "x",
        "use_clipped_linears": 1, "attention_logit_cap": 0, "attention_invalid_logits_value": 1e-9,
        "num_hidden_layers": 2,
    }  # fmt: skip
    for index, (name, value) in enumerate(fields.items()):
        directory = write_hearing_model(tmp_path / str(index), **{name: value})
        with pytest.raises(
            ModelFileError, match="hidden_size" if "heads" in name else "missing" if "layers" in name else name
        ):
            gemma4.Model.from_pretrained(directory)


def test_front_end_must_fit(tmp_path: Path) -> None:
    directory = write_hearing_model(tmp_path / "model")
    path = directory / "processor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "feature_extractor": {"feature_size": 80}}))
    with pytest.raises(ModelFileError, match="feature_size"):
        gemma4.Model.from_pretrained(directory)
    path.write_text(json.dumps({name: value for name, value in settings.items() if name != "feature_extractor"}))
    assert "audio" in gemma4.Model.from_pretrained(directory).modalities  # as converted checkpoints are


# -- speech ------------------------------------------------------------------------------------------------------------


class Scripted:
    """Answers of `model.generate` from a list, and what was asked."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch, answers: list[str], reason: str = "stop") -> None:
        self.asked: list[Any] = []
        self._answers: Iterator[str] = iter(answers)
        self._reason = reason
        answers_instead(monkeypatch, model, self._answer)

    def _answer(self, messages: Any, options: dict[str, Any]) -> GenerationResult:
        self.asked.append((messages, options))
        return GenerationResult(
            text=next(self._answers), thinking=None, tool_calls=[], token_ids=np.zeros(3, np.int32), logprobs=None,
            finish_reason=self._reason, usage={}, timings={}, token_spans=[],
        )  # fmt: skip


def test_prompts() -> None:
    assert transcription_prompt("de").startswith(
        "Transcribe the following speech segment in German into German text.\n\n"
    )
    assert transcription_prompt().startswith("Transcribe the following speech segment in its original language. Follow")
    assert transcription_prompt("German") == transcription_prompt("de")
    assert translation_prompt("fr", "en").endswith("'English: ', then the translation in English.")
    for bad in ("", "xx", 3, "a\nb", "x" * 80):
        with pytest.raises(RequestError, match="language"):
            transcription_prompt(bad)


def test_transcribe(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(model, monkeypatch, [" one two\n"])
    said = model.transcribe(tone(24_000), language="en")
    assert said == "one two"
    assert isinstance(said, str)
    assert said.segments == (Segment(0.0, 1.5, "one two"),)
    ((messages, options),) = script.asked
    kinds = [part["type"] for part in messages[0]["content"]]
    assert kinds == ["audio", "text"]
    assert options["temperature"] == 0
    again = pickle.loads(pickle.dumps(said))
    assert again == said and again.segments == said.segments and type(again) is Transcript


def test_transcribe_a_long_sound(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(model, monkeypatch, ["one", "", "three"])
    said = model.transcribe((np.zeros(8_000 * 70, np.int16), 8_000), chunk_seconds=30)
    assert said == "one three"
    assert [(s.start, s.end, s.text) for s in said.segments] == [(0, 30, "one"), (30, 60, ""), (60, 70, "three")]
    heard = [messages[0]["content"][0]["audio"] for messages, _ in script.asked]
    assert [len(samples) for samples in heard] == [480_000, 480_000, 160_000]


def test_translate(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted(model, monkeypatch, ["Guten Tag.\nEnglish: Good day."])
    meant = model.translate(tone(24_000), source="de", target="en")
    assert (meant, meant.transcription) == ("Good day.", "Guten Tag.")
    assert isinstance(meant, Translation)
    Scripted(model, monkeypatch, ["Good day."])
    with pytest.warns(RuntimeWarning, match="no line that begins with 'English: '"):
        assert model.translate(tone(24_000)) == "Good day."


def test_a_cut_transcript_warns(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted(model, monkeypatch, ["one two"], reason="length")
    with pytest.warns(RuntimeWarning, match="max_new_tokens"):
        model.transcribe(tone(24_000))


def test_transcribe_for_real(model: Any) -> None:
    """Random ears understand nothing, but the whole path runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an answer of one token is cut, unless it is empty
        said = model.transcribe(tone(32_000), chunk_seconds=1, max_new_tokens=1)
    assert [(s.start, s.end) for s in said.segments] == [(0.0, 1.0), (1.0, 2.0)]
