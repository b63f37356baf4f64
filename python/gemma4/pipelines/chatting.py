"""`"image-text-to-text"` and `"any-to-any"`.

Knows: transformers' forms of chats, of media beside a text, and of answers. Must not know: templates, the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..answer import GenerationResult
from ..arguments import integer
from ..errors import RequestError
from ..notices import warn
from ..tokens import markers
from .calls import Pipeline, refuse_unknown
from .prompts import Chat, Prompt, Written, continued, prepare_written, with_more

if TYPE_CHECKING:
    from ..prompt import PreparedInputs

__all__ = ["AnyToAnyPipeline", "ImageTextToTextPipeline"]

_DEFAULT_TOKENS = 256  # of an answer, as in transformers, where neither the call nor the checkpoint says
_MOST_SEQUENCES = 1000

_GENERATE = (
    "max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "stop_strings", "seed",
    "num_return_sequences", "num_beams", "use_cache", "tokenizer",
)  # fmt: skip
"""What `generate_kwargs` may hold. The last three change nothing: a search with beams is warned of, a cache is always
used, and the tokenizer is the checkpoint's."""
_OURS = ("response_format", "adapter", "ignore_eos", "max_soft_tokens")


Ids: TypeAlias = NDArray[np.int32]


class _Generating(Pipeline):
    _ARGUMENTS = (
        *_GENERATE, *_OURS, "generate_kwargs", "return_full_text", "return_tensors", "stop_sequence",
        "continue_final_message", "skip_special_tokens", "clean_up_tokenization_spaces", "processor_kwargs", "tools",
        "enable_thinking", "generation_mode",
    )  # fmt: skip

    def _check(self, options: Mapping[str, Any]) -> None:
        _Call(options, self._default_tokens()).warn()

    def _default_tokens(self) -> int | None:
        defaults = self.model._runtime.loaded.defaults
        said = defaults.max_new_tokens is not None or defaults.max_length is not None
        return None if said else _DEFAULT_TOKENS

    def _answers(self, items: list[Any], options: dict[str, Any]) -> list[Any]:
        call = _Call(options, self._default_tokens())
        given = [_input(item) for item in items]
        prompts = [one for several in given for one in several]
        drawn = [self._generate(prompts, call, seed) for seed in call.seeds()]
        records = iter(
            [
                [self._record(prompt, asked, out, call) for prompt, asked, out in each]
                for each in zip(*drawn, strict=True)
            ]
        )
        return [[record for _ in several for record in next(records)] for several in given]

    def _generate(
        self, prompts: list[Prompt], call: _Call, seed: dict[str, int]
    ) -> list[tuple[Prompt, Ids | None, GenerationResult]]:
        """Each prompt, its ids where they are wanted, and an answer; all computed together."""
        kept: list[Ids | None] = []

        def ready() -> Iterator[PreparedInputs]:  # one after the other, as they are needed: pictures are large
            for prompt in prompts:
                inputs = self._prepared(prompt, call)
                kept.append(inputs.input_ids if call.ids else None)
                yield inputs

        options: Any = {**call.of_an_answer(), **seed}
        answers = self.model.generate(ready(), **options)
        return list(zip(prompts, kept, answers, strict=True))

    def _prepared(self, prompt: Prompt, call: _Call) -> PreparedInputs:
        more = call.of_a_prompt()
        if isinstance(prompt, Chat):
            prepare = continued if call.goes_on(prompt) else type(self.model).prepare
            return prepare(self.model, list(prompt.messages), **more)
        budget = more.pop("max_soft_tokens", None)
        if more:
            raise RequestError(f"{', '.join(more)}: of a chat; a text is taken as it is")
        return prepare_written(self.model, prompt, budget)

    def _record(self, prompt: Prompt, asked: Ids | None, out: GenerationResult, call: _Call) -> dict[str, Any]:
        """As transformers writes it."""
        given = list(prompt.messages) if isinstance(prompt, Chat) else prompt.text
        if asked is not None:
            return {"input_text": given, "generated_token_ids": np.concatenate([asked, out.token_ids]).astype(np.int64)}
        said = out.text
        if not call.skip_special:
            said = self.model.tokenizer.decode(out.token_ids, skip_special=False)
        elif call.stops is not None:  # a stop string is the end of the text, which has no thought in it
            ends = np.flatnonzero(out.token_ids == self.model.tokenizer.id_of(markers.CHANNEL_END))
            said = self.model.tokenizer.decode(out.token_ids[ends[-1] + 1 if len(ends) else 0 :])
        whole: Any = said
        if call.full and isinstance(prompt, Written):
            whole = prompt.text + said
        elif call.full and isinstance(prompt, Chat):
            whole = with_more(given, said) if call.goes_on(prompt) else [*given, _message(said, out)]
        return {"input_text": given, "generated_text": whole}


