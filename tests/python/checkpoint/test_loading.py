"""From a name to mapped tensors: every malformed file is refused by name before anything is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import pytest
from gemma4 import ModelFileError, RequestError
from gemma4.checkpoint import Tensors, directory, resolve, safetensors

DEMO = Path(gemma4.__file__).parent / "demo_model"


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write(path: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def open_one(directory: Path, header: Any, **keywords: Any) -> Any:
    write(directory / "model.safetensors", header, **keywords)
    return safetensors.open_tensors(directory)


# -- one file ----------------------------------------------------------------------------------------------------------


def test_good_file(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "b": entry("BF16", (2, 2), (8, 16)), "a": entry("F16", (4,), (0, 8))}
    values = np.array([1, 2, 3, 4], np.float16).tobytes() + bytes([0x80, 0x3F] * 4)
    tensors = Tensors(open_one(tmp_path, header, data=values))
    assert list(tensors) == ["a", "b"]
    assert tensors["a"].tolist() == [1, 2, 3, 4]
    assert tensors["b"].dtype.name == "bfloat16"
    assert tensors["b"].astype(np.float32).tolist() == [[1, 1], [1, 1]]
    assert "c" not in tensors
    with pytest.raises(KeyError):
        tensors["c"]
    with pytest.raises(ValueError, match="read-only"):
        tensors["a"][0] = 5


HEADERS: list[tuple[str, Any, bytes]] = [
    ("duplicate names", b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', b"\0" * 8),
    ("array", b"[" + b" " * 30 + b"]", b""),
    ("not JSON", b'{"a": ' + b" " * 20, b""),
    ("not UTF-8", b'{"\xff": 1}' + b" " * 20, b""),
    ("deep", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    ("NaN", b'{"a": NaN}' + b" " * 20, b""),
    ("empty name", {"": entry()}, b"\0" * 8),
    ("NUL in the name", {"a\0b": entry()}, b"\0" * 8),
    ("a name of 1 MB", {"a" * 1_000_000: entry()}, b"\0" * 8),
    ("entry is no object", {"a": [1]}, b"\0" * 8),
    ("entry lacks shape", {"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8),
    ("entry has more", {"a": {**entry(), "extra": 1}}, b"\0" * 8),
    ("metadata is no object", {"__metadata__": 3, "a": entry()}, b"\0" * 8),
    ("metadata holds numbers", {"__metadata__": {"x": 1}, "a": entry()}, b"\0" * 8),
    ("unknown dtype", {"a": entry("F8_E8M0", (8,))}, b"\0" * 8),
    ("dtype is a number", {"a": entry(4)}, b"\0" * 8),  # type: ignore[arg-type]
    ("unsupported I64", {"a": entry("I64", (1,))}, b"\0" * 8),
    ("offsets reversed", {"a": entry(offsets=(8, 0))}, b"\0" * 8),
    ("offsets negative", {"a": entry(offsets=(-8, 0))}, b"\0" * 8),
    ("offsets float", {"a": entry(offsets=(0.0, 8.0))}, b"\0" * 8),
    ("offsets bool", {"a": entry(offsets=(False, 8))}, b"\0" * 8),
    ("three offsets", {"a": entry(offsets=(0, 4, 8))}, b"\0" * 8),
    ("past the end", {"a": entry(shape=(4,), offsets=(0, 16))}, b"\0" * 8),
    ("far past the end", {"a": entry(shape=(2**62,), offsets=(0, 2**64 - 1))}, b"\0" * 8),
    ("offset of 30 digits", {"a": entry(offsets=(0, 10**30))}, b"\0" * 8),
    ("shape and bytes differ", {"a": entry(shape=(3,))}, b"\0" * 8),
    ("product overflows", {"a": entry(shape=(2, 2**64 - 2))}, b"\0" * 8),
    ("product overflows to the right size", {"a": entry(shape=(2**63, 2, 2))}, b"\0" * 8),
    ("dimension negative", {"a": entry(shape=(-2,))}, b"\0" * 8),
    ("dimension zero", {"a": entry(shape=(0,), offsets=(0, 0))}, b""),
    ("dimension float", {"a": entry(shape=(2.0,))}, b"\0" * 8),
    ("rank 9", {"a": entry(shape=(1,) * 8 + (2,))}, b"\0" * 8),
    ("shape is no array", {"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, b"\0" * 8),
    ("overlap", {"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
    ("gap", {"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20),
    ("trailing bytes", {"a": entry()}, b"\0" * 9),
    ("one byte missing", {"a": entry()}, b"\0" * 7),
    ("all data missing", {"a": entry()}, b""),
]


@pytest.mark.parametrize(("header", "data"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS])
def test_bad_headers(header: Any, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        open_one(tmp_path, header, data=data)
    message = str(caught.value)
    assert "model.safetensors" in message
    assert "0x" not in message
    assert len(message) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("length", [0, 1, 9, 1000, 100_000_001, 2**63, 2**64 - 1])
def test_lying_header_length(length: int, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        open_one(tmp_path, b" {}     ", length=length, data=b"")


@pytest.mark.parametrize("content", [b"", b"1234567", b"\0" * 9, b"<html>404 not found</html>" * 3])
def test_files_of_another_kind(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        safetensors.open_tensors(tmp_path)


def test_lfs_pointer(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123456789\n"
    (tmp_path / "model.safetensors").write_bytes(pointer)
    with pytest.raises(ModelFileError, match="git lfs pull"):
        safetensors.open_tensors(tmp_path)


def test_every_truncation_of_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"a": entry(), "b": entry("BF16", (2, 2), (8, 16))}, b"\0" * 16)
    whole = path.read_bytes()
    safetensors.open_tensors(tmp_path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError):
            safetensors.open_tensors(tmp_path)


def test_every_flipped_bit_of_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"a": entry(), "b": entry("F16", (4,), (8, 16))}, b"\0" * 16)
    whole = path.read_bytes()
    loaded = 0
    for position in range(len(whole) - 16):
        for bit in range(8):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            try:
                safetensors.open_tensors(tmp_path)
                loaded += 1  # another name, or F16 read as what it is not: a valid file
            except ModelFileError:
                pass
    assert loaded < len(whole)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"neither model\.safetensors nor"):
        safetensors.open_tensors(tmp_path)


def test_weights_that_are_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")  # reading it would wait for ever
    with pytest.raises(ModelFileError, match="regular file"):
        safetensors.open_tensors(tmp_path)


# -- shards ------------------------------------------------------------------------------------------------------------


def shards(directory: Path, weight_map: Any = None) -> None:
    write(directory / "one.safetensors", {"a": entry()})
    write(directory / "two.safetensors", {"b": entry()})
    full = {"a": "one.safetensors", "b": "two.safetensors"} if weight_map is None else weight_map
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": full}))


def test_shards(tmp_path: Path) -> None:
    shards(tmp_path)
    assert safetensors.open_tensors(tmp_path).names() == ["a", "b"]


@pytest.mark.parametrize(
    ("weight_map", "expected"),
    [
        ({"a": "../one.safetensors"}, "weight_map"),
        ({"a": "/etc/passwd"}, "weight_map"),
        ({"a": "sub/../one.safetensors"}, "weight_map"),
        ({"a": "C:\\one.safetensors"}, "weight_map"),
        ({"a": "..safetensors"}, "weight_map"),
        ({"a": "one.safetensors\n"}, "weight_map"),
        ({"a": "config.json"}, "weight_map"),
        ({"a": 3}, "weight_map"),
        ({}, "weight_map"),
        ([], "weight_map"),
        ({"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}, "1 tensor .c. in"),
        ({"a": "one.safetensors"}, None),  # a file that the index does not name is not read
        ({"a": "one.safetensors", "b": "one.safetensors"}, "b"),
        ({"a": "two.safetensors"}, "a"),
        ({"a": "three.safetensors"}, "does not exist"),
    ],
)
def test_indexes(weight_map: Any, expected: str | None, tmp_path: Path) -> None:
    shards(tmp_path, weight_map)
    if expected is None:
        assert safetensors.open_tensors(tmp_path).names() == ["a"]
        return
    with pytest.raises(ModelFileError, match=expected):
        safetensors.open_tensors(tmp_path)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    shards(tmp_path)
    write(tmp_path / "two.safetensors", {"b": entry(), "a": entry(offsets=(8, 16))}, b"\0" * 16)
    with pytest.raises(ModelFileError, match=r"two\.safetensors.*\ba\b"):
        safetensors.open_tensors(tmp_path)


def test_links_stay_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside / "one.safetensors", {"a": entry()})
    inside = tmp_path / "model"
    inside.mkdir()
    shards(inside)
    (inside / "one.safetensors").unlink()
    (inside / "one.safetensors").symlink_to(outside / "one.safetensors")
    with pytest.raises(ModelFileError, match="leads out"):
        safetensors.open_tensors(inside)
    (inside / "one.safetensors").unlink()
    (inside / "one.safetensors").symlink_to("one.safetensors")
    with pytest.raises(ModelFileError, match=r"one\.safetensors"):
        safetensors.open_tensors(inside)


def test_hub_cache_layout(tmp_path: Path) -> None:
    blobs = tmp_path / "models--x--y" / "blobs"
    snapshot = tmp_path / "models--x--y" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    shards(snapshot)
    for name in ("one.safetensors", "two.safetensors"):
        shutil.move(snapshot / name, blobs / name[:3])
        (snapshot / name).symlink_to(Path("../../blobs") / name[:3])
    assert safetensors.open_tensors(snapshot).names() == ["a", "b"]


def test_a_json_file_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a loaded model knows of a file is of one state of it."""
    read: list[str] = []
    original = directory.read_json
    monkeypatch.setattr(directory, "read_json", lambda path, limit: read.append(path.name) or original(path, limit))
    gemma4.Model.from_pretrained("demo")
    assert len(read) == len(set(read)) and {"config.json", "processor_config.json"} <= set(read)


