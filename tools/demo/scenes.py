"""Pictures of coloured shapes with their true boxes: what the demo model learns from and is measured on.

Knows NumPy and Pillow only. The same random generator state always gives the same picture. Boxes are the extents of the
drawn outline in pixels, `(x1, y1, x2, y2)`; objects are listed top to bottom (by y1, then x1), the order in which the
model is taught to answer.
"""

from __future__ import annotations

import colorsys
import io
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SHAPES = ("circle", "square", "triangle", "star")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
LABELS = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
BACKGROUNDS = ("plain", "gradient", "noisy")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORDS = """
CAT DOG SUN MOON STAR TREE FISH BIRD HOUSE CAR BUS TRAIN BOOK MILK BREAD APPLE LEMON HELLO WORLD OPEN STOP GO EXIT
SALE NEW HOT COLD RED BLUE GREEN YES NO TEXT WORD IMAGE MODEL GEMMA CODE DATA TEST PLAY HOME LOVE TIME LIFE HAND EYE
BOX CUP HAT KEY MAP PEN RAIN SNOW WIND FIRE WATER EARTH RIVER LAKE SEA SHIP BOAT ROAD PARK SHOP FOOD CAKE TEA COFFEE
SUGAR SALT RICE SOUP EGG HAM JAM NUT PIE FOX WOLF BEAR LION TIGER HORSE COW PIG DUCK OWL BEE ANT FROG KING QUEEN JOY
HOPE WISH GIFT BALL GAME TEAM GOAL ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN JAZZ QUIZ VEX WAX YARN
"""
WORDS = tuple(_WORDS.split())

