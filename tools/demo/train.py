"""Train the demo model on stored scenes.

    torchrun --nproc-per-node 2 train.py RUN --data DATA --tokenizer DIR/tokenizer.json [--resume RUN/last.pt]

One process for each core: processes of one thread wait for each other once a step, threads of one process at every
operation.

The rate stays constant after a short warm-up and falls to nothing in the last `--cooldown` minutes, so that a run can
be continued from any checkpoint and finished whenever time is up. Helper heads on the soft tokens (shape, colour,
letter and box of what a cell shows) train the encoder long before the language loss could; the published checkpoint
leaves them out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import fields
from pathlib import Path

import torch
import torch.distributed as dist
import vocabulary
from batches import DECIDES, GROUPS, ORDERS, Batch, Counts, Encoder, Sources, stream
from clips import DIRECTIONS, MOST_FRAMES
from dataset import BUDGET
from layers import linear
from modeling import DemoConfig, DemoModel, Rows
from optimizer import make_optimizers
from safetensors.torch import load_file
from scenes import COLORS, LETTERS, SHAPES, SceneOptions
from torch import Tensor, nn
from torch.nn import functional as F
from utterances import MOST, PHONES, WORDS

STEPS = len(vocabulary.NUMBERS)
MOST_OBJECTS = SceneOptions().objects[1]
SHARES = (1.0, 1.0, 1.0, 2.0, 1.5, 2.5)  # weight of a token by what its row is about


class Helpers(nn.Module):
    """Heads on the soft tokens; the box is read through the number embeddings of the language model."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.shape = nn.Linear(hidden, 1 + len(SHAPES))
        self.color = nn.Linear(hidden, 1 + len(COLORS))
        self.letter = nn.Linear(hidden, 1 + len(LETTERS))
        self.box = nn.ModuleList(linear(hidden, hidden) for _ in range(4))
        self.word = nn.Linear(hidden, 1 + len(WORDS))
        self.place = nn.Linear(hidden, 1 + MOST)
        self.phone = nn.Linear(hidden, 2 + len(PHONES))
        self.motion = nn.Linear(hidden, 1 + len(DIRECTIONS))
        self.part = nn.Linear(hidden, MOST_FRAMES)
        self.order = nn.Linear(hidden, len(ORDERS) * (1 + MOST_OBJECTS))


