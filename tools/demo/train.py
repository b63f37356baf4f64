"""Train the demo model, a phase at a time.

    torchrun --nproc-per-node 2 train.py RUN --phase encoder --steps 1500 --weights ../../python/gemma4/demo_model
    torchrun --nproc-per-node 2 train.py RUN …the same…                       # goes on where RUN/PHASE.pt stopped

One process for each core: processes of one thread wait for each other once a step, threads of one process at every
operation. Everything is counted in steps, so that a run may be interrupted, slowed down and continued at any time. The
rate warms up, stays, and falls to nothing in the last share `--cooldown` of the steps.

Phases: `heads` fits the helper heads to a model that is not changed; `encoder` teaches the vision encoder through
heads that are not changed, so that it goes on speaking as the decoder understands; `decoder` teaches the decoder to
read it; `joint` teaches both everything, and `all` the ears as well, which have nothing to do with grids.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import time
from dataclasses import fields
from pathlib import Path

import torch
import torch.distributed as dist
from batches import Counts, Encoder, stream
from dataset import BUDGETS
from losses import Measured, Trainee
from media import Sources
from modeling import DemoConfig, continued
from optimizer import make_optimizers
from safetensors.torch import load_file
from torch import Tensor, nn

SEEING = ("model.model.vision_tower.", "model.model.embed_vision.")
SAYING = ("model.model.language_model.",)
PHASES = {  # what is taught
    "heads": ("helpers.",),
    "encoder": SEEING,
    "decoder": (*SAYING, "helpers."),
    "joint": (*SEEING, *SAYING, "helpers."),
    "all": ("model.", "helpers."),
}
KNOWN = 85  # cells of a picture up to which the published encoder is to be kept
SAVE = 240.0  # seconds between checkpoints
REPORT = 10  # steps between lines of the log


def main() -> None:
    arguments = parse_arguments()
    arguments.run.mkdir(parents=True, exist_ok=True)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    if world > 1:
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))  # who is stopped for hours goes on
    encoder = Encoder(arguments.tokenizer or arguments.weights / "tokenizer.json")
    trainee = Trainee(DemoConfig(), encoder.number)
    adopt(trainee, arguments.weights)
    anchor = None
    if arguments.anchor:
        anchor = copy.deepcopy(trainee)
        adopt(anchor, arguments.anchor)
    for name, weight in trainee.named_parameters():
        weight.requires_grad_(name.startswith(PHASES[arguments.phase]))
    optimizers = make_optimizers(trainee, arguments.muon)
    average = {name: value.detach().clone() for name, value in trainee.state_dict().items()}
    step, path = 0, arguments.run / f"{arguments.phase}.pt"
    if path.exists():
        stored = torch.load(path, weights_only=True)
        trainee.load_state_dict(stored["model"])
        average, step = stored["average"], stored["step"]
        for optimizer, state in zip(optimizers, stored["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    counts = Counts(**{item.name: getattr(arguments, item.name) for item in fields(Counts)})
    if arguments.phase in ("heads", "encoder"):
        counts.pictures, counts.few, counts.crowds = 0, 0, counts.pictures + counts.crowds  # nothing is asked
    seed = 1000 * arguments.seed + world * step
    sources = Sources(counts.pictures, counts.few, counts.crowds, arguments.word, arguments.most, seed)
    batches = stream(sources, encoder, counts, seed + rank)
    log = Log(arguments.run / "log.jsonl", arguments.phase)
    saved = time.time()
    while step < arguments.steps:
        batch = next(batches)
        if anchor:
            add_anchor(anchor, batch)
        loss, measured = trainee(batch, arguments.width, arguments.letter)
        loss.backward()
        if world > 1:
            share_gradients(trainee, world)
        rate = rate_of(step, arguments)
        nn.utils.clip_grad_norm_([w for w in trainee.parameters() if w.requires_grad], 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        with torch.no_grad():
            decay = min(0.995, step / (step + 10))
            torch._foreach_lerp_(list(average.values()), list(trainee.state_dict().values()), 1 - decay)
        if rank == 0:
            log.add(measured, step, rate)
            if time.time() - saved > SAVE:
                save(path, trainee, average, optimizers, step)
                saved = time.time()
    if rank == 0:
        save(path, trainee, average, optimizers, step)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--phase", choices=list(PHASES), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument(
        "--weights", type=Path, required=True, help="what to begin with: a checkpoint, or the .pt of a phase"
    )
    parser.add_argument("--anchor", type=Path, help="a checkpoint whose soft tokens of small pictures are to be kept")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json; that of `--weights` by default")
    for item in fields(Counts):
        parser.add_argument(f"--{item.name}", type=int, default=item.default, help="of a step, for each process")
    parser.add_argument("--most", type=int, default=BUDGETS[-1], help="soft tokens of the largest pictures")
    parser.add_argument("--word", type=float, default=0.2, help="share of the pictures that have words")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--cooldown", type=float, default=0.33, help="share of the steps")
    parser.add_argument("--muon", type=float, default=3.0, help="rate of the projections as a multiple of `--rate`")
    parser.add_argument("--width", type=float, default=0.8, help="spread of the number targets, in steps of the grid")
    parser.add_argument("--letter", type=float, default=1.0, help="weight of the letters among the helpers")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def rate_of(step: int, arguments: argparse.Namespace) -> float:
    """The rate of a step."""
    left = (arguments.steps - step) / max(1.0, arguments.cooldown * arguments.steps)
    return float(arguments.rate * min(1.0, (step + 1) / 20) * min(1.0, max(0.01, left)))


def adopt(trainee: Trainee, path: Path) -> None:
    """Take the weights of an earlier model: what it had not begins anew, tables become longer."""
    if path.is_dir():
        bounds = ("_min", "_max")  # of the clipped linears: measured at export
        tensors = load_file(path / "model.safetensors")
        old = {f"model.{name}": value.float() for name, value in tensors.items() if not name.endswith(bounds)}
    else:
        old = torch.load(path, weights_only=True)["average"]
    own = trainee.state_dict()
    for name, value in old.items():
        if name.endswith("position_embedding_table"):
            value = continued(value, own[name].shape[1])
        if name in own:
            own[name][: len(value)] = value
    print("new:", *sorted({name.rsplit(".", 2)[0] for name in own if name not in old}), flush=True)


@torch.no_grad()
def add_anchor(anchor: Trainee, batch: dict[str, Tensor]) -> None:
    """What another encoder says of the small pictures that are seen as a whole."""
    cells, whole = batch["cells"], (batch["cells"] == batch["total"]) & (batch["total"] <= KNOWN)
    if not whole.any():
        return
    told = whole.repeat_interleave(cells)
    pooled = len(batch["pixels"]) // len(told)
    patches = told.repeat_interleave(pooled)
    some = {"pixels": batch["pixels"][patches], "positions": batch["positions"][patches], "cells": cells[whole]}
    batch["anchored"] = told.nonzero()[:, 0]
    batch["anchor"] = anchor.see(some)


def share_gradients(model: nn.Module, world: int) -> None:
    """Average the gradients of all processes."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / world).split([gradient.numel() for gradient in gradients])
    for weight, part in zip(weights, parts, strict=True):
        weight.grad = part.view_as(weight)


