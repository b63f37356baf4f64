"""Formats beside the usual five: whatever Pillow decodes by itself, with the modes right, and nothing that it runs."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma4.errors import MediaError
from gemma4.media import PICTURE_SUFFIXES, load_image, picture_size, picturefiles
from numpy.typing import NDArray
from picture_cases import scene
from PIL import Image, features

PICTURE = scene(61, 83)
BACK = Image.fromarray(PICTURE)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"big_tiff": True}), ("PPM", {}), ("PCX", {}), ("SGI", {}), ("DDS", {}), ("TGA", {}),
        ("TGA", {"compression": "tga_rle"}), ("QOI", {}), ("JPEG2000", {"irreversible": False}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}), ("ICO", {"sizes": [(83, 61)]}),
    ],
)  # fmt: skip
def test_formats(form: str, options: dict[str, Any], tmp_path: Path) -> None:
    data = encoded(BACK, form, **options)
    most = 4 if form == "AVIF" else 0  # its lossless mode is of YCbCr, which RGB is not
    path = tmp_path / "picture.dat"  # the content says what it is
    path.write_bytes(data)
    for source in (data, path):
        difference = np.abs(load_image(source).astype(int) - PICTURE)
        assert difference.max() <= most
        assert picture_size(source) == (83, 61)


def test_every_format_is_tried() -> None:
    """A format that is added to the list is added above."""
    assert set(picturefiles._OTHERS) == {
        "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "PCX", "QOI", "SGI", "DDS", "PSD", "TGA",
    }  # fmt: skip
    assert features.check("avif") and features.check("libtiff") and features.check("jpg_2000")
    Image.init()
    endings = {
        end for end, form in Image.registered_extensions().items() if form in picturefiles._USUAL + picturefiles._OTHERS
    }
    assert endings - PICTURE_SUFFIXES <= {".icb", ".vda", ".vst", ".jpc", ".jpf", ".j2c", ".rgba", ".mpo"}


def test_psd() -> None:
    """The smallest that there is: a header, no layers, and the composed picture."""
    planes = PICTURE.transpose(2, 0, 1).tobytes()
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 61, 83, 8, 3)
    assert np.array_equal(load_image(head + struct.pack(">IIIH", 0, 0, 0, 0) + planes), PICTURE)


@pytest.mark.parametrize("text", ["P2", "P3", "P5", "P6", "P1", "P4"])
def test_portable_maps_written_by_hand(text: str) -> None:
    grey = PICTURE[:, :, 0]
    if text in ("P1", "P4"):
        ink = grey < 128
        body = " ".join(map(str, ink.astype(int).ravel())).encode() if text == "P1" else np.packbits(ink, 1).tobytes()
        expected: NDArray[Any] = np.where(ink, 0, 255)[:, :, None].repeat(3, 2)
        head = f"{text}\n83 61\n".encode()
    else:
        values = grey if text in ("P2", "P5") else PICTURE
        plain = text in ("P2", "P3")
        body = " ".join(map(str, values.ravel())).encode() if plain else values.tobytes()
        expected = values if values.ndim == 3 else values[:, :, None].repeat(3, 2)
        head = f"{text}\n# a comment\n83 61\n255\n".encode()
    assert np.array_equal(load_image(head + body), expected)


def tiff(tmp_path: Path, values: NDArray[Any], **options: Any) -> Path:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tifffile.imwrite(path, values, **options)
    return path


def test_tiffs_of_another_writer(tmp_path: Path) -> None:
    assert np.array_equal(load_image(tiff(tmp_path, PICTURE, photometric="rgb")), PICTURE)
    assert np.array_equal(load_image(tiff(tmp_path, PICTURE, photometric="rgb", tile=(16, 16))), PICTURE)
    assert np.array_equal(load_image(tiff(tmp_path, PICTURE, photometric="rgb", byteorder=">")), PICTURE)
    grey = PICTURE[:, :, 1]
    for values in (grey, grey.astype(np.uint16) * 257, (grey / 255).astype(np.float32)):
        for order in "<>":
            path = tiff(tmp_path, values, photometric="minisblack", byteorder=order)
            assert np.array_equal(load_image(path), grey[:, :, None].repeat(3, 2)), (values.dtype, order)
    white = tiff(tmp_path, 255 - grey, photometric="miniswhite")
    assert np.array_equal(load_image(white), grey[:, :, None].repeat(3, 2))
    deep = tiff(tmp_path, PICTURE.astype(np.uint16) * 257, photometric="rgb")
    assert np.array_equal(load_image(deep), PICTURE)
    cmyk = np.dstack([255 - PICTURE, np.zeros_like(grey)])
    assert np.array_equal(load_image(tiff(tmp_path, cmyk, photometric="separated")), PICTURE)


def test_the_first_page_is_read(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (9, 7), color) for color in ("red", "lime", "blue")]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert load_image(data).tolist() == np.asarray(pages[0]).tolist() and picture_size(data) == (9, 7)
    chosen = Image.open(io.BytesIO(data))
    chosen.seek(2)  # of an open picture the page that the caller chose
    assert load_image(chosen)[0, 0].tolist() == [0, 0, 255]
    stack = np.stack([np.full((5, 6), value, np.uint8) for value in (10, 20)])
    assert load_image(tiff(tmp_path, stack, photometric="minisblack"))[0, 0].tolist() == [10] * 3
    moving = encoded(pages[0], "AVIF", save_all=True, append_images=pages[1:])
    assert load_image(moving)[0, 0, 0] > 250


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
def test_tiff_modes_are_pillows(mode: str) -> None:
    """As Pillow itself converts the mode; greys of more than 8 bits by value."""
    grey = BACK.convert("L")
    if mode in ("I;16", "I"):
        image = Image.fromarray((np.asarray(grey).astype(np.uint16 if mode == "I;16" else np.int32)) * 257)
        expected = np.asarray(grey.convert("RGB"))
    elif mode == "F":
        image, expected = Image.fromarray(np.asarray(grey, np.float32) / 255), np.asarray(grey.convert("RGB"))
    else:
        image = grey.convert("LA") if mode == "LA" else BACK.convert(mode)
        expected = np.asarray(image.convert("RGB"))
    assert image.mode == mode
    data = encoded(image, "TIFF")
    assert Image.open(io.BytesIO(data)).mode == mode
    assert np.array_equal(load_image(data), expected)


def test_transparency_and_orientation() -> None:
    clear = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    for form in ("TIFF", "AVIF", "ICO", "TGA", "QOI", "DDS", "JPEG2000", "SGI"):
        options = {"sizes": [(3, 2)]} if form == "ICO" else {}
        assert (load_image(encoded(clear, form, **options)) >= 254).all(), form
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("TIFF", "AVIF"):
        data = encoded(Image.new("RGB", (6, 4)), form, exif=exif)
        assert picture_size(data) == (4, 6) and load_image(data).shape == (6, 4, 3), form


def test_a_camera_file_with_two_pictures() -> None:
    """MPO: a JPEG with another one behind it."""
    both = encoded(
        Image.new("RGB", (8, 6), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 6), "blue")]
    )
    assert load_image(both)[0, 0, 0] > 250 and picture_size(both) == (8, 6)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(cat) run\nshowpage\n%%EOF\n"
WMF = (
    b"\xd7\xcd\xc6\x9a\x00\x00"
    + struct.pack("<4hH", 0, 0, 100, 100, 72)
    + b"\x00" * 6
    + b"\x01\x00\x09\x00"
    + b"\x00" * 40
)


@pytest.mark.parametrize("data", [EPS, WMF, b"GRIB" + b"\0\0\0\1" * 9, b"\x89HDF\r\n\x1a\n" + b"\0" * 40], ids=str)
def test_programs_and_stubs_are_not_opened(data: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pillow would take these for pictures, and run Ghostscript for the first."""
    assert Image.open(io.BytesIO(data)).size
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was run"))
    with pytest.raises(MediaError, match="not a picture that can be read"):
        load_image(data)


