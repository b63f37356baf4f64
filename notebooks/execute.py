"""Executes notebooks and stores them with their outputs: python notebooks/execute.py [NOTEBOOK…]

Knows: nbclient, what of an output depends on the machine or is shown nowhere. Must not know: what a notebook is about.
Needs the `test` extra. An error in a cell ends it, and the file stays as it was.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

__all__ = ["FOLDER", "execute", "notebooks"]

FOLDER = Path(__file__).resolve().parent
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_CELL_OF_A_KERNEL = re.compile(r"(?<!\S)\S*/ipykernel_\d+/\d+\.py:\d+: ")
_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")  # by a progress bar
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours, and bars that move the cursor


def notebooks() -> list[Path]:
    """All of this folder, in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs that it has now; the file is only read.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    beside = os.path.dirname(sys.executable)  # commands that the notebook calls are this environment's
    environment = {**os.environ, "PATH": os.pathsep.join((beside, os.environ.get("PATH", "")))}
    environment.pop("MPLBACKEND", None)  # a test run may have set one that draws nothing
    with tempfile.TemporaryDirectory() as home:
        # Nobody's settings and caches: neither of IPython nor of what is imported.
        environment |= {"IPYTHONDIR": home, "HF_HOME": home, "COLUMNS": "100"}
        # The package's plugin alone, not those of the `test` extra that write beside it and warn.
        environment["PYTEST_ADDOPTS"] = os.environ.get("PYTEST_ADDOPTS", "") + " -p no:evals -p no:harvest"
        environment["TQDM_DISABLE"] = "1"  # how far something is belongs to nobody who reads it later
        environment["PYTHONWARNINGS"] = "ignore:IProgress not found"  # no widgets are stored
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}})
        client.execute(env=environment)
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = [_portable(output) for output in _joined(cell.outputs)]
    return notebook


def _joined(outputs: Sequence[Any]) -> list[Any]:
    """What was written to a stream in pieces is one output."""
    found: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and found and found[-1].get("name") == output.name:
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def _portable(output: Any) -> Any:
    """An output without paths of this machine, without what a terminal would overwrite, and each picture once."""
    if output.output_type == "stream":
        text = _ESCAPES.sub("", output.text).replace("\r\n", "\n")
        output.text = _without_paths(_OVERWRITTEN.sub("", text))
        return output
    output.metadata = nbformat.from_dict({})
    data = output.get("data", {})
    pictures = [kind for kind in ("image/png", "image/jpeg") if kind in data]
    drawn = "<img" in data.get("text/html", "")  # which is what a notebook shows then
    shown = None if drawn else min(pictures, key=lambda kind: len(data[kind]), default=None)
    for kind in pictures:
        if kind != shown:
            del data[kind]
    for kind in ("text/plain", "text/html"):
        if kind in data:
            data[kind] = _without_paths(data[kind])
    return output


def _without_paths(text: str) -> str:
    """Paths as they would be from the repository, the package or the temporary folder."""
    import gemma4

    text = _CELL_OF_A_KERNEL.sub("", text)
    package = str(Path(gemma4.__file__).parent)
    text = text.replace(package, "gemma4").replace(f"{FOLDER.parent}/", "").replace(str(FOLDER.parent), ".")
    temporary = re.escape(os.path.realpath(tempfile.gettempdir()))
    return re.sub(rf"{temporary}/tmp[a-z0-9_]+/?", "", text)


def main(names: Sequence[str]) -> None:
    for path in map(Path, names) if names else notebooks():
        notebook = execute(path)
        nbformat.validate(notebook)
        beside = path.with_suffix(".part")
        nbformat.write(notebook, beside)
        os.replace(beside, path)
        print(f"{path.name}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
