"""What outside code holds on to: names, entry points, arguments, pickles, and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import gemma4
import pytest
from gemma4.answer import GenerationArguments

NAMES = {
    "Cancelled", "Chat", "Chunk", "ContextLengthError", "Conversion", "Detection", "DetectionParseError", "Detections",
    "Gemma4Error", "GenerationResult", "MediaError", "Model", "ModelFileChanged", "ModelFileError", "OutOfMemoryError",
    "Point", "Points", "PreparedInputs", "RequestError", "Tokenizer", "ToolCallError", "__version__", "boxes",
    "convert", "cpu_info", "detections", "evaluate", "media", "pipeline", "ray", "testing",
}  # fmt: skip
BOXES = {"GRID", "Evaluation", "Match", "evaluate", "from_pixels", "iou", "parse", "parse_points", "to_pixels"}
MODEL = {
    "adapters", "agenerate", "astream", "caption", "chat", "close", "config", "context_length", "detect",
    "encode_audio", "encode_image", "forward", "from_pretrained", "generate", "modalities", "num_threads",
    "parse_response", "point", "prepare", "read", "score", "stream", "tensors", "tokenizer", "transcribe", "translate",
}  # fmt: skip
ARGUMENTS = (
    "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "thinking",
    "tools", "response_format", "max_soft_tokens", "logprobs", "ignore_eos", "repetition_guard", "adapter", "do_sample",
    "min_new_tokens", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "no_repeat_ngram_size",
    "stop_strings", "max_tokens",
)  # fmt: skip
ROOT = Path(gemma4.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(("gemma4", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8") and "demo_model" not in path.parts
)


def test_names() -> None:
    assert set(gemma4.__all__) == NAMES and set(dir(gemma4)) >= NAMES
    assert {name for name in dir(gemma4.Model) if not name.startswith("_")} == MODEL
    assert set(dir(gemma4.boxes)) >= BOXES
    for name in NAMES:
        assert getattr(gemma4, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        gemma4.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize("name", ["generate", "stream", "agenerate", "astream"])
def test_arguments(name: str) -> None:
    """Of a signature, of the type checker's list and of the documentation."""
    given = tuple(inspect.signature(getattr(gemma4.Model, name)).parameters)
    own = ("on_error",) if name == "generate" else ()
    assert given == ("self", "messages", "images", "audio", "video", *own, *ARGUMENTS)
    assert tuple(GenerationArguments.__annotations__) == ARGUMENTS
    described = inspect.getdoc(gemma4.Model.generate) or ""
    assert [name for name in ARGUMENTS if f"\n    {name}: " not in described] == []


def test_an_argument_that_there_is_not(gemma4_model: Any) -> None:
    with pytest.raises(gemma4.RequestError, match="tempreature: no such argument; did you mean temperature"):
        gemma4_model.generate("hi", tempreature=0)


def test_entry_points() -> None:
    points = {(point.group, point.name): point.value for point in metadata.distribution("gemma4").entry_points}
    for value in (points["console_scripts", "gemma4"], points["pytest11", "gemma4"]):
        module, _, name = value.partition(":")
        found = importlib.import_module(module)
        assert not name or callable(getattr(found, name))


def test_a_model_travels(gemma4_model: Any) -> None:
    again = pickle.loads(pickle.dumps(gemma4_model))
    assert again.generate("Hello", max_new_tokens=4).text == gemma4_model.generate("Hello", max_new_tokens=4).text


def test_nothing_is_imported_before_it_is_used() -> None:
    code = "import gemma4, sys; print([m for m in sys.modules if m.startswith('gemma4.') or m == 'numpy'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
