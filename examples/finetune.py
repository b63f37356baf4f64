"""Teach the demo model a shape that it does not know, with PEFT, and let the engine find it.

    pip install gemma4 torch==2.13.0 transformers==5.23.0 peft
    python examples/finetune.py                  # crosses; --shape pentagon for another one

The demo model knows circles, squares, triangles and stars, and calls a cross by one of these names. This script draws
pictures with crosses among other shapes, trains a LoRA adapter on the reference implementation (transformers), and then
lets the engine name all objects of new pictures twice: without the adapter, and with it. The weights stay as they are;
the adapter is a directory of its own beside them.

Prompts and pixels of the training are those that the engine itself makes (`Model.prepare`), so that nothing differs
between training and use.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import gemma4
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image, ImageDraw
from transformers import Gemma4ForConditionalGeneration

DEMO = Path(gemma4.__file__).parent / "demo_model"
COLORS = {
    "red": (220, 30, 30), "green": (20, 150, 40), "blue": (40, 80, 220), "yellow": (245, 220, 20),
    "purple": (130, 30, 160), "orange": (255, 145, 10), "black": (10, 10, 10), "white": (252, 252, 252),
}  # fmt: skip
GROUNDS = [(200, 200, 200), (235, 225, 200), (120, 130, 140), (90, 110, 90), (170, 190, 215)]
SIZE = (320, 240)
BUDGET = 70  # soft tokens of a picture
QUESTION = "Detect all objects in the image."  # as `Model.detect` asks it
# Of the decoder, and of the vision encoder, whose linears lie within modules that clamp what goes in and out.
LINEARS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj|.*vision_tower\..*\.linear"

Box = tuple[float, float, float, float]  # x1, y1, x2, y2


# -- pictures ----------------------------------------------------------------------------------------------------------


def outline(shape: str, center: tuple[float, float], radius: float, turn: float) -> list[tuple[float, float]]:
    """The corners of a shape."""
    if shape == "cross":
        arm = radius * 0.32
        points = [(-arm, -radius), (arm, -radius), (arm, -arm), (radius, -arm), (radius, arm), (arm, arm)]
        points += [(arm, radius), (-arm, radius), (-arm, arm), (-radius, arm), (-radius, -arm), (-arm, -arm)]
    else:
        count = {"triangle": 3, "square": 4, "pentagon": 5, "circle": 48}[shape]
        first = -math.pi / 2 + (math.pi / 4 if shape == "square" else 0)
        angles = [first + 2 * math.pi * i / count for i in range(count)]
        points = [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(center[0] + x * cos - y * sin, center[1] + x * sin + y * cos) for x, y in points]


def scene(rng: np.random.Generator, shape: str) -> tuple[Image.Image, list[tuple[str, Box]]]:
    """A picture with one to four things, one of them of the new shape, and where they are, from top to bottom."""
    scale = 3  # drawn larger, then made smaller: smooth edges
    image = Image.new("RGB", (SIZE[0] * scale, SIZE[1] * scale), GROUNDS[rng.integers(len(GROUNDS))])
    draw, found = ImageDraw.Draw(image), []
    others = rng.choice(["circle", "square", "triangle"], rng.integers(0, 4)).tolist()
    for kind in [shape, *others]:
        for _ in range(20):
            radius = float(rng.uniform(18, 48))
            reach = 1.1 * radius  # the tips of a cross that is turned
            center = (float(rng.uniform(reach, SIZE[0] - reach)), float(rng.uniform(reach, SIZE[1] - reach)))
            points = np.array(outline(kind, center, radius, math.radians(rng.uniform(-12, 12))))
            box = (*points.min(0).tolist(), *points.max(0).tolist())
            if all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for _, b in found):
                color = list(COLORS)[rng.integers(len(COLORS))]
                draw.polygon([(x * scale, y * scale) for x, y in points.tolist()], fill=COLORS[color])
                found.append((f"{color} {kind}", box))
                break
    return image.resize(SIZE, Image.Resampling.BOX), sorted(found, key=lambda item: item[1][1])


def answer(found: list[tuple[str, Box]]) -> str:
    """What the model is to say. The demo model writes every fifth number of the grid, each as one token."""
    boxes = [(name, gemma4.boxes.from_pixels(np.array(box), SIZE)) for name, box in found]
    return json.dumps([{"box_2d": (np.rint(box / 5) * 5).astype(int).tolist(), "label": name} for name, box in boxes])


# -- training ----------------------------------------------------------------------------------------------------------


def example(model: gemma4.Model, rng: np.random.Generator, shape: str) -> tuple[Any, list[int]]:
    """A prompt as the engine makes it, and the ids of its answer."""
    image, found = scene(rng, shape)
    inputs = model.prepare(QUESTION, images=image, max_soft_tokens=BUDGET)
    return inputs, [*model.tokenizer.encode(answer(found)), model.tokenizer.id_of("<turn|>")]


def batch(model: gemma4.Model, rng: np.random.Generator, shape: str, size: int) -> dict[str, torch.Tensor]:
    """What the reference's `forward` takes."""
    examples = [example(model, rng, shape) for _ in range(size)]
    length = max(len(inputs) + len(ids) for inputs, ids in examples)
    row = {"input_ids": 0, "labels": -100, "attention_mask": 0, "mm_token_type_ids": 0}
    out = {name: torch.full((size, length), fill) for name, fill in row.items()}
    pixels, places = [], []
    for i, (inputs, ids) in enumerate(examples):
        whole = torch.tensor([*inputs.input_ids.tolist(), *ids])
        out["input_ids"][i, : len(whole)] = whole
        out["labels"][i, len(inputs) : len(whole)] = whole[len(inputs) :]
        out["attention_mask"][i, : len(whole)] = 1
        [picture] = inputs.images
        out["mm_token_type_ids"][i, picture.start : picture.start + picture.count] = 1
        side = model.config["vision_config"]["patch_size"]
        height, width = picture.pixels.shape[0] // side, picture.pixels.shape[1] // side
        patches = picture.pixels.reshape(height, side, width, side, 3).transpose(0, 2, 1, 3, 4)
        pixels.append(torch.from_numpy(patches.reshape(height * width, -1).astype(np.float32) / 255))
        y, x = np.mgrid[:height, :width]
        places.append(torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=-1)))
    return {**out, "pixel_values": torch.stack(pixels), "image_position_ids": torch.stack(places)}


