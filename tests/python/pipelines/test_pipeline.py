"""gemma4.pipeline against transformers' pipelines: forms on tiny random models, texts on the bundled one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
import reference_pipelines as reference
import soundfile
import torch
from gemma4 import MediaError, RequestError
from gemma4.pipelines.prompts import Written, continued, prepare_written
from PIL import Image
from reference_pipelines import call, form

ROOT = Path(__file__).parents[3]
SHAPES = ROOT / "examples" / "shapes.png"
SPEECH = sorted((ROOT / "tests" / "python" / "data" / "speech").glob("*.flac"))
LABELS = ["blue square", "blue circle", "yellow star"]


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A dataset as torch has them."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.open(SHAPES).convert("RGB")


@pytest.fixture(scope="module")
def small(picture: Image.Image) -> Image.Image:
    return picture.resize((96, 64))


def pipe_of(model: Any, task: str, **options: Any) -> Any:
    return gemma4.pipeline(task, model, **options)


# -- boxes -------------------------------------------------------------------------------------------------------------


def test_object_detection_has_the_form_of_the_references(gemma4_model: Any, picture: Image.Image) -> None:
    theirs, ours = reference.detector(), pipe_of(gemma4_model, "object-detection")
    for inputs in (picture, str(SHAPES), [picture, picture], [picture]):
        expected = form(call(theirs, inputs, threshold=0.0))
        assert expected and form(call(ours, inputs, threshold=0.0)) == expected
    for stream in (lambda: (one for one in [picture, picture]), lambda: Rows([picture, picture, picture])):
        expected = call(theirs, stream(), threshold=0.0)
        found = call(ours, stream(), threshold=0.0, batch_size=2)
        assert len(found) == len(expected) and form(found) == form(expected)
    assert call(ours, images=picture, threshold=0.0) == call(ours, picture, threshold=0.0)
    assert call(ours, picture, threshold=1.0) == call(theirs, picture, threshold=1.0) == []


def test_boxes_are_those_of_detect(gemma4_model: Any, picture: Image.Image) -> None:
    found = gemma4_model.detect(picture, LABELS)
    records = pipe_of(gemma4_model, "zero-shot-object-detection")(picture, candidate_labels=LABELS)
    assert len(records) >= 3
    assert [record["score"] for record in records] == sorted((one.score for one in found), reverse=True)
    by_score = {one.score: one for one in found}
    for record in records:
        one = by_score[record["score"]]
        assert record["label"] == one.label
        assert [record["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")] == [int(edge) for edge in one.xyxy]


def test_zero_shot_has_the_form_of_the_references(gemma4_model: Any, picture: Image.Image) -> None:
    theirs, ours = reference.zero_shot_detector(), pipe_of(gemma4_model, "zero-shot-object-detection")
    row = {"image": picture, "candidate_labels": LABELS}
    calls: list[tuple[Any, dict[str, Any]]] = [
        (picture, {"candidate_labels": LABELS}),
        (str(SHAPES), {"candidate_labels": "yellow star,blue circle"}),
        (picture, {"text_queries": LABELS}),
        (row, {}),
        ([row, row], {}),
        ([picture, picture], {"candidate_labels": LABELS}),
        ([picture, picture], {"candidate_labels": [LABELS[:1], LABELS[:2]]}),
        (Rows([row, row]), {}),
    ]
    for inputs, options in calls:
        expected, found = (call(pipe, inputs, threshold=0.0, **options) for pipe in (theirs, ours))
        assert expected and form(found) == form(expected), options
        assert [len(one) > 0 for one in found] == [len(one) > 0 for one in expected] or isinstance(found[0], dict)
    scores = [record["score"] for record in ours(picture, candidate_labels=LABELS)]
    assert scores == sorted(scores, reverse=True)
    assert len(ours(picture, candidate_labels=LABELS, top_k=2)) == len(call(theirs, row, threshold=0.0, top_k=2)) == 2
    assert len(ours(picture, candidate_labels=LABELS, top_k=99)) == len(scores)


def test_only_what_was_asked_for_is_named(gemma4_model: Any, picture: Image.Image) -> None:
    ours = pipe_of(gemma4_model, "zero-shot-object-detection", threshold=0.0)
    assert {record["label"] for record in ours(picture, candidate_labels=["dog", "a cat"])} <= {"dog", "a cat"}
    spelled = {record["label"] for record in ours(picture, candidate_labels="blue circle, orange circle")}
    assert spelled == {"blue circle", " orange circle"}  # as transformers splits it
    each = ours([picture, picture], candidate_labels=[["yellow star"], ["blue circle"]])
    assert [{record["label"] for record in records} for records in each] == [{"yellow star"}, {"blue circle"}]


def test_nothing_to_find_and_odd_sizes(gemma4_model: Any) -> None:
    ours = pipe_of(gemma4_model, "zero-shot-object-detection", candidate_labels=["star"])
    assert ours([]) == [] and list(ours(iter([]))) == []
    pictures = [Image.new("RGB", size, "white") for size in ((1, 1), (7, 300), (333, 9))]
    found = ours(pictures)
    assert len(found) == 3
    for picture, records in zip(pictures, found, strict=True):
        for record in records:  # invented ones, too, are inside
            box = record["box"]
            assert (
                0 <= box["xmin"] <= box["xmax"] <= picture.width and 0 <= box["ymin"] <= box["ymax"] <= picture.height
            )


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (SHAPES, {}, "candidate_labels: missing"),
        (SHAPES, {"candidate_labels": []}, "none of them empty"),
        (SHAPES, {"candidate_labels": ["cat", " "]}, "none of them empty"),
        (SHAPES, {"candidate_labels": ["cat"], "threshold": 2}, "threshold: expected 0 to 1"),
        (SHAPES, {"candidate_labels": ["cat"], "top_k": -1}, "top_k"),
        (SHAPES, {"candidate_labels": ["cat"], "treshold": 0.5}, "did you mean threshold"),
        ([SHAPES, SHAPES], {"candidate_labels": [["cat"]]}, "1 lists for 2 pictures"),
        ({"picture": SHAPES}, {"candidate_labels": ["cat"]}, "found \\['picture'\\]"),
        (SHAPES, {"candidate_labels": ["cat"], "batch_size": 0}, "batch_size: expected 1"),
    ],
)
def test_bad_calls_of_detectors(gemma4_model: Any, inputs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        pipe_of(gemma4_model, "zero-shot-object-detection")(inputs, **options)


def test_a_picture_that_is_none(gemma4_model: Any, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.png"):
        pipe_of(gemma4_model, "object-detection")(str(tmp_path / "nowhere.png"))


# -- texts -------------------------------------------------------------------------------------------------------------


def asked(picture: Any, question: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}, *more]


def chats_of(picture: Image.Image) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Calls that both pipelines of texts take."""
    chat = asked(picture, "What is in the image?")
    prefilled = asked(picture, "What is in the image?", {"role": "assistant", "content": []})
    prefilled[-1]["content"] = [{"type": "text", "text": "There is"}]
    yield (), {"text": chat}
    yield (), {"text": chat, "return_full_text": False}
    yield (), {"text": [chat, prefilled], "return_full_text": False}
    yield (), {"text": chat, "return_full_text": False, "skip_special_tokens": False, "max_new_tokens": 40}
    yield (), {"text": chat, "generate_kwargs": {"max_new_tokens": 3}, "max_new_tokens": None}
    yield (), {"text": chat, "stop_sequence": "yellow", "return_full_text": False}
    yield (), {"text": prefilled}
    yield (), {"text": "Hello"}
    yield (), {"text": ["Hello", "Hi"], "return_full_text": False}
    yield (), {"text": "<|image|>Describe", "images": picture}
    yield (), {"text": "<|image|>Describe <|image|>", "images": [picture, picture.transpose(Image.Transpose.ROTATE_90)]}
    yield (), {"text": ["<|image|>Describe", "<|image|>Count"], "images": [[picture], [picture]]}


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_texts_are_the_references(gemma4_model: Any, small: Image.Image, task: str) -> None:
    """Greedy answers of one checkpoint, word for word, with all that is around them."""
    model = gemma4.Model.from_pretrained("demo", kv_cache="f32")
    theirs, ours = reference.demo(task), pipe_of(model, task, max_new_tokens=6)
    for args, options in chats_of(small):
        expected = call(theirs, *args, **{"max_new_tokens": 6, **options})
        assert call(ours, *args, **options) == expected, options


