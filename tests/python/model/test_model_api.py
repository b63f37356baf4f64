"""`Model`: what it is, what its methods take and give, threads and pickles."""

from __future__ import annotations

import gc
import inspect
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import DetectionParseError, Detections, Points, RequestError
from gemma4.answer import GenerationResult
from gemma4.tasks import vision
from PIL import Image
from scripted import answers_instead

GREEDY = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
PICTURE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


# -- what it is --------------------------------------------------------------------------------------------------------


def test_signatures_are_the_contract_s() -> None:
    def names(function: Any) -> list[str]:
        return [name for name in inspect.signature(function).parameters if name != "self"]

    assert names(gemma4.Model.from_pretrained) == [
        "source", "dtype", "resize", "kv_cache", "cache_bytes", "max_context", "num_threads", "mmproj", "adapter",
        "drafter", "revision",
    ]  # fmt: skip
    generate = [
        "messages", "images", "audio", "video", "max_new_tokens", "temperature", "top_k", "top_p", "min_p",
        "repetition_penalty", "seed", "stop", "thinking", "tools", "response_format", "max_soft_tokens", "logprobs",
        "ignore_eos", "repetition_guard", "adapter", "do_sample", "min_new_tokens", "suppress_tokens",
        "begin_suppress_tokens", "bad_words_ids", "no_repeat_ngram_size", "stop_strings", "max_tokens",
    ]  # fmt: skip
    assert names(gemma4.Model.generate) == [*generate[:4], "on_error", *generate[4:]]
    assert names(gemma4.Model.agenerate) == names(gemma4.Model.astream) == generate
    assert names(gemma4.Model.stream) == generate


def test_lazy_package() -> None:
    import subprocess
    import sys

    code = (
        "import sys, gemma4; heavy = {'numpy', 'PIL', 'tokenizers', 'jinja2', 'gemma4._core'} & set(sys.modules); "
        "assert not heavy, heavy; dir(gemma4); gemma4.Detections"
    )
    root = Path(gemma4.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(root), "PATH": ""}, timeout=120)
    for name in gemma4.__all__:
        assert getattr(gemma4, name) is not None
    assert set(gemma4.__all__) <= set(dir(gemma4))
    with pytest.raises(AttributeError, match="nonsense"):
        gemma4.nonsense  # noqa: B018


def test_cpu_info() -> None:
    info = gemma4.cpu_info()
    assert set(info) == {"isa", "supported", "features", "threads"}
    assert info["isa"] in info["supported"]
    assert "scalar" in info["supported"]
    assert info["threads"] >= 1


