"""Fixtures: one checkpoint, one reference and one engine per variant, built once and shared by all tests."""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("torch") is None or find_spec("transformers") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    from .checkpoints import rewrite_as_published, write_checkpoint
    from .prompts import Prompt, image_prompt, picture
    from .reference import Reference
    from .variants import VARIANTS, Variant

    # Attention over more patches than this costs the reference many seconds for each picture.
    QUICK_PATCHES = 4480

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        """Soft tokens: all shapes at all budgets for the variants that pool 2x2, the largest budgets of 3x3 as slow."""
        for item in items:
            params = getattr(getattr(item, "callspec", None), "params", {})
            if "budget" in params and "variant" in params:
                pool = VARIANTS[params["variant"]].vision["pooling_kernel_size"]
                if params["budget"] * pool**2 > QUICK_PATCHES:
                    item.add_marker(pytest.mark.slow)

    # Tiny matrices: a second thread only waits, and the engine's own threads want the other core.
    torch.set_num_threads(1)

    @pytest.fixture(params=list(VARIANTS), scope="session")
    def variant(request: pytest.FixtureRequest) -> Variant:
        """Each of the four shapes in turn."""
        return VARIANTS[request.param]

    @pytest.fixture(scope="session")
    def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
        """(variant name, dtype, shard size, published config style) -> directory; each is written once."""

        @cache
        def make(name: str, dtype: str = "F32", shard_size: str | None = None, published: bool = False) -> Path:
            if published:
                return rewrite_as_published(make(name, dtype, shard_size), tmp_path_factory.mktemp(f"{name}-published"))
            return write_checkpoint(tmp_path_factory.mktemp(f"{name}-{dtype}"), VARIANTS[name], dtype, shard_size)

        return make

    @pytest.fixture(scope="session")
    def checkpoint(variant: Variant, make_checkpoint: Callable[..., Path]) -> Path:
        """The variant in float32, one file."""
        return make_checkpoint(variant.name)

    @pytest.fixture(scope="session")
    def reference(checkpoint: Path) -> Reference:
        return Reference(checkpoint)

    @pytest.fixture(scope="session")
    def model(checkpoint: Path) -> Iterator[Any]:
        """The engine under test with an exact cache."""
        import gemma4

        yield gemma4.Model.from_pretrained(checkpoint, kv_cache="f32", num_threads=2)

    @pytest.fixture(scope="session")
    def two_images(variant: Variant, reference: Reference) -> Prompt:
        """Two pictures of different size and shape; where it matters one run is longer than the window, one shorter."""
        images = [picture(62, 85, seed=1), picture(9, 158, seed=2)]
        counts = [reference.soft_token_count(image, 70) for image in images]
        if variant.bidirectional:
            assert counts[0] > variant.window > counts[1]
        return image_prompt(variant, images, counts, budget=70)
