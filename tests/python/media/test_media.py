"""Pictures: every way in gives the same upright RGB, and whatever is no picture is refused by name."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemma4 import MediaError, RequestError
from gemma4.media import picturefiles, pictures
from numpy.typing import NDArray
from PIL import Image

RNG = np.random.default_rng(5)
PICTURE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image: Image.Image | None = None, form: str = "PNG", **keywords: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(PICTURE) if image is None else image).save(file, form, **keywords)
    return file.getvalue()


# -- ways in -----------------------------------------------------------------------------------------------------------


class Wrapped:
    """Has `__array__` and nothing else."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[np.uint8]:
        return PICTURE


class Exported:
    """Speaks DLPack and nothing else."""

    def __dlpack__(self, **keywords: Any) -> Any:
        return PICTURE.__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return PICTURE.__dlpack_device__()


def test_every_way_in_gives_the_same_pixels(tmp_path: Path) -> None:
    data = encoded()
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    shifted = np.asfortranarray(PICTURE)
    padded = np.zeros((40, 60, 6), np.uint8)
    padded[::2, ::2, ::2] = PICTURE
    read_only = PICTURE.copy()
    read_only.flags.writeable = False
    ways: list[Any] = [
        path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), url, Image.open(path),
        Image.fromarray(PICTURE), PICTURE, shifted, padded[::2, ::2, ::2], PICTURE[::-1, ::-1][::-1, ::-1],
        PICTURE.astype(np.int64), PICTURE.astype(">i2"), PICTURE / 255.0, (PICTURE / 255).astype(np.float32),
        (PICTURE / 255).astype(">f8"), read_only, Wrapped(), Exported(),
    ]  # fmt: skip
    for way in ways:
        assert np.array_equal(pictures.load_image(way), PICTURE), type(way)


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert np.array_equal(pictures.load_image(torch.from_numpy(PICTURE.copy())), PICTURE)
    with pytest.raises(MediaError, match="array"):
        pictures.load_image(torch.zeros(4, 4, 3, requires_grad=True))


def test_arrays_are_used_in_place() -> None:
    assert np.shares_memory(pictures.load_image(PICTURE), PICTURE)


def test_grey_and_masks() -> None:
    grey = PICTURE[:, :, 0]
    assert np.array_equal(pictures.load_image(grey), np.stack([grey] * 3, axis=-1))
    mask = grey > 100
    assert np.array_equal(pictures.load_image(mask)[:, :, 1], mask * np.uint8(255))


def test_alpha_of_arrays_lies_on_white() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    assert pictures.load_image(rgba).tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3] * 2]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 0, 3), np.uint8),
        np.zeros((0, 0), np.uint8),
        np.zeros((5,), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((3, 5, 5), np.uint8),
        np.zeros((1, 5, 5, 3), np.uint8),
        np.zeros((5, 5, 3), object),
        np.zeros((5, 5, 3), complex),
        np.full((5, 5, 3), np.nan),
        np.full((5, 5, 3), np.inf, np.float32),
        np.full((5, 5, 3), 255.0),
        np.full((5, 5, 3), -1.0),
        np.full((5, 5, 3), 256),
        np.full((5, 5, 3), -1),
        np.full((5, 5, 3), "x"),
        np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)),
        np.uint8(3),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_bad_arrays(array: NDArray[Any]) -> None:
    with pytest.raises(MediaError, match="picture 3"):
        pictures.load_image(array, "picture 3")


@pytest.mark.parametrize("source", [None, 3, 2.5, object(), [PICTURE], {"image": PICTURE}, io.StringIO("x")])
def test_bad_types(source: Any) -> None:
    with pytest.raises(RequestError, match="image"):
        pictures.load_image(source)


def test_urls_are_not_fetched() -> None:
    for url in ("http://127.0.0.1/x.png", "https://example.org/x.png", "ftp://x/y.png", "file:///etc/passwd"):
        with pytest.raises(RequestError, match="not fetched"):
            pictures.load_image(url)


# -- broken files ------------------------------------------------------------------------------------------------------

FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(form: str, share: float, tmp_path: Path) -> None:
    data = encoded(form=form)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"cut\.img"):
        pictures.load_image(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"\0" * 1000],
)
def test_no_picture(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"x\.png"):
        pictures.load_image(path)
    with pytest.raises(MediaError, match="bytes"):
        pictures.load_image(data)


def test_html_is_called_html(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="HTML"):
        pictures.load_image(b"<!doctype html><title>404</title>")


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, expected in [
        (tmp_path, "regular file"),
        (tmp_path / "pipe", "regular file"),
        (tmp_path / "no", "no such"),
    ]:
        with pytest.raises(MediaError, match=expected):
            pictures.load_image(path)
    for odd in ("a\0b", "x" * 5000, ""):
        with pytest.raises(MediaError):
            pictures.load_image(odd)


@pytest.mark.parametrize("url", ["data:", "data:image/png,abc", "data:image/png;base64", "data:image/png;base64,@@@@"])
def test_bad_data_urls(url: str) -> None:
    with pytest.raises(MediaError, match="image"):
        pictures.load_image(url)


@pytest.mark.parametrize("form", ["PDF", "EPS", "ICNS"])
def test_other_formats_are_not_even_opened(form: str) -> None:
    with pytest.raises(MediaError, match="not a picture"):
        pictures.load_image(encoded(form=form))


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of that size by its header."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_bombs() -> None:
    idat = (b"IDAT", zlib.compress(b"\0" * 1000))
    for width, height in [(40_000, 40_000), (pictures.MAX_PIXELS + 1, 1), (2**31 - 1, 2**31 - 1)]:
        with pytest.raises(MediaError, match=r"pixels|PNG|broken|Value|bytes"):
            pictures.load_image(png(width, height, idat))
    with pytest.raises(MediaError):
        pictures.load_image(png(0, 5, idat))
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 20_000_000, 1))
    with pytest.raises(MediaError):
        pictures.load_image(png(5, 5, text, idat))


