"""Greedy answers to questions about a picture, from three programs: what `evaluate.py` measures.

Knows how each is asked. Must not know which questions there are, nor what is right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

Question = tuple[Image.Image, str]
Ask = Callable[[list[Question]], list[str]]


def transformers_backend(directory: Path) -> Ask:
    """Greedy answers of the reference in f32."""
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
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=140, do_sample=False)
        return processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return lambda questions: [one(*question) for question in questions]


def gemma4_backend(directory: Path) -> Ask:
    """Greedy answers of the package."""
    import gemma4

    model = gemma4.Model.from_pretrained(str(directory))

    def one(image: Image.Image, prompt: str) -> str:
        return model.generate(prompt, images=[image], temperature=0, max_new_tokens=140).text

    return lambda questions: [one(*question) for question in questions]


def batched_backend(directory: Path, size: int = 50) -> Ask:
    """Greedy answers of the model as it is trained, many at once; `export.py` proves it equal to transformers."""
    import torch
    from batches import PATCHES, Encoder
    from dataset import BUDGET, POOL, grid_of, patch_positions, to_patches
    from export import clip
    from modeling import DemoConfig, DemoModel, Rows
    from safetensors.torch import load_file

    encoder = Encoder(directory / "tokenizer.json")
    tensors = {name: value.float() for name, value in load_file(directory / "model.safetensors").items()}
    bounds = {name: tensors.pop(name) for name in list(tensors) if name.endswith(("_min", "_max"))}
    model = DemoModel(DemoConfig()).eval()
    model.load_state_dict(tensors)
    clip(model, bounds)

    def some(questions: list[Question]) -> list[str]:
        count = len(questions)
        pixels, places = torch.zeros(count, PATCHES, 768), torch.zeros(count, PATCHES, 2, dtype=torch.long)
        cells, said, sources = torch.zeros(count, dtype=torch.long), [], []
        for i, (image, prompt) in enumerate(questions):
            columns, lines = grid_of(*image.size)
            patches = to_patches(image.convert("RGB"), columns, lines)
            pixels[i, : len(patches)] = torch.from_numpy(patches) * (2 / 255) - 1
            places[i, : len(patches)] = torch.from_numpy(patch_positions(columns, lines))
            cells[i] = columns * lines
            before = encoder.text("<bos><|turn>user\n<|image>")
            after = [*encoder.text("<image|>"), *encoder.text(prompt), *encoder.answer_from]
            said.append([*before, *[encoder.pad] * (columns * lines), *after])
            soft_tokens = range(i * BUDGET, i * BUDGET + columns * lines)
            sources.append([*[-1] * len(before), *soft_tokens])
        starts, done = [len(row) for row in said], [False] * count
        soft = model.soft_tokens(pixels, places, torch.arange(PATCHES) < cells[:, None] * POOL * POOL).flatten(0, 1)
        for _ in range(140):
            longest = max(map(len, said))
            ids = torch.tensor([row + [encoder.pad] * (longest - len(row)) for row in said])
            source = torch.tensor([row + [-1] * (longest - len(row)) for row in sources])
            last = torch.tensor([[len(row) - 1] for row in said])
            nothing = torch.zeros_like(ids)
            rows = Rows(ids, source, torch.arange(longest).expand_as(ids), nothing, nothing, last)
            best = model.logits(model.hidden(soft, rows)[0])[:, 0].argmax(-1).tolist()
            for i, token in enumerate(best):
                done[i] = done[i] or token == encoder.end
                if not done[i]:
                    said[i].append(token)
            if all(done):
                break
        return [encoder.tokenizer.decode(row[start:]) for row, start in zip(said, starts, strict=True)]

    def ask(questions: list[Question]) -> list[str]:
        with torch.no_grad():
            return [text for i in range(0, len(questions), size) for text in some(questions[i : i + size])]

    return ask


BACKENDS = {"gemma4": gemma4_backend, "batched": batched_backend, "transformers": transformers_backend}