def test_forms_of_one_input(gemma4_model: Any, small: Image.Image) -> None:
    theirs, ours = reference.demo("image-text-to-text"), pipe_of(gemma4_model, "image-text-to-text", max_new_tokens=2)
    chat, row = asked(small, "What is in the image?"), {"images": small, "text": "<|image|>Describe"}
    for given in (lambda: chat, lambda: row, lambda: (one for one in [chat, chat]), lambda: (one for one in chat)):
        assert call(ours, given()) == call(theirs, given(), max_new_tokens=2)
    assert ours(text=chat) == ours(chat)
    assert ours([row, row]) == [ours(row)] * 2
    assert ours([]) == []


def test_token_ids(gemma4_model: Any, small: Image.Image) -> None:
    theirs, ours = reference.demo("any-to-any"), pipe_of(gemma4_model, "any-to-any")
    chat = asked(small, "What is in the image?")
    (expected,) = call(theirs, text=chat, max_new_tokens=4, return_tensors=True)
    (found,) = ours(text=chat, max_new_tokens=4, return_tensors=True)
    assert found["input_text"] == chat
    assert found["generated_token_ids"].tolist() == expected["generated_token_ids"].tolist()


def test_a_sound_and_a_video(gemma4_model: Any, small: Image.Image) -> None:
    ours = pipe_of(gemma4_model, "any-to-any", max_new_tokens=6)
    samples, _ = soundfile.read(SPEECH[0], dtype="float32")
    expected = call(reference.demo("any-to-any"), "<|audio|>Transcribe", audio=samples, max_new_tokens=6)
    assert ours("<|audio|>Transcribe", audio=samples) == expected
    frames = ([small, small.rotate(90)], [0.0, 61.0])
    text = "<|video|> and <|image|> end"
    ours(text, videos=frames, images=small)  # both are found again where they belong
    inputs = prepare_written(gemma4_model, Written(text, small, None, frames), None)
    (clip,), (image,) = inputs.video, inputs.images
    written = gemma4_model.tokenizer.decode(inputs.input_ids, skip_special=False)
    soft = "<|video|>" * clip.frames[0].count, "<|image|>" * image.count
    turned = "<|video|>" * clip.frames[1].count
    assert written == (
        f"00:00 <|image>{soft[0]}<image|> 01:01 <|image>{turned}<image|> and <|image>{soft[1]}<image|> end"
    )
    for medium in (*clip.frames, image):
        run = inputs.input_ids[medium.start : medium.start + medium.count]
        assert len(set(run.tolist())) == 1 and inputs.input_ids[medium.start - 1] != run[0]


