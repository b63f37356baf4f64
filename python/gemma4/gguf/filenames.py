"""Which GGUF files of a folder or a repository make up a model, by their names.

Knows: how llama.cpp, Ollama and those who publish for them name files. Must not know: where the names come from, what
is in a file.

A name ends in the quantization, `model-Q4_K_M.gguf`, which users write as a tag, `:Q4_K_M`. Where several files are
there and no tag is given, none is chosen: llama.cpp takes Q4_K_M, then whatever comes first, so that gigabytes are
loaded, and answers given, that nobody asked for, and others once somebody publishes one more file. The message lists
what can be written instead.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath

from ..errors import ModelFileError, RequestError

__all__ = ["choose_model", "is_encoders", "nearest_encoders", "parts_of", "pick_encoders", "shortened"]

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
# In the names of files that belong to a model without being one: encoders, statistics for quantizers, drafters.
_BESIDE = re.compile(r"mmproj|imatrix|assistant|(^|[-_.])(mtp|eagle3|dflash|dspark)[-_.]", re.IGNORECASE)
_BEFORE, _AFTER = r"(?:^|[-_./])", r"(?=$|[-./])"
_LABEL = re.compile(_BEFORE + r"(I?Q\d\w*|BF16|F16|F32|MXFP4\w*|NVFP4\w*)" + _AFTER, re.IGNORECASE)
# Encoders are published in BF16. What is exact comes first; those in Q8_0 are faster, and mmproj= takes them.
_PRECISIONS = ("BF16", "F16", "F32", "Q8_0")
_PRECISION = re.compile(_BEFORE + r"(bf16|f16|fp16|f32|fp32|q\d\w*)" + _AFTER, re.IGNORECASE)
_LISTED = 20


def choose_model(names: Collection[str], tag: str | None, where: str) -> str:
    """The file with the language model; the first part of one that is split.

    Args:
        names: of all files, relative, with slashes.
        tag: a quantization such as `"Q4_K_M"`, in any case; None where there is only one model.
        where: what a tag can be put behind: the folder or repository.

    Raises:
        ModelFileError: there is none, or several and no tag, or a tag that fits none or several; the message lists
            them.

    >>> choose_model(["a-Q4_K_M.gguf", "a-UD-Q4_K_XL.gguf", "mmproj-BF16.gguf"], "ud-q4_k_xl", "org/a")
    'a-UD-Q4_K_XL.gguf'
    """
    models = [name for name in sorted(names) if _is_model(name)]
    if not models:
        raise ModelFileError(f"{where}: no GGUF file with a language model; there is {shortened(names)}")
    fitting = models if tag is None else _tagged(models, tag)
    if len(fitting) == 1:
        return fitting[0]
    problem = f"{len(fitting) or 'no'} files match {tag[:60]!r}" if tag else f"{len(models)} models, say which"
    raise ModelFileError(f"{where}: {problem}: {_spellings(fitting or models, where)}")


def _is_model(name: str) -> bool:
    file = PurePosixPath(name).name
    part = _PART.fullmatch(file)
    return file.lower().endswith(".gguf") and not _BESIDE.search(file) and (part is None or int(part[2]) == 1)


def _tagged(models: Sequence[str], tag: str) -> list[str]:
    """Those with the tag as a whole word; `Q4_K_XL` is also a word of `UD-Q4_K_XL`, but names the plain one first."""
    wanted = re.escape(tag.removesuffix(".gguf"))
    word, dynamic = (re.compile(_BEFORE + f"({before}{wanted})" + _AFTER, re.IGNORECASE) for before in ("", "UD-"))
    fitting = [name for name in models if (found := word.search(_stem(name))) and not _is_ending(found)]
    plain = [name for name in fitting if not dynamic.search(_stem(name))]
    return plain or fitting


def _is_ending(found: re.Match[str]) -> bool:
    """Whether a word that was found is only the end of a quantization, as `XS` of `IQ4_XS`."""
    label = _LABEL.search(found.string)
    return label is not None and label.start(1) < found.start(1) < label.end(1)


def _stem(name: str) -> str:
    part = _PART.fullmatch(name)
    return part[1] if part else name[: -len(".gguf")]


def _spellings(models: Sequence[str], where: str) -> str:
    """Each as `where:TAG` if the end of its name tells it from all others, as `where/file` otherwise."""
    spelled = []
    for name in models[:_LISTED]:
        label = _LABEL.search(_stem(name))
        dynamic = label is not None and _stem(name)[: label.start(1)].upper().endswith("UD-")
        tag = ("UD-" if dynamic else "") + label[1] if label else ""
        spelled.append(f"{where}:{tag}" if tag and _tagged(models, tag) == [name] else f"{where}/{name}")
    return ", ".join(spelled) + (f" and {len(models) - _LISTED} more" if len(models) > _LISTED else "")


def parts_of(name: str) -> list[str]:
    """The names of all parts of a split file, in order; the name alone of any other.

    >>> parts_of("a-00002-of-00002.gguf")
    ['a-00001-of-00002.gguf', 'a-00002-of-00002.gguf']
    """
    part = _PART.fullmatch(name)
    if part is None:
        return [name]
    return [f"{part[1]}-{index:05d}-of-{part[3]}.gguf" for index in range(1, int(part[3]) + 1)] or [name]


def is_encoders(name: str) -> bool:
    """Whether the file is named as one with encoders."""
    file = PurePosixPath(name).name.lower()
    return file.endswith(".gguf") and "mmproj" in file


def nearest_encoders(model: str, names: Iterable[str]) -> list[str]:
    """The files with encoders in the model's folder; if there are none, in the folder above, and so on."""
    encoders = [name for name in sorted(names) if is_encoders(name)]
    for folder in PurePosixPath(model).parents:
        found = [name for name in encoders if PurePosixPath(name).parent == folder]
        if found:
            return found
    return []


def pick_encoders(model: str, candidates: Sequence[str]) -> str | None:
    """The one to use: named after the model if one is, and of those in BF16, F16, F32 or Q8_0, whatever comes first.

    Raises:
        RequestError: two are equally good.

    >>> pick_encoders("a-Q4_0.gguf", ["mmproj-F16.gguf", "mmproj-BF16.gguf"])
    'mmproj-BF16.gguf'
    """
    if not candidates:
        return None
    ranks = {name: _rank(model, name) for name in candidates}
    best = [name for name in candidates if ranks[name] == min(ranks.values())]
    if len(best) > 1:
        raise RequestError(f"mmproj: {shortened(best)} could each be the encoders of {model}; name one, or give False")
    return best[0]


def _rank(model: str, name: str) -> tuple[bool, int]:
    file = PurePosixPath(name).stem.lower()
    label = _PRECISION.search(file)
    base = file.replace("mmproj", "").replace(label[1] if label else "", "").strip("-_.")
    own = bool(base) and PurePosixPath(model).name.lower().startswith(base)
    precision = label[1].upper().replace("FP", "F") if label else ""
    return not own, _PRECISIONS.index(precision) if precision in _PRECISIONS else len(_PRECISIONS)


def shortened(names: Iterable[str]) -> str:
    """For a message: the names, or the first of very many."""
    listed = sorted(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(name[:120] for name in listed[:_LISTED]) + more if listed else "nothing"
