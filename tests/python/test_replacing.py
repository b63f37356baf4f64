"""Files and folders that appear under their names when they are complete."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gemma4.replacing import beside, replacing, write_whole


def everything(folder: Path) -> dict[str, bytes | None]:
    found = (path for path in folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def test_nobody_sees_half_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"n" * 100_000)
        assert path.read_bytes() == b"old"
    assert everything(tmp_path) == {"a.txt": b"n" * 100_000}
    write_whole(path, "ä\n")
    assert everything(tmp_path) == {"a.txt": "ä\n".encode()}


@pytest.mark.parametrize("there", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, there: bytes | None, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    if there is not None:
        path.write_bytes(there)
    before = everything(tmp_path)
    with pytest.raises(error), replacing(path) as file:
        file.write(b"half")
        raise error
    with pytest.raises(error), beside(path, sync=True, alone=True) as made:
        made.mkdir()
        (made / "half").write_bytes(b"half")
        raise error
    assert everything(tmp_path) == before


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real/target", tmp_path / "link"
    link.symlink_to(target)
    write_whole(link, b"first")  # it leads to nothing yet
    write_whole(link, b"second")
    assert link.is_symlink() and target.read_bytes() == b"second" and os.listdir(tmp_path / "real") == ["target"]


def test_a_file_has_the_rights_that_any_new_one_has(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "日" * 85])
def test_names_of_any_length(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"whole")
    assert everything(tmp_path) == {name: b"whole"}


def test_what_cannot_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none/a.txt", tmp_path / ("x" * 256), Path(os.devnull)):
        with pytest.raises(OSError):
            write_whole(path, b"nothing")
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    out = tmp_path / "labels"
    for text in (b"first", b"second"):
        with beside(out, sync=True) as made:
            made.mkdir()
            (made / "a.txt").write_bytes(text)
        assert everything(tmp_path) == {"labels": None, "labels/a.txt": text}


def test_what_a_killed_process_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom gemma4.replacing import beside\n"
        "with beside(sys.argv[1], alone=True) as made:\n"
        "    made.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = tmp_path / "out.json"
    out.write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", code, out]).returncode == -signal.SIGKILL
    assert out.read_bytes() == b"old" and len(os.listdir(tmp_path)) == 2
    with beside(out, alone=True) as made:
        made.write_bytes(b"whole")
    assert everything(tmp_path) == {"out.json": b"whole"}
