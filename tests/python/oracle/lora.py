"""Adapters made by PEFT on the reference, and the reference with them merged into its weights.

Knows: peft. Must not know: the engine under test.
"""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from .reference import Reference

COMMON = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# The decoder's: the encoders' linears of these names lie one module deeper, where PEFT does not find them by name.
TEXT = rf".*language_model\.layers\..*\.({'|'.join(COMMON)})"
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def adapted(reference: Reference, directory: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Reference:
    """Saves a random adapter to `directory`; returns the reference with it merged.

    Every matrix of it is far from zero: as PEFT begins, the second one is zero and changes nothing.
    """
    settings = {"r": 16, "lora_alpha": 24, "target_modules": TEXT, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by old names, and warns of targets that we mean
        return _adapted(reference, directory, dtype, settings)


def _adapted(reference: Reference, directory: Path, dtype: torch.dtype, settings: dict[str, Any]) -> Reference:
    model = get_peft_model(copy.deepcopy(reference.model), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            if ".lora_" not in name:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if "magnitude" in name:
                tensor.mul_(1 + 0.2 * noise)
            else:
                # What both make of a vector is a third as long as the vector, or less.
                tensor.copy_(noise * (tensor.shape[1] ** -0.5 if "lora_A" in name else 0.2 * settings["r"] ** -0.5))
            tensor.copy_(tensor.to(dtype))
    model.save_pretrained(directory, save_embedding_layers=False)
    if dtype != torch.float32:
        narrowed(directory / "adapter_model.safetensors", dtype)
    merged = copy.copy(reference)
    # A head that is the embedding table too would take the table with it: PEFT changes the head alone while it runs.
    tied = "lm_head" in settings["target_modules"]
    merged.model = (model.base_model.model if tied else model.merge_and_unload()).eval()
    return merged


def narrowed(path: Path, dtype: torch.dtype) -> None:
    """The file with its tensors in another format."""
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)


def renamed(source: Path, directory: Path, old: str, new: str) -> Path:
    """A copy of an adapter whose tensors are spelled otherwise."""
    from safetensors.torch import load_file, save_file

    directory.mkdir()
    (directory / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    tensors = load_file(source / "adapter_model.safetensors")
    changed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    assert changed.keys() != tensors.keys() and len(changed) == len(tensors)
    save_file(changed, directory / "adapter_model.safetensors")
    return directory