def test_messages_hold_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("cannot read <_io.BytesIO object at 0x7f00deadbeef>")

    monkeypatch.setattr(picturefiles.Image, "open", fail)
    with pytest.raises(MediaError) as caught:
        pictures.load_image(b"x")
    assert "0x" not in str(caught.value)


# -- modes and orientation ---------------------------------------------------------------------------------------------


def rgb_by_hand(image: Image.Image) -> NDArray[np.uint8]:
    """The composite rule, written another way."""
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA")).astype(np.float64)
        alpha = rgba[:, :, 3:] / 255
        return np.asarray(np.rint(rgba[:, :, :3] * alpha + 255 * (1 - alpha)), dtype=np.uint8)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "RGBX"])
def test_modes(mode: str) -> None:
    base = Image.fromarray(PICTURE)
    image = base.convert("RGB").convert("L").convert("LA") if mode == "LA" else base.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(PICTURE[:, :, 1]))
    difference = np.abs(pictures.load_image(image).astype(int) - rgb_by_hand(image))
    assert difference.max() <= (1 if mode in ("RGBA", "LA") else 0)  # Pillow blends in integers


def test_transparent_palette(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    for form in ("PNG", "GIF"):
        loaded = pictures.load_image(encoded(image, form, transparency=1))
        assert loaded.tolist() == [[[255, 0, 0], [255, 255, 255]]]
    grey = Image.new("L", (2, 1), 7)
    grey.putpixel((1, 0), 9)
    assert pictures.load_image(encoded(grey, transparency=9)).tolist() == [[[7] * 3, [255] * 3]]


def test_sixteen_bits_keep_their_high_byte() -> None:
    values = np.array([[0, 257, 32_896, 65_535]], np.uint16)
    expected = [[[v] * 3 for v in (0, 1, 128, 255)]]
    assert pictures.load_image(Image.fromarray(values)).tolist() == expected
    assert pictures.load_image(encoded(Image.fromarray(values))).tolist() == expected
    assert pictures.load_image(Image.fromarray(values.astype(np.int32))).tolist() == expected
    assert pictures.load_image(Image.fromarray((values / 65_535).astype(np.float32))).tolist() == expected
    with pytest.raises(MediaError, match="0 to 1"):
        pictures.load_image(Image.fromarray(np.full((2, 2), 300, np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)  # red in the top left, blue in the bottom right corner
    upright[8:, 24:] = (0, 0, 255)
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = Image.fromarray(upright)
    if orientation in turns:  # how a camera held that way stores it
        stored = stored.transpose(turns[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pictures.load_image(encoded(stored, exif=exif)), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored() -> None:
    data = encoded(form="JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff", quality=95)
    assert pictures.load_image(data).shape == PICTURE.shape


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        data = encoded(
            frames[0], form, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "WEBP" else {})
        )
        assert pictures.load_image(data)[0, 0].tolist() == [255, 0, 0]
    chosen = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    chosen.seek(2)
    assert pictures.load_image(chosen)[0, 0].tolist() == [0, 0, 255]
    assert chosen.tell() == 2


# -- size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("patch", "pool"), [(16, 3), (16, 2), (14, 4), (4, 1)])
def test_target_size_is_the_reference_s(patch: int, pool: int) -> None:
    module = pytest.importorskip("transformers.models.gemma4.image_processing_pil_gemma4")
    rng = np.random.default_rng(0)
    sides = [(1, 1), (1, 10_000), (10_000, 1), (3, 4000), (4000, 7), (48, 48), (1, 70), (1, 69), (71, 1)]
    sides += [tuple(int(2 ** rng.uniform(0, 13)) for _ in range(2)) for _ in range(120)]  # type: ignore[misc]
    for height, width in sides:
        for budget in pictures.BUDGETS:
            try:
                expected = module.get_aspect_ratio_preserving_size(height, width, patch, budget * pool**2, pool)
            except ValueError:
                with pytest.raises(MediaError, match="soft tokens"):
                    pictures.target_size(height, width, budget, patch, pool)
                continue
            assert pictures.target_size(height, width, budget, patch, pool) == expected, (height, width, budget)


@pytest.mark.parametrize("size", [(20, 30), (97, 61), (300, 31), (640, 480), (5, 700)])
@pytest.mark.parametrize("budget", [70, 280])
def test_pixels_are_the_reference_s(size: tuple[int, int], budget: int) -> None:
    module = pytest.importorskip("transformers.models.gemma4.image_processing_pil_gemma4")
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    theirs = module.Gemma4ImageProcessorPil(max_soft_tokens=budget)(images=[Image.fromarray(pixels)])
    height, width = pictures.target_size(*size, budget)
    ours = pictures.resize(pictures.load_image(pixels), (height, width), "pillow")
    rows, columns = height // 16, width // 16
    patches = ours.reshape(rows, 16, columns, 16, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
    values = np.asarray(theirs["pixel_values"][0])[: rows * columns] * 255
    assert np.abs(values - patches).max() < 1e-4
    assert theirs["num_soft_tokens_per_image"][0] == rows * columns // 9


@pytest.mark.parametrize("budget", [0, 1, -70, 71, 279, 2240, 280.0, "280", True, None, np.float32(280)])
def test_budgets(budget: Any) -> None:
    with pytest.raises(RequestError, match="max_soft_tokens"):
        pictures.check_budget(budget)
    assert pictures.check_budget(np.int64(280)) == 280


def test_nothing_cannot_be_resized() -> None:
    with pytest.raises(MediaError, match="empty"):
        pictures.target_size(0, 10)