# -- links -------------------------------------------------------------------------------------------------------------

FILES = [
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "model.safetensors",
    "model.safetensors.index.json",
]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["outside", "environ", "circle", "nothing", "pipe", "folder", "device"])
def test_no_file_is_read_elsewhere(name: str, kind: str, tmp_path: Path) -> None:
    model, secret = tmp_path / "model", tmp_path / "secret.json"
    shutil.copytree(DEMO, model)
    path = model / name
    if path.exists():
        path.rename(secret)
    else:
        secret.write_text("{}")
    if name == "preprocessor_config.json":  # which is read where the newer file does not say everything
        (model / "processor_config.json").unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        targets = {"outside": secret, "environ": "/proc/self/environ", "circle": path, "device": "/dev/zero"}
        path.symlink_to(targets.get(kind, model / "does not exist"))
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")) as caught:
        gemma4.Model.from_pretrained(model)
    assert "regular" in str(caught.value) or "link" in str(caught.value)


def test_links_within_the_folder_and_to_it(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO, model)
    (model / "weights").mkdir()
    (model / "model.safetensors").rename(model / "weights" / "blob")
    (model / "model.safetensors").symlink_to("weights/blob")
    (tmp_path / "link").symlink_to(model)
    assert gemma4.Model.from_pretrained(tmp_path / "link").context_length > 0


