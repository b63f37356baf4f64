"""The pytest plugin: the fixtures ``gemma4_model`` and ``detection_eval``, and reports.

Loaded by every pytest run on a machine that has the package, so it imports nothing but pytest; the package itself is
imported when the first test asks for a fixture, or a report is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..model import Model
    from .session import DetectionEval

_ENDINGS = (".html", ".json", ".parquet")
_RESULTS: pytest.StashKey[list[Any]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gemma4", "Gemma 4 models")
    group.addoption(
        "--gemma4-model",
        metavar="MODEL",
        help="what the fixture gemma4_model loads: 'demo', a directory, a .gguf file or a hub id "
        "(default: the ini setting gemma4_model, else demo)",
    )
    group.addoption(
        "--gemma4-report",
        metavar="FILE",
        action="append",
        default=[],
        help="write what detection_eval found to a file: .html (self-contained), .json or .parquet; may be repeated",
    )
    group.addoption(
        "--gemma4-cache",
        metavar="DIR",
        help="where answers are kept, so that the next run need not compute them (default: pytest's cache directory)",
    )
    group.addoption("--gemma4-no-cache", action="store_true", help="neither read nor keep answers")
    parser.addini(
        "gemma4_model", "what the fixture gemma4_model loads, unless --gemma4-model says otherwise", default="demo"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "detection_eval(dataset, **arguments): what the fixture detection_eval runs; the arguments are those of "
        "gemma4.evaluate.compare, and min_map, min_map50, min_precision, min_recall, min_f1",
    )
    reports = [Path(name) for name in config.getoption("--gemma4-report")]
    for path in reports:
        if path.suffix not in _ENDINGS:
            raise pytest.UsageError(f"--gemma4-report {path}: a report ends in one of {', '.join(_ENDINGS)}")
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist sends its results to the controller
        config.pluginmanager.register(
            _Collector([config.invocation_params.dir / path for path in reports]), "gemma4-collector"
        )


@pytest.fixture(scope="session")
def gemma4_model(request: pytest.FixtureRequest) -> Model:
    """The model named by ``--gemma4-model`` or the ini setting ``gemma4_model``, loaded once for the session."""
    import gemma4

    return gemma4.Model.from_pretrained(_model_name(request.config))


def _model_name(config: pytest.Config) -> str:
    name: str = config.getoption("--gemma4-model") or config.getini("gemma4_model")
    return name


@pytest.fixture
def detection_eval(request: pytest.FixtureRequest) -> DetectionEval:
    """Asks about every picture of a dataset in every way that the marker ``detection_eval`` names; see its ``run``."""
    from .session import DetectionEval

    results: list[Any] = request.node.stash.setdefault(_RESULTS, [])
    return DetectionEval(request, _model_name(request.config), results)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    outcome = yield
    results = item.stash.get(_RESULTS, [])
    if call.when == "call" and results:
        from .session import entries

        drawn = any(name.endswith(".html") for name in item.config.getoption("--gemma4-report"))
        failure = None
        if call.excinfo is not None and outcome.get_result().failed:  # not one that was skipped or expected to fail
            failure = str(call.excinfo.value) or call.excinfo.exconly()
        # A report travels from a worker of pytest-xdist to the controller with all that is plain data in it.
        outcome.get_result().gemma4 = entries(item.nodeid, results, failure, drawn)
        results.clear()


class _Collector:
    """What all tests found, in this process or in workers."""

    def __init__(self, reports: list[Path]) -> None:
        self._reports = reports
        self._entries: dict[str, list[dict[str, Any]]] = {}
        self._said: list[tuple[str, bool]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if getattr(report, "gemma4", None):
            self._entries[report.nodeid] = report.gemma4  # of a test that is run again, the last

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for path in self._reports:
            try:
                from .reports import write_report

                write_report(path, [entry for entries in self._entries.values() for entry in entries])
                self._said.append((f"report: {path}", False))
            except (OSError, ImportError) as error:
                self._said.append((f"report: {path} cannot be written: {error}", True))
                session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._entries and not self._said:
            return
        terminalreporter.section("gemma4 detection")
        for name, entries in self._entries.items():
            for entry in entries:
                terminalreporter.write_line(name, bold=True, red=entry["failure"] is not None)
                terminalreporter.write_line(entry["table"])
        for text, wrong in self._said:
            terminalreporter.write_line(text, red=wrong)