def test_properties(gemma4_model: Any) -> None:
    assert gemma4_model.config["model_type"] == "gemma4"
    with pytest.raises(TypeError):
        gemma4_model.config["model_type"] = "x"
    assert {"text", "image"} <= gemma4_model.modalities
    assert gemma4_model.context_length == gemma4_model.config["text_config"]["max_position_embeddings"]
    assert "demo" in repr(gemma4_model)
    assert " at 0x" not in repr(gemma4_model)
    assert repr(gemma4_model.tokenizer).startswith("<gemma4.Tokenizer")
    vocab = gemma4_model.config["text_config"]["vocab_size"]
    embedding = gemma4_model.tensors["model.language_model.embed_tokens.weight"]
    assert embedding.shape == (vocab, gemma4_model.config["text_config"]["hidden_size"])
    assert not embedding.flags.writeable
    assert len(gemma4_model.tensors) == len(list(gemma4_model.tensors)) > 50
    with pytest.raises(RequestError, match="from_pretrained"):
        gemma4.Model()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"kv_cache": "int1"}, "kv_cache"),
        ({"kv_cache": None}, "kv_cache"),
        ({"max_context": 0}, "max_context"),
        ({"max_context": True}, "max_context"),
        ({"max_context": 10**9}, "max_context"),
        ({"max_context": "4k"}, "max_context"),
        ({"num_threads": 0}, "num_threads"),
        ({"num_threads": -1}, "num_threads"),
        ({"num_threads": 10**6}, "num_threads"),
        ({"num_threads": 1.5}, "num_threads"),
        ({"num_threads": True}, "num_threads"),
        ({"adapter": 3}, "adapter"),
        ({"drafter": 3}, "drafter"),
        ({"revision": 3}, "revision"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        gemma4.Model.from_pretrained("demo", **arguments)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_forward(gemma4_model: Any) -> None:
    vocab = gemma4_model.config["text_config"]["vocab_size"]
    inputs = gemma4_model.prepare("What is this?")
    logits = gemma4_model.forward(inputs)
    assert logits.dtype == np.float32
    assert logits.shape == (len(inputs), vocab)
    last = np.array(gemma4_model.forward(inputs, last_only=True))
    assert last.shape == (1, vocab)
    assert np.allclose(last[0], np.array(logits)[-1], atol=1e-4)
    for way in (
        inputs.input_ids,
        inputs.input_ids.tolist(),
        tuple(inputs.input_ids),
        inputs.input_ids.astype(np.uint16),
    ):
        assert np.array_equal(gemma4_model.forward(way), logits)
    greedy = gemma4_model.generate(inputs, **GREEDY).token_ids[0]
    assert greedy == np.array(logits)[-1].argmax()


def test_encode_image(gemma4_model: Any) -> None:
    hidden = gemma4_model.config["text_config"]["hidden_size"]
    rows = gemma4_model.encode_image(PICTURE, max_soft_tokens=70)
    assert rows.dtype == np.float32
    assert rows.shape[1] == hidden
    assert 0 < rows.shape[0] <= 70
    assert np.isfinite(rows).all()
    wide = gemma4_model.encode_image(PICTURE[::2])
    tall = gemma4_model.encode_image(PICTURE.transpose(1, 0, 2))
    assert wide.shape != tall.shape or not np.array_equal(wide, tall)


def test_pictures_change_the_answer_and_strides_do_not(gemma4_model: Any) -> None:
    def logits(image: Any) -> Any:
        parts = [{"type": "image", "image": image}, {"type": "text", "text": "x"}]
        return np.array(
            gemma4_model.forward(gemma4_model.prepare([{"role": "user", "content": parts}]), last_only=True)
        )

    first = logits(PICTURE)
    assert np.array_equal(first, logits(np.asfortranarray(PICTURE)))
    assert np.array_equal(first, logits(Image.fromarray(PICTURE)))
    assert not np.array_equal(first, logits(255 - PICTURE))
    # Equal bytes in another shape are another picture.
    assert not np.array_equal(first, logits(PICTURE.reshape(160, 120, 3)))


def test_prepared_inputs_can_be_used_again(gemma4_model: Any) -> None:
    inputs = gemma4_model.prepare("What is this?", images=[PICTURE])
    first = gemma4_model.generate(inputs, **GREEDY)
    assert first.token_ids.tolist() == gemma4_model.generate(inputs, **GREEDY).token_ids.tolist()
    assert first.token_ids.tolist() == gemma4_model.generate("What is this?", PICTURE, **GREEDY).token_ids.tolist()
    assert first.usage["image_tokens"] == inputs.images[0].count
    assert pickle.loads(pickle.dumps(inputs)).input_ids.tolist() == inputs.input_ids.tolist()
    for argument in ({"images": [PICTURE]}, {"thinking": True}, {"max_soft_tokens": 70}):
        with pytest.raises(RequestError, match=next(iter(argument))):
            gemma4_model.generate(inputs, **argument)


@pytest.mark.parametrize("tools", [{"tools": [print]}, {"response_format": "json"}])
def test_later_features_are_refused_by_name(gemma4_model: Any, tools: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(tools))):
        gemma4_model.generate("x", **tools)


# -- pickles and threads -----------------------------------------------------------------------------------------------


def test_pickles_as_its_arguments(gemma4_model: Any) -> None:
    model = gemma4.Model.from_pretrained("demo", kv_cache="f32", max_context=64, num_threads=1)
    data = pickle.dumps(model)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert (again.context_length, again.num_threads) == (64, 1)
    assert again.generate("Hi", **GREEDY).token_ids.tolist() == model.generate("Hi", **GREEDY).token_ids.tolist()
    result = gemma4_model.generate("Hi", **GREEDY)
    assert pickle.loads(pickle.dumps(result)).text == result.text


