"""The pytest plugin: a model for the whole session as the fixture ``gemma4_model``.

Loaded by every pytest run on a machine that has the package, so it imports nothing but pytest; the package itself is
imported when the first test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..model import Model


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gemma4", "Gemma 4 models")
    group.addoption(
        "--gemma4-model",
        metavar="MODEL",
        help="what the fixture gemma4_model loads: 'demo', a directory, a .gguf file or a hub id "
        "(default: the ini setting gemma4_model, else demo)",
    )
    parser.addini(
        "gemma4_model", "what the fixture gemma4_model loads, unless --gemma4-model says otherwise", default="demo"
    )


@pytest.fixture(scope="session")
def gemma4_model(request: pytest.FixtureRequest) -> Model:
    """The model named by ``--gemma4-model`` or the ini setting ``gemma4_model``, loaded once for the session."""
    import gemma4

    name = request.config.getoption("--gemma4-model") or request.config.getini("gemma4_model")
    return gemma4.Model.from_pretrained(name)
