"""The GGUF container: what is written is read back, and no header, however broken, is believed."""

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma4 import _core
from gemma4.errors import ModelFileError, RequestError
from gemma4.gguf import TYPES, GgufFile, read_gguf
from gemma4.gguf.writer import PlannedTensor, write_gguf

UINT8, INT8, UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 1, 4, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def tensor(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(
    entries: list[bytes], tensors: list[bytes], data: bytes = b"", *, magic: bytes = b"GGUF", version: int = 3,
    entry_count: int | None = None, tensor_count: int | None = None, alignment: int = 32,
) -> bytes:  # fmt: skip
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(entries) if entry_count is None else entry_count,
    )
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join(entries + tensors)
    return header + bytes(-len(header) % alignment) + data


ARCHITECTURE = entry("general.architecture", STRING, text("gemma4"))
F32_DATA = np.arange(8, dtype=np.float32).tobytes()
# One of everything: each kind of value, two tensors, padding between them.
VALID = gguf(
    [
        ARCHITECTURE,
        entry("a.size", UINT32, struct.pack("<I", 7)),
        entry("a.big", UINT64, struct.pack("<Q", 1 << 40)),
        entry("a.real", FLOAT32, struct.pack("<f", 0.5)),
        entry("a.flag", BOOL, b"\1"),
        entry("a.names", ARRAY, struct.pack("<IQ", STRING, 2) + text("é") + text("")),
        entry("a.scores", ARRAY, struct.pack("<IQ2f", FLOAT32, 2, 1.0, 2.0)),
        entry("a.flags", ARRAY, struct.pack("<IQ", BOOL, 3) + b"\1\0\1"),
    ],
    [tensor("x", (4, 2), 0, 0), tensor("q", (32,), 8, 32)],
    F32_DATA + bytes(range(34)),
)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Bytes -> GgufFile."""

    def read(data: bytes) -> GgufFile:
        path = tmp_path / "file.gguf"
        path.write_bytes(data)
        return read_gguf(path)

    return read


def test_reads_every_kind_of_value(read: Any) -> None:
    file = read(VALID)
    assert file.text("general.architecture") == "gemma4"
    assert (file.integer("a.size"), file.integer("a.big", high=1 << 50)) == (7, 1 << 40)
    assert (file.real("a.real"), file.boolean("a.flag")) == (0.5, True)
    assert list(file.strings("a.names")) == ["é", ""]
    assert file.array("a.scores", "f").tolist() == [1.0, 2.0]
    assert file.array("a.flags", "b").tolist() == [True, False, True]
    assert file.per_layer("a.size", 3) == [7, 7, 7]
    x, q = file.tensors["x"], file.tensors["q"]
    assert (x.dtype, x.shape, x.begin, x.end) == ("F32", (2, 4), 0, 32)
    assert (q.dtype, q.shape, q.begin, q.end) == ("Q8_0", (32,), 32, 66)


def test_values_of_another_type_are_named(read: Any) -> None:
    file = read(VALID)
    for call, expected in (
        (lambda: file.integer("a.flag"), "a.flag: expected an integer, found a truth value"),
        (lambda: file.integer("a.real"), "a.real: expected an integer, found a number"),
        (lambda: file.integer("a.size", high=6), "a.size: expected 0 to 6, found 7"),
        (lambda: file.integer("b"), "b: is missing"),
        (lambda: file.text("a.size"), "a.size: expected a string, found an integer"),
        (lambda: file.strings("a.scores"), "expected an array of strings, found an array of float32"),
        (lambda: file.array("a.scores", "iu"), "expected an array of integers, found an array of float32"),
        (lambda: file.array("a.flags", "b", 4), "expected 4 elements, found 3"),
        (lambda: file.boolean("a.size"), "expected true or false"),
    ):
        with pytest.raises(ModelFileError, match=expected):
            call()


ONE = [tensor("x", (4, 2), 0, 0)]
HUGE = (1 << 64) - 1
FAULTS = {
    "magic": (gguf([], [], magic=b"GGML"), "not a GGUF file"),
    "empty": (b"", "too few"),
    "version 0": (gguf([], [], version=0), "version 0"),
    "version 1": (gguf([], [], version=1), "version 1"),
    "version 4": (gguf([], [], version=4), "version 4"),
    "big-endian": (gguf([], [], version=3 << 24), "big-endian"),
    "keys -1": (gguf([], [], entry_count=HUGE), "18446744073709551615 keys cannot fit"),
    "keys 2^40": (gguf([ARCHITECTURE], [], entry_count=1 << 40), "keys cannot fit"),
    "tensors -1": (gguf([], [], tensor_count=HUGE), "tensors cannot fit"),
    "one key too many": (gguf([ARCHITECTURE], [], entry_count=2), "key 1 is empty"),
    "key length": (gguf([struct.pack("<Q", 1 << 63) + bytes(40)], []), "at most 65535"),
    "key beyond the file": (gguf([struct.pack("<Q", 5000) + bytes(40)], []), "truncated"),
    "key empty": (gguf([entry("", UINT32, bytes(4))], []), "key 0 is empty"),
    "key not UTF-8": (gguf([entry(b"\xff\xfe", UINT32, bytes(4))], []), "not UTF-8"),
    "key twice": (gguf([ARCHITECTURE, ARCHITECTURE], []), "appears twice"),
    "value type": (gguf([entry("k", 13, bytes(8))], []), "no value type 13"),
    "string length": (gguf([entry("k", STRING, struct.pack("<Q", HUGE))], []), "at most"),
    "truth value": (gguf([entry("k", BOOL, b"\2")], []), "must be 0 or 1"),
    "nested array": (gguf([entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(32))], []), "arrays of arrays"),
    "array type": (gguf([entry("k", ARRAY, struct.pack("<IQ", 99, 1) + bytes(8))], []), "no value type 99"),
    "array length": (gguf([entry("k", ARRAY, struct.pack("<IQ", UINT64, 1 << 61) + bytes(8))], []), "truncated"),
    "array of strings length": (gguf([entry("k", ARRAY, struct.pack("<IQ", STRING, 1 << 61))], []), "cannot fit"),
    "string in array": (
        gguf([entry("k", ARRAY, struct.pack("<IQQ", STRING, 1, 1 << 62) + bytes(8))], []),
        "truncated",
    ),
    "alignment 0": (gguf([entry("general.alignment", UINT32, struct.pack("<I", 0))], ONE), "power of two"),
    "alignment 3": (gguf([entry("general.alignment", UINT32, struct.pack("<I", 3))], ONE), "power of two"),
    "alignment 2^31": (gguf([entry("general.alignment", UINT32, struct.pack("<I", 1 << 31))], ONE), "power of two"),
    "alignment text": (gguf([entry("general.alignment", STRING, text("32"))], ONE), "expected an integer"),
    "tensor name empty": (gguf([], [tensor("", (8,), 0, 0)], F32_DATA), "name must have"),
    "tensor name long": (gguf([], [tensor("x" * 64, (8,), 0, 0)], F32_DATA), "at most 63"),
    "tensor name NUL": (gguf([], [tensor("a\0b", (8,), 0, 0)], F32_DATA), "no NUL"),
    "tensor twice": (gguf([], [tensor("x", (8,), 0, 0), tensor("x", (8,), 0, 32)], F32_DATA * 2), "appears twice"),
    "rank 0": (gguf([], [tensor("x", (), 0, 0) + bytes(8)], F32_DATA), "1 to 4 dimensions, found 0"),
    "rank 5": (gguf([], [tensor("x", (1, 1, 1, 1, 8), 0, 0)], F32_DATA), "found 5"),
    "rank 2^32 - 1": (gguf([], [text("x") + struct.pack("<I", (1 << 32) - 1) + bytes(32)], F32_DATA), "dimensions"),
    "dimension 0": (gguf([], [tensor("x", (8, 0), 0, 0)], F32_DATA), "is zero"),
    "dimensions overflow": (gguf([], [tensor("x", (1 << 32, 1 << 32), 0, 0)], F32_DATA), "ends at byte"),
    "bytes overflow": (gguf([], [tensor("x", (1 << 62,), 0, 0)], F32_DATA), "ends at byte"),
    "blocks overflow": (gguf([], [tensor("x", (1 << 59, 1 << 5), 2, 0)], F32_DATA), "ends at byte"),
    "padding overflow": (gguf([], [tensor("x", (HUGE,), 0, 0)], F32_DATA), "ends at byte"),
    "type unknown": (gguf([], [tensor("x", (8,), 77, 0)], F32_DATA), "type number 77 is not supported"),
    "type NVFP4": (gguf([], [tensor("x", (64,), 40, 0)], F32_DATA), "type NVFP4 is not supported .supported: F32, F16"),
    "type IQ1_S": (gguf([], [tensor("x", (256,), 19, 0)], F32_DATA), "type IQ1_S is not supported"),
    "row not of blocks": (gguf([], [tensor("x", (31,), 8, 0)], F32_DATA), "not a multiple of the 32 of Q8_0"),
    "offset misaligned": (gguf([], [tensor("x", (4,), 0, 16)], F32_DATA), "not a multiple of the alignment"),
    "offset leaves a gap": (gguf([], [tensor("x", (4,), 0, 32)], F32_DATA * 2), "gap or an overlap"),
    "offset 2^63": (gguf([], [tensor("x", (4,), 0, 1 << 63)], F32_DATA), "gap or an overlap"),
    "overlap": (gguf([], [tensor("x", (16,), 0, 0), tensor("y", (8,), 0, 32)], F32_DATA * 2), "gap or an overlap"),
    "data short by one": (gguf([], ONE, F32_DATA[:-1]), "truncated"),
    "no data": (gguf([], ONE), "truncated"),
    "bytes behind": (gguf([], ONE, F32_DATA + bytes(32)), "belong to none"),
    "bytes behind no tensors": (gguf([ARCHITECTURE], []) + bytes(64), "belong to none"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_refuses(name: str, read: Any) -> None:
    data, expected = FAULTS[name]
    with pytest.raises(ModelFileError, match=expected) as caught:
        read(data)
    assert "file.gguf" in str(caught.value) and len(str(caught.value)) < 500


def damaged() -> Iterator[bytes]:
    """Every single-bit flip of the header, every byte at its extremes, every truncation, one byte appended."""
    end = len(VALID) - 66  # flips in the tensors' bytes are other values, not faults
    for at in range(end):
        values = {VALID[at] ^ (1 << bit) for bit in range(8)} | {0, 255}
        for value in values - {VALID[at]}:
            yield VALID[:at] + bytes([value]) + VALID[at + 1 :]
    for length in range(len(VALID)):
        yield VALID[:length]
    yield VALID + b"\0" * 40


def test_every_flip_and_truncation_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    loaded = refused = 0
    for data in damaged():
        path.write_bytes(data)
        try:
            file = read_gguf(path)
        except ModelFileError as error:
            refused += 1
            assert len(str(error)) < 500
            continue
        loaded += 1
        store = _core.TensorStore()
        number = store.add_file(str(path), file.data_start, file.alignment)
        for found in file.tensors.values():
            store.add(found.name, found.dtype, found.shape, number, found.begin, found.end)
        store.validate()
        for name in store.names():
            store.array(name).sum()
    assert refused > 2000 and loaded > 100


def test_a_claim_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    tracemalloc.start()
    for name in ("keys 2^40", "array length", "array of strings length", "string length", "bytes overflow"):
        path.write_bytes(FAULTS[name][0])
        with pytest.raises(ModelFileError):
            read_gguf(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_missing_and_special_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_gguf(tmp_path)


def test_writes_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    weights = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    blocks = _core.encode("Q4_0", weights)
    metadata = {
        "general.architecture": "gemma4",
        "a.size": 3,
        "a.real": 0.25,
        "a.flag": False,
        "a.big": np.uint64(1 << 40),
        "a.names": ["x", "yé"],
        "a.ids": np.array([1, -2], np.int32),
        "a.flags": np.array([True, False]),
    }
    plans = [
        PlannedTensor("w", "F32", (3, 64), lambda: iter([weights[:1], weights[1:]])),
        PlannedTensor("q", "Q4_0", (3, 64), lambda: iter([blocks])),
        PlannedTensor("v", "F32", (1,), lambda: iter([np.ones(1, np.float32)])),
    ]
    done: list[int] = []
    write_gguf(path, metadata, plans, done.append)
    assert sum(done) == sum(plan.nbytes for plan in plans)
    file = read_gguf(path)
    assert file.metadata["a.big"] == 1 << 40 and file.metadata["a.real"] == 0.25
    assert file.metadata["a.ids"].tolist() == [1, -2] and file.metadata["a.flags"].tolist() == [True, False]
    store = _core.TensorStore()
    number = store.add_file(str(path), file.data_start, file.alignment)
    for found in file.tensors.values():
        store.add(found.name, found.dtype, found.shape, number, found.begin, found.end)
    store.validate()
    assert np.array_equal(store.array("w"), weights)
    assert np.array_equal(store.array("q"), blocks) and store.shape("q") == [3, 64]
    assert np.array_equal(_core.decode("Q4_0", store.array("q")), _core.decode("Q4_0", blocks))
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    path.write_bytes(b"the old file")
    short = PlannedTensor("w", "F32", (2,), lambda: iter([np.ones(1, np.float32)]))
    with pytest.raises(RequestError, match="4 bytes were made, 8 are needed"):
        write_gguf(path, {}, [short])
    assert path.read_bytes() == b"the old file" and len(list(tmp_path.iterdir())) == 1
    for value in ([1], np.zeros((2, 2), np.float32), -1, 1 << 40, np.array(["x"])):
        with pytest.raises((RequestError, OverflowError)):
            write_gguf(path, {"k": value}, [])


def test_the_engine_checks_extents_again(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(VALID)
    file = read_gguf(path)

    def store(alignment: int = 32) -> tuple[_core.TensorStore, int]:
        made = _core.TensorStore()
        return made, made.add_file(str(path), file.data_start, alignment)

    made, number = store()
    made.add("x", "F32", [2, 4], number, 0, 32)
    with pytest.raises(ModelFileError, match="bytes after the last tensor belong to none"):
        made.validate()
    with pytest.raises(ModelFileError, match="not a power of two"):
        store(3)
    with pytest.raises(ModelFileError, match="bytes are missing"):
        made.add("y", "F32", [32], number, 0, 128)
    with pytest.raises(ModelFileError, match="not supported"):
        made.add("y", "NVFP4", [32], number, 0, 18)
    with pytest.raises(ModelFileError, match="not a multiple of the block"):
        made.add("y", "Q8_0", [33], number, 0, 34)
    made.add_owned("mine", "F32", [2], np.ones(2, np.float32).view(np.uint8))
    with pytest.raises(ModelFileError, match="appears twice"):
        made.add_owned("mine", "F32", [2], np.ones(2, np.float32).view(np.uint8))
    with pytest.raises(ModelFileError, match="need 8 bytes, 4 are given"):
        made.add_owned("other", "F32", [2], np.ones(1, np.float32).view(np.uint8))
    made.add_rows("row", "x", 1, 2)
    assert made.array("row").tolist() == [[4, 5, 6, 7]]
    with pytest.raises(ModelFileError, match="rows 1 to 3"):
        made.add_rows("rows", "x", 1, 3)


def test_the_engine_reads_strings() -> None:
    data = text("a") + text("é") + text("")
    for at, count, expected in ((0, 3, ["a", "é", ""]), (9, 2, ["é", ""]), (len(data), 0, [])):
        read = _core.read_strings(data, at, count)
        assert read is not None
        strings, end = read
        assert (list(strings), end, len(strings)) == (expected, len(data), count)
        assert strings == _core.Strings(expected) and strings != _core.Strings([*expected, "a"])
    for at, count in ((0, 4), (0, 1 << 60), (len(data) + 1, 1), (3, 1), (len(data), 1)):
        assert _core.read_strings(data, at, count) is None
    for wrong in (struct.pack("<Q", HUGE), struct.pack("<Q", 1), text(b"\xff"), text(b"\xed\xa0\x80")):
        assert _core.read_strings(wrong, 0, 1) is None
    strings = _core.Strings(["a", "é", "", "b"])
    assert strings[-1] == "b" and "" in strings and "c" not in strings
    assert list(strings.without(np.array([1, 3, 9, -1], np.int32))) == ["a", "", "", ""]
    for at in (4, -5):
        with pytest.raises(IndexError):
            strings[at]


def test_types_have_the_sizes_of_the_engine() -> None:
    for kind in TYPES.values():
        assert _core.decode(kind.name, np.zeros((1, kind.block_bytes), np.uint8)).shape == (1, kind.block_elems)