def test_threads_give_the_same_answers(gemma4_model: Any) -> None:
    prompts = ["Hello", "What is this?", "red circle", "one plus one"]
    alone = [gemma4_model.generate(prompt, **GREEDY).token_ids.tolist() for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: gemma4_model.generate(prompts[i % 4], **GREEDY), range(16)))
    assert [result.token_ids.tolist() for result in results] == alone * 4


def test_models_are_freed() -> None:
    models = [gemma4.Model.from_pretrained("demo") for _ in range(3)]
    references = [weakref.ref(model) for model in models]
    before = threading.active_count()
    models.clear()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert threading.active_count() <= before


# -- skills ------------------------------------------------------------------------------------------------------------


def answer(model: Any, text: str, logprobs: float = -0.05, finish: str = "stop") -> GenerationResult:
    """An answer as the model would give it, every token with the same log-probability."""
    ids = model.tokenizer.encode(text)
    spans, position = [], 0
    for index in ids:
        length = len(model.tokenizer.decode([index]))
        spans.append((position, position + length))
        position += length
    assert position == len(text)
    return GenerationResult(
        text=text, thinking=None, tool_calls=[], token_ids=np.array(ids, np.int32),
        logprobs=np.full(len(ids), logprobs, np.float32), finish_reason=finish, usage={}, timings={}, token_spans=spans,
    )  # fmt: skip


