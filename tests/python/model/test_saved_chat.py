"""Conversations in files: what was said, shown and computed comes back."""

from __future__ import annotations

import json
from pathlib import Path

import gemma4
import numpy as np
import pytest
from gemma4 import ModelFileError, RequestError
from other_demos import demo_with
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

PICTURE = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
SOUND = np.sin(np.arange(16000, dtype=np.float32) / 9) * np.float32(0.3)


def talk(chat: gemma4.Chat, *turns: str, **options: object) -> list[str]:
    return [chat.send(turn, max_new_tokens=12, **options).text for turn in turns]


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "q8_0", "q4_0"])
def test_goes_on_as_if_it_had_never_stopped(tmp_path: Path, kv_cache: str) -> None:
    path, options = tmp_path / "talk.safetensors", {"kv_cache": kv_cache, "max_context": 1024}
    demo = demo_with(tmp_path / "demo", {"text_config": {"sliding_window": 256}})
    first = gemma4.Model.from_pretrained(demo, **options).chat(system="Be brief.")
    # Longer than the sliding window.
    first.send(["Describe the image. " * 30][0], images=PICTURE, max_new_tokens=12)
    first.send("And this?", audio=(SOUND, 16000), max_new_tokens=12)
    first.save(path)
    second = gemma4.Model.from_pretrained(demo, **options).chat()
    second.load(path)
    assert second.messages[0] == {"role": "system", "content": "Be brief."}
    expected, got = first.send("Why?", max_new_tokens=12), second.send("Why?", max_new_tokens=12)
    assert second.reused_tokens == first.reused_tokens > 256
    assert got.token_ids.tolist() == expected.token_ids.tolist()


def test_messages_come_back_as_they_were(tmp_path: Path) -> None:
    model = gemma4.Model.from_pretrained("demo")
    chat, path = model.chat(), tmp_path / "talk.safetensors"
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    chat.messages = [
        {"role": "user", "content": [
            {"type": "image", "image": Image.fromarray(PICTURE)},
            {"type": "image", "image": str(tmp_path / "picture.png")},
            {"type": "audio", "audio": np.repeat(SOUND, 2), "sampling_rate": 32000},
            {"type": "text", "text": "Ünïcode \"quoted\"\n"},
        ]},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"a": [1, 2.5, None]}}}]},
        {"role": "tool", "tool_call_id": "call_1", "name": "f", "content": {"value": (1, 2)}},
    ]  # fmt: skip
    chat.save(path)
    other = model.chat()
    other.load(path)
    parts = other.messages[0]["content"]
    assert np.array_equal(parts[0]["image"], PICTURE) and parts[1] == chat.messages[0]["content"][1]
    assert parts[2]["audio"].shape == (16000,) and "sampling_rate" not in parts[2]
    assert parts[3] == chat.messages[0]["content"][3] and other.messages[1] == chat.messages[1]
    assert other.messages[2]["content"] == {"value": [1, 2]}
    with safe_open(path, "np") as file:  # another tool reads it
        assert {"image.0", "audio.1"} <= set(file.keys())
        assert json.loads(file.metadata()["gemma4.chat"])["messages"][0]["role"] == "user"


def test_what_another_model_computed_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "talk.safetensors"
    first = gemma4.Model.from_pretrained("demo").chat()
    talk(first, "Hello")
    first.save(path)
    for options in ({"kv_cache": "f32"}, {"dtype": "q8_0"}, {"max_context": 8}):
        other = gemma4.Model.from_pretrained("demo", **options).chat()
        other.load(path)
        assert other.messages == first.messages and other._cache._session.position == 0
    same = gemma4.Model.from_pretrained("demo").chat()
    same.load(path)
    assert same._cache._session.position > 0
    talk(same, "More")
    assert same.reused_tokens >= 10


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "talk.safetensors", gemma4.Model.from_pretrained("demo")
    chat = model.chat()
    talk(chat, "Hello")
    before = [dict(message) for message in chat.messages]
    chat.save(path)
    whole, arrays = path.read_bytes(), load_file(path)
    with safe_open(path, "np") as file:
        about = json.loads(file.metadata()["gemma4.chat"])

    def refused(match: str) -> None:
        with pytest.raises(ModelFileError, match=match):
            chat.load(path)
        assert chat.messages == before

    for size in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused("talk.safetensors")
    save_file(arrays, path)
    refused("no conversation")
    damages = (
        {"messages": 3}, {"messages": [3]}, {"cache": 3}, {"calls": "x"},
        {"cache": {**about["cache"], "ids": "x"}}, {"cache": {**about["cache"], "media": [[1]]}},
        {"cache": {**about["cache"], "boundaries": [9, 4]}}, {"cache": {**about["cache"], "kept_from": 1 << 40}},
        {"cache": {**about["cache"], "chunk": -1}}, {"cache": {**about["cache"], "position": 1.5}},
    )  # fmt: skip
    for damage in damages:
        save_file(arrays, path, {"gemma4.chat": json.dumps({**about, **damage})})
        refused("gemma4.chat")
    missing = {name: array for name, array in arrays.items() if name != "cache.0"}
    save_file(missing, path, {"gemma4.chat": json.dumps(about)})
    refused("cache.0")
    (tmp_path / "none").unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match="none"):
        chat.load(tmp_path / "none")


def test_what_no_file_can_hold_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path, chat = tmp_path / "talk.safetensors", gemma4.Model.from_pretrained("demo").chat()
    path.write_bytes(b"mine")
    chat.messages = [{"role": "user", "content": [{"type": "video", "video": [PICTURE, PICTURE]}]}]
    with pytest.raises(RequestError, match=r"messages\[0\]"):
        chat.save(path)
    chat.messages = [{"role": "user", "content": object()}]
    with pytest.raises(RequestError, match=r"messages\[0\]"):
        chat.save(path)
    assert path.read_bytes() == b"mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["talk.safetensors"]
