"""Names of the hub, with the hub's own client against a server on this machine: what is asked for is what is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gemma4
import pytest
from gemma4.checkpoint.hub import HubName, parse
from hub_server import Hub, Repository, ask, serve

BASE = "gemma-4-E2B-it"
GGUFS = (
    f"{BASE}-Q4_K_M.gguf", f"{BASE}-Q8_0.gguf", f"{BASE}-UD-Q4_K_XL.gguf", f"{BASE}-IQ4_XS.gguf",
    *(f"BF16/{BASE}-BF16-0000{part}-of-00003.gguf" for part in (1, 2, 3)),
)  # fmt: skip
ENCODERS = ("mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf")
DIRECTORY = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json",
    "chat_template.jinja", "additional_chat_templates/tool_use.jinja",
)  # fmt: skip
NOT_NEEDED = (
    ".gitattributes", "README.md", "LICENSE", "pytorch_model.bin", "original/consolidated.00.pth",
    "original/params.json", "onnx/model.onnx", "assets/picture.png", "consolidated.safetensors",
)  # fmt: skip
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def contents(*names: str) -> dict[str, bytes]:
    return {name: f"what {name} holds ".encode() * (1 if name.endswith("json") else 100) for name in names}


def sharded() -> dict[str, bytes]:
    index = {"weight_map": {f"tensor{number}": shard for number, shard in enumerate(SHARDS)}}
    return {**contents(*DIRECTORY, *NOT_NEEDED, *SHARDS), "model.safetensors.index.json": json.dumps(index).encode()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("demo")
    done = gemma4.convert("demo", folder / "demo-Q8_0.gguf", "q8_0", folder / "mmproj-BF16.gguf", progress=False)
    assert done.mmproj is not None
    demo = {path.name: path.read_bytes() for path in (done.path, done.mmproj)}
    bundled = Path(gemma4.__file__).parent / "demo_model"
    repositories = {
        "org/many": Repository({"main": contents("README.md", "config.json", "imatrix.gguf", *GGUFS, *ENCODERS)}),
        "org/one": Repository({"main": contents("one.gguf", "README.md")}),
        "org/two": Repository(
            {"main": contents("E2B-Q4_0.gguf", "E4B-Q4_0.gguf", "mmproj-E2B.gguf", "mmproj-E4B.gguf")}
        ),
        "org/sharded": Repository({"main": sharded()}),
        "org/both": Repository({"main": contents(*DIRECTORY, "model.safetensors", "both-Q4_0.gguf", "mmproj.gguf")}),
        "org/neither": Repository({"main": contents("config.json", "pytorch_model.bin")}),
        "org/gated": Repository({"main": contents("config.json", "model.safetensors")}, gated=True),
        "org/broken": Repository({"main": contents("model-Q4_0.gguf")}, broken=frozenset({"model-Q4_0.gguf"})),
        "org/old": Repository({"main": contents("new-Q4_0.gguf"), "v1": contents("old-Q4_0.gguf")}),
        "org/holes": Repository({"main": contents("a-00001-of-00002.gguf")}),
        "org/demo-GGUF": Repository({"main": {**demo, "README.md": b"A demonstration."}}),
        "org/demo": Repository(
            {"main": {path.name: path.read_bytes() for path in bundled.iterdir() if path.is_file()}}
        ),
    }
    with serve(repositories) as server:
        yield server


def value(result: dict[str, Any]) -> Any:
    assert "value" in result, result
    return result["value"]


CHOICES: dict[str, tuple[str, list[str]]] = {
    "tag": ("'org/many:Q4_K_M'", [GGUFS[0], ENCODERS[0]]),
    "tag in lower case": ("'org/many:q8_0'", [GGUFS[1], ENCODERS[0]]),
    "dynamic": ("'org/many:UD-Q4_K_XL'", [GGUFS[2], ENCODERS[0]]),
    "dynamic, its tag alone": ("'org/many:Q4_K_XL'", [GGUFS[2], ENCODERS[0]]),
    "all parts": ("'org/many:BF16'", [GGUFS[4], ENCODERS[0]]),
    "a file": (f"'org/many/{GGUFS[3]}'", [GGUFS[3], ENCODERS[0]]),
    "a file in a folder, the second part": (f"'org/many/{GGUFS[5]}'", [GGUFS[5], ENCODERS[0]]),
    "other encoders": ("'org/many:Q8_0', None, 'mmproj-F16.gguf'", [GGUFS[1], ENCODERS[1]]),
    "no encoders": ("'org/many:Q8_0', None, False", [GGUFS[1], ""]),
    "the only one": ("'org/one'", ["one.gguf", ""]),
    "encoders of the same name": ("'org/two/E4B-Q4_0.gguf'", ["E4B-Q4_0.gguf", "mmproj-E4B.gguf"]),
    "GGUF beside safetensors": ("'org/both:Q4_0'", ["both-Q4_0.gguf", "mmproj.gguf"]),
    "a tag": ("'org/old', 'v1'", ["old-Q4_0.gguf", ""]),
}


def test_takes_what_is_needed_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    parts = [file for file in GGUFS if file.startswith("BF16/")]
    calls = [f"found({call})" for call, _ in CHOICES.values()]
    hub.taken()
    results = ask(hub, tmp_path, *calls, FRESH="1", HUB=hub.endpoint)
    for name, result, taken in zip(CHOICES, results, hub.taken(), strict=True):
        expected = CHOICES[name][1]
        assert [path or "" for path in value(result)] == expected, name
        model = parts if expected[0] in parts else expected[:1]
        assert taken == sorted({*model, *filter(None, expected[1:])}), name


def test_directories(hub: Hub, tmp_path: Path) -> None:
    expected = [
        sorted([*DIRECTORY, *SHARDS, "model.safetensors.index.json"]),
        sorted([*DIRECTORY, "model.safetensors"]),
    ]
    hub.taken()
    got = ask(hub, tmp_path, "found('org/sharded')", "found('org/both')", HUB=hub.endpoint)
    assert [value(result) for result in got] == expected == hub.taken()


def test_without_a_network_the_cache_is_used(hub: Hub, tmp_path: Path) -> None:
    names = ("found('org/many:Q8_0')", "found('org/sharded')", "found('org/old', 'v1')")
    first = ask(hub, tmp_path, *names)
    hub.log.clear()
    # Of the repository with many, one is there now: no tag is needed.
    again = (*names, "found('org/many')", "found('org/many:Q4_K_M')", "found('org/one')")
    *found, other, absent = ask(hub, tmp_path, *again, HF_HUB_OFFLINE="1")
    assert found == [*first, first[0]] and hub.log == []
    assert "no files match 'Q4_K_M'" in other["text"] and "org/many:Q8_0" in other["text"]
    assert "not in the cache" in absent["text"] and "HF_HUB_OFFLINE" in absent["text"]
    *found, _, absent = ask(Hub("http://127.0.0.1:9", {}), tmp_path, *again)
    assert found == [*first, first[0]]
    assert absent["error"] == "ModelFileError" and "127.0.0.1:9 does not give it" in absent["text"]


REFUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    "several and no tag": (
        "'org/many'",
        ("5 models, say which", "org/many:Q4_K_M", "org/many:UD-Q4_K_XL", "org/many:IQ4_XS", "org/many:BF16"),
    ),
    "a tag of none": ("'org/many:Q2_K'", ("no files match 'Q2_K'", "org/many:Q8_0")),
    "a tag of two": ("'org/two:Q4_0'", ("2 files match", "org/two/E2B-Q4_0.gguf", "org/two/E4B-Q4_0.gguf")),
    "a file that is not there": ("'org/many/x.gguf'", ("no x.gguf", GGUFS[0])),
    "encoders that are not there": ("'org/one', None, 'mmproj.gguf'", ("no mmproj.gguf", "one.gguf")),
    "encoders of a directory": ("'org/sharded', None, 'mmproj.gguf'", ("only a GGUF file",)),
    "a part that is not there": ("'org/holes'", ("no a-00002-of-00002.gguf",)),
    "neither": ("'org/neither'", ("neither safetensors nor GGUF", "pytorch_model.bin")),
    "no repository": ("'org/nobody'", ("no such repository on 127.0.0.1", "hf auth login")),
    "gated": ("'org/gated'", ("licence has to be accepted", "hf auth login")),
    "no revision": ("'org/one', 'v9'", ("org/one@v9: no revision 'v9'",)),
    "no hub id": ("'org/../one'", ("not a hub id",)),
}


def test_refusals_say_what_there_is(hub: Hub, tmp_path: Path) -> None:
    calls = [call for call, _ in REFUSED.values()]
    results = ask(hub, tmp_path, *(f"found({call})" for call in calls))
    for name, result in zip(REFUSED, results, strict=True):
        assert result.get("error") in ("ModelFileError", "RequestError"), (name, result)
        for part in REFUSED[name][1]:
            assert part in result["text"], (name, result["text"])


def test_a_download_that_breaks_goes_on_later(hub: Hub, tmp_path: Path) -> None:
    repository = hub.repositories["org/broken"]
    (broken,) = ask(hub, tmp_path, "found('org/broken')")
    assert broken["error"] == "ModelFileError" and "try again" in broken["text"]
    repository.broken = frozenset()
    (whole,) = ask(hub, tmp_path, "found('org/broken')")
    assert value(whole) == ["model-Q4_0.gguf", None]
    (file,) = (tmp_path / "hub" / "models--org--broken" / "snapshots").rglob("*.gguf")
    assert file.read_bytes() == repository.files("main")["model-Q4_0.gguf"]


def test_models_answer(hub: Hub, tmp_path: Path) -> None:
    """From the hub, from the folder in its cache, from a copy of it, and pickled."""
    show = "(lambda m: [sorted(m.modalities), m.generate('What can you do?', max_new_tokens=5, temperature=0).text])"
    load = "gemma4.Model.from_pretrained"
    snapshot = "places.find('org/demo-GGUF').path.parent"
    pickled = "__import__('pickle').loads(__import__('pickle').dumps"
    directory, *ggufs = map(value, ask(
        hub, tmp_path,
        f"{show}({load}('org/demo'))",
        f"{show}({load}('org/demo-GGUF'))",
        f"{show}({load}({snapshot}))",
        f"{show}({load}(str({snapshot}) + ':Q8_0'))",
        f"{show}({pickled}({load}('org/demo-GGUF:Q8_0'))))",
    ))  # fmt: skip
    assert directory[0] == ["audio", "image", "text", "video"] and directory[1]
    assert ggufs == [ggufs[0]] * 4 and ggufs[0][0] == directory[0]


def test_spellings() -> None:
    assert parse("org/name/folder/file.gguf") == HubName("org/name", None, "folder/file.gguf")
    wrong = ("name", "org/name:", "org/name/x.bin", "org/name:a/b", "/org/name", "org/../x.gguf", "org/name/../x.gguf",
             "org/x.gguf", "a/b/c", "org/nämé", "org/name:Q4\n")  # fmt: skip
    assert [name for name in wrong if parse(name) is not None] == []
