"""Read by mypy alone: what a type checker must refuse, and what it must not. An ignore without an error is an error."""

from __future__ import annotations

from pathlib import Path

import gemma4
import numpy as np
from PIL import Image


def wrong(model: gemma4.Model) -> None:
    model.detect(3)  # type: ignore[call-overload]
    model.detect("a.png", labels=object())  # type: ignore[call-overload]
    model.detect("a.png", labels=[1])  # type: ignore[list-item]
    model.generate(3)  # type: ignore[call-overload]
    model.generate("hi", images=3)  # type: ignore[call-overload]
    model.generate("hi", temperature="hot")  # type: ignore[call-overload]
    model.generate("hi", tempreature=0)  # type: ignore[call-overload]
    model.generate("hi", adapter=3)  # type: ignore[call-overload]
    model.detect("a.png", adapter=True)  # type: ignore[call-overload]
    model.chat().send("hi", top_k="many")  # type: ignore[arg-type]
    model.transcribe(object())  # type: ignore[call-overload]
    gemma4.Model.from_pretrained(kv_cache="fp8")  # type: ignore[arg-type]
    gemma4.Model.from_pretrained(dtype="int3")  # type: ignore[arg-type]
    gemma4.Model.from_pretrained(resize="opencv")  # type: ignore[arg-type]
    gemma4.Model.from_pretrained(mmproj=True)  # type: ignore[arg-type]


def right(model: gemma4.Model) -> str:
    array = np.zeros((4, 4, 3), np.uint8)
    for picture in ("a.png", Path("a.png"), b"png", array, Image.new("RGB", (4, 4))):
        model.detect(picture, ["cat", "dog"])
        model.generate("hi", images=picture, max_new_tokens=3, temperature=0, stop=["."])
    model.generate([{"role": "user", "content": "hi"}], images=["a.png", array], tools=[right], thinking=8)
    model.generate(model.prepare("hi"), seed=1, adapter="a")
    model.caption("a.png", adapter=False)
    model.read(["a.png", "b.png"], adapter="a")
    gemma4.Model.from_pretrained(adapter={"a": Path("a"), "b": "b"})
    model.generate([2, 3, 4])
    for found in model.detect(["a.png", array], "cat", on_error="return"):
        print(found.labels)
    for out in model.generate(["hi", "ho"], images=[None, "a.png"]):
        print(out.text)
    model.generate("hi", audio=(np.zeros(16_000, np.float32), 16_000), video={"video": "a.mp4", "fps": 2})
    for chunk in model.stream("hi", max_tokens=4):
        print(chunk.text)
    return gemma4.Model.from_pretrained("demo", kv_cache="q8_0", mmproj=False).caption("a.png")
