"""Rewrites GGUF files with llama.cpp's own Python package. Must not know: the package under test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

Keys = dict[str, tuple[Any, GGUFValueType, GGUFValueType | None]]
Tensors = dict[str, tuple[np.ndarray[Any, Any], GGMLQuantizationType]]


def rewrite(
    target: Path, *sources: Path, edit: Callable[[Keys, Tensors], Any] = lambda *_: None, **options: Any
) -> Path:
    """The keys and tensors of all sources in one file, or in parts with `split_max_tensors`; those of the first come
    first. `edit` changes them before: name -> (value, type, type of its elements), name -> (array or bytes, type)."""
    keys: Keys = {}
    tensors: Tensors = {}
    for source in reversed(sources):
        reader = GGUFReader(source)
        for name, field in reader.fields.items():
            if not name.startswith(("GGUF.", "split.")):
                keys[name] = (field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
        tensors |= {tensor.name: (tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    edit(keys, tensors)
    architecture = keys.pop("general.architecture")[0]
    writer = GGUFWriter(target, architecture, **options)
    for name, (value, kind, element) in keys.items():
        writer.add_key_value(name, value, kind, element)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
