"""Random weights at an official shape as a checkpoint in Hugging Face layout: what LiteRT-LM's exporter starts from.

    python benchmarks/make_checkpoint.py e2b OUT_DIRECTORY

BF16, the decoder only, with the names that transformers (which must be installed) gives the tensors. The values are
drawn once and repeated: they have the spread of `make_model.py`, whose GGUF files are what everything else is measured
on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from gemma4.gguf.names import llama_name
from make_model import RandomModel, check_room, spread
from random_tokenizer import write_tokenizer
from shapes import FAMILY, Shape

_POOL = 1 << 22  # values that are drawn
_SHARD = 2 << 30  # bytes of a file, if one tensor is not longer


def tensors(directory: Path) -> dict[str, Shape]:
    """The tensors that transformers expects for the config in a directory; a tied output matrix is not one of them."""
    import torch
    from transformers import AutoConfig, Gemma4ForConditionalGeneration

    with torch.device("meta"):
        model = Gemma4ForConditionalGeneration(AutoConfig.from_pretrained(directory))
    return {name: tuple(t.shape) for name, t in model.state_dict().items() if name != "lm_head.weight"}


def nbytes(shape: Shape) -> int:
    return 2 * math.prod(shape)


def shards(shapes: dict[str, Shape]) -> Iterator[list[str]]:
    """Names of tensors that share a file."""
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if names and size + nbytes(shape) > _SHARD:
            yield names
            names, size = [], 0
        names.append(name)
        size += nbytes(shape)
    yield names


def write(name: str, directory: Path, small: bool = False) -> None:
    """Write a checkpoint into a new directory.

    Raises:
        OSError: the directory exists, or there is not enough room on the disk.
    """
    import torch
    from safetensors.torch import save_file

    model = RandomModel(name, small=small)
    config = {**model.config, "vision_config": None, "audio_config": None, "dtype": "bfloat16"}
    config["architectures"] = ["Gemma4ForConditionalGeneration"]
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(directory, model.vocab)
    shapes = tensors(directory)
    check_room(directory / "model.safetensors", sum(map(nbytes, shapes.values())))
    drawn = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))

    def values(tensor: str, shape: Shape) -> torch.Tensor:
        if len(shape) < 2:
            return torch.ones(shape, dtype=torch.bfloat16)
        count = math.prod(shape)
        return (
            (drawn * spread(llama_name(tensor) or "", shape))
            .bfloat16()
            .repeat(-(-count // _POOL))[:count]
            .reshape(shape)
            .clone()
        )

    index = {}
    for number, names in enumerate(shards(shapes)):
        file = f"model-{number:05d}.safetensors"
        save_file({tensor: values(tensor, shapes[tensor]) for tensor in names}, directory / file, {"format": "pt"})
        index.update(dict.fromkeys(names, file))
        print(f"{directory / file}  {len(names)} tensors", flush=True)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=FAMILY)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="toy widths")
    args = parser.parse_args()
    try:
        write(args.model, args.out, args.tiny)
    except OSError as error:
        sys.exit(f"make_checkpoint: {error}")


if __name__ == "__main__":
    main()
