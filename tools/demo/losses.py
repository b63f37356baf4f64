"""What the model is trained towards: the answers, and through helper heads what every soft token should say.

The published checkpoint leaves the helpers out. They train the encoder long before the language loss could.
"""

from __future__ import annotations

import math
from dataclasses import fields

import torch
import vocabulary
from clips import DIRECTIONS, MOST_FRAMES
from layers import linear, unit
from media import GROUNDS, ORDERS
from modeling import DemoConfig, DemoModel, Rows
from scenes import COLORS, LETTERS, SHAPES, SceneOptions
from torch import Tensor, nn
from torch.nn import functional as F
from utterances import MOST, PHONES, WORDS

STEPS = len(vocabulary.NUMBERS)
MOST_OBJECTS = SceneOptions().objects[1]
GROUPS = ("picture", "mode", "tool", "pair", "clip", "speech", "text")  # what a row is about
SHARES = (1.0, 1.0, 1.0, 2.0, 1.5, 2.5, 0.5)  # weight of a token by what its row is about
DECIDES = 4.0  # weight of a token that decides whether an answer is right
PICTURES, FRAMES = ("pixels", "positions", "cells"), ("film", "film_positions", "film_cells")
BANDS = (100, 200, 400, 800)  # cells of a picture: what is measured for pictures of about each budget apart
OBJECTS = 0.35  # share of the cells that show something in what helpers learn of cells
WHERE = (1, 2)  # layers of the encoder after which every cell should know where it is in the picture
ANCHOR = 4.0  # weight of what the published encoder says of pictures that it knows


