"""Greedy answers to questions about a picture, from three programs: what `evaluate.py` measures.

Knows how each is asked. Must not know which questions there are, nor what is right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

TOKENIZER = Path(__file__).parents[2] / "python/gemma4/demo_model/tokenizer.json"

Question = tuple[Image.Image, str]
Ask = Callable[[list[Question]], list[str]]


def transformers_backend(directory: Path, budget: int | None = None) -> Ask:
    """Greedy answers of the reference in f32, with this many soft tokens for a picture."""
    import torch
    from transformers import AutoProcessor, Gemma4ForConditionalGeneration

    processor = AutoProcessor.from_pretrained(directory)
    model = Gemma4ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()

    def one(image: Image.Image, prompt: str) -> str:
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            **({} if budget is None else {"images_kwargs": {"max_soft_tokens": budget}}),
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=140, do_sample=False)
        return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return lambda questions: [one(*question) for question in questions]


def gemma4_backend(directory: Path, budget: int | None = None) -> Ask:
    """Greedy answers of the package, with this many soft tokens for a picture."""
    import gemma4

    model = gemma4.Model.from_pretrained(str(directory))

    def one(image: Image.Image, prompt: str) -> str:
        options = {"temperature": 0, "max_new_tokens": 140, "max_soft_tokens": budget}
        return model.generate(prompt, images=[image], **options).text

    return lambda questions: [one(*question) for question in questions]


def trained_backend(path: Path, budget: int | None = None) -> Ask:
    """Greedy answers of the model as it is trained, from the .pt of a phase or from a checkpoint, for any number of
    soft tokens; `export.py` proves it equal to transformers.
    """
    import torch
    from batches import Encoder
    from dataset import BUDGETS, POOL, grid_of, patch_positions, to_patches
    from export import load, whole

    model = load(path)
    encoder = Encoder(TOKENIZER)

    def one(image: Image.Image, prompt: str) -> str:
        grid = grid_of(*image.size, budget or BUDGETS[1])
        cells = grid[0] * grid[1]
        pixels = torch.from_numpy(to_patches(image.convert("RGB"), *grid)) * (2 / 255) - 1
        soft = model.soft_tokens(pixels, torch.from_numpy(patch_positions(*grid)), [cells * POOL * POOL])
        before = encoder.text("<bos><|turn>user\n<|image>")
        seen = range(len(before), len(before) + cells)
        after = [*encoder.text("<image|>"), *encoder.text(prompt), *encoder.answer_from]
        ids = [*before, *[encoder.pad] * cells, *after]
        start = len(ids)
        while len(ids) < start + 140:
            rows = whole(torch.tensor(ids), [seen])
            rows.take = rows.take[-1:]
            best = int(model.logits(model.hidden(soft, rows)[0])[0].argmax())
            if best == encoder.end:
                break
            ids.append(best)
        return encoder.tokenizer.decode(ids[start:])

    def ask(questions: list[Question]) -> list[str]:
        with torch.no_grad():
            return [one(*question) for question in questions]

    return ask


BACKENDS = {"gemma4": gemma4_backend, "trained": trained_backend, "transformers": transformers_backend}
