"""What a checkpoint says of how pictures, frames and sounds are prepared.

Knows: the settings of the reference's processor. Must not know: files, pixels, samples.

Which class prepares pictures is not read: the reference's AutoProcessor takes torchvision's for every name that there
is, `Gemma4ImageProcessorPil` too, and here the caller chooses (`resize=` of `Model.from_pretrained`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import ParsedConfig
from ..errors import ModelFileError, RequestError
from ..media import FrontEnd, RawFrames, check_budget
from .files import Checkpoint

__all__ = ["load_budget", "load_front_end", "load_known_budgets"]

# The steps of a picture, which all published checkpoints agree on. A null, as a field that is not there, is the usual.
_STEPS: Mapping[str, Any] = {"do_resize": True, "resample": 3, "do_rescale": True}
_BYTE = 1 / 255


def load_budget(checkpoint: Checkpoint, config: ParsedConfig, section: str, usual: int) -> int:
    """The budget of a picture or a frame, after checking that everything else is as the engine has it.

    Args:
        checkpoint: its files.
        config: what its config.json says.
        section: `"image_processor"` or `"video_processor"`.
        usual: soft tokens where the checkpoint does not say.

    Raises:
        ModelFileError: a field has another value than the config, or asks for another step than is taken.
    """
    grid = config.grid
    values, where = checkpoint.processor(section)
    if grid is None or not values:
        return usual
    given = {name: value for name, value in values.items() if value is not None}
    for name, expected in (("patch_size", grid.patch), ("pooling_kernel_size", grid.pool)):
        if given.get(name, expected) != expected:
            raise ModelFileError(f"{where}: {name}: config.json says {expected}, found {str(given[name])[:40]}")
    _check_steps(given, where)
    try:
        return check_budget(given.get("max_soft_tokens", usual))
    except RequestError as error:
        raise ModelFileError(f"{where}: {error}") from None


def load_known_budgets(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The budgets that a checkpoint says it was trained with, in a field of this package; empty where it does not.

    Raises:
        ModelFileError: they are no list of budgets.
    """
    values, where = checkpoint.processor("image_processor")
    given = values.get("soft_token_budgets")
    if given is None:
        return ()
    if not isinstance(given, list):
        raise ModelFileError(f"{where}: soft_token_budgets: expected a list, found {str(given)[:40]}")
    try:
        return tuple(check_budget(budget) for budget in given)
    except RequestError as error:
        raise ModelFileError(f"{where}: soft_token_budgets: {error}") from None


def _check_steps(given: Mapping[str, Any], where: str) -> None:
    """Pixels are resized (bicubic), divided by 255, and left so."""
    for name, expected in _STEPS.items():
        if given.get(name, expected) != expected:
            raise ModelFileError(f"{where}: {name}: only {expected} is supported, found {str(given[name])[:40]}")
    factor = given.get("rescale_factor", _BYTE)
    if not isinstance(factor, int | float) or not _BYTE - 1e-9 <= factor <= _BYTE + 1e-9:
        raise ModelFileError(f"{where}: rescale_factor: only 1/255 is supported, found {str(factor)[:40]}")
    if not given.get("do_normalize", False):
        return
    for name, expected in (("image_mean", 0), ("image_std", 1)):
        value = given.get(name, expected)
        if any(part != expected for part in (value if isinstance(value, list) else [value])):
            raise ModelFileError(f"{where}: {name}: only {expected} is supported, found {str(value)[:40]}")


def load_front_end(checkpoint: Checkpoint, config: ParsedConfig) -> FrontEnd | RawFrames | None:
    """How sounds become frames; converted checkpoints often lack the settings, and are heard as the published ones.

    Raises:
        ModelFileError: the settings are malformed, or ask for what is not supported.
    """
    core = config.core
    if core.audio is None and core.samples is None:
        return None
    values, where = checkpoint.processor("feature_extractor")
    if core.samples is not None:
        return RawFrames.from_settings(values, where, core.samples.frame)
    assert core.audio is not None
    return FrontEnd.from_settings(values, where, core.audio.mel_bins)
