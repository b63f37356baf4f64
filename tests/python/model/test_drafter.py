"""`drafter=`, with drafters of random weights for the bundled model: nothing that it guesses changes an answer."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import ModelFileChanged, ModelFileError, RequestError
from labelled import paint
from numpy.typing import NDArray
from PIL import Image

Arrays = dict[str, NDArray[Any]]
HIDDEN, FFN, HEADS, LAYERS = 24, 40, 4, 4
GROUPS = 233  # of 8 tokens


def config(target: dict[str, Any]) -> dict[str, Any]:
    text = target["text_config"]
    shared = ("vocab_size", "sliding_window", "num_key_value_heads", "head_dim", "global_head_dim")
    return {
        "model_type": "gemma4_assistant",
        "backbone_hidden_size": text["hidden_size"],
        "use_ordered_embeddings": True,
        "num_centroids": GROUPS,
        "centroid_intermediate_top_k": 16,
        "text_config": {
            **{name: text[name] for name in shared},
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_kv_shared_layers": LAYERS,
            "layer_types": [*["sliding_attention"] * (LAYERS - 1), "full_attention"],
            "hidden_size_per_layer_input": 0,
        },
    }


def weights(said: dict[str, Any]) -> Arrays:
    text, random = said["text_config"], np.random.default_rng(5)
    width, vocab = said["backbone_hidden_size"], text["vocab_size"]

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)

    tensors: Arrays = {
        "model.embed_tokens.weight": 8 * matrix(vocab, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
        "pre_projection.weight": matrix(HIDDEN, 2 * width),
        "post_projection.weight": matrix(width, HIDDEN),
        "masked_embedding.centroids.weight": matrix(GROUPS, HIDDEN),
        "masked_embedding.token_ordering": random.permutation(vocab).astype(np.int64),
    }
    for index, kind in enumerate(text["layer_types"]):
        at = f"model.layers.{index}."
        head = text["head_dim" if kind == "sliding_attention" else "global_head_dim"]
        tensors |= {
            at + "self_attn.q_proj.weight": matrix(HEADS * head, HIDDEN),
            at + "self_attn.q_norm.weight": np.full(head, head**-0.25, np.float32),
            at + "self_attn.o_proj.weight": matrix(HIDDEN, HEADS * head),
            at + "mlp.gate_proj.weight": matrix(FFN, HIDDEN),
            at + "mlp.up_proj.weight": matrix(FFN, HIDDEN),
            at + "mlp.down_proj.weight": matrix(HIDDEN, FFN),
            at + "layer_scalar": np.ones(1, np.float32),
        }
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            tensors[f"{at}{norm}_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    return tensors


def write(directory: Path, said: dict[str, Any], tensors: Arrays) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    header, data = {}, b""
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        dtype = {"float32": "F32", "int64": "I64"}[str(array.dtype)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.tobytes()
    head = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    (directory / "config.json").write_text(json.dumps(said), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def plain() -> gemma4.Model:
    return gemma4.Model.from_pretrained("demo", num_threads=2)


@pytest.fixture
def make(plain: gemma4.Model, tmp_path: Path) -> Callable[..., Path]:
    """A drafter's directory, with changes to its config and to its tensors; None takes one out."""

    def make(said: dict[str, Any] | None = None, **changes: Any) -> Path:
        values = config(dict(plain.config))
        tensors = weights(values)
        for name, change in changes.items():
            full = next(known for known in tensors if name in known.replace(".", "_"))
            tensors[full] = None if change is None else change(tensors[full])
        return write(
            tmp_path / "drafter",
            {**values, **(said or {})},
            {name: array for name, array in tensors.items() if array is not None},
        )

    return make


@pytest.fixture
def drafted(make: Callable[..., Path]) -> gemma4.Model:
    return gemma4.Model.from_pretrained("demo", num_threads=2, drafter=make())


def scene() -> Image.Image:
    image = Image.new("RGB", (192, 192), "white")
    paint(image, "red circle", (30, 40, 90, 100))
    paint(image, "blue square", (110, 100, 170, 160))
    return image


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_are_the_same(plain: gemma4.Model, drafted: gemma4.Model, temperature: float) -> None:
    options: dict[str, Any] = dict(max_new_tokens=40, temperature=temperature, seed=1, logprobs=3, ignore_eos=True)
    for question in ("Hello", "What do you see?"):
        expected, got = plain.generate(question, scene(), **options), drafted.generate(question, scene(), **options)
        assert got.token_ids.tolist() == expected.token_ids.tolist()
        assert np.array_equal(got.logprobs, expected.logprobs) and got.top_logprobs == expected.top_logprobs
        assert got.timings["drafted_tokens"] >= got.timings["accepted_tokens"]


