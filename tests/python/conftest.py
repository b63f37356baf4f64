from __future__ import annotations

import os

import pytest
from more_threads import allow_threads

# The tests have little work, which threads would leave to the caller: loops are split among them all the same.
os.environ["GEMMA4_SHARE"] = "all"


@pytest.fixture(scope="session", autouse=True)
def two_or_three_threads() -> None:
    """On any machine."""
    allow_threads(3)