def test_a_hub_cache_s_links(tmp_path: Path) -> None:
    def cache(repository: str) -> Path:
        snapshot = tmp_path / repository / "snapshots" / "0123abc"
        snapshot.mkdir(parents=True)
        (tmp_path / repository / "blobs").mkdir()
        for path in DEMO.iterdir():
            if path.is_file():
                shutil.copy(path, tmp_path / repository / "blobs" / f"hash-{path.name}")
                (snapshot / path.name).symlink_to(Path("../../blobs") / f"hash-{path.name}")
        return snapshot

    snapshot = cache("models--owner--name")
    assert gemma4.Model.from_pretrained(snapshot).context_length > 0
    other = cache("models--owner--other")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "config.json")  # of another repository
    with pytest.raises(ModelFileError, match=r"config\.json: a link that leads out"):
        gemma4.Model.from_pretrained(snapshot)


# -- names -------------------------------------------------------------------------------------------------------------


def test_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # does not hide the bundled model
    assert resolve("demo") == DEMO
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path
    for wrong in ("no/such/directory/here", "nowhere", "demo2", "a b"):
        with pytest.raises(ModelFileError, match="no such directory"):
            resolve(wrong)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match="found a GGUF file"):
        resolve("m.gguf")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="found a file"):
        resolve(tmp_path / "file")
    for wrong_type in (None, 3, b"demo", ["demo"]):
        with pytest.raises(RequestError, match="source"):
            resolve(wrong_type)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="revision"):
        resolve(tmp_path, revision="main")


def test_hub_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFileError, match=r"google/gemma-4-e2b-it.*hf download google/gemma-4-e2b-it"):
        resolve("google/gemma-4-e2b-it")


@pytest.mark.parametrize("dtype", ["Q4_0", "int3", None, 16])
def test_unknown_formats(dtype: Any) -> None:
    with pytest.raises(RequestError, match="dtype"):
        gemma4.Model.from_pretrained("demo", dtype=dtype)


# -- memory ------------------------------------------------------------------------------------------------------------

_RESIDENT = """
import json, pathlib, struct, sys, numpy, gemma4
path = pathlib.Path(sys.argv[1]) / "model.safetensors"
model = gemma4.Model.from_pretrained(path.parent)
model.forward(numpy.arange(24, model.tokenizer.vocab_size, dtype=numpy.int32), last_only=True)
with path.open("rb") as file:
    size = struct.unpack("<Q", file.read(8))[0]
    header = json.loads(file.read(size))
lines = [line.split() for line in open("/proc/self/maps") if line.rstrip().endswith(str(path.resolve()))]
start = int(lines[0][0].split("-")[0], 16) - int(lines[0][2], 16) + 8 + size
for name in ("embed_tokens", "embed_tokens_per_layer"):
    begin, end = header[f"model.language_model.{name}.weight"]["data_offsets"]
    pages = range((start + begin) // 4096 + 17, (start + end) // 4096 - 16)  # a fault next door maps sixteen
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(8 * pages.start)
        entries = struct.unpack(f"<{len(pages)}Q", file.read(8 * len(pages)))
    print(len(pages), sum(entry >> 63 for entry in entries))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are present")
def test_the_per_layer_embedding_table_is_not_resident() -> None:
    run = subprocess.run([sys.executable, "-c", _RESIDENT, str(DEMO)], capture_output=True, text=True, check=True)
    embedding, table = (tuple(map(int, line.split())) for line in run.stdout.splitlines())
    assert embedding[0] > 40 and embedding[1] == embedding[0], "the head reads all of its matrix in place"
    assert table[0] > 40 and table[1] == 0, "every row was read, none of its pages may stay"