class Log:
    """Means over some steps, a line of JSON each."""

    def __init__(self, path: Path, phase: str) -> None:
        self._file, self._phase = path.open("a"), phase
        self._sums: Measured = {}
        self._since, self._used = time.time(), time.process_time()

    def add(self, measured: Measured, step: int, rate: float) -> None:
        for name, (value, count) in measured.items():
            before = self._sums.get(name, (torch.tensor(0.0), torch.tensor(0.0)))
            self._sums[name] = (before[0] + value.detach().float(), before[1] + count.float())
        if step % REPORT:
            return
        row: dict[str, object] = {"phase": self._phase, "step": step, "rate": round(rate, 6)}
        now, used = time.time(), time.process_time()
        row["s"], row["cpu_s"] = (round(v / REPORT, 2) for v in (now - self._since, used - self._used))
        self._since, self._used = now, used
        row |= {name: round(float(v / c.clamp(min=1e-9)), 4) for name, (v, c) in self._sums.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._sums = {}


def save(path: Path, trainee: Trainee, average: dict[str, Tensor], optimizers: list, step: int) -> None:
    """Write a checkpoint that is complete or not there."""
    state = {"model": trainee.state_dict(), "average": average, "step": step}
    state |= {"optimizers": [optimizer.state_dict() for optimizer in optimizers]}
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(path)


if __name__ == "__main__":
    main()