def test_with_grammars_lists_streams_and_conversations(plain: gemma4.Model, drafted: gemma4.Model) -> None:
    picture = scene()
    expected = list(map(str, plain.detect(picture)))
    assert list(map(str, drafted.detect(picture))) == expected
    assert [list(map(str, found)) for found in drafted.detect([picture] * 3)] == [expected] * 3
    assert (
        "".join(c.text for c in drafted.stream("Hello", max_new_tokens=9))
        == plain.generate("Hello", max_new_tokens=9).text
    )
    here, there = plain.chat(), drafted.chat()
    for said in ("Hello", "What is red?"):
        assert here.send(said, max_new_tokens=12).text == there.send(said, max_new_tokens=12).text


def test_pickles_as_its_arguments(drafted: gemma4.Model) -> None:
    again = pickle.loads(pickle.dumps(drafted))
    assert again._runtime.drafter is not None
    assert again.generate("Hello", max_new_tokens=6).text == drafted.generate("Hello", max_new_tokens=6).text


def test_dense_head(plain: gemma4.Model, make: Callable[..., Path]) -> None:
    directory = make({"use_ordered_embeddings": False}, masked_embedding_centroids=None, token_ordering=None)
    model = gemma4.Model.from_pretrained("demo", num_threads=2, drafter=directory)
    assert model.generate("Hello", max_new_tokens=20).text == plain.generate("Hello", max_new_tokens=20).text


def damaged(at: int, value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array[at] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pre_projection": None}, "pre_projection.weight"),
        ({"post_projection": lambda a: a[:, 1:].copy()}, "post_projection.weight"),
        ({"layers_3_self_attn_q_proj": lambda a: a[1:].copy()}, "model.layers.3.self_attn.q_proj.weight"),
        ({"token_ordering": None}, "masked_embedding.token_ordering"),
        ({"token_ordering": lambda a: a[1:].copy()}, "masked_embedding.token_ordering"),
        ({"token_ordering": lambda a: a.astype(np.float32)}, "masked_embedding.token_ordering"),
        ({"token_ordering": damaged(5, -1)}, r"masked_embedding.token_ordering\[5\]"),
        ({"token_ordering": damaged(7, 1864)}, r"masked_embedding.token_ordering\[7\]"),
        ({"token_ordering": damaged(7, 1 << 40)}, r"masked_embedding.token_ordering\[7\]"),
        ({"model_norm": damaged(0, float("nan"))}, r"model.norm.weight\[0\]"),
    ],
)
def test_bad_tensors_are_named(make: Callable[..., Path], changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=rf"drafter: .*{named}"):
        gemma4.Model.from_pretrained("demo", drafter=make(**changes))


def test_weights_that_are_not_numbers_only_guess_wrong(plain: gemma4.Model, make: Callable[..., Path]) -> None:
    """Matrices are not looked through: a drafter of NaN gives no guesses, and the answer is the same."""
    directory = make(post_projection=lambda a: a * np.float32("nan"), layers_0_mlp_down=lambda a: a * np.float32("nan"))
    model = gemma4.Model.from_pretrained("demo", num_threads=2, drafter=directory)
    assert model.generate("Hello", max_new_tokens=20).text == plain.generate("Hello", max_new_tokens=20).text


def test_what_is_no_drafter(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="model_type: expected a drafter"):
        gemma4.Model.from_pretrained("demo", drafter="demo")
    with pytest.raises(ModelFileError, match="backbone_hidden_size"):
        gemma4.Model.from_pretrained("demo", drafter=make({"backbone_hidden_size": 64}))
    with pytest.raises(ModelFileError, match="drafter="):
        gemma4.Model.from_pretrained(make())
    with pytest.raises(ModelFileError, match=r"drafter: .*no such"):
        gemma4.Model.from_pretrained("demo", drafter=tmp_path / "nowhere")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=r"drafter: .*GGUF"):
        gemma4.Model.from_pretrained("demo", drafter=tmp_path / "x.gguf")
    whole = gemma4.convert("demo", tmp_path / "whole.gguf", "q8_0").path
    with pytest.raises(ModelFileError, match=r"general\.architecture: expected a drafter"):
        gemma4.Model.from_pretrained("demo", drafter=whole)
    with pytest.raises(RequestError, match="drafter"):
        gemma4.Model.from_pretrained("demo", drafter=3)


def test_a_file_that_changes(make: Callable[..., Path]) -> None:
    directory = make()
    model = gemma4.Model.from_pretrained("demo", num_threads=2, drafter=directory)
    os.utime(directory / "model.safetensors", (1, 1))
    with pytest.raises(ModelFileChanged):
        model.generate("Hello", max_new_tokens=4)
