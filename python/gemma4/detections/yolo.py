"""YOLO folders, as ultralytics and labelImg have them: a text file of relative boxes beside each picture.

Knows: the layout and the rows. Must not know: pixels of pictures, training. Files of other tools are untrusted: errors
name the file and the row.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import RequestError
from ..extras import extra
from ..media import PICTURE_SUFFIXES
from ..replacing import beside, write_whole
from .annotations import AnnotatedObject, AnnotatedPicture, Annotations
from .coco import Found, named
from .detections import Detection, Detections
from .files import read_text
from .interchange import category_ids, category_of
from .sizes import upright_size

__all__ = ["load_yolo", "read_yolo", "save_yolo", "yolo_box"]

_DESCRIBED = ("data.yaml", "data.yml")
_SPLITS = ("val", "test", "train")
_MOST_OF_A_LIST = 1 << 20  # bytes of data.yaml or classes.txt


def save_yolo(
    folder: str | os.PathLike[str], found: Found, classes: Sequence[str] | None = None, *, scores: bool = False
) -> None:
    """Write the objects of many pictures as a YOLO dataset: `labels/NAME.txt`, `classes.txt` and `data.yaml`.

    A row is `class x y width height`, of the centre, relative to the picture. The pictures themselves belong into
    `images`, under the names they have in `found`; put them there, they are not copied.

    Args:
        folder: made if there is none. Labels that are there already are never overwritten.
        found: picture's name, relative, to :class:`~gemma4.Detections`, or pairs of them.
        classes: names in the order of their numbers, from 0; by default all labels, sorted.
        scores: a sixth column with the score, as ultralytics writes predictions; training takes no such files.

    Raises:
        RequestError: a name that is absolute or leaves the folder, two pictures with one label file, a label that is
            not among the classes, or a folder that has labels.
        OSError: a file cannot be written.

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> save_yolo(folder, {"a.png": Detections.from_xyxy([("cat", [10, 20, 40, 60])], (100, 80))})
    >>> (folder / "labels" / "a.txt").read_text().strip()
    '0 0.25 0.5 0.3 0.5'
    >>> (folder / "images").mkdir()
    >>> Image.new("RGB", (100, 80)).save(folder / "images" / "a.png")
    >>> load_yolo(folder)["images/a.png"].labels
    ['cat']
    """
    pairs, root = named(found), Path(folder)
    names = sorted({label for _, one in pairs for label in one.labels}) if classes is None else list(classes)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise RequestError(f"classes: expected names, found {str(wrong[0])[:40]}")
    numbers = {label: number - 1 for label, number in category_ids(names).items()}
    if broken := [name for name in names if not name.isprintable() or name != name.strip() or not name]:
        raise RequestError(f"classes: {broken[0]!r} cannot be a line of classes.txt")
    texts: dict[PurePosixPath, str] = {}
    for name, one in pairs:
        place = PurePosixPath(name.replace(os.sep, "/"))
        if place.is_absolute() or ".." in place.parts or not place.stem:
            raise RequestError(f"found: {name!r}: expected a name relative to the folder of the pictures")
        if place.with_suffix(".txt") in texts:
            raise RequestError(f"found: {name!r}: another picture has the same label file, {place.stem}.txt")
        texts[place.with_suffix(".txt")] = "".join(_row(item, numbers, one.image_size, scores) for item in one)
    labels = root / "labels"
    for taken in (labels, root / "classes.txt", root / "data.yaml"):
        if taken.exists():
            raise RequestError(f"{taken}: is there already; nothing is overwritten")
    root.mkdir(parents=True, exist_ok=True)
    with beside(labels) as made:
        made.mkdir()
        for place, text in texts.items():
            (made / place).parent.mkdir(parents=True, exist_ok=True)
            (made / place).write_bytes(text.encode())
    write_whole(root / "classes.txt", "".join(f"{name}\n" for name in names))
    described = {"path": ".", "train": "images", "val": "images", "nc": len(names), "names": names}
    write_whole(root / "data.yaml", extra("yaml", "data").safe_dump(described, allow_unicode=True, sort_keys=False))


def load_yolo(folder: str | os.PathLike[str], split: str | None = None, *, clip: bool = False) -> dict[str, Detections]:
    """The objects of each picture of a YOLO dataset, under its name relative to the folder, sorted.

    Args:
        folder: with `data.yaml` (whose `train`, `val` and `test` name the pictures), or with `classes.txt` and
            pictures in `images`, beside their labels or beside a folder `labels` of them. Or the `data.yaml` itself,
            under any name.
        split: which of `train`, `val` and `test`; by default all there are.
        clip: as in :func:`load_coco`.

    A picture without a label file has no objects. Of a row with a polygon the box around it is taken; a sixth column
    is a score. Sizes are read from the pictures' headers, as the pictures are shown.

    Raises:
        RequestError: no classes, no pictures, a row that is no box, a class that there is not, or a label file without
            a picture; names the file and the row.
        MediaError: a picture that cannot be read.

    :func:`save_yolo` has an example.
    """
    found = read_yolo(folder, split)
    return {one.name: one.detections(clip) for one in found.pictures}


def read_yolo(folder: str | os.PathLike[str], split: str | None = None, *, alone: bool = False) -> Annotations:
    """The pictures of a YOLO dataset with all that is on them; boxes may leave their pictures.

    Arguments and errors as :func:`load_yolo`; with `alone`, no `split` means the first of val, test and train that
    there is, instead of all.
    """
    given = Path(folder)
    root = given.parent if given.is_file() else given
    if not root.is_dir():
        raise RequestError(f"{root}: no such folder")
    described = given if given.is_file() else next((p for p in map(root.joinpath, _DESCRIBED) if p.is_file()), None)
    if described is not None:
        data = _mapping(described)
        names = _names(data, described)
        places = _places(data, described, _splits(data, described, split, alone))
    elif split is not None:
        raise RequestError(f"{root / _DESCRIBED[0]}: no such file; only it says what {split!r} is")
    else:
        listed = next((p for p in (root / "classes.txt", root / "labels" / "classes.txt") if p.is_file()), None)
        if listed is None:
            raise RequestError(f"{root}: expected data.yaml or classes.txt with the names of the classes")
        names = dict(enumerate(line.strip() for line in read_text(listed, _MOST_OF_A_LIST).rstrip().splitlines()))
        places = [root / "images" if (root / "images").is_dir() else root]
    found = {picture: place for place in reversed(places) for picture in _pictures(place)}
    if not found:
        raise RequestError(f"{places[0]}: no pictures")
    pictures: list[AnnotatedPicture] = []
    used: dict[Path, Path] = {}
    for picture in sorted(found):
        path, size = _label_file(picture, found[picture]), upright_size(picture)
        if path in used:
            raise RequestError(f"{path}: belongs to both {used[path].name} and {picture.name}")
        used[path] = picture
        pictures.append(AnnotatedPicture(_relative(picture, root), str(path), size, picture, _read(path, names, size)))
    for beside_it in {path.parent for path, picture in used.items() if path.parent != picture.parent}:
        for path in sorted(beside_it.glob("*.txt")):
            if path not in used and path.name != "classes.txt":
                raise RequestError(f"{path}: there is no picture for these labels")
    inner = places[0] if len(places) == 1 and places[0].is_dir() else root
    return Annotations(tuple(names.values()), pictures, inner)


def _row(item: Detection, numbers: dict[str, int], size: tuple[int, int], scores: bool) -> str:
    values = [*yolo_box(item.xyxy, size), *([item.score] if scores else [])]
    return " ".join([str(category_of(item.label, numbers)), *(f"{value:.8g}" for value in values)]) + "\n"


def yolo_box(xyxy: Sequence[float], size: Sequence[int]) -> tuple[float, float, float, float]:
    """The centre, the width and the height, from 0 to 1 of the picture's sides."""
    (x1, y1, x2, y2), (width, height) = xyxy, size
    return (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height


def _read(path: Path, names: dict[int, str], size: tuple[int, int]) -> list[AnnotatedObject]:
    lines = read_text(path).splitlines() if path.is_file() else []
    return [
        _object(line.split(), names, size, f"{path}: row {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _object(fields: list[str], names: dict[int, str], size: tuple[int, int], where: str) -> AnnotatedObject:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        raise RequestError(f"{where}: expected numbers, found {' '.join(fields)[:60]!r}") from None
    if not all(abs(value) < 1e6 for value in values):  # NaN neither
        raise RequestError(f"{where}: expected numbers relative to the picture, found {' '.join(fields)[:60]!r}")
    if len(values) not in (5, 6) and (len(values) < 7 or not len(values) % 2):
        raise RequestError(f"{where}: expected a class and a box or a polygon, found {len(values)} numbers")
    if values[0] not in names:  # 3.0 is 3, as some tools write it
        raise RequestError(f"{where}: there is no class {fields[0]}; there are {len(names)}")
    score = values[5] if len(values) == 6 else 1.0
    if not 0 <= score <= 1:
        raise RequestError(f"{where}: expected a score from 0 to 1, found {fields[5]}")
    if len(values) < 7:
        x, y, width, height = values[1:5]
        if width < 0 or height < 0:
            raise RequestError(f"{where}: a width or a height below 0")
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        xs, ys = values[1::2], values[2::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
    pixels = tuple(corner * side for corner, side in zip(corners, (*size, *size), strict=True))
    return AnnotatedObject(names[int(values[0])], pixels, where, score)


# ----------------------------------------------------------------------------------------------------------------------
# Folders


def _mapping(path: Path) -> dict[str, Any]:
    yaml = extra("yaml", "data")
    try:
        data = yaml.safe_load(read_text(path, _MOST_OF_A_LIST))
    except (yaml.YAMLError, RecursionError) as error:
        raise RequestError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict):
        raise RequestError(f"{path}: expected names, train and val, found {type(data).__name__}")
    return data


def _names(data: dict[str, Any], path: Path) -> dict[int, str]:
    names = data.get("names")
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(numbered, dict) or not all(isinstance(key, int) for key in numbered):
        raise RequestError(f"{path}: names: expected a list of class names, or numbers with names")
    for number, name in numbered.items():
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            raise RequestError(f"{path}: names: {number}: expected a name, found {name!r}; put it into quotes")
    return {number: str(name) for number, name in numbered.items()}


def _splits(data: dict[str, Any], path: Path, split: str | None, alone: bool) -> list[str]:
    there = [name for name in _SPLITS if data.get(name)]
    if split is None:
        return there[:1] if alone else there[::-1]
    if split not in there:
        raise RequestError(f"{path}: {split}: the file names no such pictures, but {', '.join(there) or 'none at all'}")
    return [split]


def _places(data: dict[str, Any], path: Path, splits: Iterable[str]) -> list[Path]:
    """Folders, files that list pictures, and single pictures of the splits."""
    base = path.parent / str(data.get("path") or "")
    places = []
    for name in splits:
        value = data.get(name) or []
        for entry in value if isinstance(value, list) else [value]:
            # Exports often say ../train/images where train lies beside them, or have a path of another machine.
            plain = str(entry)
            ways = (base / plain, path.parent / plain, path.parent / plain.removeprefix("../"))
            place = next((way for way in ways if way.exists()), None)
            if place is None:
                raise RequestError(f"{path}: {name}: {ways[0]}: no such file or folder")
            places.append(place)
    if not places and not (path.parent / "images").is_dir():
        raise RequestError(f"{path}: expected train, val or test with the places of pictures, or a folder images")
    return places or [path.parent / "images"]


def _pictures(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (file for file in place.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file())
    elif place.suffix.lower() == ".txt":
        for line in filter(None, map(str.strip, read_text(place).splitlines())):
            picture = next((p for p in (place.parent / line, Path(line)) if p.is_file()), None)
            if picture is None:
                raise RequestError(f"{place}: {line[:200]}: no such file")
            yield picture
    else:
        yield place


def _label_file(picture: Path, place: Path) -> Path:
    """In `labels` where the picture is in `images`, the last folder of that name; else in `labels` of the place, or
    beside the picture. A folder may be called `images` for another reason: the first of these that is there."""
    folders, ways = list(picture.parent.parts), []
    if "images" in folders:
        folders[-1 - folders[::-1].index("images")] = "labels"
        ways.append(Path(*folders, picture.name))
    if place.is_dir():
        ways.append(place / "labels" / picture.relative_to(place))
    files = [way.with_suffix(".txt") for way in (*ways, picture)]
    return next((file for file in files if file.is_file()), files[0])


def _relative(picture: Path, root: Path) -> str:
    return Path(os.path.relpath(picture, root)).as_posix()
