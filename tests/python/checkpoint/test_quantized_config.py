"""`quantization_config`: what is taken, and that everything else is refused by its name before a tensor is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4.checkpoint import resolve
from gemma4.checkpoint.quantized import check

GEMMA = {"quant_method": "gemma", "num_bits": 4, "quantize_embeddings": True, "module_quant_configs": {}}
WEIGHTS = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "strategy": "group",
    "group_size": 32,
    "actorder": None,
    "dynamic": False,
}


def packed(weights: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    one = {"targets": ["Linear"], "input_activations": None, "weights": {**WEIGHTS, **(weights or {})}, **(group or {})}
    base = {"quant_method": "compressed-tensors", "format": "pack-quantized", "kv_cache_scheme": None}
    return {**base, "config_groups": {"group_0": one}, **top}


@pytest.mark.parametrize("found", [GEMMA, packed(), packed({"strategy": "channel", "group_size": None})])
def test_taken(found: dict[str, Any]) -> None:
    assert check({"quantization_config": found}, "config.json")
    assert not check({}, "config.json")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fp8": ({"quant_method": "fp8"}, "fp8"),
    "nvfp4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt NVFP4"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq"),
    "quanto": ({"quant_method": "quanto"}, "quanto"),
    "mlx": ({"bits": 4, "group_size": 64}, "groups as MLX packs them"),
    "no method": ({}, "None"),
    "ct float": (packed(format="float-quantized"), "compressed-tensors float-quantized"),
    "ct nvfp4": (packed(format="nvfp4-pack-quantized"), "compressed-tensors nvfp4-pack-quantized"),
    "ct asymmetric": (packed({"symmetric": False}), "weights.symmetric: compressed-tensors pack-quantized of False"),
    "ct bits": (packed({"num_bits": 8}), "weights.num_bits: compressed-tensors pack-quantized of 8"),
    "ct actorder": (packed({"actorder": "group"}), "weights.actorder: compressed-tensors pack-quantized of group"),
    "ct activations": (packed(group={"input_activations": {"num_bits": 8}}), "quantized activations"),
    "ct cache": (packed(kv_cache_scheme={"num_bits": 8}), "a kv_cache_scheme"),
    "ct transform": (packed(transform_config={"config_groups": {}}), "a transform_config"),
}


@pytest.mark.parametrize("place", ["", "text_config"])
@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_by_name(name: str, place: str) -> None:
    found, kind = REFUSED[name]
    config = {"quantization_config": found}
    with pytest.raises(gemma4.ModelFileError) as error:
        check({place: config} if place else config, "config.json")
    assert f"{kind} is not supported; take the checkpoint in bf16" in str(error.value)
    assert str(error.value).startswith(f"config.json: {place + '.' if place else ''}quantization_config")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3, "quantization_config: expected an object, found an integer"),
        ({**GEMMA, "num_bits": 3}, "num_bits: expected 2, 4 or 8, found 3"),
        ({**GEMMA, "num_bits": True}, "num_bits: expected 2, 4 or 8, found True"),
        ({**GEMMA, "module_quant_configs": {"mlp": 2}}, "module_quant_configs: expected an object of objects"),
        ({**GEMMA, "module_quant_configs": {"mlp": {"num_bits": 16}}}, "num_bits: expected 2, 4 or 8, found 16"),
        (packed(config_groups={}), "config_groups: expected an object of groups"),
        (packed(config_groups={"a": {}}), "config_groups.a.weights: expected an object"),
    ],
)
def test_malformed(found: Any, message: str) -> None:
    with pytest.raises(gemma4.ModelFileError, match=message):
        check({"quantization_config": found}, "config.json")


def _demo(tmp_path: Path, dtype: str) -> Path:
    """The demo model with a tensor whose header says another dtype of the same size."""
    directory = shutil.copytree(resolve("demo"), tmp_path / "copy")
    path = next(directory.glob("*.safetensors"))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = "model.language_model.norm.weight"
    width = {"U8": 1, "F8_E4M3": 1, "I32": 4, "F64": 8}[dtype]
    begin, end = header[name]["data_offsets"]
    header[name].update(dtype=dtype, shape=[(end - begin) // width])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return directory


@pytest.mark.parametrize("dtype", ["U8", "I32", "F8_E4M3", "F64"])
def test_other_dtypes_without_a_config_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(gemma4.ModelFileError, match=f"norm.weight': dtype {dtype} is not supported"):
        gemma4.Model.from_pretrained(_demo(tmp_path, dtype))


def test_refused_before_anything_is_read(tmp_path: Path) -> None:
    directory = shutil.copytree(resolve("demo"), tmp_path / "copy")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "fp8"}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(gemma4.ModelFileError, match="quant_method: fp8 is not supported"):
        gemma4.Model.from_pretrained(directory)
    assert np.isfinite(gemma4.Model.from_pretrained("demo").forward([2, 5])).all()