class ImageTextToTextPipeline(_Generating):
    """What the model says to a chat, or how it goes on with a text.

    >>> import gemma4
    >>> pipe = gemma4.pipeline("image-text-to-text")
    >>> chat = [{"role": "user", "content": [
    ...     {"type": "image", "image": "examples/shapes.png"}, {"type": "text", "text": "What is in the image?"}]}]
    >>> pipe(text=chat, return_full_text=False, max_new_tokens=3)[0]["generated_text"]
    'A yellow star'
    """

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        """`[{"input_text", "generated_text"}]` of one chat or text; a list of such for a list of chats.

        Args:
            images: pictures that go with `text`, at its `<|image|>`; or all that :func:`gemma4.pipeline` calls an
                input: a chat, a list of chats, `{"images": …, "text": …}`, a list, a generator or a dataset of them.
            text: a chat (a list of messages with their pictures), a list of chats, or a text that is gone on with as
                it is, no chat template around it; a list of texts gives one list of results. Only `<|image|>`,
                `<|audio|>` and `<|video|>` are read as control tokens in it.
            return_full_text: False for the answer alone; otherwise `generated_text` is the chat with the answer as its
                last message, or the text with what follows.
            return_tensors: True for `generated_token_ids` (T,) int64, prompt and answer, as a NumPy array.
            continue_final_message: go on with the last message; None does so where it is the assistant's.
            skip_special_tokens: False leaves `<turn|>` and its like in the text.
            max_new_tokens: 256 where neither the call nor the checkpoint says.
            generate_kwargs: a dict of these and other arguments of :meth:`gemma4.Model.generate`, and
                `num_return_sequences` answers to each, drawn (`do_sample=True`).
            options: `stop_sequence`, which is the end of the text it stops; `tools`, `enable_thinking`,
                `response_format`, `adapter`, `max_soft_tokens`, `batch_size`.

        Raises:
            RequestError: an argument is wrong, or means nothing to this model.
            MediaError, ContextLengthError: as :meth:`gemma4.Model.generate`.
        """
        if images is None and text is None:
            raise RequestError("images, text: give at least one of them")
        if images is None and isinstance(text, list | tuple) and all(isinstance(one, str) for one in text):
            return self._run([Written(one) for one in text], options)
        if text is None:
            return self._run(_chats(images), options)
        if images is None:
            return self._run(_chats(text), options)
        if _is_chat(text) or (isinstance(text, list | tuple) and text and _is_chat(text[0])):
            raise RequestError("images: the pictures of a chat belong into its messages")
        return self._run({"images": images, "text": text}, options)


class AnyToAnyPipeline(_Generating):
    """As `"image-text-to-text"`, with sounds and videos.

    >>> import gemma4
    >>> pipe = gemma4.pipeline("any-to-any")
    >>> pipe("Hello", max_new_tokens=2)
    [{'input_text': 'Hello', 'generated_text': 'Hello.'}]
    """

    def __call__(
        self, text: Any = None, images: Any = None, videos: Any = None, audio: Any = None, **options: Any
    ) -> Any:
        """As :class:`ImageTextToTextPipeline`; the media of a text are at its `<|image|>`, `<|video|>` and `<|audio|>`,
        and a list of texts gives one list with the result of each.

        Args:
            text: a chat, a text, a list of either, `{"text": …, "images": …, "videos": …, "audio": …}`, a generator or
                a dataset of them.
            images: pictures that go with a text.
            videos: videos that do, as :meth:`gemma4.Model.generate` takes them.
            audio: sounds that do.
            options: as :class:`ImageTextToTextPipeline`; `generation_mode` may be `"text"`.
        """
        if all(one is None for one in (text, images, videos, audio)):
            raise RequestError("text: expected a chat, a text, or several")
        if isinstance(text, str) or (isinstance(text, list | tuple) and text and isinstance(text[0], str)):
            given = {"text": text, "images": images, "videos": videos, "audio": audio}
            return self._run({name: one for name, one in given.items() if one is not None}, options)
        if text is None or any(one is not None for one in (images, videos, audio)):
            raise RequestError("images, videos, audio: these go with a text; those of a chat belong into its messages")
        return self._run(_chats(text), options)


