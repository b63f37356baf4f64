"""Bars that say how far something is: on a terminal and in a notebook, never in a file or a log.

Knows: tqdm, what runs a cell. Must not know: what it is that goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["progress_bar"]


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A `tqdm` bar with the look of its place: characters on a terminal, a widget in a notebook that has `ipywidgets`.

    ``options`` are tqdm's. One that is given ``disable`` obeys it; by default a bar is left out where nobody sees it
    move, and of a cell also where the environment says `TQDM_DISABLE=1`.

    >>> list(progress_bar([1, 2, 3], desc="counting"))
    [1, 2, 3]
    """
    if "ipykernel.zmqshell" not in sys.modules:  # what says so of a cell to tqdm itself
        from tqdm import tqdm  # type: ignore[import-untyped]

        return tqdm(items, **({"disable": None} | options))
    from tqdm.auto import tqdm as in_a_cell  # type: ignore[import-untyped]

    return in_a_cell(items, **options)
