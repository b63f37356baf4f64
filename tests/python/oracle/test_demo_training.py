"""The training programs of the bundled model: grids are transformers', and what is packed together stays apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import utterances
from batches import Counts, Encoder, Row, make_batch, picture_row
from dataset import BUDGETS, POOL, draw_budgets, draw_picture, grid_of, kept_cells, patch_positions
from lessons import opening
from losses import Trainee
from media import Media, Soft, Sources
from modeling import DemoConfig, DemoModel, Rows
from train import PHASES
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size
from turning import turned


@pytest.mark.parametrize("budget", [*BUDGETS, 100, 333, 999])
def test_grids(budget: int) -> None:
    rng = np.random.default_rng([51, budget])
    for width, height in np.exp(rng.uniform(np.log(64), np.log(4000), (200, 2))).astype(int).tolist():
        rows, columns = (side // 32 for side in get_aspect_ratio_preserving_size(height, width, 16, 4 * budget, 2))
        assert grid_of(width, height, budget) == (columns, rows)


def test_budgets_of_a_step() -> None:
    for seed in range(20):
        budgets = draw_budgets(np.random.default_rng(seed), 8)
        assert len(budgets) == 8 and min(budgets) >= 70 and max(budgets) == 1120
        assert sum(budget <= 140 for budget in budgets) >= 2
    assert [len(draw_budgets(np.random.default_rng(0), count)) for count in range(5)] == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def model() -> DemoModel:
    torch.manual_seed(1)
    return DemoModel(DemoConfig()).eval()


def test_pictures_do_not_see_each_other(model: DemoModel) -> None:
    rng = np.random.default_rng(52)
    pictures = [draw_picture(rng, budget) for budget in (70, 120)]
    pixels = [torch.from_numpy(picture.patches.copy()).float() / 255 for picture in pictures]
    places = [torch.from_numpy(patch_positions(*picture.grid)) for picture in pictures]
    with torch.no_grad():
        both = model.soft_tokens(torch.cat(pixels), torch.cat(places), [len(p) for p in pixels])
        each = [model.soft_tokens(a, b, [len(a)]) for a, b in zip(pixels, places, strict=True)]
    torch.testing.assert_close(both, torch.cat(each), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", range(8))
def test_a_turned_picture_keeps_its_objects(way: int) -> None:
    picture = draw_picture(np.random.default_rng(53), 200)
    other = turned(picture, way)
    columns, rows = other.grid
    for index in range(len(other.shape)):
        y, x = np.divmod(np.flatnonzero(other.cell == index), columns)
        x1, y1, x2, y2 = other.box[index] * (columns, rows, columns, rows)
        assert (x + 1 > x1).all() and (x < x2).all() and (y + 1 > y1).all() and (y < y2).all()


def test_small_objects_are_never_left_out() -> None:
    for seed in range(10):
        rng = np.random.default_rng([54, seed])
        picture = draw_picture(rng, 900)
        kept = kept_cells(rng, picture, rng.random(3))
        for index in range(len(picture.shape)):
            cells = np.flatnonzero(picture.cell == index)
            assert len(cells) > 12 or np.isin(cells, kept).all()


def test_soft_tokens_that_are_left_out_keep_their_positions(gemma4_model: Any, tmp_path: Any) -> None:
    gemma4_model.tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tmp_path / "tokenizer.json")
    row = Row(encoder)
    row.start([opening() + "<|image>", Soft(5, np.array([0, 3, 7]), 10), "<image|>"])
    arrays = row.arrays()
    before = len(encoder.text(opening() + "<|image>"))
    assert arrays["position"][before:].tolist() == [before, before + 3, before + 7, before + 10]
    assert arrays["source"][before:].tolist() == [5, 6, 7, -1]


def test_dialogues_do_not_see_each_other(gemma4_model: Any, tmp_path: Any, model: DemoModel) -> None:
    """What a row's last dialogue says is what it says alone."""
    gemma4_model.tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tmp_path / "tokenizer.json")
    rng = np.random.default_rng(55)
    media = Media(rng)
    truth, soft = media.picture(rng, draw_picture(rng, 70))
    arrays = picture_row(rng, encoder, truth, soft).arrays()
    last = arrays["branch"].max()
    alone = np.flatnonzero((arrays["branch"] == 0) | (arrays["branch"] == last))
    told = np.flatnonzero(arrays["branch"] == last)
    seen = torch.randn(len(soft), 128)
    assert len(soft) * POOL * POOL == len(media.arrays()["pixels"])

    def said(places: np.ndarray, take: np.ndarray) -> torch.Tensor:
        names = ("ids", "source", "position", "tree", "branch")
        values = [torch.from_numpy(arrays[name][places].copy()) for name in names]
        rows = Rows(*values, torch.from_numpy(np.searchsorted(places, take)), torch.tensor([len(places)]))
        with torch.no_grad():
            return model.hidden(seen, rows)[0]

    together, single = said(np.arange(len(arrays["ids"])), told), said(alone, told)
    torch.testing.assert_close(together, single, atol=1e-4, rtol=1e-4)


def test_a_step_teaches_what_its_phase_says(gemma4_model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is said in them, so that no espeak-ng is needed.
    monkeypatch.setattr(utterances, "draw_record", lambda rng: utterances.to_record(utterances.make_silence(rng)))
    gemma4_model.tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tmp_path / "tokenizer.json")
    counts = Counts(pictures=3, modes=1, tools=1, utterances=2, crowds=1)
    batch = make_batch(np.random.default_rng(56), encoder, Sources(2, 1, 1, 0.5, 140, 57), counts)
    trainee = Trainee(DemoConfig(), encoder.number)
    for phase, taught in PHASES.items():
        for name, weight in trainee.named_parameters():
            weight.grad = None
            weight.requires_grad_(name.startswith(taught))
        loss, _ = trainee(batch, 0.8, 1.0)
        loss.backward()
        moved = {name for name, weight in trainee.named_parameters() if weight.grad is not None}
        assert torch.isfinite(loss) and moved and all(name.startswith(taught) for name in moved)
        expected = {name for name, weight in trainee.named_parameters() if weight.requires_grad}
        hearing = ("helpers.word", "helpers.place", "helpers.phone")  # learnt where the ears are
        assert phase == "encoder" or all(name.startswith(hearing) for name in expected - moved)
