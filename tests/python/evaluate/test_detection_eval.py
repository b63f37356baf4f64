"""The fixture detection_eval and its reports, in pytest runs of their own."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pandas
import pytest
from gemma4.evaluate import compare
from labelled import LABELS, Told, scene
from PIL import Image

pytest_plugins = "pytester"

TESTS = """
import pytest

@pytest.mark.detection_eval("data/annotations.json", max_soft_tokens=70, min_map=0.3, min_recall={"red circle": 0.1})
def test_good(detection_eval):
    result = detection_eval.run()
    assert result.best.truth == 4

@pytest.mark.detection_eval("data/annotations.json", max_soft_tokens=70, min_map=0.3)
def test_bad(detection_eval):
    detection_eval(prompts={"default": None, "<worse> & é": "Find every hexagon."})

def test_else():
    pass
"""


@pytest.fixture
def project(pytester):
    """Two pictures with a COCO file, and tests."""
    folder = pytester.path / "data"
    (folder / "images").mkdir(parents=True)
    data = {"images": [], "annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(LABELS)]}
    for seed in (1, 2):
        picture, objects = scene(seed)
        picture.save(folder / "images" / f"scene {seed}.png")
        data["images"].append({"id": seed, "file_name": f"scene {seed}.png"})
        for label, (x1, y1, x2, y2) in objects:
            number = len(data["annotations"])
            entry = {
                "id": number,
                "image_id": seed,
                "category_id": LABELS.index(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            data["annotations"].append(entry)
    (folder / "annotations.json").write_text(json.dumps(data))
    pytester.makepyfile(TESTS)
    return pytester


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """Answers, which need not be computed anew for each test."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def run(project, monkeypatch, kept):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def start(*options, plugins=(), cache=(f"--gemma4-cache={kept}",)):
        named = [part for name in ("gemma4.evaluate.plugin", *plugins) for part in ("-p", name)]
        return project.runpytest_subprocess(*named, *cache, *options)

    return start