class _Call:
    """The arguments of a call in the words of `Model.generate`."""

    def __init__(self, options: Mapping[str, Any], default_tokens: int | None) -> None:
        inner = options.get("generate_kwargs", {})
        if not isinstance(inner, Mapping):
            raise RequestError(f"generate_kwargs: expected a dict, found {type(inner).__name__}")
        refuse_unknown(inner, (*_GENERATE, *_OURS))
        for name in inner:
            if name in options:
                raise RequestError(f"{name}: given twice, in generate_kwargs and beside it")
        if options.get("generation_mode", "text") != "text":
            raise RequestError(f"generation_mode: this model answers in text, not {options['generation_mode']!r}")
        self.ids = bool(options.get("return_tensors", False))
        if self.ids and "return_full_text" in options:
            raise RequestError("return_full_text: it says nothing about return_tensors; give one of them")
        self.full = bool(options.get("return_full_text", True))
        self.skip_special = bool(options.get("skip_special_tokens", True))
        self._go_on = options.get("continue_final_message")
        self.tools, self.thinking = options.get("tools"), options.get("enable_thinking", False)
        self._given = {**inner, **{name: options[name] for name in (*_GENERATE, *_OURS) if name in options}}
        if default_tokens is not None:
            self._given.setdefault("max_new_tokens", default_tokens)
        self.stops = options.get("stop_sequence", self._given.pop("stop_strings", None))
        self.max_soft_tokens = self._given.pop("max_soft_tokens", _soft_tokens(options))
        self._beams = self._given.pop("num_beams", 1)
        self._count = integer("num_return_sequences", self._given.pop("num_return_sequences", 1), 1, _MOST_SEQUENCES)
        if self._count > 1 and not (self._given.get("do_sample") or self._given.get("temperature")):
            raise RequestError("num_return_sequences: several answers to one prompt need do_sample=True")

    def warn(self) -> None:
        """Of what changes nothing here."""
        if self._beams != 1:
            warn("num_beams: no search with beams here; one answer is drawn, or the greedy one taken")

    def goes_on(self, chat: Chat) -> bool:
        """Whether the last message is gone on with."""
        return bool(chat.messages[-1]["role"] == "assistant" if self._go_on is None else self._go_on)

    def of_a_prompt(self) -> dict[str, Any]:
        """What a chat is prepared with."""
        more = {"tools": self.tools, "thinking": self.thinking, "max_soft_tokens": self.max_soft_tokens}
        return {name: value for name, value in more.items() if value is not None and value is not False}

    def of_an_answer(self) -> dict[str, Any]:
        unused = ("use_cache", "tokenizer", "seed")
        own = {name: value for name, value in self._given.items() if name not in unused}
        return own if self.stops is None else {**own, "stop": self.stops}

    def seeds(self) -> list[dict[str, int]]:
        """For each of the answers to a prompt."""
        seed = self._given.get("seed")
        if seed is not None:
            seed = integer("seed", seed, 0, (1 << 63) - _MOST_SEQUENCES)
        return [{} if seed is None else {"seed": seed + index} for index in range(self._count)]


def _soft_tokens(options: Mapping[str, Any]) -> Any:
    """Of `processor_kwargs`, transformers' place of a picture's budget."""
    inner = options.get("processor_kwargs", {})
    if not isinstance(inner, Mapping):
        raise RequestError(f"processor_kwargs: expected a dict, found {type(inner).__name__}")
    of_pictures = inner.get("images_kwargs") or {}
    if not isinstance(of_pictures, Mapping):
        raise RequestError(f"images_kwargs: expected a dict, found {type(of_pictures).__name__}")
    inner = {**inner, **of_pictures}
    refuse_unknown(inner, ("max_soft_tokens", "images_kwargs"))
    return inner.get("max_soft_tokens")


def _is_message(given: Any) -> bool:
    return isinstance(given, Mapping) and "role" in given and "content" in given


def _is_chat(given: Any) -> bool:
    return isinstance(given, list | tuple) and len(given) > 0 and _is_message(given[0])


def _chats(given: Any) -> Any:
    """One chat is one input, though it is a list, or a generator of messages."""
    if isinstance(given, Iterator):
        first = next(given, None)
        given = given if first is None else chain([first], given)
        return Chat(list(given)) if _is_message(first) else given
    if _is_chat(given):
        return Chat(given)
    return [Chat(one) if _is_chat(one) else one for one in given] if isinstance(given, list | tuple) else given


def _input(item: Any) -> list[Prompt]:
    """A chat, or the texts of one input with their media."""
    if isinstance(item, Chat | Written):
        messages = item.messages if isinstance(item, Chat) else ()
        if not all(_is_message(message) for message in messages):
            raise RequestError("a chat: each message must be a dict with role and content")
        return [item]
    if _is_chat(item):
        return _input(Chat(item))
    if isinstance(item, str):
        return [Written(item)]
    if not isinstance(item, Mapping) or "text" not in item:
        kind = f"a dict with {sorted(map(str, item))[:5]}" if isinstance(item, Mapping) else type(item).__name__
        raise RequestError(f"expected a chat, a text, or a dict with text and its media, found {kind}")
    refuse_unknown(item, ("text", "images", "videos", "audio"))
    if _is_chat(item["text"]):
        return _input(Chat(item["text"]))
    return list(Written.each(item["text"], item.get("images"), item.get("audio"), item.get("videos")))


def _message(said: str, out: GenerationResult) -> dict[str, Any]:
    """The answer as a message that may go into the next chat."""
    message: dict[str, Any] = {"role": "assistant", "content": said}
    if out.thinking:
        message["thinking"] = out.thinking
    if out.tool_calls:
        message["tool_calls"] = out.tool_calls
    return message