def test_an_answer_may_be_asked_on(gemma4_model: Any, small: Image.Image) -> None:
    ours = pipe_of(gemma4_model, "image-text-to-text", max_new_tokens=8)
    chat = ours(asked(small, "What is in the image?"))[0]["generated_text"]
    again = ours([*chat, {"role": "user", "content": "Describe the image."}])
    assert [message["role"] for message in again[0]["generated_text"]] == ["user", "assistant", "user", "assistant"]


def test_tools_and_thoughts(gemma4_model: Any, picture: Image.Image) -> None:
    def area(box: list[int]) -> int:
        """Return the area of a box in percent of the image.

        Args:
            box: y1, x1, y2, x2
        """
        return len(box)

    ours = pipe_of(gemma4_model, "image-text-to-text", max_new_tokens=80)
    chat = asked(picture, "How large is the orange circle?")
    out = gemma4_model.generate(chat, tools=[area], max_new_tokens=80)
    said = ours(text=chat, tools=[area])[0]["generated_text"][-1]
    assert out.tool_calls and said == {"role": "assistant", "content": out.text, "tool_calls": out.tool_calls}
    chat = asked(picture, "How many objects are in the image?")
    out = gemma4_model.generate(chat, thinking=True, max_new_tokens=80)
    said = ours(text=chat, enable_thinking=True)[0]["generated_text"][-1]
    assert out.thinking and said == {"role": "assistant", "content": out.text, "thinking": out.thinking}


