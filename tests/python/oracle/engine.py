"""The engine under test, at the level of ids, soft tokens and chunks.

Knows: `gemma4` and its compiled core. Must not know: the reference.
"""

from collections.abc import Sequence
from typing import Any

import gemma4
import numpy as np
from gemma4 import _core
from numpy.typing import NDArray

from .prompts import Prompt

Floats = NDArray[np.float32]
CONTEXT = 512


def core_of(model: gemma4.Model) -> Any:
    """The compiled model behind the public class."""
    return model._runtime.loaded.core


def soft_of(model: gemma4.Model, prompt: Prompt) -> list[Any]:
    """The prompt's pictures as soft tokens at their places."""
    rows = [model.encode_image(image, max_soft_tokens=prompt.budget) for image in prompt.images]
    for (begin, end), soft in zip(prompt.runs, rows, strict=True):
        assert len(soft) == end - begin
    return [_core.SoftTokens(begin, soft, True) for (begin, _), soft in zip(prompt.runs, rows, strict=True)]


def prefill(
    model: gemma4.Model, ids: NDArray[np.int32], soft: Sequence[Any] = (), chunk: int = CONTEXT, kv_cache: str = "f32"
) -> Floats:
    """(T, vocab) logits of a fresh session."""
    session = core_of(model).sequence(CONTEXT, kv_cache, chunk)
    return np.array(session.prefill(ids, list(soft), "all"))