class Page(HTMLParser):
    """What a page refers to, and its tags, all of which must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.outside, self.pictures = [], "", [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "srcset", "data"):
                self.pictures += value.startswith("data:image/jpeg;base64,")
                self.outside += [] if value.startswith("data:") else [value]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if not self.open or self.open[-1] not in ("style",) else ""


def read_page(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.outside == [] and not re.search(r"url\(|@import|<script", text)
    for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(chart)
    return page


def test_reports_and_a_failure_that_says_where(project, run, kept):
    names = ["out.html", "sub/out.json", "out.parquet"]
    options = [part for name in names for part in ("--gemma4-report", name)]
    result = run("--junitxml=j.xml", *options)
    result.assert_outcomes(passed=2, failed=1)
    assert (kept / "answers").is_dir() and not (project.path / ".pytest_cache/d").exists()
    result.stdout.fnmatch_lines([
        "*AssertionError: <worse> & é: mAP 0.0* < 0.3",
        "E *annotations.json: 2 pictures, 4 objects, IoU 0.5",
        "E *scene ?.png: missed * at *",
        "E *picture: *failures/test_bad-*.png",
        "*gemma4 detection*",
        "*::test_good",
        "*report: *out.html",
    ])  # fmt: skip
    saved = re.search(r"picture: (.*\.png)", result.stdout.str())
    with Image.open(saved[1]) as picture:
        assert picture.size in (scene(1)[0].size, scene(2)[0].size)

    page = read_page(project.path / "out.html")
    assert "<worse> & é" in page.text and "failed" in page.text and page.pictures == 6
    data = json.loads((project.path / "sub/out.json").read_text())
    assert [one["test"].partition("::")[2] for one in data["evaluations"]] == ["test_good", "test_bad"]
    good, bad = data["evaluations"]
    assert good["failure"] is None and bad["failure"].startswith("<worse>")
    assert "jpeg" not in json.dumps(data)

    table = pandas.read_parquet(project.path / "out.parquet")
    rows = {row["name"]: row for row in bad["rows"]}
    for name, row in rows.items():
        mine = table[(table["row"] == name) & table["test"].str.endswith("test_bad")]
        assert (mine["kind"] == "right").sum() == row["right"]
        assert mine["label"].notna().sum() == row["truth"] and mine["found_label"].notna().sum() == row["found"]
    assert table["box"].dropna().map(len).eq(4).all()

    properties = {
        (case.get("name"), one.get("name")): one.get("value")
        for case in ElementTree.parse(project.path / "j.xml").iter("testcase")
        for one in case.iter("property")
    }
    assert float(properties["test_good", "gemma4.default.map"]) == pytest.approx(good["rows"][0]["map"], abs=1e-6)
    assert ("test_bad", "gemma4.<worse> & é.recall") in properties


def test_the_second_run_loads_no_model(project, run):
    run(cache=()).assert_outcomes(passed=2, failed=1)
    assert (project.path / ".pytest_cache/d/gemma4/answers").is_dir()
    project.makeconftest(
        "import pytest\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def none():\n"
        "    import gemma4\n"
        "    gemma4.Model.from_pretrained = None\n"
    )
    result = run(cache=())
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["[*] 4 of 4 answers from the cache"])
    again = run("-k", "good", cache=("--gemma4-no-cache",))
    again.stdout.fnmatch_lines(["*TypeError: 'NoneType' object is not callable"])


def test_a_model_fixture_of_ones_own_is_asked(project, run):
    project.makeconftest(
        "import pytest\n"
        "class Mine:\n"
        "    def detect(self, images, labels, max_soft_tokens, on_error):\n"
        "        return [[] for _ in images]\n"
        "@pytest.fixture\n"
        "def gemma4_model(): return Mine()\n"
    )
    run("-k", "good").stdout.fnmatch_lines(["*AssertionError: mAP 0.000 < 0.3, recall of 'red circle' 0.000 < 0.1"])


def test_workers_send_their_results(project, run):
    options = ("-n", "2", "--gemma4-report", "out.html", "--gemma4-report", "out.json")
    result = run(*options, plugins=("xdist.plugin", "xdist.looponfail"))
    result.assert_outcomes(passed=2, failed=1)
    data = json.loads((project.path / "out.json").read_text())
    tests = sorted(one["test"].partition("::")[2] for one in data["evaluations"])
    assert tests == ["test_bad", "test_good"]
    assert read_page(project.path / "out.html").pictures == 6
    text = result.stdout.str()
    assert text.count("gemma4 detection =") == 1 and "::test_good" in text


def test_with_pytest_evals(project, run):
    project.makepyfile("""
import pytest

@pytest.mark.eval(name="shapes")
@pytest.mark.detection_eval("data/annotations.json", max_soft_tokens=70)
@pytest.mark.parametrize("prompt", [None, "Find every hexagon."])
def test_one(detection_eval, eval_bag, prompt):
    result = detection_eval.run(prompts=prompt)
    assert eval_bag.detection_eval is result

@pytest.mark.eval_analysis(name="shapes")
def test_all(eval_results):
    found = [one.result.detection_eval for one in eval_results]
    assert len(found) == 2
    assert found[0].recall > found[1].recall
""")
    plugins = ("pytest_evals.plugin", "pytest_harvest.plugin", "xdist.plugin")  # harvest asks xdist
    run("--run-eval", "--run-eval-analysis", plugins=plugins).assert_outcomes(passed=3)
    raw = json.loads((project.path / "test-out/eval-results-raw.json").read_text())
    recalls = [one["fixtures"]["eval_bag"]["detection_eval"]["rows"][0]["right"] for one in raw.values()]
    assert len(recalls) == 2 and recalls[0] > recalls[1]


def test_mistakes_of_a_first_try(project, run):
    project.makepyfile("""
import pytest

def test_nothing(detection_eval):
    detection_eval.run()

@pytest.mark.detection_eval("data/annotation.json")
def test_name(detection_eval):
    detection_eval.run()

@pytest.mark.detection_eval("data/annotations.json", min_mAP=0.5)
def test_argument(detection_eval):
    detection_eval.run()

@pytest.mark.detection_eval("data/annotations.json", labels=["red circel"])
def test_label(detection_eval):
    detection_eval.run()

