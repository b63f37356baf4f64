"""Repositories of the Hugging Face hub, or of a server that speaks its protocol (`HF_ENDPOINT`): from a name to exactly
the files that it needs, on this machine.

Knows: `huggingface_hub`, whose cache, tokens, progress bars and environment variables are used as they are. Must not
know: what is in a file, beyond which shards an index names.
Without a network, or with `HF_HUB_OFFLINE=1`, what is in the cache is used.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .. import gguf
from ..errors import ModelFileError, RequestError
from ..jsonfile import read_json

__all__ = ["Downloaded", "HubName", "fetch", "parse"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_INDEX_BYTES = 10_000_000
_PIECE = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(rf"({_PIECE}/{_PIECE})(?::({_PIECE})|/((?:{_PIECE}/)*{_PIECE}\.gguf))?", re.ASCII)
_SETTINGS = re.compile(r"[^/]+\.(json|jinja)|(additional_)?chat_templates/[^/]+\.jinja")


@dataclass(frozen=True)
class HubName:
    """What a user writes: `owner/name`, `owner/name:TAG` or `owner/name/folder/file.gguf`."""

    repo: str
    tag: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Downloaded:
    """Files of one commit, in the hub's cache."""

    path: Path
    """The directory of a checkpoint with safetensors, or a GGUF file."""
    encoders: Path | None
    """The GGUF file with the encoders; None without, and for safetensors."""


def parse(name: str) -> HubName | None:
    """A name as it is written, or None for one that no repository can have.

    >>> parse("google/gemma-4-E2B-it"), parse("org/name:Q4_K_M").tag, parse("org/name/a/b.gguf").file
    (HubName(repo='google/gemma-4-E2B-it', tag=None, file=None), 'Q4_K_M', 'a/b.gguf')
    """
    match = _NAME.fullmatch(name)
    return HubName(*match.groups()) if match and not match[1].endswith(".gguf") else None


def fetch(wanted: HubName, revision: str | None, mmproj: str | bool | None) -> Downloaded:
    """Download what is not in the cache yet.

    Args:
        wanted: with a tag or file it is GGUF; without, safetensors if the repository has them.
        revision: a branch, tag or commit.
        mmproj: the name of a file of the repository with the encoders of a GGUF file, None to choose, False for none.

    Raises:
        ModelFileError: there is no such thing, or it cannot be had; the message says what there is, or what to do.
        RequestError: several files could be the encoders, or the source has no use for `mmproj`.
    """
    repo = _Repository(wanted.repo, revision)
    # With both kinds in one repository, and neither tag nor file: safetensors, which are what others were made from.
    safetensors = INDEX in repo.names or SINGLE in repo.names
    gguf = wanted.tag or wanted.file or (not safetensors and any(name.endswith(".gguf") for name in repo.names))
    if mmproj and not gguf:
        raise RequestError("mmproj: only a GGUF file has its encoders apart")
    return _fetch_gguf(repo, wanted, mmproj) if gguf else _fetch_safetensors(repo)


def _fetch_gguf(repo: _Repository, wanted: HubName, mmproj: str | bool | None) -> Downloaded:
    model = wanted.file or gguf.choose_model(repo.names, wanted.tag, wanted.repo)
    encoders = None
    if isinstance(mmproj, str):
        encoders = mmproj
    elif mmproj is None:
        encoders = gguf.pick_encoders(model, gguf.nearest_encoders(model, repo.names))
    parts = gguf.parts_of(model)
    needed = parts if encoders is None else [*parts, encoders]
    missing = [name for name in needed if name not in repo.names]
    if missing:
        there = gguf.shortened(name for name in repo.names if name.endswith(".gguf"))
        repo.fail(f"no {gguf.shortened(missing)}; there is {there}")
    folder = repo.download(needed)
    return Downloaded(folder / model, None if encoders is None else folder / encoders)


