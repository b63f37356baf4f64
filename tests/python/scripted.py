"""A model that wants to say what a test wrote down: the loop, the sampler and the grammar are the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gemma4.answer import Chunk, Decoder, GenerationOptions, GenerationResult, Prompt, Timings
from gemma4.config import GenerationDefaults


class Script:
    """In the place of a session: at each step the likeliest id is the next of the script, then the end of sequence."""

    def __init__(self, ids: Sequence[int], vocab: int, eos: int, seed: int = 0) -> None:
        self._ids, self._eos, self._at = list(ids), eos, 0
        self._rest = np.random.default_rng(seed).normal(size=vocab).astype(np.float32)

    def logits(self) -> Any:
        row = np.roll(self._rest, self._at)  # what it would say where it may not go on as written
        row[self._ids[self._at] if self._at < len(self._ids) else self._eos] = 20
        self._at += 1
        return row

    def decode(self, index: int) -> Any:
        return self.logits()


class Answer:
    """A script read by a decoder."""

    def __init__(self, script: Script, decoder: Decoder) -> None:
        self._script, self.decoder = script, decoder

    def chunks(self) -> Iterator[Chunk]:
        index: int | None = 0
        while index is not None:
            index = self.decoder.take(self._script.logits())
            chunk = self.decoder.chunk(last=index is None)
            if chunk is not None:
                yield chunk

    def result(self) -> GenerationResult:
        return self.decoder.result(Timings())


def answer(model: Any, script: str | Sequence[int], prompt: str | Sequence[int] = "x", **options: Any) -> Answer:
    """An answer that wants to be `script`, with its control tokens in it, to a prompt taken as it is."""
    ids, prompt_ids = (
        model.tokenizer.encode(text, allow_special=True) if isinstance(text, str) else list(text)
        for text in (script, prompt)
    )
    vocab = model.config["text_config"]["vocab_size"]
    resolved = GenerationOptions.resolve(GenerationDefaults(), **options)
    ready = Prompt(np.array(prompt_ids, np.int32), 0, resolved.max_new_tokens)
    return Answer(
        Script(ids, vocab, model.tokenizer.id_of("<turn|>")), Decoder(ready, resolved, model._runtime.loaded.language)
    )


def say(model: Any, script: str | Sequence[int], prompt: str | Sequence[int] = "x", **options: Any) -> GenerationResult:
    """The whole of :func:`answer`."""
    one = answer(model, script, prompt, **options)
    list(one.chunks())
    return one.result()


def answers_instead(monkeypatch: Any, model: Any, give: Callable[[Any, dict[str, Any]], GenerationResult]) -> None:
    """Let `give(messages, options)` answer what tasks ask a model."""

    def answer_all(_: Any, items: Any, __: Any) -> Iterator[Any]:
        for item in items:
            questions = item()
            yield questions.read(list(questions.answers))

    monkeypatch.setattr(model, "_answer", lambda question, options: give(question.messages, options), raising=False)
    monkeypatch.setattr("gemma4.skills.answer_all", answer_all)
