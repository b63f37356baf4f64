"""What a checkpoint says of how pictures, frames and sounds are prepared.

Knows: processor_config.json and the files of older processors, as the reference's processor reads them. Must not know:
pixels, samples.

Which class prepares pictures is not read: the reference's AutoProcessor takes torchvision's for every name that there
is, `Gemma4ImageProcessorPil` too, and here the caller chooses (`resize=` of `Model.from_pretrained`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import media
from .config import ParsedConfig
from .errors import ModelFileError, RequestError
from .jsonfile import Folder, present, read_json
from .media import FrontEnd, RawFrames

__all__ = ["load_budget", "load_front_end"]

# The steps of a picture, which all published checkpoints agree on. A null, as a field that is not there, is the usual.
_STEPS: Mapping[str, Any] = {"do_resize": True, "resample": 3, "do_rescale": True}
_BYTE = 1 / 255


def load_budget(directory: Folder, config: ParsedConfig, section: str, usual: int) -> int:
    """The budget of a picture or a frame, after checking that everything else is as the engine has it.

    Args:
        section: `"image_processor"` or `"video_processor"`.
        usual: soft tokens where the checkpoint does not say.

    Raises:
        ModelFileError: a field has another value than the config, or asks for another step than is taken.
    """
    grid = config.grid
    where, settings = _find(directory, section)
    if grid is None or not settings:
        return usual
    if not isinstance(settings, Mapping):
        raise ModelFileError(f"{where}: {section}: expected an object")
    given = {name: value for name, value in settings.items() if value is not None}
    for name, expected in (("patch_size", grid.patch), ("pooling_kernel_size", grid.pool)):
        if given.get(name, expected) != expected:
            raise ModelFileError(f"{where}: {name}: config.json says {expected}, found {str(given[name])[:40]}")
    _check_steps(given, f"{where}: {section}")
    try:
        return media.check_budget(given.get("max_soft_tokens", usual))
    except RequestError as error:
        raise ModelFileError(f"{where}: {error}") from None


def _find(directory: Folder, section: str) -> tuple[Any, Any]:
    """The file and what it holds: a section of processor_config.json or, from older processors, a file of its own;
    frames are prepared as pictures where nothing is said of them alone."""
    where = directory / "processor_config.json"
    if present(where) and (found := read_json(where).get(section)):
        return where, found
    for prefix in ("video_", "") if section == "video_processor" else ("",):
        where = directory / f"{prefix}preprocessor_config.json"
        if present(where):
            return where, read_json(where)
    return where, {}


def _check_steps(given: Mapping[str, Any], where: str) -> None:
    """Pixels are resized (bicubic), divided by 255, and left so."""
    for name, expected in _STEPS.items():
        if given.get(name, expected) != expected:
            raise ModelFileError(f"{where}: {name}: only {expected} is supported, found {str(given[name])[:40]}")
    factor = given.get("rescale_factor", _BYTE)
    if not isinstance(factor, int | float) or abs(factor - _BYTE) > 1e-9:
        raise ModelFileError(f"{where}: rescale_factor: only 1/255 is supported, found {str(factor)[:40]}")
    if not given.get("do_normalize", False):
        return
    for name, expected in (("image_mean", 0), ("image_std", 1)):
        value = given.get(name, expected)
        if any(part != expected for part in (value if isinstance(value, list) else [value])):
            raise ModelFileError(f"{where}: {name}: only {expected} is supported, found {str(value)[:40]}")


def load_front_end(directory: Folder, config: ParsedConfig) -> FrontEnd | RawFrames | None:
    """How sounds become frames; converted checkpoints often lack the settings, and are heard as the published ones.

    Raises:
        ModelFileError: the settings are malformed, or ask for what is not supported.
    """
    core = config.core
    if core.audio is None and core.samples is None:
        return None
    where = directory / "processor_config.json"
    settings = read_json(where).get("feature_extractor") if present(where) else None
    if settings is None:
        where = directory / "preprocessor_config.json"
        settings = read_json(where) if present(where) else {}
        if "feature_extractor_type" not in settings:
            settings = {}
    if not isinstance(settings, Mapping):
        raise ModelFileError(f"{where}: feature_extractor: expected an object")
    if core.samples is not None:
        return RawFrames.from_settings(settings, str(where), core.samples.frame)
    assert core.audio is not None
    return FrontEnd.from_settings(settings, str(where), core.audio.mel_bins)