@pytest.mark.detection_eval("data/annotations.json", "more")
def test_two(detection_eval):
    detection_eval.run()
""")
    result = run()
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines([
        "*there is no dataset; give one to the marker or to run()",
        "*dataset: data/annotation.json: no such file or folder",
        "*min_mAP: no such argument; did you mean min_map?",
        "*'red circel' is not a label of the dataset; did you mean 'red circle'?",
        "*only the dataset is given without a name",
    ])  # fmt: skip


def test_reports_that_cannot_be(project, run):
    result = run("--gemma4-report", "out.pdf")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*out.pdf: a report ends in one of .html, .json, .parquet"])
    (project.path / "file").write_text("")
    result = run("-k", "else", "--gemma4-report", "file/out.json", "--gemma4-report", "empty.html")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["report: *file/out.json cannot be written: *", "report: *empty.html"])
    assert "No test evaluated anything" in read_page(project.path / "empty.html").text


def test_without_a_cache_of_pytest_s(project, run):
    run("-k", "good", "-p", "no:cacheprovider", cache=()).assert_outcomes(passed=1)
    (project.path / "taken").write_text("a file, where a folder is wanted")
    result = run("-o", "cache_dir=taken", cache=())
    result.assert_outcomes(passed=2, failed=1)
    picture = next(line for line in result.outlines if "picture: " in line).partition("picture: ")[2]
    assert Path(picture).is_file()


def test_a_report_says_what_became_of_a_test(project, run):
    project.makepyfile("""
import pytest

def nothing_to_say():
    raise RuntimeError

@pytest.fixture
def seen(detection_eval):
    return lambda: detection_eval.run("data/annotations.json", max_soft_tokens=70)

def test_fails(seen):
    seen()
    nothing_to_say()

def test_skips(seen):
    seen()
    pytest.skip("for today")

@pytest.mark.xfail(strict=True)
def test_expected(seen):
    seen()
    nothing_to_say()
""")
    run("--gemma4-report", "out.html").assert_outcomes(failed=1, skipped=1, xfailed=1)
    text = (project.path / "out.html").read_text(encoding="utf-8")
    assert text.count(">failed</span>") == 1 and text.count(">passed</span>") == 2
    assert "RuntimeError" in text


def test_the_plugin_imports_nothing_but_pytest(project, run):
    project.makeconftest(
        "import sys\n"
        "def pytest_collection_finish(session):\n"
        "    ours = {name for name in sys.modules if name.startswith('gemma4')}\n"
        "    assert ours == {'gemma4', 'gemma4.evaluate', 'gemma4.evaluate.plugin'}, ours\n"
        "    assert not {'numpy', 'PIL', 'tokenizers', 'json.tool', 'yaml', 'pyarrow'} & set(sys.modules)\n"
    )
    run("-k", "else").assert_outcomes(passed=1, deselected=2)


def test_many_labels_and_pictures_stay_readable(tmp_path):
    """A page of a size that a browser shows, whatever was evaluated."""
    picture, _ = scene(1)
    labels = [f"label <{number}>" for number in range(30)]
    truth = [(label, (index % 8 * 25.0, index // 8 * 25.0, index % 8 * 25 + 20.0, index // 8 * 25 + 20.0))
             for index, label in enumerate(labels)]  # fmt: skip
    told = Told(lambda index, _: [*truth[: index % 30], (labels[0], truth[29][1])])
    result = compare([(picture, truth)] * 30, models=told)
    result.save(tmp_path / "out.html", str(tmp_path / "out.json"))
    page = read_page(tmp_path / "out.html")
    assert page.pictures == 24 and (tmp_path / "out.html").stat().st_size < 3_000_000
    assert "the 8 lowest of 30 labels" in page.text and "of 30 labels with most faults" in page.text
    assert not (set(tmp_path.iterdir()) - {tmp_path / "out.html", tmp_path / "out.json"})


def test_save_refuses_other_endings(tmp_path):
    from gemma4.errors import RequestError

    result = compare([scene(1)], models=Told(lambda *_: []))
    with pytest.raises(RequestError, match=r"out\.pdf: a report ends in one of"):
        result.save(tmp_path / "out.pdf")