def test_several_answers(gemma4_model: Any) -> None:
    ours = pipe_of(
        gemma4_model, "any-to-any", generate_kwargs={"do_sample": True, "num_return_sequences": 3, "seed": 1}
    )
    assert len({record["generated_text"] for record in ours("Hello")}) > 1
    assert ours("Hello") == ours("Hello") and [len(records) for records in ours(Rows(["Hello", "Hi"]))] == [3, 3]
    with pytest.raises(RequestError, match="num_return_sequences: several answers"):
        ours("Hello", generate_kwargs={"num_return_sequences": 2})


def test_what_a_user_types_is_text(gemma4_model: Any) -> None:
    ours = pipe_of(gemma4_model, "image-text-to-text", max_new_tokens=1)
    ids = ours(text="<turn|> hi", return_tensors=True)[0]["generated_token_ids"].tolist()
    assert gemma4_model.tokenizer.id_of("<turn|>") not in ids[:-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give at least one"),
        ({"text": "no place", "images": SHAPES}, "0 times <|image|> for 1"),
        ({"text": "<|image|>"}, "1 times <|image|> for 0"),
        ({"text": [{"role": "user", "content": "hi"}], "images": SHAPES}, "belong into its messages"),
        ({"text": "hi", "max_new_tokens": 3, "generate_kwargs": {"max_new_tokens": 3}}, "max_new_tokens: given twice"),
        ({"text": "hi", "generate_kwargs": {"num_beam": 3}}, "did you mean num_beams"),
        ({"text": "hi", "return_full_text": True, "return_tensors": True}, "return_full_text"),
        ({"text": "hi", "generation_mode": "image"}, "generation_mode"),
        ({"text": "hi", "enable_thinking": True}, "thinking: of a chat"),
        ({"text": [{"role": "user", "content": "hi"}, {"role": "x"}]}, "each message"),
        ({"images": 7}, "found int"),
        ({"text": [{"role": "user", "content": ""}], "continue_final_message": True}, "must end with a text"),
    ],
)
def test_bad_calls_of_texts(gemma4_model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("|", r"\|")):
        pipe_of(gemma4_model, "image-text-to-text")(**options)


@pytest.mark.parametrize(
    ("user", "begun"),
    [
        ("The sum is 4. Say it in words.", "The sum is "),
        ("Price: 20 euros. Repeat.", "Price: "),
        ("Which word?", "model"),  # stands behind it, too
        ("And?", " a b "),
    ],
)
def test_the_last_message_goes_on(gemma4_model: Any, user: str, begun: str) -> None:
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": begun}]
    ids = continued(gemma4_model, chat).input_ids
    text = gemma4_model.tokenizer.decode(ids, skip_special=False)
    assert text.endswith(f"<|turn>model\n{begun.strip()}")
    assert user in text


