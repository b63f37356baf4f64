"""From what a user names to the files of a checkpoint, and from its safetensors to the engine's tensor store.

Knows: directories, hub ids, the safetensors header. Must not know: what a tensor is for.
Nothing is ever written to a checkpoint's directory, and no code in it is ever run.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from . import _core, quantized
from .config import ParsedConfig
from .errors import ModelFileError, RequestError
from .gguf_model import GgufCheckpoint, open_gguf
from .gguf_recipe import DTYPES, quantize_store
from .jsonfile import Folder, is_lfs_pointer, lfs_message, parse_object, present, read_json, type_name
from .links import open_inside
from .tokenizer import Tokenizer

__all__ = ["Tensors", "give_dtype", "open_source", "open_tensors", "open_tokenizer", "resolve"]

MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 100_000_000
MAX_NAME = 1024
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_VALUES = ("F32", "F16", "BF16")


def open_source(source: str | os.PathLike[str], revision: str | None = None, mmproj: Any = None) -> Folder:
    """A checkpoint's directory, or a GGUF file that stands for one.

    Args:
        source: what :func:`resolve` takes, or a file whose name ends in `.gguf`.
        revision: a branch, tag or commit of a hub id.
        mmproj: the GGUF file with the encoders of a GGUF source.

    Raises:
        ModelFileError, RequestError: as :func:`resolve` and :func:`gemma4.gguf_model.open_gguf`.
    """
    if isinstance(source, str | os.PathLike) and Path(os.fspath(source)).suffix == ".gguf":
        if revision is not None:
            raise RequestError("revision: only a hub id has revisions")
        if mmproj is not None and not isinstance(mmproj, str | os.PathLike):
            raise RequestError(f"mmproj: expected a path, found {type(mmproj).__name__}")
        encoders = None if mmproj is None else Path(os.fspath(mmproj)).expanduser()
        return open_gguf(Path(os.fspath(source)).expanduser(), encoders)
    if mmproj is not None:
        raise RequestError("mmproj: only a .gguf file has its encoders apart")
    return resolve(source, revision)


def open_tokenizer(directory: Folder) -> Tokenizer | None:
    """The checkpoint's tokenizer; None where it has none."""
    if isinstance(directory, GgufCheckpoint):
        return Tokenizer(directory, directory.tokenizer)
    return Tokenizer(directory) if present(directory / "tokenizer.json") else None


