"""Makes resized.json and resized.npz: what the reference's processor gives for the cases of picture_cases.py.

    python -m venv V && V/bin/pip install torch==2.13.0 torchvision==0.28.0 transformers==5.23.0 scikit-image av
    V/bin/python tests/python/data/pictures/make.py

torch may be the CPU's: operators of PyPI's torchvision do not load beside it, but resizing needs none of them,
importing only that they have a name. The two photographs are crops of scikit-image's `astronaut` (NASA, public domain)
and `chelsea` (S. van der Walt, CC0). Knows: transformers, torchvision. Must not know: this package.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as pillow

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from picture_cases import CASES, Case, digest, sample, sums, upright  # noqa: E402

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, operator):
        OPERATORS.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

DEMO = HERE.parents[3] / "python" / "gemma4" / "demo_model"


def processor(unified: bool):
    """AutoProcessor's choice for a checkpoint whose settings name the class that uses Pillow."""
    from transformers import AutoProcessor

    family = "Gemma4Unified" if unified else "Gemma4"
    sizes = {"patch_size": 16, "pooling_kernel_size": 3}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            Path(folder, name).write_bytes((DEMO / name).read_bytes())
        settings = {
            "processor_class": f"{family}Processor",
            "image_processor": {
                "image_processor_type": f"{family}ImageProcessor{'' if unified else 'Pil'}",
                "max_soft_tokens": 280,
                **sizes,
            },
            "video_processor": {"video_processor_type": f"{family}VideoProcessor", "max_soft_tokens": 70, **sizes},
            "feature_extractor": {
                "feature_extractor_type": f"{family}AudioFeatureExtractor" if unified else "Gemma4AudioFeatureExtractor"
            },
        }
        Path(folder, "processor_config.json").write_text(json.dumps(settings))
        made = AutoProcessor.from_pretrained(folder)
    assert type(made).__name__ == f"{family}Processor"
    assert type(made.image_processor).__name__ == f"{family}ImageProcessor"
    assert type(made.video_processor).__name__ == f"{family}VideoProcessor"
    return made


def picture_of(values: torch.Tensor, places: torch.Tensor, side: int) -> np.ndarray:
    """(height, width, 3) uint8 from flattened squares (n, side * side * 3) at (x, y) places, those of padding at -1."""
    real = (places >= 0).all(-1)
    values, places = values[real], places[real].long()
    levels = (values.double() * 255).round()
    assert (levels / 255 - values).abs().max() < 1e-6
    columns, rows = (int(n) + 1 for n in places.max(0).values)
    grid = torch.zeros(rows, columns, side, side, 3, dtype=torch.uint8)
    grid[places[:, 1], places[:, 0]] = levels.to(torch.uint8).reshape(-1, side, side, 3)
    return grid.permute(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3).numpy()


def prepared(reference, case: Case) -> tuple[np.ndarray, int]:
    """(frames * height, width, 3), and soft tokens of a frame."""
    images = [upright(image) for image in case.make()]
    options = {"max_soft_tokens": case.budget, "patch_size": case.patch, "pooling_kernel_size": case.pool}
    if case.video:
        frames = np.stack([np.asarray(image) for image in images])
        done = reference.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt", **options)
        values, places = done["pixel_values_videos"], done["video_position_ids"]
        count = int(done["num_soft_tokens_per_video"][0])
        assert len(values) == len(images)
    else:
        done = reference.image_processor(images=images, return_tensors="pt", **options)
        values, places = done["pixel_values"], done["image_position_ids"]
        count = int(done["num_soft_tokens_per_image"][0])
    side = case.patch * case.pool if case.unified else case.patch
    return np.concatenate([picture_of(v, p, side) for v, p in zip(values, places, strict=True)]), count


def through_the_processor(reference, case: Case) -> np.ndarray:
    """The same by a whole prompt, as users write it."""
    done = reference(
        text="<|image|>", images=[upright(image) for image in case.make()], return_tensors="pt",
        images_kwargs={"max_soft_tokens": case.budget},
    )  # fmt: skip
    side = case.patch * case.pool if case.unified else case.patch
    pixels = picture_of(done["pixel_values"][0], done["image_position_ids"][0], side)
    cell = case.patch * case.pool
    soft = (done["input_ids"] == reference.image_token_id).sum()
    assert int(soft) == pixels.shape[0] // cell * (pixels.shape[1] // cell)
    return pixels


def photographs() -> None:
    from skimage import data

    Image.fromarray(data.astronaut()[20:180, 150:320]).save(HERE / "astronaut.png", optimize=True)
    Image.fromarray(data.chelsea()[60:200, 120:330]).save(HERE / "cat.png", optimize=True)


def main() -> None:
    if not (HERE / "cat.png").exists():
        photographs()
    references = {unified: processor(unified) for unified in (False, True)}
    facts, arrays = {}, {}
    for name, case in CASES.items():
        pixels, count = prepared(references[case.unified], case)
        if not case.video and (case.patch, case.pool) == (16, 3):
            assert np.array_equal(through_the_processor(references[case.unified], case), pixels), name
        facts[name] = {"size": pixels.shape[:2], "soft_tokens": count, "sha256": digest(pixels)}
        arrays[f"{name}/sample"], arrays[f"{name}/sums"] = sample(pixels), sums(pixels)
    if "ATEN_CPU_CAPABILITY" in os.environ:  # asked by the run below
        print(json.dumps(facts))
        return
    import torchvision
    import transformers

    # torch resizes with AVX2 in code of its own; every other processor takes the general one. Both give the same.
    other = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        check=True,
    )
    assert json.loads(other.stdout.splitlines()[-1]) == json.loads(json.dumps(facts))
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": pillow}
    versions |= {
        "transformers": transformers.__version__,
        "kernels": [torch.backends.cpu.get_cpu_capability(), "DEFAULT"],
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(fact)}" for name, fact in facts.items()]
    text = '{\n"made_with": ' + json.dumps(versions) + ',\n"results": {\n' + ",\n".join(lines) + "\n}\n}\n"
    (HERE / "resized.json").write_text(text)
    np.savez_compressed(HERE / "resized.npz", **arrays)


if __name__ == "__main__":
    main()