# hue in degrees, saturation and value: ranges wide enough for the usual named shades of each colour
_HSV: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-13, 8), (0.75, 1.0), (0.52, 1.0)),
    "green": ((88, 152), (0.55, 1.0), (0.36, 1.0)),
    "blue": ((203, 246), (0.62, 1.0), (0.45, 1.0)),
    "yellow": ((47, 63), (0.72, 1.0), (0.84, 1.0)),
    "purple": ((264, 303), (0.45, 1.0), (0.36, 0.92)),
    "orange": ((19, 40), (0.78, 1.0), (0.86, 1.0)),
    "black": ((0, 360), (0.0, 0.5), (0.0, 0.14)),
    "white": ((0, 360), (0.0, 0.05), (0.93, 1.0)),
}


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it."""

    image: Image.Image
    objects: list[tuple[str, tuple[float, float, float, float]]]  # label, (x1, y1, x2, y2) in pixels; top to bottom
    background: str = "plain"
    word: str | None = None  # what is painted, word by word from top to bottom
    letters: list[tuple[str, tuple[float, float]]] = field(default_factory=list)  # each letter and its centre in pixels
    outlines: list[np.ndarray] = field(default_factory=list)  # (n, 2) polygon of each object
    depth: list[int] = field(default_factory=list)  # indices into `objects` from the farthest to the nearest


@dataclass
class SceneOptions:
    """What may be drawn. The defaults are the whole domain of the demo model."""

    size: tuple[int, int] | None = None  # (width, height); None draws one from 320x240 to 1600x1200, aspect 1:3 to 3:1
    objects: tuple[int, int] = (1, 6)
    extent: tuple[float, float] = (0.12, 0.60)  # longer side of an object's box as a share of the picture's short side
    overlap: float = 0.15  # largest share of the smaller box that two boxes may have in common
    labels: tuple[str, ...] = LABELS
    unique: bool = False  # no label twice
    word: float = 0.0  # probability of painted words
    words: tuple[int, int] = (1, 1)  # how many there are then
    antialias: bool | None = None
    outline: float = 0.25  # probability of an outline
    rotation: float = 20.0  # largest turn of squares and triangles, degrees
    background: str | None = None
    jpeg: float = 0.15
    clutter: float = 0.0  # probability of one or two shapes that have no name here and count as background


_CLUTTER = SceneOptions(extent=(0.25, 0.5), overlap=0.0)


def make_scene(rng: np.random.Generator, options: SceneOptions | None = None, **changes: object) -> Scene:
    """Draw one scene; `changes` are fields of `SceneOptions`: `make_scene(rng, size=(640, 480), objects=(3, 3))`."""
    options = options or SceneOptions()
    if changes:
        options = SceneOptions(**{**options.__dict__, **changes})  # type: ignore[arg-type]
    width, height = options.size or random_size(rng)
    kind = options.background or BACKGROUNDS[rng.integers(3)]
    canvas, tones = _background(rng, width, height, kind)
    image = Image.fromarray(canvas)

    taken: list[tuple[float, float, float, float]] = []
    letters: list[tuple[str, tuple[float, float]]] = []
    painted: list[tuple[float, str]] = []  # top, word
    for _ in range(int(rng.integers(options.words[0], options.words[1] + 1)) if rng.random() < options.word else 0):
        word = _choose_word(rng)
        placed_word = _paint_word(rng, image, word, tones, taken)
        if placed_word:
            taken.append(placed_word[0])
            letters += placed_word[1]
            painted.append((placed_word[0][1], word))

    if options.clutter and rng.random() < options.clutter:
        for center, extent in _place(rng, int(rng.integers(1, 3)), width, height, taken, _CLUTTER):
            rgb = tuple(int(v) for v in rng.integers(0, 256, 3))
            _draw(rng, image, _unnamed(rng, center, extent), rgb, rng.random() < 0.35, (rng.random() < 0.25, False))
            half = extent / 2
            taken.append((center[0] - half, center[1] - half, center[0] + half, center[1] + half))

    count = int(rng.integers(options.objects[0], options.objects[1] + 1))
    placed = _place(rng, count, width, height, taken, options)
    drawn: list[tuple[str, tuple[float, float, float, float], np.ndarray]] = []
    used: set[str] = set()
    aliased = not options.antialias if options.antialias is not None else rng.random() < 0.35
    style = (rng.random() < options.outline, rng.random() < 0.15)
    for center, extent in placed:
        label, rgb = _choose_label(rng, tones, options, used)
        if label is None:
            continue
        used.add(label)
        polygon = _polygon(rng, label.split()[1], center, extent, options.rotation)
        _draw(rng, image, polygon, rgb, aliased, style)
        x1, y1 = polygon.min(axis=0)
        x2, y2 = polygon.max(axis=0)
        drawn.append((label, (float(x1), float(y1), float(x2), float(y2)), polygon))

    if rng.random() < 0.12:
        image = _noise(rng, image, int(rng.integers(4, 16)))
    if rng.random() < 0.05:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0)) * min(width, height) / 300))
    if rng.random() < options.jpeg:
        image = _jpeg(image, int(rng.integers(35, 92)))
    order = sorted(range(len(drawn)), key=lambda i: (drawn[i][1][1], drawn[i][1][0]))
    rank = {index: position for position, index in enumerate(order)}
    return Scene(
        image=image,
        objects=[(drawn[i][0], drawn[i][1]) for i in order],
        background=kind,
        word=" ".join(word for _, word in sorted(painted)) or None,
        letters=letters,
        outlines=[drawn[i][2] for i in order],
        depth=[rank[i] for i in range(len(drawn))],
    )


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """A picture size from 320x240 to 1600x1200 pixels; usual aspects most often, up to 3:1 either way."""
    usual = (4 / 3, 4 / 3, 4 / 3, 3 / 2, 16 / 9, 1.0, 3 / 4, 2 / 3, 9 / 16)
    aspect = usual[rng.integers(len(usual))] if rng.random() < 0.6 else math.exp(rng.uniform(-math.log(3), math.log(3)))
    area = math.exp(rng.uniform(math.log(320 * 240), math.log(1600 * 1200)))
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    return max(120, round(width)), max(120, round(height))


def random_color(rng: np.random.Generator, name: str) -> tuple[int, int, int]:
    """A shade that people call `name`."""
    hue, saturation, value = (rng.uniform(low, high) for low, high in _HSV[name])
    if name not in ("black", "white") and rng.random() < 0.25:  # the pure colour that most programs use
        hue = {"red": 0, "green": 120, "blue": 240, "yellow": 60, "purple": 300, "orange": 39}[name]
        saturation, value = 1.0, {"green": 0.5, "purple": 0.5}.get(name, 1.0)
    red, green, blue = colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _choose_word(rng: np.random.Generator) -> str:
    if rng.random() < 0.4:
        return WORDS[rng.integers(len(WORDS))]
    return "".join(LETTERS[i] for i in rng.integers(0, 26, int(rng.integers(2, 7))))


def _background(
    rng: np.random.Generator, width: int, height: int, kind: str
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """The empty picture (height, width, 3) uint8 and its main tones, which objects must contrast with."""
    first = _background_tone(rng)
    if kind == "plain":
        return np.broadcast_to(np.array(first, np.uint8), (height, width, 3)).copy(), [first]
    if kind == "gradient" or rng.random() < 0.2:
        near = np.clip(np.array(first) + rng.integers(-70, 71, 3), 0, 255)
        second = tuple(int(v) for v in near) if rng.random() < 0.7 else _background_tone(rng)
        angle = rng.uniform(0, 2 * math.pi)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        if rng.random() < 0.75:
            ramp = x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))
        else:
            ramp = np.hypot(x - width * rng.uniform(0.2, 0.8), y - height * rng.uniform(0.2, 0.8))
        ramp = ((ramp - ramp.min()) / max(1e-6, float(ramp.max() - ramp.min())))[..., None]
        canvas = np.array(first, np.float32) * (1 - ramp) + np.array(second, np.float32) * ramp
        middle = tuple((a + b) // 2 for a, b in zip(first, second, strict=True))
        tones = [first, middle, second]
    else:
        canvas = np.broadcast_to(np.array(first, np.float32), (height, width, 3)).copy()
        tones = [first]
    if kind == "noisy":
        strength = float(rng.uniform(6, 34))
        choice = rng.random()
        if choice < 0.35:
            canvas += _quick_noise(rng, (height, width, 3)) * strength
        elif choice < 0.6:
            canvas += _quick_noise(rng, (height, width, 1)) * strength
        elif choice < 0.85:  # blotches
            cells = int(rng.integers(4, 40))
            coarse = rng.standard_normal((cells, cells, 3 if rng.random() < 0.5 else 1)) * strength * 1.2
            coarse = np.clip(np.broadcast_to(coarse, (cells, cells, 3)) + 128, 0, 255).astype(np.uint8)
            canvas += (
                np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32) - 128
            )
        else:  # salt and pepper, or stripes
            if rng.random() < 0.5:
                spots = rng.random((height, width)) < rng.uniform(0.005, 0.04)
                canvas[spots] += np.where(rng.random((int(spots.sum()), 1)) < 0.5, -60, 60)
            else:
                period = rng.uniform(0.02, 0.15) * min(width, height)
                wave = np.sin(
                    (np.arange(width) * math.cos(strength) + np.arange(height)[:, None] * math.sin(strength))
                    / period
                    * 6.28
                )
                canvas += (wave * strength * 0.6).astype(np.float32)[..., None]
    return np.clip(canvas, 0, 255).astype(np.uint8), tones


def _background_tone(rng: np.random.Generator) -> tuple[int, int, int]:
    choice = rng.random()
    if choice < 0.35:  # grays, with the extremes that most programs use
        level = (
            int(rng.choice([255, 250, 240, 230, 220, 200, 128, 60, 40, 30, 20, 0]))
            if rng.random() < 0.5
            else int(rng.integers(0, 256))
        )
        return level, level, level
    saturation = rng.uniform(0.03, 0.35) if choice < 0.75 else rng.uniform(0.2, 1.0)
    value = rng.uniform(0.08, 1.0) if choice >= 0.55 else rng.uniform(0.75, 1.0)
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


_NORMAL = (np.random.default_rng(0).standard_normal(4096)).astype(np.float32)


def _quick_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """About normal noise, by table: drawing a million true normals costs more than the rest of the scene."""
    return _NORMAL[rng.integers(0, 4096, shape, dtype=np.uint16)]


def _noise(rng: np.random.Generator, image: Image.Image, strength: float) -> Image.Image:
    pixels = np.asarray(image, np.float32) + _quick_noise(rng, (image.height, image.width, 1)) * strength
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """How far apart two colours look: weighted distance in RGB, 0 to about 765."""
    mean = (a[0] + b[0]) / 2
    red, green, blue = (a[i] - b[i] for i in range(3))
    return math.sqrt((2 + mean / 256) * red * red + 4 * green * green + (2 + (255 - mean) / 256) * blue * blue)


def _choose_label(
    rng: np.random.Generator, tones: list[tuple[int, int, int]], options: SceneOptions, used: set[str]
) -> tuple[str | None, tuple[int, int, int]]:
    """A label and a shade that stands out from the background; repeats an earlier label now and then."""
    for attempt in range(60):
        if used and not options.unique and attempt == 0 and rng.random() < 0.15:
            label = sorted(used)[rng.integers(len(used))]
        else:
            label = options.labels[rng.integers(len(options.labels))]
        if options.unique and label in used:
            continue
        rgb = random_color(rng, label.split()[0])
        if min(contrast(rgb, tone) for tone in tones) > (150 if attempt < 40 else 110):
            return label, rgb
    return None, (0, 0, 0)


def _place(
    rng: np.random.Generator,
    count: int,
    width: int,
    height: int,
    taken: list[tuple[float, float, float, float]],
    options: SceneOptions,
) -> list[tuple[tuple[float, float], float]]:
    """Centres and sizes (pixels) of up to `count` objects that overlap only a little."""
    short = min(width, height)
    boxes = list(taken)
    placed: list[tuple[tuple[float, float], float]] = []
    low, high = options.extent
    for _ in range(count):
        for attempt in range(40):
            limit = high if attempt < 12 else low + (high - low) * 0.5 ** ((attempt - 8) // 4)
            if rng.random() < 0.35:
                share = math.exp(rng.uniform(math.log(low), math.log(max(limit, low * 1.01))))
            else:
                share = rng.uniform(low, max(limit, low * 1.01))
            extent = share * short
            half = extent / 2 + 1
            x, y = rng.uniform(half, width - half), rng.uniform(half, height - half)
            box = (x - extent / 2, y - extent / 2, x + extent / 2, y + extent / 2)
            touching = rng.random() < 0.3
            allowed = options.overlap if touching else 0.0
            if all(_common(box, other) <= (0.0 if other in taken else allowed) for other in boxes):
                boxes.append(box)
                placed.append(((x, y), extent))
                break
    return placed


def _common(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection as a share of the smaller box."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _polygon(
    rng: np.random.Generator, shape: str, center: tuple[float, float], extent: float, rotation: float
) -> np.ndarray:
    """The outline (n, 2) whose longer side measures `extent`, its box centred on `center`."""
    turn = math.radians(rng.uniform(-rotation, rotation)) if rng.random() < 0.6 else 0.0
    if shape == "circle":
        angles = np.arange(96) * (2 * math.pi / 96)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif shape == "square":
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
        if rng.random() < 0.04:
            turn = math.pi / 4
    elif shape == "triangle":
        choice = rng.random()
        if choice < 0.45:
            points = np.array([(0, -1), (0.866, 0.5), (-0.866, 0.5)])
        elif choice < 0.8:
            points = np.array(
                [(rng.uniform(-0.15, 0.15), -1), (0.9, rng.uniform(0.55, 1)), (-0.9, rng.uniform(0.55, 1))]
            )
            points[2, 1] = points[1, 1]
        else:
            points = np.array([(-1, -1), (1, 1), (-1, 1)], float)
            if rng.random() < 0.5:
                points[:, 0] *= -1
        quarter = rng.random()
        if quarter < 0.2:
            points = -points
        elif quarter < 0.3:
            points = points[:, ::-1] * (1 if quarter < 0.25 else -1)
    else:
        tips = int(rng.choice([4, 5, 5, 5, 5, 5, 5, 6, 6]))
        inner = rng.uniform(0.36, 0.52) if tips != 4 else rng.uniform(0.28, 0.45)
        if rng.random() < 0.2:
            turn = rng.uniform(0, 2 * math.pi)
        angles = np.arange(2 * tips) * (math.pi / tips) - math.pi / 2
        radii = np.where(np.arange(2 * tips) % 2 == 0, 1.0, inner)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    if shape != "circle":
        points = points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) * (extent / (high - low).max())
    return points + np.array(center)


def _unnamed(rng: np.random.Generator, center: tuple[float, float], extent: float) -> np.ndarray:
    """The outline (n, 2) of something that is no circle, square, triangle or star: so clearly that none says so."""
    kind = rng.integers(5)
    thin = rng.uniform(0.3, 0.55)
    if kind == 0:  # an ellipse
        angles = np.arange(96) * (2 * math.pi / 96)
        points = np.stack([np.cos(angles), thin * np.sin(angles)], axis=1)
    elif kind == 1:  # a rectangle
        points = np.array([(-1, -thin), (1, -thin), (1, thin), (-1, thin)])
    elif kind == 2:  # a cross
        a = thin * 0.6
        corners = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
        points = np.array([*corners, *((-x, -y) for x, y in corners)])
    elif kind == 3:  # an angle
        a = thin
        points = np.array([(-1, -1), (-1 + a, -1), (-1 + a, 1 - a), (1, 1 - a), (1, 1), (-1, 1)])
    else:  # an arrow
        a = thin * 0.6
        points = np.array([(-1, -a), (0.2, -a), (0.2, -0.8), (1, 0), (0.2, 0.8), (0.2, a), (-1, a)])
    turn = rng.uniform(0, 2 * math.pi)
    points = points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) * (extent / (high - low).max()) + np.array(center)


def _draw(
    rng: np.random.Generator,
    image: Image.Image,
    polygon: np.ndarray,
    rgb: tuple[int, int, int],
    aliased: bool,
    style: tuple[bool, bool],
) -> None:
    """Paint a filled polygon, smooth or not, with a thin outline inside its edge if `style[0]`."""
    outlined, shaded = style
    left, top = np.floor(polygon.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(polygon.max(axis=0)).astype(int) + 2
    scale = 1 if aliased else 3
    size = (int(right - left), int(bottom - top))
    local = [tuple(point) for point in ((polygon - (left, top)) * scale - (0.5 if aliased else 0))]
    mask = Image.new("L", (size[0] * scale, size[1] * scale))
    ImageDraw.Draw(mask).polygon(local, fill=255)
    if not aliased:
        mask = mask.resize(size, Image.Resampling.BOX)
    fill = Image.new("RGB", size, rgb)
    if shaded:
        ramp = np.linspace(1.0, float(rng.uniform(0.86, 0.95)), size[1], dtype=np.float32)[:, None, None]
        fill = Image.fromarray(
            (np.array(rgb, np.float32) * ramp * np.ones((1, size[0], 1), np.float32)).astype(np.uint8)
        )
    image.paste(fill, (int(left), int(top)), mask)
    if outlined:
        line = Image.new("L", (size[0] * scale, size[1] * scale))
        thickness = max(1, round(float(rng.uniform(0.01, 0.04)) * max(size) * scale))
        ImageDraw.Draw(line).line([*local, local[0], local[1]], fill=255, width=thickness, joint="curve")
        if not aliased:
            line = line.resize(size, Image.Resampling.BOX)
        line = Image.fromarray(np.minimum(np.asarray(line), np.asarray(mask)))  # only what lies inside the edge
        tone = [(0, 0, 0), (255, 255, 255), tuple(v // 2 for v in rgb), tuple(v // 3 for v in rgb), (60, 60, 60)][
            rng.integers(5)
        ]
        image.paste(tone, (int(left), int(top)), line)


def _paint_word(
    rng: np.random.Generator,
    image: Image.Image,
    word: str,
    tones: list[tuple[int, int, int]],
    taken: list[tuple[float, float, float, float]],
) -> tuple[tuple[float, float, float, float], list[tuple[str, tuple[float, float]]]] | None:
    """Paint the word level, in one colour, on rows that no earlier word has; its box and the centre of each letter.

    None where no place is left.
    """
    width, height = image.size
    size = float(rng.uniform(0.16, 0.34)) * min(width, height)
    font = ImageFont.load_default(size)
    length = font.getlength(word)
    if length > 0.92 * width:
        size *= 0.92 * width / length
        font = ImageFont.load_default(size)
        length = font.getlength(word)
    rgb = random_color(rng, COLORS[rng.integers(8)])
    for _ in range(40):
        if min(contrast(rgb, tone) for tone in tones) > 190:
            break
        rgb = random_color(rng, COLORS[rng.integers(8)])
    else:
        rgb = (255, 255, 255) if sum(tones[0]) < 380 else (0, 0, 0)
    _, top, _, bottom = font.getbbox(word)
    for _ in range(20):
        x = float(rng.uniform(0.03 * width, max(0.03 * width, 0.97 * width - length)))
        y = float(rng.uniform(0.02 * height, max(0.02 * height, 0.96 * height - size)))
        if all(y + bottom < box[1] or y + top > box[3] for box in taken):
            break
    else:
        return None
    ImageDraw.Draw(image).text((x, y), word, fill=rgb, font=font)
    letters = []
    for index, letter in enumerate(word):
        start = font.getlength(word[:index])
        letters.append((letter, (x + (start + font.getlength(word[: index + 1])) / 2, y + (top + bottom) / 2)))
    return (x, y + top, x + length, y + bottom), letters