@pytest.fixture
def says(gemma4_model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the model give an answer of the test's choice; returns the requests that it got."""
    requests: list[dict[str, Any]] = []

    def set_answer(text: str, **keywords: Any) -> list[dict[str, Any]]:
        def asked(messages: Any, options: Any) -> GenerationResult:
            requests.append({"messages": messages, **options})
            return answer(gemma4_model, text, **keywords)

        answers_instead(monkeypatch, gemma4_model, asked)
        return requests

    return set_answer


TWO = '[{"box_2d": [100, 200, 500, 600], "label": "red circle"}, {"box_2d": [0, 0, 1000, 1000], "label": "Dog"}]'


def test_detect(gemma4_model: Any, says: Any) -> None:
    requests = says(TWO)
    found = gemma4_model.detect(PICTURE, ["red circle", "dog"], max_soft_tokens=140)
    assert isinstance(found, Detections)
    assert found.labels == ["red circle", "dog"]  # as it was asked for
    assert found[0].box_2d == (100, 200, 500, 600)
    assert found[0].xyxy == (32.0, 12.0, 96.0, 60.0)
    assert found.image_size == (160, 120)
    assert found.raw_text == TWO
    assert all(0 < score < 1 for score in found.scores)
    assert found.image is None and len(pickle.dumps(found)) < 20_000  # the pixels stay where they were
    (request,) = requests
    image, text = request["messages"][0]["content"]
    assert (image["type"], text["text"]) == (
        "image",
        "What are the bounding boxes for the red circle, dog in the image?",
    )
    assert (request["temperature"], request["max_soft_tokens"]) == (0, 140)


def test_detect_in_a_file(gemma4_model: Any, says: Any, tmp_path: Path) -> None:
    """Of a file its name is kept, so that it is drawn on and shown."""
    says(TWO)
    Image.fromarray(PICTURE).save(tmp_path / "a.tiff")
    found = gemma4_model.detect(tmp_path / "a.tiff", ["red circle", "DOG"])
    assert found.image == str(tmp_path / "a.tiff") and found.labels == ["red circle", "DOG"]
    assert np.array_equal(np.asarray(found.draw()), np.asarray(found.draw(PICTURE)))
    assert "<img" in found._repr_html_() and Detections.from_json(found.to_json()) == found


def test_prompts(gemma4_model: Any, says: Any) -> None:
    requests = says("[]")
    for labels, prompt, expected in [
        ("cat", None, "What's the bounding box for the cat in the image?"),
        (["cat"], None, "What's the bounding box for the cat in the image?"),
        ("{} {x}", None, "What's the bounding box for the {} {x} in the image?"),
        (None, None, "Detect all objects in the image."),
        (None, "Where is it?", "Where is it?"),
    ]:
        assert len(gemma4_model.detect(PICTURE, labels, prompt=prompt)) == 0
        assert requests[-1]["messages"][0]["content"][1]["text"] == expected
    assert isinstance(gemma4_model.point(PICTURE, "cat"), Points)
    assert requests[-1]["messages"][0]["content"][1]["text"] == "Point to the cat."
    assert gemma4_model.caption(PICTURE) == "[]"
    assert requests[-1]["messages"][0]["content"][1]["text"] == "Describe the image."
    assert gemma4_model.read(PICTURE) == "[]"
    assert requests[-1]["messages"][0]["content"][1]["text"] == "Read the text in the image."


def test_the_words_are_those_of_the_demo_s_training() -> None:
    import sys

    tools = Path(__file__).parents[3] / "tools" / "demo"
    if not (tools / "prompts.py").exists():
        pytest.skip("the package is tested without its repository")
    sys.path.insert(0, str(tools))
    try:
        import prompts
    finally:
        sys.path.remove(str(tools))
    assert prompts.DETECT_ONE[0].replace("{object}", "{}") == vision.DETECT_ONE
    assert prompts.DETECT_SEVERAL[0].replace("{objects}", "{}") == vision.DETECT_SEVERAL
    assert prompts.DETECT_ALL[0] == vision.DETECT_ALL
    assert prompts.POINT[0].replace("{object}", "{}") == vision.POINT
    assert (prompts.CAPTION[0], prompts.READ[0]) == (vision.CAPTION, vision.READ)


def test_cut_answers(gemma4_model: Any, says: Any) -> None:
    says(TWO[: TWO.index("Dog")], finish="length")
    with pytest.warns(RuntimeWarning, match="cut after"):
        found = gemma4_model.detect(PICTURE, "red circle", max_new_tokens=20)
    assert found.labels == ["red circle"]
    says(TWO[:20], finish="length")
    with pytest.raises(DetectionParseError, match="cut"):
        gemma4_model.detect(PICTURE, "red circle")
    says(TWO[: TWO.index("Dog")], finish="repetition")
    with pytest.warns(RuntimeWarning, match="cut after .* in circles"):
        assert gemma4_model.detect(PICTURE, "red circle").labels == ["red circle"]
    says("A red cir", finish="length")
    with pytest.warns(RuntimeWarning, match="cut"):
        assert gemma4_model.caption(PICTURE, max_new_tokens=3) == "A red cir"


def test_answers_without_boxes(gemma4_model: Any, says: Any) -> None:
    says("I see a circle.")
    with pytest.raises(DetectionParseError) as caught:
        gemma4_model.detect(PICTURE, "cat")
    assert caught.value.raw_text == "I see a circle."


def test_labels_in_capitals(gemma4_model: Any, says: Any) -> None:
    requests = says(TWO)
    assert gemma4_model.detect(PICTURE, ["RED CIRCLE", "dog", "DOG"]).labels == ["RED CIRCLE", "dog"]
    assert "red circle, dog in" in requests[-1]["messages"][0]["content"][1]["text"]


def test_point(gemma4_model: Any, says: Any) -> None:
    says('[{"point": [500, 250], "label": "red circle"}]')
    (place,) = gemma4_model.point(PICTURE, "red circle")
    assert (place.point, place.xy) == ((500, 250), (40.0, 60.0))
    assert 0 < place.score < 1


@pytest.mark.parametrize("labels", ["", "  ", [], [""], ["cat", 3], 3, {"cat": 1}, b"cat", "\ud800", object()])
def test_bad_labels(gemma4_model: Any, labels: Any) -> None:
    with pytest.raises(RequestError, match="label"):
        gemma4_model.detect(PICTURE, labels)


def test_bad_skill_arguments(gemma4_model: Any) -> None:
    with pytest.raises(RequestError, match="label"):
        gemma4_model.point(PICTURE, ["a", "b"])
    with pytest.raises(RequestError, match="label"):
        gemma4_model.point(PICTURE, None)
    with pytest.raises(RequestError, match="max_soft_tokens"):
        gemma4_model.detect(PICTURE, "cat", max_soft_tokens=100)
    with pytest.raises(RequestError, match="prompt"):
        gemma4_model.detect(PICTURE, prompt=3)
