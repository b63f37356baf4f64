"""gemma4.testing and the pytest plugin."""

from __future__ import annotations

from importlib import metadata

import pytest
from gemma4.detections import Detections
from gemma4.errors import RequestError
from gemma4.testing import assert_detections

pytest_plugins = "pytester"

CAT, DOG = ("cat", [0, 0, 10, 10]), ("dog", [50, 50, 60, 60])


def test_all_found():
    result = assert_detections([DOG, CAT], [CAT, DOG])
    assert result.f1 == 1 and result.true_positives == 2
    assert_detections(Detections.from_xyxy([CAT], (100, 100)), Detections.from_xyxy([CAT], (100, 100)))
    assert_detections([], [])
    assert_detections([[CAT], []], [[CAT], []])


def test_the_message_shows_what_was_missed():
    with pytest.raises(AssertionError) as caught:
        assert_detections([("cat", [0, 0, 10, 4])], [CAT, DOG])
    message = str(caught.value)
    assert message.startswith("2 of 2 missed; 1 invented at IoU 0.5")
    assert (
        "missed   'cat' at [0.0, 0.0, 10.0, 10.0]; nearest found: 'cat' at [0.0, 0.0, 10.0, 4.0], IoU 0.40" in message
    )
    assert "missed   'dog' at [50.0, 50.0, 60.0, 60.0]; no found box overlaps it" in message
    assert "invented 'cat' at [0.0, 0.0, 10.0, 4.0]; nearest true: 'cat'" in message
    assert "precision 0.00, recall 0.00" in message


def test_the_message_shows_a_wrong_label_and_the_picture():
    with pytest.raises(AssertionError, match=r"picture 1: missed   'cat' .* nearest found: 'dog' .* IoU 1\.00"):
        assert_detections([[CAT], [("dog", CAT[1])]], [[CAT], [CAT]])


def test_the_message_stays_short():
    with pytest.raises(AssertionError, match="and 150 more") as caught:
        assert_detections([], [CAT] * 200)
    assert len(str(caught.value).splitlines()) < 60


def test_minimums():
    half = [CAT, DOG], [CAT]
    assert_detections(*half, min_recall=1.0)
    assert_detections(*half, min_precision=0.5, min_f1=0.6)
    with pytest.raises(AssertionError, match=r"^precision 0\.500 < 0\.6 at"):
        assert_detections(*half, min_precision=0.6)
    with pytest.raises(AssertionError, match=r"^f1 0\.667 < 0\.7 at"):
        assert_detections(*half, min_recall=1.0, min_f1=0.7)


@pytest.mark.parametrize("options", [{"min_f1": 2}, {"min_recall": float("nan")}, {"iou": 0}, {"min_precision": -0.1}])
def test_a_wrong_threshold_is_not_a_failed_test(options):
    with pytest.raises(RequestError):
        assert_detections([CAT], [CAT], **options)


# --- the plugin

FAKE = """
import sys, pytest
class Model:
    loaded = []
    @classmethod
    def from_pretrained(cls, name):
        cls.loaded.append(name)
        return cls()

@pytest.fixture(scope="session", autouse=True)
def fake():
    import gemma4
    vars(gemma4)["Model"] = Model
"""


@pytest.fixture
def run_tests(pytester):
    """Runs a suite that expects ``gemma4_model`` to be loaded once, as ``name``, in another process."""
    installed = any(point.name == "gemma4" for point in metadata.entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "gemma4.evaluate.plugin"]

    def run(name, *options):
        pytester.makeconftest(FAKE)
        pytester.makepyfile(
            f"def test_one(gemma4_model): assert gemma4_model.loaded == [{name!r}]\n"
            f"def test_two(gemma4_model): assert gemma4_model.loaded == [{name!r}]\n"
        )
        return pytester.runpytest_subprocess(*plugin, *options)

    run.plugin = plugin
    return run


def test_fixture_is_the_demo_by_default(run_tests):
    run_tests("demo").assert_outcomes(passed=2)


def test_fixture_follows_the_option_and_the_setting(run_tests, pytester):
    pytester.makeini("[pytest]\ngemma4_model = from-ini\n")
    run_tests("from-ini").assert_outcomes(passed=2)
    run_tests("from-option", "--gemma4-model", "from-option").assert_outcomes(passed=2)


def test_help_tells_the_option(run_tests, pytester):
    pytester.runpytest_subprocess(*run_tests.plugin, "--help").stdout.fnmatch_lines(["*--gemma4-model=MODEL*"])
