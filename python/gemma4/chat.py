"""`Chat`: turns of a conversation one after another, and the functions that the model calls between them.

Knows: messages, tools, the order of a conversation. Must not know: templates, token ids, the engine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .answer import Chunk, GenerationArguments, GenerationResult, shows_arguments
from .checkpoint import open_file, read_header, write_file
from .errors import ModelFileError, RequestError, ToolCallError
from .jsonfile import parse_object
from .media import read_stream
from .prompt import PART_TYPES, Toolbox, ToolCall, as_list, as_sounds, as_videos, plain_data, restored, storable
from .runtime import Answer, PrefixCache
from .tokens import check_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .media import Images, Sounds, Videos

__all__ = ["Chat"]

_MAX_ROUNDS = 1000
_FORMAT = "gemma4.chat"  # of what is said about a conversation in a file's metadata


class Chat:
    """A conversation, from :meth:`gemma4.Model.chat`. Not for two threads at once.

    What the model has computed of the conversation is kept, so that a turn costs what it adds; answers are those of
    :meth:`gemma4.Model.generate` with the whole history.
    """

    messages: list[dict[str, Any]]
    """The history, in the form that `generate` takes; may be changed between turns."""

    def __init__(
        self,
        ask: Callable[[list[dict[str, Any]], GenerationArguments], Answer],
        decode: Callable[[NDArray[np.int32]], str],
        cache: PrefixCache,
        system: str | None,
        tools: Any,
    ) -> None:
        """Begin one; see :meth:`gemma4.Model.chat`.

        Args:
            ask: `ask(messages, options)` gives the answer to messages.
            decode: ids to text with its control tokens.
            cache: what `ask` keeps between answers.
            system: None for no system turn.
            tools: None for none.
        """
        self._ask = ask
        self._decode = decode
        self._cache = cache
        self._toolbox = None if tools is None else Toolbox(tools)
        self._calls = 0
        self.messages = [] if system is None else [{"role": "system", "content": str(check_text(system, "system"))}]

    @property
    def reused_tokens(self) -> int:
        """Tokens of the last prompt that were kept from the turns before."""
        return self._cache.reused

    @shows_arguments
    def send(
        self,
        text: str | None = None,
        images: Images | None = None,
        audio: Sounds | None = None,
        video: Videos | None = None,
        *,
        run_tools: bool = True,
        max_tool_rounds: int = 8,
        **options: Unpack[GenerationArguments],
    ) -> GenerationResult:
        """Say something, and get the answer.

        Functions that the model calls are run, what they return goes back to it, and so on until it answers without a
        call. A function returns a string, JSON data, or a list of content parts such as
        `{"type": "image", "image": …}`. If anything raises, a function too, the chat is as it was before.

        Args:
            text: None adds nothing and goes on from `messages`, such as after you added what a tool gave.
            images: one picture or a list; they go before the text.
            audio: one sound or a list; they go before the text.
            video: one video or a list, as in :meth:`gemma4.Model.generate`; they go between the pictures and the
                sounds. Their frames are taken again with every turn that follows, as pictures and sounds are.
            run_tools: False returns the calls in `tool_calls` without running them. So do calls of tools that are only
                schemas.
            max_tool_rounds: how often the model's calls are run; the answer after that is returned even if it calls.
            options: arguments of :meth:`gemma4.Model.generate`, such as `thinking`, `max_new_tokens`, `temperature`.

        Returns:
            The last answer.

        Raises:
            ToolCallError: a call that cannot be read, of a tool that there is not, or that does not fit the function.
            RequestError, MediaError, ContextLengthError: as :meth:`gemma4.Model.generate`.
        """
        rounds = self._rounds(_turn(text, images, audio, video), run_tools, max_tool_rounds, options)
        while True:
            try:
                next(rounds)
            except StopIteration as end:
                result: GenerationResult = end.value
                return result

    @shows_arguments
    def stream(
        self,
        text: str | None = None,
        images: Images | None = None,
        audio: Sounds | None = None,
        video: Videos | None = None,
        *,
        run_tools: bool = True,
        max_tool_rounds: int = 8,
        **options: Unpack[GenerationArguments],
    ) -> Generator[Chunk, None, None]:
        """As :meth:`send`, all answers piece by piece; closing the iterator ends it and leaves the chat as it was.

        >>> import gemma4
        >>> chat = gemma4.Model.from_pretrained("demo").chat()
        >>> text = "".join(chunk.text for chunk in chat.stream("Hello", max_new_tokens=4))
        >>> text == chat.messages[-1]["content"]
        True
        """
        yield from self._rounds(_turn(text, images, audio, video), run_tools, max_tool_rounds, options)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation to a file: its messages with their pictures and sounds, and what the model has
        computed of it, so that :meth:`load` goes on without computing it again. It is a safetensors file.

        Raises:
            RequestError: a message holds what a file cannot, such as frames of a video that are no file.
            OSError: the file cannot be written; what was there before is still there.
        """
        messages, arrays = storable(self.messages)
        cache, computed = self._cache.stored()
        about = {"messages": messages, "calls": self._calls, "cache": cache}
        write_file(Path(path), {**arrays, **computed}, {_FORMAT: json.dumps(about)})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on with a conversation from a file of :meth:`save`, instead of this one. `tools` are those of this chat.
        What another model has computed, or one with another `kv_cache`, is computed anew.

        Raises:
            ModelFileError: the file is missing, truncated, or none of :meth:`save`.

        >>> import gemma4, os, tempfile
        >>> model = gemma4.Model.from_pretrained("demo")
        >>> first, second = model.chat(), model.chat()
        >>> _ = first.send("Hello", max_new_tokens=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first.save(os.path.join(folder, "talk.safetensors"))
        ...     second.load(os.path.join(folder, "talk.safetensors"))
        >>> second.messages == first.messages
        True
        """
        path = Path(path)
        header, _ = read_header(path)
        written = header.get("__metadata__", {}).get(_FORMAT)
        if written is None:
            raise ModelFileError(f"{path}: no conversation: it has no {_FORMAT!r} in __metadata__")
        about, tensors = parse_object(written.encode(), f"{path}: {_FORMAT}"), open_file(path, quants=True)
        try:
            messages = restored(about["messages"], tensors.array)
            self._cache.restore(about["cache"], tensors.array)
            self._calls = int(about["calls"])
        except (KeyError, TypeError, ValueError, RequestError) as error:
            raise ModelFileError(f"{path}: {_FORMAT}: {type(error).__name__}: {error}") from None
        self.messages[:] = messages

    def _rounds(
        self, turn: list[dict[str, Any]], run_tools: bool, max_tool_rounds: Any, options: GenerationArguments
    ) -> Generator[Chunk, None, GenerationResult]:
        if isinstance(max_tool_rounds, bool) or not isinstance(max_tool_rounds, int):
            raise RequestError(f"max_tool_rounds: expected an integer, found {type(max_tool_rounds).__name__}")
        if not 0 <= max_tool_rounds <= _MAX_ROUNDS:
            raise RequestError(f"max_tool_rounds: expected 0 to {_MAX_ROUNDS}, found {max_tool_rounds}")
        if options.get("tools") is not None:
            raise RequestError("tools: a chat cannot take them in one turn; give them to Model.chat()")
        messages = [*self.messages, *turn]
        left = max_tool_rounds if run_tools else 0
        while True:
            result = yield from self._answer(messages, options)
            calls = messages[-1].get("tool_calls", [])
            if not self._can_run(calls, result) or left == 0:
                break
            left -= 1
            messages += [self._run(call) for call in calls]
        self.messages[:] = messages
        return result

    def _answer(
        self, messages: list[dict[str, Any]], options: GenerationArguments
    ) -> Generator[Chunk, None, GenerationResult]:
        """One answer, which is added to `messages`."""
        tools = None if self._toolbox is None else self._toolbox.schemas
        answer = self._ask(messages, {**options, "tools": tools})
        yield from answer.chunks()
        result = answer.result()
        said: dict[str, Any] = {"role": "assistant", "content": result.text}
        if result.thinking:
            said["reasoning_content"] = result.thinking
        if result.tool_calls:
            said["tool_calls"] = [self._numbered(call) for call in result.tool_calls]
        messages.append(said)
        return result

    def _numbered(self, call: Mapping[str, Any]) -> dict[str, Any]:
        self._calls += 1
        return {"id": f"call_{self._calls}", **call}

    def _can_run(self, calls: list[dict[str, Any]], result: GenerationResult) -> bool:
        """Whether there are calls, and all are of functions. Raises ToolCallError for those that fit no tool."""
        toolbox = self._toolbox or Toolbox([])
        try:
            for call in calls:
                toolbox.check(_short(call))
        except ToolCallError as error:
            raise ToolCallError(str(error), self._decode(result.token_ids)) from None
        return bool(calls) and all(toolbox.can_run(_short(call)) for call in calls)

    def _run(self, call: dict[str, Any]) -> dict[str, Any]:
        assert self._toolbox is not None
        short = _short(call)
        content = _content(self._toolbox.run(short), f"what {short.name} returns")
        return {"role": "tool", "tool_call_id": call["id"], "name": short.name, "content": content}


def _short(call: dict[str, Any]) -> ToolCall:
    return ToolCall(call["function"]["name"], call["function"]["arguments"])


def _content(value: Any, where: str) -> Any:
    """What a function returned, as the content of a message."""
    if isinstance(value, str):
        return str(check_text(value, where))
    if isinstance(value, list) and value and all(map(_is_part, value)):
        return value
    plain = plain_data(value, where)
    return plain if isinstance(plain, dict) else {"value": plain}


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") in PART_TYPES


def _turn(text: Any, images: Any, audio: Any, video: Any) -> list[dict[str, Any]]:
    given = (
        ("image", "images", as_list(images)),
        ("video", "video", as_videos(video)),
        ("audio", "audio", as_sounds(audio)),
    )
    parts = [
        {"type": kind, kind: _lasting(medium, f"{name}[{number}]")}
        for kind, name, media in given
        for number, medium in enumerate(media)
    ]
    if text is None:
        if parts:
            raise RequestError("text: pictures, videos and sounds need a turn, give a text, be it an empty one")
        return []
    check_text(text, "text")
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}]


def _lasting(medium: Any, name: str) -> Any:
    """The same medium for every turn that follows: a stream is read, and what its owner may overwrite is copied.

    Raises RequestError for frames that can be taken only once.
    """
    if callable(getattr(medium, "read", None)):
        return read_stream(medium, name)
    if isinstance(medium, Iterator):
        raise RequestError(f"{name}: an iterator gives its frames once, a chat needs them with every turn; give a list")
    if isinstance(medium, bytearray | memoryview):
        return bytes(medium)
    if isinstance(medium, np.ndarray):
        return medium.copy()
    if isinstance(medium, Mapping):
        return {key: _lasting(value, name) for key, value in medium.items()}
    if isinstance(medium, tuple | list):
        copies = [_lasting(one, name) for one in medium]
        return tuple(copies) if isinstance(medium, tuple) else copies
    return medium