def resolve(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The directory of a checkpoint.

    Args:
        source: `"demo"` (the bundled model), a directory, or a hub id such as `"google/gemma-4-e2b-it"`, which is
            downloaded on first use.
        revision: a branch, tag or commit of a hub id.

    Raises:
        ModelFileError: there is no such thing, or it cannot be had; the message says what to do.
        RequestError: `source` is neither a string nor a path, or `revision` is given for local files.

    >>> resolve("demo").name
    'demo_model'
    """
    if not isinstance(source, str | os.PathLike):
        raise RequestError(f"source: expected a string or a path, found {type(source).__name__}")
    name = os.fspath(source)
    if not name or "\0" in name:
        raise RequestError("source: empty, or with a NUL in it")
    path = Path(name).expanduser()
    local = name == "demo" or path.exists()
    if local and revision is not None:
        raise RequestError("revision: only a hub id has revisions")
    if name == "demo":
        return Path(str(resources.files("gemma4").joinpath("demo_model")))
    if path.is_dir():
        return path
    if path.suffix == ".gguf" and path.exists():
        raise ModelFileError(f"{path}: expected a directory with config.json and safetensors, found a GGUF file")
    if path.exists():
        raise ModelFileError(f"{path}: expected a directory with config.json and safetensors, found a file")
    if isinstance(source, str) and _HUB_ID.fullmatch(name):
        return _download(name, revision)
    raise ModelFileError(f"{name}: no such directory, and not a hub id of the form owner/name")


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_HUB_FILES))
    except GatedRepoError:
        problem = "its licence has to be accepted on huggingface.co first; then log in with `hf auth login`"
    except RepositoryNotFoundError:
        problem = (
            "no such directory here, and no such repository on huggingface.co (a private one needs `hf auth login`)"
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        problem = (
            f"not on this machine, and huggingface.co cannot be reached ({type(error).__name__}); on a machine that "
            f"can, run `hf download {repo}`, copy the directory over and give its path"
        )
    except ValueError as error:
        problem = str(error)[:200]
    raise ModelFileError(f"{repo}{'' if revision is None else '@' + str(revision)}: {problem}")


# ----------------------------------------------------------------------------------------------------------------------
# safetensors


def open_tensors(directory: Folder) -> _core.TensorStore:
    """Map the tensors of a checkpoint, after checking every header against the size of its file.

    Raises:
        ModelFileError: a file is missing, truncated or malformed; names the file and the tensor.
    """
    if isinstance(directory, GgufCheckpoint):
        return directory.store
    assert isinstance(directory, Path)
    store = _core.TensorStore()
    config = directory / "config.json"
    levels = present(config) and quantized.check(read_json(config), str(config))
    index = directory / _INDEX
    if present(index):
        weight_map = _read_index(index)
        for shard in sorted(set(weight_map.values())):
            found = _add_file(store, directory / shard, levels)
            expected = {name for name, file in weight_map.items() if file == shard}
            _check_shard(directory / shard, expected, found)
    elif present(directory / _SINGLE):
        _add_file(store, directory / _SINGLE, levels)
    else:
        raise ModelFileError(f"{directory}: neither {_SINGLE} nor {_INDEX} is there")
    store.validate()
    return store


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{path}: weight_map: expected an object of tensor to file, found {type_name(weight_map)}")
    for name, file in weight_map.items():
        # A plain name only: a path could lead out of the checkpoint.
        if not isinstance(file, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", file, re.ASCII):
            raise ModelFileError(
                f"{path}: weight_map: tensor {name[:80]!r}: expected the name of a .safetensors file beside this one, "
                f"found {str(file)[:80]!r}"
            )
    return weight_map


def _check_shard(path: Path, expected: set[str], found: set[str]) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing:
        raise ModelFileError(f"{path}: {_first(missing)} in {_INDEX} but not in the file")
    if extra:
        raise ModelFileError(f"{path}: {_first(extra)} in the file but not listed for it in {_INDEX}")


def _first(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:5])
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({shown}{', …' if len(names) > 5 else ''})"


def _add_file(store: _core.TensorStore, path: Path, levels: bool) -> set[str]:
    """Add one safetensors file to the store; returns the names of its tensors. `levels`: it may hold packed ones."""
    header, data_start = read_header(path)
    header.pop("__metadata__", None)
    file = store.add_file(str(path), data_start)
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        if dtype not in _VALUES and not (levels and dtype in quantized.LEVELS):
            hint = "" if levels else "; config.json has no quantization_config that says what else it is"
            raise ModelFileError(
                f"{path}: tensor {name[:80]!r}: dtype {dtype} is not supported (expected {', '.join(_VALUES)}){hint}"
            )
        store.add(name, dtype, shape, file, begin, end)
    return set(header)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and the byte where the tensors begin.

    Raises:
        ModelFileError: too short, a length that the file does not have, not strict JSON, a git-LFS pointer.
    """
    try:
        with open_inside(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(64)
            if is_lfs_pointer(head):
                raise ModelFileError(lfs_message(path))
            if size < 10:
                raise ModelFileError(f"{path}: {size} bytes are too few for safetensors")
            length = int.from_bytes(head[:8], "little")
            if not 2 <= length <= MAX_HEADER_BYTES or length > size - 8:
                raise ModelFileError(
                    f"{path}: not safetensors, or truncated: the header's length is given as {length} bytes, "
                    f"the file has {size}"
                )
            file.seek(8)
            data = file.read(length)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}") from error
    if len(data) != length or not data.startswith(b"{"):
        raise ModelFileError(f"{path}: not safetensors: the header is not a JSON object")
    header = parse_object(data, f"{path}: header")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{path}: header: __metadata__: expected an object of strings")
    return header, 8 + length


def _entry(path: Path, name: str, entry: Any) -> tuple[str, list[int], int, int]:
    """dtype, shape, begin and end of a header entry, checked for type; the engine checks them against the file."""
    where = f"{path}: tensor {name[:80]!r}"
    if not name or len(name) > MAX_NAME or "\0" in name:
        raise ModelFileError(f"{where}: a name must have 1 to {MAX_NAME} characters and no NUL")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{where}: expected dtype, shape and data_offsets, found {_keys(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise ModelFileError(f"{where}: dtype: expected a string, found {type_name(dtype)}")
    if not _is_sizes(shape):
        raise ModelFileError(f"{where}: shape: expected an array of sizes, found {json.dumps(shape)[:60]}")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise ModelFileError(f"{where}: data_offsets: expected [begin, end], found {json.dumps(offsets)[:60]}")
    return dtype[:40], shape, offsets[0], offsets[1]


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 64 for item in value)


def _keys(entry: Any) -> str:
    return ", ".join(sorted(map(str, entry)))[:80] if isinstance(entry, dict) else type_name(entry)


class Tensors(Mapping[str, NDArray[Any]]):
    """The tensors of a checkpoint as read-only views on the mapped file: no copy, and valid as long as the view lives.

    F32 is float32, F16 is float16, BF16 is `ml_dtypes.bfloat16`. Block formats such as Q4_0 and packed levels
    (I4, I2), which NumPy cannot spell, are uint8: the bytes of each row. The scales of levels are tensors of their own.

    >>> import gemma4
    >>> tensors = gemma4.Model.from_pretrained("demo").tensors
    >>> tensors["model.language_model.norm.weight"].flags.writeable
    False
    """

    def __init__(self, store: _core.TensorStore) -> None:
        self._store = store
        self._names = store.names()
        self._known = frozenset(self._names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._known:
            raise KeyError(name)
        array = self._store.array(name)
        if self._store.dtype(name) == "BF16":
            import ml_dtypes

            array = array.view(ml_dtypes.bfloat16)
        return array

    @property
    def parameters(self) -> int:
        """How many numbers there are in all tensors."""
        return sum(math.prod(self._store.shape(name)) for name in self._names)

    @property
    def formats(self) -> list[str]:
        """The formats that tensors are stored in, the one with the most bytes first."""
        sizes: dict[str, int] = {}
        for name in self._names:
            dtype = self._store.dtype(name)
            sizes[dtype] = sizes.get(dtype, 0) + self._store.array(name).nbytes
        return sorted(sizes, key=lambda dtype: -sizes[dtype])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __repr__(self) -> str:
        return f"<gemma4.Tensors of {len(self)} tensors>"


def check_dtype(dtype: Any) -> str:
    """`dtype=` of `Model.from_pretrained`. Raises RequestError for one that there is not."""
    if dtype == "auto" or (isinstance(dtype, str) and dtype in DTYPES):
        return str(dtype)
    found = repr(dtype[:40]) if isinstance(dtype, str) else type(dtype).__name__
    raise RequestError(f"dtype: expected 'auto' (the file's own formats) or one of {', '.join(DTYPES)}, found {found}")


def give_dtype(store: _core.TensorStore, parsed: ParsedConfig, dtype: str, threads: int) -> None:
    """The matrices in another format, in memory; `"auto"` leaves them where and as they are."""
    if dtype == "auto":
        return
    quantized.refuse_other_dtype(store, dtype)
    from tqdm import tqdm  # type: ignore[import-untyped]

    total = sum(store.array(name).nbytes for name in store.names())
    with tqdm(
        total=total, desc="converting", delay=1, leave=False, unit="B", unit_scale=True, disable=None
    ) as progress:
        quantize_store(store, parsed, dtype, threads, progress.update)