def train(engine: gemma4.Model, shape: str, steps: int, size: int, out: Path) -> None:
    """An adapter in `out`."""
    torch.manual_seed(0)
    reference = Gemma4ForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float32)
    model = get_peft_model(reference, LoraConfig(r=16, lora_alpha=32, target_modules=LINEARS))
    model.print_trainable_parameters()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    rng, started = np.random.default_rng(1), time.perf_counter()
    for step in range(steps):
        loss = model(**batch(engine, rng, shape, size)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:4d}   loss {loss.item():.3f}   {time.perf_counter() - started:.0f} s", flush=True)
    model.save_pretrained(out)


# -- the engine --------------------------------------------------------------------------------------------------------


def share_found(model: gemma4.Model, shape: str, pictures: int, **options: Any) -> float:
    """Of pictures that nobody has trained on: how often a shape is found among all objects, named rightly, and in a box
    that has half of it in common with the true one (IoU)."""
    rng, right = np.random.default_rng(999), 0
    for _ in range(pictures):
        image, truth = scene(rng, shape)
        label, box = next((name, box) for name, box in truth if name.endswith(shape))
        found = model.detect(image, max_soft_tokens=BUDGET, max_new_tokens=300, **options)
        right += any(item.label == label and gemma4.boxes.iou(item.xyxy, np.array(box)) >= 0.5 for item in found)
    return right / pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=["cross", "pentagon"], default="cross")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=100, help="to ask about afterwards")
    parser.add_argument("--out", type=Path, default=Path("adapter"))
    arguments = parser.parse_args()

    train(gemma4.Model.from_pretrained("demo"), arguments.shape, arguments.steps, arguments.batch, arguments.out)
    model = gemma4.Model.from_pretrained("demo", adapter={arguments.shape: arguments.out})
    before = share_found(model, arguments.shape, arguments.pictures)
    after = share_found(model, arguments.shape, arguments.pictures, adapter=arguments.shape)
    known = share_found(model, "circle", arguments.pictures, adapter=arguments.shape)
    print(
        f"{arguments.shape}: {before:.0%} found without the adapter, {after:.0%} with it; circles with it: {known:.0%}"
    )


if __name__ == "__main__":
    main()