def _fetch_safetensors(repo: _Repository) -> Downloaded:
    if INDEX not in repo.names and SINGLE not in repo.names:
        repo.fail(f"neither safetensors nor GGUF files; there is {gguf.shortened(repo.names)}")
    needed = [name for name in repo.names if _SETTINGS.fullmatch(name)]
    if INDEX not in repo.names:
        return Downloaded(repo.download([*needed, SINGLE]), None)
    shards = read_json(repo.download([INDEX]) / INDEX, MAX_INDEX_BYTES).get("weight_map")
    named = set(map(str, shards.values())) if isinstance(shards, dict) else set()  # checked where they are opened
    missing = named - set(repo.names)
    if missing:
        repo.fail(f"{INDEX} names {gguf.shortened(missing)}, which is not there")
    return Downloaded(repo.download([*needed, *named]), None)


class _Repository:
    """One commit of a repository: its list of files, online or of the cache."""

    def __init__(self, repo: str, revision: str | None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

        self._repo, self._revision = repo, revision
        self._cached: Path | None = None
        try:
            info = HfApi().model_info(repo, revision=revision)
            self.names = sorted(file.rfilename for file in info.siblings or ())
        except RevisionNotFoundError:
            self.fail(f"no revision {str(revision)[:80]!r}")
        except HFValidationError as error:
            self.fail(str(error)[:200])
        except _failures() as error:
            # As huggingface_hub itself does it: what cannot be asked for, for whatever reason, may still be there.
            self._cached = self._snapshot()
            if self._cached is None:
                self._fail_because(error)
            found = (path for path in self._cached.rglob("*") if path.is_file())
            self.names = sorted(path.relative_to(self._cached).as_posix() for path in found)

    def download(self, names: Iterable[str]) -> Path:
        """The folder with these files, all of which are in `names`."""
        if self._cached is not None:
            return self._cached
        from huggingface_hub import snapshot_download

        patterns = [glob.escape(name) for name in names]
        try:
            return Path(snapshot_download(self._repo, revision=self._revision, allow_patterns=patterns))
        except _failures() as error:
            self._fail_because(error)

    def _snapshot(self) -> Path | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(
                snapshot_download(self._repo, revision=self._revision, allow_patterns=[], local_files_only=True)
            )
        except LocalEntryNotFoundError:
            return None

    def fail(self, problem: str) -> NoReturn:
        at = "" if self._revision is None else f"@{self._revision[:80]}"
        cached = " (in the cache; the hub cannot be asked)" if self._cached else ""
        raise ModelFileError(f"{self._repo}{at}: {problem}{cached}")

    def _fail_because(self, error: Exception) -> NoReturn:
        from huggingface_hub import constants
        from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

        host = re.sub(r"^https?://", "", constants.ENDPOINT)
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, GatedRepoError) or status == 403:
            problem = f"its licence has to be accepted on {host} first; then log in with `hf auth login`"
        elif isinstance(error, RepositoryNotFoundError) or status in (401, 404):
            problem = f"no such directory here, and no such repository on {host} (a private one needs `hf auth login`)"
        elif isinstance(error, OfflineModeIsEnabled):
            problem = (
                "not in the cache on this machine, and HF_HUB_OFFLINE forbids to ask for it; on one that may, run "
                f"`hf download {self._repo}`, and give the path of the copy"
            )
        else:
            problem = (
                f"not on this machine, and {host} does not give it ({type(error).__name__}: {str(error)[:120]}); try "
                f"again, which goes on where it stopped, or run `hf download {self._repo}` on a machine that can and "
                "give the path of the copy"
            )
        self.fail(problem)


def _failures() -> tuple[type[Exception], ...]:
    """What `huggingface_hub` raises when a request fails: its own errors, those of the system, and those of the client
    for HTTP that it is built on, which has changed twice and is the base of its own."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    client = HfHubHTTPError.__bases__[0]
    assert issubclass(client, Exception)
    return (HfHubHTTPError, EntryNotFoundError, OSError, client)