class Trainee(nn.Module):
    """Model, helpers and loss."""

    def __init__(self, config: DemoConfig, encoder: Encoder) -> None:
        super().__init__()
        self.model = DemoModel(config)
        self.helpers = Helpers(config.text.hidden_size)
        self.number = encoder.number
        start_numbers(self.model.model.language_model.embed_tokens.weight, encoder.number)

    def forward(self, batch: dict[str, Tensor], width: float, letter: float = 1.0) -> tuple[Tensor, Tensor]:
        """Loss and a vector of measurements; `width` is the spread of the number targets in steps."""
        soft = self.see(batch["pixels"], batch["positions"], batch["cells"])
        with torch.no_grad():  # frames teach the decoder only: what they show is learnt from pictures
            film = self.see(batch["film"], batch["film_positions"], batch["film_cells"])
        heard = self.model.heard(batch["sound"], batch["sound_length"])
        rows = Rows(**{item.name: batch[item.name] for item in fields(Rows)})
        hidden, known = self.model.hidden(torch.cat([t.flatten(0, 1) for t in (soft, film, heard)]), rows)
        language, seen = self.language_loss(self.model.logits(hidden), batch, width)
        dense, dense_seen = self.dense_loss(soft, batch, width, letter)
        sound, sound_seen = self.sound_loss(heard, batch)
        motion, motion_seen = self.motion_loss(film, known, batch)
        order, order_seen = self.order_loss(known, batch)
        losses = torch.stack([language, dense, sound, motion, order])
        return losses.sum(), torch.cat([losses, seen, dense_seen, sound_seen, motion_seen, order_seen]).detach()

    def see(self, pixels: Tensor, positions: Tensor, cells: Tensor) -> Tensor:
        """(pictures, BUDGET, hidden)"""
        pooled = self.model.config.vision.pooling_kernel_size**2
        valid = torch.arange(pixels.shape[1]) < cells[:, None] * pooled
        return self.model.soft_tokens(pixels.float() * (2 / 255) - 1, positions, valid)

    def language_loss(self, logits: Tensor, batch: dict[str, Tensor], width: float) -> tuple[Tensor, Tensor]:
        """Cross entropy; a number's target is spread over its neighbours."""
        target, exact = batch["target"], batch["exact"]
        number = exact >= 0
        total = logits.logsumexp(dim=-1)
        plain = logits.gather(-1, target.clamp(min=0)[..., None])[..., 0]
        numbers = logits[..., self.number : self.number + STEPS]
        spread = (spread_of(exact, width) * numbers).sum(-1)
        share = torch.tensor(SHARES)[batch["group"]]
        weight = batch["weight"] * share[:, None] * (target >= 0)
        loss = (weight * (total - torch.where(number, spread, plain))).sum() / weight.sum()
        with torch.no_grad():
            best = logits.argmax(-1)
            off = (best - self.number - exact).abs()
            text = (target >= 0) & ~number
            right = (best == target).float()
            decides = text & (batch["weight"] >= DECIDES)
            measured = [
                (torch.where(number, (off <= 2.5).float(), 0.0).sum(), number.sum()),
                (torch.where(number, off.clamp(max=40), 0.0).sum(), number.sum()),
                (torch.where(text, right, 0.0).sum(), text.sum()),
            ]
            for group in range(len(GROUPS)):
                where = decides & (batch["group"] == group)[:, None]
                measured.append((torch.where(where, right, 0.0).sum(), where.sum().clamp(min=1)))
            return loss, torch.stack([a / b for a, b in measured])

    def dense_loss(self, soft: Tensor, batch: dict[str, Tensor], width: float, letter: float) -> tuple[Tensor, Tensor]:
        """What each soft token should say about its cell."""
        heads, table = self.helpers, self.model.model.language_model.embed_tokens.weight
        table = table[self.number : self.number + STEPS]
        loss, measured = soft.new_zeros(()), []
        for name, weight in (("shape", 2.0), ("color", 1.0), ("letter", letter)):
            scores = getattr(heads, name)(soft).flatten(0, 1).float()
            target = batch[name].flatten()
            loss = loss + weight * F.cross_entropy(scores, target, ignore_index=-1)
            right = (scores.argmax(-1) == target) & (target > 0)
            measured.append(right.sum() / (target > 0).sum().clamp(min=1))
        shown = batch["shape"] > 0
        count = shown.sum()
        for i, head in enumerate(heads.box):
            scores = F.linear(head(soft), table).float()
            goal = batch["box"][..., i]
            cross = scores.logsumexp(-1) - (spread_of(goal, width) * scores).sum(-1)
            loss = loss + 0.5 * torch.where(shown, cross, 0.0).sum() / count
            off = (scores.argmax(-1) - goal).abs()
            measured.append(torch.where(shown, off, 0.0).sum() / count)
        return loss, torch.stack([*measured[:3], torch.stack(measured[3:]).mean()])

    def motion_loss(self, film: Tensor, known: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Which picture a soft token is of; whether what a cell of a later frame shows has moved, and where to."""
        shape, color = (getattr(self.helpers, name)(film).argmax(-1) for name in ("shape", "color"))
        mover = batch["film_mover"][:, None]  # (frames, 1, 3)
        moves = (shape == mover[..., 0]) & (color == mover[..., 1])
        asked = (shape > 0) & (color > 0) & (mover[..., 0] >= 0)
        told = torch.where(asked, torch.where(moves, mover[..., 2], 0), -1).flatten()  # (frames * BUDGET,)
        place = batch["source"] - batch["pixels"].shape[0] * BUDGET
        inside = (place >= 0) & (place < told.shape[0])
        target = torch.where(inside, told[place.clamp(0, told.shape[0] - 1)], -1).flatten()
        scores = self.helpers.motion(known).flatten(0, 1).float()
        loss = F.cross_entropy(scores, target, ignore_index=-1)
        parts = self.helpers.part(known).flatten(0, 1).float()
        loss = loss + F.cross_entropy(parts, batch["part"].flatten(), ignore_index=-1)
        right = (scores.argmax(-1) == target) & (target > 0)
        return loss, (right.sum() / (target > 0).sum().clamp(min=1))[None]

    def order_loss(self, known: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Which number, in the order of the answers, has what a cell shows: among all and among its like."""
        told = batch["order"].flatten(0, 1)  # (pictures * BUDGET, ORDERS)
        place = batch["source"]
        inside = (place >= 0) & (place < told.shape[0])
        target = torch.where(inside[..., None], told[place.clamp(0, told.shape[0] - 1)], -1).flatten()
        scores = self.helpers.order(known).unflatten(-1, (len(ORDERS), -1)).flatten(0, 2).float()
        right = (scores.argmax(-1) == target) & (target > 0)
        return F.cross_entropy(scores, target, ignore_index=-1), (right.sum() / (target > 0).sum().clamp(min=1))[None]

    def sound_loss(self, heard: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What each soft token of an utterance should say: the sound, the word just heard and its place."""
        loss, measured = heard.new_zeros(()), []
        for name, weight in (("word", 2.0), ("place", 0.5), ("phone", 1.0)):
            scores = getattr(self.helpers, name)(heard).flatten(0, 1).float()
            target = batch[name].flatten()
            loss = loss + weight * F.cross_entropy(scores, target, ignore_index=-1)
            right = (scores.argmax(-1) == target) & (target > 0)
            measured.append(right.sum() / (target > 0).sum().clamp(min=1))
        return loss, torch.stack(measured)


def spread_of(exact: Tensor, width: float) -> Tensor:
    """(…, STEPS) distribution over the numbers around `exact`."""
    distance = torch.arange(STEPS) - exact[..., None]
    return torch.softmax(distance.square() * (-0.5 / width**2), dim=-1)


@torch.no_grad()
def start_numbers(table: Tensor, first: int) -> None:
    """Give neighbouring numbers similar embeddings of unit length."""
    size = table.shape[1]
    value = torch.arange(STEPS)[:, None].float()
    waves = 2 * math.pi / torch.logspace(math.log10(8), math.log10(800), size // 2)
    smooth = torch.cat([(value * waves).sin(), (value * waves).cos()], dim=1) * (2 / size) ** 0.5
    turn = torch.linalg.qr(torch.randn(size, size))[0]
    common = torch.randn(size) * size**-0.5
    table[first : first + STEPS] = 0.9 * smooth @ turn + 0.4 * common


NAMES = ["lm", "dense", "sound", "motion", "order", "near", "off", "text", *GROUPS]
NAMES += ["shape", "color", "letter", "boxoff", "word", "place", "phone", "moved", "ordered"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="stored scenes, clips and utterances")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--cooldown", type=float, default=15)
    for item in fields(Counts):
        parser.add_argument(f"--{item.name}", type=int, default=item.default, help="of a step, for each process")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--muon", type=float, default=3.0, help="rate of the projections as a multiple of `--rate`")
    parser.add_argument("--width", type=float, default=0.8, help="spread of the number targets, in steps of the grid")
    parser.add_argument("--letter", type=float, default=1.0, help="weight of the letters among the helpers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="a run's last.pt: weights, helpers and optimizers")
    parser.add_argument(
        "--weights", type=Path, help="weights only: a run's last.pt, also of an older form, or a checkpoint"
    )
    parser.add_argument("--plain", action="store_true", help="AdamW for everything, no Muon")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    if world > 1:
        dist.init_process_group("gloo")
    encoder = Encoder(arguments.tokenizer)
    assert encoder.tokenizer.get_vocab_size() == DemoConfig().text.vocab_size
    trainee = Trainee(DemoConfig(), encoder)
    if arguments.weights:
        adopt(trainee, arguments.weights)
    optimizers = make_optimizers(trainee, arguments.plain)
    average = {name: value.detach().clone() for name, value in trainee.state_dict().items()}
    step = 0
    if arguments.resume:
        stored = torch.load(arguments.resume, weights_only=True)
        trainee.load_state_dict(stored["model"])
        average, step = stored["average"], stored["step"]
        for optimizer, state in zip(optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    for group in optimizers[0].param_groups if len(optimizers) > 1 else ():
        group["share"] = arguments.muon
    forward = trainee if arguments.eager else torch.compile(trainee, dynamic=False)
    counts = Counts(**{item.name: getattr(arguments, item.name) for item in fields(Counts)})
    sources = Sources(arguments.data)
    source = stream(sources, encoder, counts, 1000 * arguments.seed + 2 * step + rank)
    begin, warm, log = time.time(), step, (arguments.run / "log.jsonl").open("a")
    sums, since, saved = torch.zeros(len(NAMES)), time.time(), time.time()
    while True:
        batch = next(source)
        left = arguments.minutes * 60 - (time.time() - begin)
        if world > 1:  # one clock for all, so that rates and the end agree
            clock = torch.tensor(left)
            dist.broadcast(clock, 0)
            left = float(clock)
        if left <= 0:
            break
        rate = (
            arguments.rate * min(1.0, (step - warm + 1) / 100) * min(1.0, max(0.01, left / (arguments.cooldown * 60)))
        )
        tensors = {item.name: getattr(batch, item.name) for item in fields(Batch)}
        loss, measured = forward(tensors, arguments.width, arguments.letter)
        loss.backward()
        if world > 1:
            share_gradients(trainee, world)
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        with torch.no_grad():
            decay = min(0.998, step / (step + 10))
            torch._foreach_lerp_(list(average.values()), list(trainee.state_dict().values()), 1 - decay)
        sums += measured
        if step % 50 == 0 and rank == 0:
            row = {name: round(float(v), 4) for name, v in zip(NAMES, sums / 50, strict=True)}
            row |= {
                "step": step,
                "rate": round(rate, 6),
                "per_s": round(50 * arguments.pictures * world / (time.time() - since), 1),
            }
            log.write(json.dumps(row) + "\n")
            log.flush()
            sums.zero_()
            since = time.time()
        if time.time() - saved > 120 and rank == 0:
            save(arguments.run / "last.pt", trainee, average, optimizers, step)
            saved = time.time()
    if rank == 0:
        save(arguments.run / "last.pt", trainee, average, optimizers, step)


def adopt(trainee: Trainee, path: Path) -> None:
    """Take the weights of an earlier model: what it had not begins anew, new tokens are added to its tables."""
    if path.is_dir():
        bounds = ("_min", "_max")  # of the clipped linears: measured at export
        tensors = load_file(path / "model.safetensors")
        old = {f"model.{name}": value.float() for name, value in tensors.items() if not name.endswith(bounds)}
    else:
        old = torch.load(path, weights_only=True)["average"]
    own = trainee.state_dict()
    for name, value in old.items():
        if name in own:
            own[name][: len(value)] = value
    print("new:", *sorted({name.rsplit(".", 2)[0] for name in own if name not in old}), flush=True)


def share_gradients(model: nn.Module, world: int) -> None:
    """Average the gradients of all processes."""
    gradients = [weight.grad for weight in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / world).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def save(path: Path, trainee: Trainee, average: dict[str, Tensor], optimizers: list, step: int) -> None:
    """Write a checkpoint that is complete or not there."""
    state = {"model": trainee.state_dict(), "average": average, "step": step}
    state |= {"optimizers": [optimizer.state_dict() for optimizer in optimizers]}
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(path)


if __name__ == "__main__":
    main()