def test_sizes_are_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    tags = ((256, 40_000), (257, 40_000), (258, 8), (262, 1), (273, 100), (279, 9))
    huge = [
        b"P6\n40000 40000\n255\n" + b"\0" * 100,
        b"qoif" + struct.pack(">II", 40_000, 40_000) + b"\3\0" + b"\0" * 100,
        b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 40_000, 40_000, 8, 3) + b"\0" * 100,
        struct.pack("<BBB5xHHHHBB", 0, 0, 2, 0, 0, 40_000, 40_000, 24, 0) + b"\0" * 100,
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + b"\0" * 100,
    ]  # fmt: skip
    for data in huge:
        with pytest.raises(MediaError, match="more than 89478485 pixels"):
            load_image(data)


@pytest.mark.parametrize("form", ["TIFF", "AVIF", "JPEG2000", "PPM", "PCX", "SGI", "DDS", "TGA", "QOI"])
def test_truncated_and_damaged(form: str) -> None:
    data = encoded(BACK, form)
    rng = np.random.default_rng(0)
    for length in (0, 1, 3, 10, 30, len(data) // 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own, about the file
            with pytest.raises(MediaError):
                load_image(data[:length])
    for _ in range(50):
        broken = bytearray(data)
        for at in rng.integers(0, min(len(data), 200), 5):
            broken[at] = rng.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(MediaError):
                assert load_image(bytes(broken)).dtype == np.uint8
