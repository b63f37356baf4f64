"""Every notebook runs from its first cell to its last, and is stored with outputs that belong to no machine."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from execute import FOLDER, execute, main, notebooks
from gemma4.progress import progress_bar
from nbclient.exceptions import CellExecutionError

MOST_KILOBYTES = 700
A_PATH = re.compile(r"/(?:home|root|tmp|work|usr|var|private|Users)/|site-packages|ipykernel|\b[A-Z]:\\")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the Jupyter packages, not ours


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(notebook: nbformat.NotebookNode) -> str:
    """All text of all outputs, without the pictures in it."""
    parts = []
    for output in (output for cell in code(notebook) for output in cell.outputs):
        data = output.get("data", {})
        parts += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    return re.sub(r"base64,[A-Za-z0-9+/=]*", "", "\n".join(parts))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_runs_as_it_is_stored(path: Path) -> None:
    stored, made = nbformat.read(path, as_version=4), execute(path)
    assert [bool(cell.outputs) for cell in code(made)] == [bool(cell.outputs) for cell in code(stored)]
    assert not A_PATH.search(said(made)), A_PATH.search(said(made))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_what_is_stored(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < MOST_KILOBYTES << 10
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    shown = [one.get("data", {}) for one in outputs]
    assert any("image/png" in data or "<img" in data.get("text/html", "") for data in shown)
    assert [one.output_type for one in outputs if one.output_type == "error"] == []
    assert not A_PATH.search(said(notebook)), A_PATH.search(said(notebook))
    assert all(cell.source.strip() and not cell.metadata for cell in notebook.cells)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    links = re.findall(r"\]\(([^)#:]+)\)", "\n".join(cell.source for cell in notebook.cells))
    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_there_are_notebooks() -> None:
    assert [path.stem[:2] for path in notebooks()] == ["01", "02", "03", "04"]


def written(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_outputs_say_nothing_of_the_machine(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.ipynb",
        "import tempfile, warnings, gemma4\n"
        "folder = tempfile.mkdtemp()\nprint(f'{folder}/a.txt'); print(gemma4.__file__)\nwarnings.warn('careful')",
        "import sys\nfor i in range(3): print(f'\\r{i} of 2', end='')\nprint(' \\x1b[31mdone\\x1b[0m')",
        "from PIL import Image\nImage.new('RGB', (4, 4))",
        "from gemma4 import Detections\nDetections([], (4, 4), image=Image.new('RGB', (4, 4)))",
    )
    before = path.read_bytes()
    first, second, third, fourth = code(execute(path))
    assert path.read_bytes() == before
    text = {output.name: output.text for output in first.outputs}
    assert text["stdout"] == "a.txt\ngemma4/__init__.py\n" and text["stderr"].startswith("UserWarning: careful\n")
    assert [output.text for output in second.outputs] == ["2 of 2 done\n"]
    assert len({"image/png", "image/jpeg"} & set(third.outputs[0].data)) == 1
    assert set(fourth.outputs[0].data) == {"text/html", "text/plain"}
    main([str(path)])
    assert len(code(nbformat.read(path, as_version=4))[3].outputs) == 1


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ipynb", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        main([str(path)])
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["a.ipynb"]


def test_a_bar_is_seen_in_a_cell_and_left_out_of_what_is_stored(tmp_path: Path) -> None:
    counting = (
        "from gemma4.progress import progress_bar\nfor _ in progress_bar(range(3), desc='counting'): pass\nprint()"
    )
    seen = written(tmp_path / "seen.ipynb", f"import os\ndel os.environ['TQDM_DISABLE']\n{counting}")
    (cell,) = code(execute(seen))
    assert "counting: 100%" in "".join(output.text for output in cell.outputs)
    (cell,) = code(execute(written(tmp_path / "stored.ipynb", counting)))
    assert [output.name for output in cell.outputs] == ["stdout"]


def test_a_bar_writes_to_no_file(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3))) == [0, 1, 2]
    assert capfd.readouterr().err == ""
    assert list(progress_bar(range(3), disable=False)) == [0, 1, 2]
    assert "3/3" in capfd.readouterr().err