def test_a_thought_is_no_part_of_what_a_stop_string_ends(gemma4_model: Any) -> None:
    question = {"type": "text", "text": "How many circles are there?"}
    chat = [{"role": "user", "content": [{"type": "image", "image": SHAPES}, question]}]
    pipe = pipe_of(gemma4_model, "image-text-to-text")
    plain, stopped = (
        pipe(text=chat, enable_thinking=True, return_full_text=False, **options)[0]["generated_text"]
        for options in ({}, {"stop_sequence": "zzz"})
    )
    assert stopped == plain and "thought" not in stopped


def test_settings_that_say_nothing(gemma4_model: Any) -> None:
    assert gemma4.pipeline("image-text-to-text", "demo", revision=None, processor_kwargs=None)
    pipe = pipe_of(gemma4_model, "image-text-to-text")
    with pytest.raises(RequestError, match="seed: expected"):
        pipe(text="hi", generate_kwargs={"seed": "a"})
    with pytest.raises(RequestError, match="images_kwargs: expected a dict"):
        pipe(text="hi", processor_kwargs={"images_kwargs": 3})


# -- speech ------------------------------------------------------------------------------------------------------------


def test_speech_has_the_form_of_the_references(gemma4_model: Any, tmp_path: Path) -> None:
    theirs, ours = reference.recognizer(tmp_path), pipe_of(gemma4_model, "automatic-speech-recognition")
    samples, rate = soundfile.read(SPEECH[0], dtype="float32")
    assert rate == 16_000
    calls: list[Any] = [
        samples, {"raw": samples, "sampling_rate": rate}, {"array": samples, "sampling_rate": rate, "path": "x"},
        [samples, samples], [{"raw": samples, "sampling_rate": rate, "id": 7}], Rows([samples, samples]),
    ]  # fmt: skip
    for given in calls:
        copied = [dict(given)] if isinstance(given, dict) else [given]  # the reference takes dicts apart
        copied = [[dict(one) for one in given]] if isinstance(given, list) and isinstance(given[0], dict) else copied
        assert form(call(ours, given)) == form(call(theirs, *copied))
    with_times = call(theirs, samples, return_timestamps="word")
    found = call(ours, samples, return_timestamps=True)
    assert found.keys() == with_times.keys()
    assert found["chunks"][0].keys() == with_times["chunks"][0].keys()
    assert all(isinstance(time, float) for time in found["chunks"][0]["timestamp"])


def test_what_is_said(gemma4_model: Any) -> None:
    ours = pipe_of(gemma4_model, "automatic-speech-recognition")
    expected = [str(gemma4_model.transcribe(path)) for path in SPEECH]
    assert expected[0] and [record["text"] for record in ours([str(path) for path in SPEECH])] == expected
    assert ours(SPEECH[0].read_bytes()) == {"text": expected[0]}
    samples, rate = soundfile.read(SPEECH[0], dtype="float32")
    assert ours({"raw": samples.repeat(3), "sampling_rate": 3 * rate})["text"] == expected[0]
    assert ours((samples, rate)) == {"text": expected[0]}


def test_a_long_sound_is_heard_to_its_end(gemma4_model: Any) -> None:
    samples, rate = soundfile.read(SPEECH[0], dtype="float32")
    long = np.concatenate([samples, np.zeros(31 * rate, np.float32), samples])
    found = pipe_of(gemma4_model, "automatic-speech-recognition")(long, return_timestamps=True)
    assert [chunk["timestamp"][0] for chunk in found["chunks"]] == [0.0, 30.0]
    assert found["chunks"][-1]["timestamp"][1] == pytest.approx(len(long) / rate)
    assert "".join(chunk["text"] for chunk in found["chunks"]) == found["text"]
    halves = pipe_of(gemma4_model, "automatic-speech-recognition", chunk_length_s=20)(long, return_timestamps=True)
    assert len(halves["chunks"]) == 2