class Helpers(nn.Module):
    """Heads on the soft tokens; the box is read through the number embeddings of the language model."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.shape = nn.Linear(hidden, 1 + len(SHAPES))
        self.color = nn.Linear(hidden, 1 + len(COLORS))
        self.letter = nn.Linear(hidden, 1 + len(LETTERS))
        self.box = nn.ModuleList(linear(hidden, hidden) for _ in range(4))
        self.where = nn.ModuleList(linear(hidden, hidden) for _ in range(2 * len(WHERE)))
        self.ground = nn.Linear(hidden, len(GROUNDS))
        self.word = nn.Linear(hidden, 1 + len(WORDS))
        self.place = nn.Linear(hidden, 1 + MOST)
        self.phone = nn.Linear(hidden, 2 + len(PHONES))
        self.motion = nn.Linear(hidden, 1 + len(DIRECTIONS))
        self.part = nn.Linear(hidden, MOST_FRAMES)
        self.order = nn.Linear(hidden, len(ORDERS) * (1 + MOST_OBJECTS))


Measured = dict[str, tuple[Tensor, Tensor]]  # sums, and over how much each is the sum


class Trainee(nn.Module):
    """Model, helpers and loss."""

    def __init__(self, config: DemoConfig, number: int) -> None:
        super().__init__()
        self.model = DemoModel(config)
        self.helpers = Helpers(config.text.hidden_size)
        self.number = number  # the token of 0
        start_numbers(self.model.model.language_model.embed_tokens.weight, number)

    def see(
        self, batch: dict[str, Tensor], names: tuple[str, str, str] = PICTURES, inner: list[Tensor] | None = None
    ) -> Tensor:
        """(cells, hidden) of the pictures, or of the frames of clips."""
        pixels, positions, cells = (batch[name] for name in names)
        pooled = self.model.config.vision.pooling_kernel_size**2
        return self.model.soft_tokens(pixels.float() * (2 / 255) - 1, positions, (cells * pooled).tolist(), inner)

    def forward(self, batch: dict[str, Tensor], width: float, letter: float) -> tuple[Tensor, Measured]:
        """Loss, and what it consists of; `width` is the spread of the number targets in steps."""
        measured: Measured = {}
        seeing = self.model.model.vision_tower.patch_embedder.input_proj.weight.requires_grad
        with torch.set_grad_enabled(seeing and torch.is_grad_enabled()):
            inner: list[Tensor] = []
            soft = self.see(batch, inner=inner)
        loss = self.where_loss(inner, batch, width, measured)
        loss = loss + self.dense_loss(soft, batch, width, letter, measured)
        if "anchor" in batch:
            loss = loss + self.anchor_loss(soft, batch, measured)
        if "ids" not in batch:
            return loss, measured
        with torch.no_grad():  # frames teach the decoder only: what they show is learnt from pictures
            film = self.see(batch, FRAMES) if "film" in batch else soft[:0]
        heard = self.model.heard(batch["sound"], batch["sound_length"]) if "sound" in batch else soft[None, :0]
        rows = Rows(**{item.name: batch[item.name] for item in fields(Rows)})
        hidden, known = self.model.hidden(torch.cat([soft, film, heard.flatten(0, 1)]), rows)
        loss = loss + self.language_loss(self.model.logits(hidden), batch, width, measured)
        if "sound" in batch and heard.requires_grad:
            loss = loss + self.sound_loss(heard, batch, measured)
        if "film" in batch:
            loss = loss + self.motion_loss(film, known, batch, measured)
        loss = loss + self.part_loss(known, batch, measured)
        return loss + self.order_loss(known, batch, measured), measured

    def where_loss(self, inner: list[Tensor], batch: dict[str, Tensor], width: float, measured: Measured) -> Tensor:
        """Where in the picture a cell is, whatever it shows: what boxes on any grid are made from."""
        table = self.model.model.language_model.embed_tokens.weight[self.number : self.number + STEPS]
        size, loss = batch["total"].repeat_interleave(batch["cells"]), batch["where"].new_zeros(())
        for number, layer in enumerate(WHERE):
            x = unit(inner[layer])
            off = torch.zeros(len(x))
            for axis in range(2):
                goal = batch["where"][:, axis]
                scores = F.linear(self.helpers.where[2 * number + axis](x), table)
                loss = loss + 0.5 * (scores.logsumexp(-1) - (spread_of(goal, width) * scores).sum(-1)).mean()
                off = off + (scores.detach().argmax(-1) - goal).abs().clamp(max=40) / 2
            for band, where in _bands(size):
                measured[f"where{layer}_{band}"] = ((off * where).sum(), where.sum())
        return loss

    def anchor_loss(self, soft: Tensor, batch: dict[str, Tensor], measured: Measured) -> Tensor:
        """How far the soft tokens of small pictures are from what the published encoder says."""
        known = batch["anchored"]
        loss = F.mse_loss(soft[known], batch["anchor"])
        measured["anchor"] = (loss.detach(), torch.tensor(1.0))
        return ANCHOR * loss

    def language_loss(self, logits: Tensor, batch: dict[str, Tensor], width: float, measured: Measured) -> Tensor:
        """Cross entropy; a number's target is spread over its neighbours."""
        target, exact, group = batch["target"], batch["exact"], batch["group"]
        number = exact >= 0
        total = logits.logsumexp(dim=-1)
        plain = logits.gather(-1, target[:, None])[:, 0]
        spread = (spread_of(exact, width) * logits[:, self.number : self.number + STEPS]).sum(-1)
        weight = batch["weight"] * torch.tensor(SHARES)[group]
        loss = (weight * (total - torch.where(number, spread, plain))).sum() / weight.sum()
        with torch.no_grad():
            best = logits.argmax(-1)
            off = (best - self.number - exact).abs()
            right = best == target
            decides = ~number & (batch["weight"] >= DECIDES)
            measured["lm"] = (loss.detach(), torch.tensor(1.0))
            measured["words"] = (right[~number].sum(), (~number).sum())
            for name, where in _bands(batch["about"]):
                measured[f"near{name}"] = ((off[number & where] <= 2.5).sum(), (number & where).sum())
                measured[f"off{name}"] = (off[number & where].clamp(max=40).sum(), (number & where).sum())
            for i, name in enumerate(GROUPS):
                where = decides & (group == i)
                measured[name] = (right[where].sum(), where.sum())
        return loss

    def dense_loss(
        self, soft: Tensor, batch: dict[str, Tensor], width: float, letter: float, measured: Measured
    ) -> Tensor:
        """What each soft token should say about its cell; every object counts the same, however many cells it has."""
        heads, table = self.helpers, self.model.model.language_model.embed_tokens.weight
        table = table[self.number : self.number + STEPS]
        share, shown, cells = batch["share"], batch["share"] > 0, batch["cells"]
        size = batch["total"].repeat_interleave(cells)
        loss = soft.new_zeros(())
        for name, weight in (("shape", 2.0), ("color", 1.0), ("letter", letter)):
            scores, target = getattr(heads, name)(soft), batch[name]
            lost = F.cross_entropy(scores, target, ignore_index=-1, reduction="none")
            told, rest = target > 0, (target == 0).float()
            part = told.float() if name == "letter" else share * told
            some = (lost * part).sum() / part.sum().clamp(min=1e-6)
            loss = loss + weight * (OBJECTS * some + (1 - OBJECTS) * (lost * rest).sum() / rest.sum().clamp(min=1))
            with torch.no_grad():
                right = (scores.argmax(-1) == target).float()
                measured[f"{name}0"] = ((right * rest).sum(), rest.sum())  # what is background is known as such
                for band, where in _bands(size):
                    measured[f"{name}{band}"] = ((right * part * where).sum(), (part * where).sum())
        scores, target = heads.ground(soft[~shown]), batch["ground"][~shown]
        loss = loss + F.cross_entropy(scores, target)
        right = (scores.argmax(-1) == target).float()
        for band, where in _bands(size[~shown]):
            measured[f"ground{band}"] = ((right * where).sum(), where.sum())
        share, box, size = share[shown], batch["box"][shown], size[shown]
        off = torch.zeros(len(share))
        for i, head in enumerate(heads.box):
            scores = F.linear(head(soft[shown]), table)
            cross = scores.logsumexp(-1) - (spread_of(box[:, i], width) * scores).sum(-1)
            loss = loss + 0.5 * (cross * share).sum() / share.sum().clamp(min=1e-6)
            off = off + (scores.detach().argmax(-1) - box[:, i]).abs().clamp(max=40) / 4
        extent = (box[:, 2:] - box[:, :2]).amax(-1) / STEPS
        for band, where in _bands(size):
            measured[f"box{band}"] = ((off * share * where).sum(), (share * where).sum())
        small = extent < 0.06
        measured["box_small"] = ((off * share * small).sum(), (share * small).sum())
        measured["dense"] = (loss.detach(), torch.tensor(1.0))
        return loss

    def motion_loss(self, film: Tensor, known: Tensor, batch: dict[str, Tensor], measured: Measured) -> Tensor:
        """Whether what a cell of a later frame shows has moved, and where to."""
        shape, color = (getattr(self.helpers, name)(film).argmax(-1) for name in ("shape", "color"))
        mover = batch["film_mover"]  # (cells, 3)
        moves = (shape == mover[:, 0]) & (color == mover[:, 1])
        asked = (shape > 0) & (color > 0) & (mover[:, 0] >= 0)
        told = torch.where(asked, torch.where(moves, mover[:, 2], 0), -1)
        where, target = _told(told, batch["source"] - len(batch["share"]))
        scores = self.helpers.motion(known[where])
        right = (scores.argmax(-1) == target) & (target > 0)
        measured["moved"] = (right.sum(), (target > 0).sum())
        return F.cross_entropy(scores, target) if len(target) else scores.sum()

    def part_loss(self, known: Tensor, batch: dict[str, Tensor], measured: Measured) -> Tensor:
        """Which of several pictures a soft token is of."""
        where = batch["part"] >= 0
        scores, target = self.helpers.part(known[where]), batch["part"][where]
        measured["part"] = ((scores.argmax(-1) == target).sum(), where.sum())
        return F.cross_entropy(scores, target) if len(target) else scores.sum()

    def order_loss(self, known: Tensor, batch: dict[str, Tensor], measured: Measured) -> Tensor:
        """Which number, in the order of the answers, has what a cell shows: among all and among its like."""
        place, count = batch["source"], len(batch["share"])
        inside = (place >= 0) & (place < count)
        target = batch["order"][place[inside]]  # (cells, ORDERS)
        weight = batch["share"][place[inside], None].expand(target.shape)
        scores = self.helpers.order(known[inside]).unflatten(-1, (len(ORDERS), -1))
        lost = F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
        rest = (target == 0).float()
        right = (scores.argmax(-1) == target) * weight
        measured["ordered"] = (right.sum(), weight.sum())
        some = (lost * weight).sum() / weight.sum().clamp(min=1e-6)
        return OBJECTS * some + (1 - OBJECTS) * (lost * rest).sum() / rest.sum().clamp(min=1)

    def sound_loss(self, heard: Tensor, batch: dict[str, Tensor], measured: Measured) -> Tensor:
        """What each soft token of an utterance should say: the sound, the word just heard and its place."""
        loss = heard.new_zeros(())
        for name, weight in (("word", 2.0), ("place", 0.5), ("phone", 1.0)):
            scores, target = getattr(self.helpers, name)(heard).flatten(0, 1), batch[name].flatten()
            loss = loss + weight * F.cross_entropy(scores, target, ignore_index=-1)
            measured[name] = (((scores.argmax(-1) == target) & (target > 0)).sum(), (target > 0).sum())
        return loss


def _bands(size: Tensor) -> list[tuple[str, Tensor]]:
    """Masks of what belongs to pictures of about each budget, with the budget."""
    band = torch.bucketize(size, torch.tensor(BANDS))
    return [(str(70 * 2**i), (band == i) & (size > 0)) for i in range(len(BANDS) + 1)]


def _told(told: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Where rows show soft tokens that something is told about, and what; -1 is nothing."""
    inside = (place >= 0) & (place < len(told))
    where = inside.nonzero()[:, 0]
    target = told[place[where]]
    return where[target >= 0], target[target >= 0]


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
