"""Fixtures: what several files of this folder watch."""

import pytest


@pytest.fixture(scope="session")
def clip() -> bytes:
    """Four seconds at ten frames a second."""
    from filming import constant, film  # here, because PyAV may be missing

    return film(constant(4))