def test_whispers_arguments(gemma4_model: Any) -> None:
    ours = pipe_of(gemma4_model, "automatic-speech-recognition")
    expected = {"text": str(gemma4_model.transcribe(SPEECH[0], "English"))}
    for language in ("en", "english", "<|en|>", "English"):
        assert ours(SPEECH[0], generate_kwargs={"language": language, "task": "transcribe"}) == expected
    with pytest.warns(RuntimeWarning, match="num_beams"):
        ours(SPEECH[0], generate_kwargs={"num_beams": 5})
    with pytest.warns(RuntimeWarning, match="stride_length_s"):
        ours(SPEECH[0], chunk_length_s=10, stride_length_s=2)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (SPEECH[0], {"return_timestamps": "word"}, "words have no times"),
        (SPEECH[0], {"return_language": True}, "return_language"),
        (SPEECH[0], {"chunk_length_s": 31}, "chunk_length_s: expected 1 to 30"),
        (SPEECH[0], {"generate_kwargs": {"task": "sing"}}, "'sing'"),
        (SPEECH[0], {"generate_kwargs": {"temperature": 1.0}}, "greedy"),
        ({"array": [0.0] * 800}, {}, "sampling_rate"),
        ({"raw": np.zeros(800, np.float32), "sampling_rate": 16_000, "stride": (1, 1)}, {}, "stride"),
        ([0.0, 0.5], {}, "found numbers"),
    ],
)
def test_bad_calls_of_speech(gemma4_model: Any, given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        pipe_of(gemma4_model, "automatic-speech-recognition")(given, **options)


# -- the factory -------------------------------------------------------------------------------------------------------


def test_arguments_of_transformers_that_mean_nothing_here() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = gemma4.pipeline(
            "object-detection", "demo", device="cpu", device_map="auto", dtype="auto", trust_remote_code=True,
            tokenizer="demo", num_workers=4, model_kwargs={"num_threads": 1}, kv_cache="f32",
        )  # fmt: skip
        assert pipe.model.num_threads == 1 and pipe.tokenizer.vocab_size > 1000 and "object-detection" in repr(pipe)
        gemma4.pipeline("image-text-to-text", device=torch.device("cpu"), device_map={"": "cpu"})
    for name, value in {
        "device": 0, "device_map": "cuda", "torch_dtype": torch.float16, "dtype": "float32", "processor": object(),
        "attn_implementation": "sdpa",
    }.items():  # fmt: skip
        with pytest.warns(RuntimeWarning, match=name):
            gemma4.pipeline("object-detection", "demo", **{name: value})
    with pytest.warns(RuntimeWarning, match="torch_dtype"):
        gemma4.pipeline("object-detection", "demo", model_kwargs={"torch_dtype": torch.bfloat16})


def test_weights_in_another_format() -> None:
    pipe = gemma4.pipeline("any-to-any", dtype="bf16")
    assert isinstance(pipe("Hello", max_new_tokens=1)[0]["generated_text"], str)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "fill-mask"}, "task: expected one of object-detection"),
        ({"task": None}, "task: expected one of"),
        ({"task": "any-to-any", "model": 3}, "model: expected a path"),
        ({"task": "any-to-any", "token": "hf_x"}, "HF_TOKEN"),
        ({"task": "any-to-any", "quantization_config": {}}, "q4_0"),
        ({"task": "any-to-any", "model_kwargs": {"max_memory": {}}}, "max_memory"),
        ({"task": "any-to-any", "model_kwargs": {"dtype": "f32"}, "dtype": "f32"}, "dtype: given twice"),
        ({"task": "any-to-any", "threshold": 0.5}, "threshold: no such argument"),
        ({"task": "object-detection", "threshold": 7}, "threshold: expected"),
    ],
)
def test_bad_arguments_of_the_factory(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        gemma4.pipeline(**arguments)


def test_a_model_that_is_loaded(gemma4_model: Any) -> None:
    with pytest.raises(RequestError, match="num_threads: the model is loaded already"):
        gemma4.pipeline("any-to-any", gemma4_model, num_threads=1)
    assert gemma4.pipeline("image-to-text", gemma4_model).task == "image-text-to-text"
