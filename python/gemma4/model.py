"""`Model`: a checkpoint, and what can be asked of it.

The table of contents of the Python side: a call is checked here, prepared (`prompt`), computed (`runtime`), decoded
(`answer`) and read (`tasks`). Must not know: the engine.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import asynchronous, cpu, media
from .answer import (
    MAX_LOGPROBS,
    Chunk,
    GenerationArguments,
    GenerationResult,
    parse_response,
    shows_arguments,
)
from .arguments import flag, flag_or_count, integer
from .chat import Chat
from .checkpoint import Tensors, anchored, check_dtype, open_checkpoint
from .errors import RequestError
from .media import SAMPLE_RATE
from .prompt import PreparedInputs, Question
from .runtime import (
    DEFAULT_BYTES,
    Adapters,
    Answer,
    Drafter,
    Kept,
    Loaded,
    Questions,
    Runtime,
    Scores,
    check_kv_cache,
)
from .skills import OnError, Several, Skills, are_prompts, check_on_error, is_several, only, with_media
from .tokens import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .checkpoint import Dtype, Source
    from .media import Image, Images, Resize, Sound, Sounds, Videos
    from .prompt import Messages
    from .runtime import AdapterName, KvCache

__all__ = ["Model"]


class Model(Skills):
    """A Gemma 4 model. Made by :meth:`from_pretrained`; safe to use from many threads; pickles as its arguments.

    >>> import gemma4
    >>> model = gemma4.Model.from_pretrained("demo")
    >>> sorted(model.modalities)
    ['audio', 'image', 'text', 'video']
    """

    _arguments: dict[str, Any]
    _runtime: Runtime

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RequestError("use gemma4.Model.from_pretrained(…)")

    # -- loading -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: Source = "demo",
        dtype: Dtype = "auto",
        resize: Resize = "torchvision",
        kv_cache: KvCache = "bf16",
        cache_bytes: int | None = None,
        max_context: int | None = None,
        num_threads: int | None = None,
        mmproj: Source | Literal[False] | None = None,
        adapter: Source | Mapping[str, Source] | None = None,
        drafter: Source | None = None,
        revision: str | None = None,
    ) -> Model:
        """Load a checkpoint. Weights are mapped, not read: it takes well under a second once they are on this machine.

        Args:
            source: `"demo"`; a directory with safetensors; a GGUF file, of which any part may be named if it is split,
                or a folder of them, with `":Q4_K_M"` behind it if it holds several; or, on the Hugging Face hub,
                `"google/gemma-4-E2B-it"`, `"org/name:Q4_K_M"`, `"org/name/file.gguf"`. Only what is needed is
                downloaded, once; without a network, or with `HF_HUB_OFFLINE=1`, what is on this machine is used.
            dtype: `"auto"` computes with the weights in the file's own format; another one, such as `"q4_0"`, gives the
                decoder's matrices that format in memory while loading (see :func:`gemma4.convert`).
            resize: how pictures and frames of videos get their size: `"torchvision"`, as the reference's
                `AutoProcessor` does it whatever class a checkpoint names, or `"pillow"`, as its
                `Gemma4ImageProcessorPil` does.
            kv_cache: format of the keys and values kept while generating: `"f32"`, `"bf16"`, `"q8_0"` (52 % of bf16's
                memory) or `"q4_0"` (27 %); the last two are stored rotated, so that outliers cost little.
            cache_bytes: of keys, values and soft tokens that are kept for requests that begin as earlier ones did, such
                as another question about the same picture; 0 keeps nothing, None is 256 MiB. Answers are the same.
            max_context: tokens of prompt and answer together at most; None for all that the model was trained for.
            num_threads: at most the CPUs it may use; None for `GEMMA4_NUM_THREADS`, `OMP_NUM_THREADS`, or all of them.
            mmproj: the GGUF file with the encoders of a GGUF source. None takes what lies beside it and fits it, in
                BF16, F16, F32 or Q8_0, whatever comes first; False takes the text alone.
            adapter: a directory with a LoRA adapter, as PEFT saves it, that is every request's default; or names with a
                directory each, of which a request takes the one that it names. Nothing is merged.
            drafter: the small model published beside this one, named as `source` is, such as
                `"google/gemma-4-E2B-it-assistant"`: it guesses tokens, several of which are then computed at once. The
                answers are the same, greedy ones token for token; where its guesses are often wrong it rests.
            revision: branch, tag or commit of a hub id.

        Raises:
            ModelFileError: the checkpoint is missing, malformed, or of a kind that is not supported.
            RequestError: an argument is wrong.
        """
        arguments = dict(
            source=anchored(source), dtype=dtype, resize=resize, kv_cache=kv_cache, cache_bytes=cache_bytes,
            max_context=max_context, num_threads=num_threads, mmproj=anchored(mmproj), adapter=anchored(adapter),
            drafter=anchored(drafter), revision=revision,
        )  # fmt: skip
        check_dtype(dtype, "auto")
        media.check_resize(resize)
        check_kv_cache(kv_cache)
        if revision is not None and not isinstance(revision, str):
            raise RequestError(f"revision: expected a string, found {type(revision).__name__}")
        threads = cpu.check_threads(num_threads)
        self = object.__new__(cls)
        self._arguments = arguments
        loaded = Loaded.load(open_checkpoint(source, revision, mmproj), dtype, resize, threads)
        kept = Kept(DEFAULT_BYTES if cache_bytes is None else integer("cache_bytes", cache_bytes, 0, 1 << 62))
        context, adapters = loaded.checked_context(max_context), Adapters.load(adapter, loaded)
        guessing = None if drafter is None else Drafter.load(drafter, loaded)
        self._runtime = Runtime(loaded, context, kv_cache, kept, adapters, drafter=guessing)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _reload, (type(self), self._arguments)

    def close(self) -> None:
        """Let go of the weights, as soon as the calls on their way have ended; the next call raises RequestError. Also
        at the end of a `with` block.

        >>> import gemma4
        >>> with gemma4.Model.from_pretrained("demo") as model:
        ...     answer = model.generate("Hello", max_new_tokens=4)
        >>> model
        <gemma4.Model 'demo', closed>
        """
        self.__dict__.pop("_runtime", None)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:  # of what there is not
        if name == "_runtime":
            raise RequestError("this model is closed")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        if "_runtime" not in self.__dict__:
            return f"<gemma4.Model {os.fspath(self._arguments['source'])!r}, closed>"
        source = os.fspath(self._arguments["source"])
        return f"<gemma4.Model {source!r}, {', '.join(sorted(self.modalities))}, context {self.context_length}>"

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Mapping[str, Any]:
        """The checkpoint's config.json."""
        return MappingProxyType(self._runtime.loaded.config)

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer. Raises ModelFileError where it has none."""
        return self._runtime.loaded.required_tokenizer()

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together at most."""
        return self._runtime.context

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names that a request may ask for; one that was given without a name is `"default"`."""
        return tuple(self._runtime.adapters.held)

    @property
    def tensors(self) -> Tensors:
        """Every tensor by name, as a read-only view on the mapped file that stays valid after the model is gone."""
        return Tensors(self._runtime.loaded.store)

    @property
    def num_threads(self) -> int:
        """Threads that a computation uses."""
        return int(self._runtime.loaded.core.num_threads)

    # -- answers -------------------------------------------------------------------------------------------------------

    @overload
    def generate(
        self, messages: Messages, images: Images | None = None, audio: Sounds | None = None,
        video: Videos | None = None, *, on_error: OnError = "raise", **options: Unpack[GenerationArguments],
    ) -> GenerationResult: ...  # fmt: skip
    @overload
    def generate(
        self, messages: Several[Messages], images: Any = None, audio: Any = None, video: Any = None, *,
        on_error: OnError = "raise", **options: Unpack[GenerationArguments],
    ) -> list[GenerationResult]: ...  # fmt: skip
    @shows_arguments
    def generate(
        self, messages: Any, images: Any = None, audio: Any = None, video: Any = None, *, on_error: OnError = "raise",
        **options: Unpack[GenerationArguments],
    ) -> Any:  # fmt: skip
        """The answer to messages, or the answers to each of a list.

        Args:
            messages: a string, a list of messages, the result of :meth:`prepare`, or (T,) token ids taken as they are.
                A list or an iterator of any of these gives a list of answers, computed together, each the one that it
                would be alone; `images`, `audio` and `video` are then lists as long, of what goes with each.
            images: one picture or a list; they go before the text of the last user turn, or into empty image parts.
            audio: one sound or a list, as in :meth:`encode_audio`, of at most 30 s each; a list holds several, samples
                with their rate are a tuple. They go between the pictures and the text, or into empty audio parts.
            video: one video or a list, as in :func:`gemma4.media.load_video`; a dict such as
                `{"video": "clip.mp4", "fps": 2, "sound": True}` says which frames to take (`fps`, `num_frames`), their
                budget (`max_soft_tokens`, 70), and whether to hear the sound track. They go before the sounds, or into
                empty video parts.
            on_error: of a list of prompts: `"return"` puts an exception in the place of one that raised it.
            max_new_tokens: tokens at most; None for what the checkpoint says, 512 if it says nothing. An answer that
                fills the context ends there, with `finish_reason == "length"`. OpenAI's `max_tokens` means the same.
            temperature: 0 is greedy. For this and the next four, None means what the checkpoint recommends
                (`generation_config.json`), and greedy if it recommends nothing.
            top_k: sample among the k most likely; 0 is all.
            top_p: sample among the most likely that reach this probability together; 1 is all.
            min_p: leave out what is less likely than this share of the most likely; 0 is none.
            repetition_penalty: above 1 makes tokens of the prompt and the answer so far less likely.
            seed: the same seed gives the same answer; None draws one.
            stop: strings that end the answer; the text stops before them.
            thinking: let the model think before it answers. A number is a budget: after so many tokens, counted from
                the opening marker on, the thought is closed by force and the answer begins. A budget also holds for a
                prompt that is prepared already.
            tools: functions that the model may call, a list of Python functions with type hints and a docstring, or of
                JSON schemas. Nothing is run here: the calls are in `tool_calls`, and what they gave goes into the next
                call's messages; :meth:`chat` does both.
            response_format: what the answer must look like, after the thought and beside tool calls: a JSON schema, a
                pydantic model, OpenAI's `{"type": "json_object"}` or `{"type": "json_schema", "json_schema": {"schema":
                …}}`, `{"type": "regex", "regex": …}`, `{"type": "grammar", "grammar": …}` (Lark or GBNF) or `{"type":
                "lark", "lark": …}`. The answer fits it whenever `finish_reason` is `"stop"`; after `"length"` and
                `"repetition"` it is the beginning of one that would.
            max_soft_tokens: a picture's budget, 70, 140, 280, 560 or 1120; None for the checkpoint's. Frames of a video
                have their own.
            logprobs: keep every token's log-probability; a number also keeps so many of the most likely tokens at each
                place in `top_logprobs`. For those of a prompt see :meth:`score`.
            ignore_eos: go on after the end of sequence, to `max_new_tokens`; an answer that must fit a
                `response_format` ends with it all the same.
            repetition_guard: end an answer that goes round in circles, with `finish_reason == "repetition"`: one block
                of tokens 8 times in a row or more, 256 tokens in all or more. Off with `ignore_eos`.
            adapter: the name of one that the model was loaded with; False for the model as it is; None for the adapter
                that it was loaded with alone, and for none where they have names.
            do_sample: False is greedy; True samples as the checkpoint recommends, among the 50 most likely if it does
                not say how many. For this and the next five, None means what the checkpoint says.
            min_new_tokens: tokens that must come before an end of sequence.
            suppress_tokens: ids that never come, as in transformers; so are the next three. An empty list frees those
                that the checkpoint names.
            begin_suppress_tokens: ids that do not come first.
            bad_words_ids: lists of ids that never come as a whole.
            no_repeat_ngram_size: no so many ids come a second time in the same order, the prompt included; 0 for any.
            stop_strings: transformers' name of `stop`.
            max_tokens: OpenAI's name of `max_new_tokens`.

        Raises:
            RequestError: an argument is wrong or not supported, or a `response_format` cannot be applied.
            ToolCallError: the answer holds a tool call that cannot be read, or ends inside one.
            MediaError: a picture, a sound or a video cannot be read, is too long, or the model takes no sounds.
            ContextLengthError: the prompt leaves no room for an answer.
            ModelFileChanged: a weight file changed on disk since it was loaded.

        >>> import gemma4
        >>> out = gemma4.Model.from_pretrained("demo").generate("Hello", max_new_tokens=4)
        >>> str(out) == out.text, len(out.token_ids) <= 4
        (True, True)
        """
        check_on_error(on_error)
        if not are_prompts(messages):
            return self._answer(Question(messages, images, audio, video), options).whole()

        def questions(prompt: tuple[Any, Any, Any, Any]) -> Questions[GenerationResult]:
            return Questions([self._answer(Question(*prompt), options)], only)

        return self._each(with_media(messages, images=images, audio=audio, video=video), questions, on_error)

    @shows_arguments
    async def agenerate(
        self, messages: Messages, images: Images | None = None, audio: Sounds | None = None,
        video: Videos | None = None, **options: Unpack[GenerationArguments],
    ) -> GenerationResult:  # fmt: skip
        """As :meth:`generate` of one prompt, to be awaited. Tasks that wait at the same time are computed together;
        cancelling one ends its work.

        >>> import asyncio, gemma4
        >>> model = gemma4.Model.from_pretrained("demo")
        >>> async def both():
        ...     return await asyncio.gather(*(model.agenerate("Hello", max_new_tokens=4) for _ in range(2)))
        >>> [len(out.token_ids) <= 4 for out in asyncio.run(both())]
        [True, True]
        """
        return await asynchronous.whole(self._answer(Question(messages, images, audio, video), options))

    @shows_arguments
    def astream(
        self, messages: Messages, images: Images | None = None, audio: Sounds | None = None,
        video: Videos | None = None, **options: Unpack[GenerationArguments],
    ) -> AsyncGenerator[Chunk, None]:  # fmt: skip
        """As :meth:`stream`, for `async for`."""
        return asynchronous.chunks(self._answer(Question(messages, images, audio, video), options))

    @shows_arguments
    def stream(
        self,
        messages: Messages,
        images: Images | None = None,
        audio: Sounds | None = None,
        video: Videos | None = None,
        **options: Unpack[GenerationArguments],
    ) -> Generator[Chunk, None, None]:
        """The answer piece by piece, with the arguments of :meth:`generate`; closing the iterator ends the work. The
        pieces' `text`, `thinking`, `token_ids`, `tool_calls` and `logprobs` joined are those of :meth:`generate`.
        Wrong arguments raise here, before the first piece is asked for.

        >>> import gemma4
        >>> model = gemma4.Model.from_pretrained("demo")
        >>> pieces = [chunk.text for chunk in model.stream("Hello", max_new_tokens=4)]
        >>> "".join(pieces) == model.generate("Hello", max_new_tokens=4).text
        True
        """
        return self._answer(Question(messages, images, audio, video), options).chunks()

    def prepare(
        self, messages: Messages, thinking: bool = False, tools: Sequence[Any] | None = None,
        max_soft_tokens: int | None = None, images: Images | None = None, audio: Sounds | None = None,
        video: Videos | None = None,
    ) -> PreparedInputs:  # fmt: skip
        """Messages as token ids, the placeholders of all media in place; can be given to :meth:`generate` any number
        of times.

        Args:
            messages: a string or a list of messages.
            thinking: let the model think before it answers.
            tools: as in :meth:`generate`.
            max_soft_tokens: a picture's budget, 70, 140, 280, 560 or 1120; None for the checkpoint's.
            images: as in :meth:`generate`.
            audio: as in :meth:`generate`.
            video: as in :meth:`generate`.

        Returns:
            `input_ids` (T,) int32, the resized pictures, the frames of videos with their times, and the sounds as
            log-mel frames.

        Raises:
            RequestError, MediaError, ContextLengthError: as :meth:`generate`.

        >>> import gemma4, numpy as np
        >>> model = gemma4.Model.from_pretrained("demo")
        >>> frames = np.zeros((3, 60, 90, 3), np.uint8)
        >>> inputs = model.prepare("What happens?", video=(frames, [0, 1, 2]))
        >>> inputs.video[0].times, len(inputs.video[0].frames)
        ((0.0, 1.0, 2.0), 3)
        """
        question = Question(messages, images, audio, video, flag("thinking", thinking), tools, max_soft_tokens)
        return self._runtime.loaded.processor.prepare(question, self._runtime.context)

    parse_response = staticmethod(parse_response)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def forward(
        self, inputs: PreparedInputs | ArrayLike, last_only: bool = False, adapter: AdapterName = None
    ) -> NDArray[np.float32]:
        """Logits of a prompt, computed with keys and values in f32 whatever `kv_cache` says.

        Args:
            inputs: the result of :meth:`prepare`, or (T,) token ids.
            last_only: only the last position's.
            adapter: as in :meth:`generate`, and so it is in all methods below.

        Returns:
            (T, vocab) float32, or (1, vocab); logits at position t are for token t + 1.

        Raises:
            ContextLengthError: more tokens than the context holds.
        """
        return self._runtime.forward(inputs, flag("last_only", last_only), adapter)

    def score(
        self, messages: Messages, images: Images | None = None, audio: Sounds | None = None, thinking: bool = False,
        max_soft_tokens: int | None = None, top_logprobs: int = 0, adapter: AdapterName = None,
    ) -> Scores:  # fmt: skip
        """The log-probability of each token of a prompt, computed with keys and values in f32 as :meth:`forward` does.

        Args:
            messages: as in :meth:`generate`. Token ids score a text with nothing around it, `tokenizer.encode(text)`
                after the id of `<bos>`, or a prompt followed by an answer, `[*inputs.input_ids, *answer]`.
            images: as in :meth:`generate`, and so are `audio`, `thinking` and `max_soft_tokens`.
            top_logprobs: how many of the most likely tokens to name at each place, 0 to 1000.

        Returns:
            `token_ids` (T,), `logprobs` (T,) with NaN for the first token and for placeholders, and `top_logprobs`.

        Raises:
            RequestError, MediaError, ContextLengthError: as :meth:`generate`.

        >>> import gemma4, numpy as np
        >>> model = gemma4.Model.from_pretrained("demo")
        >>> scores = model.score([2, *model.tokenizer.encode("a red circle")])
        >>> scores.logprobs.shape == scores.token_ids.shape, bool((scores.logprobs[1:] <= 0).all())
        (True, True)
        """
        top = flag_or_count("top_logprobs", top_logprobs, MAX_LOGPROBS)[1] if top_logprobs != 0 else 0
        thinking = flag("thinking", thinking)
        question = Question(messages, images, audio, thinking=thinking, max_soft_tokens=max_soft_tokens)
        return self._runtime.score(question, top or 0, adapter)

    @overload
    def encode_image(
        self, image: Image, max_soft_tokens: int | None = None, adapter: AdapterName = None
    ) -> NDArray[np.float32]: ...
    @overload
    def encode_image(
        self, image: Several[Image], max_soft_tokens: int | None = None, adapter: AdapterName = None
    ) -> list[NDArray[np.float32]]: ...
    def encode_image(self, image: Any, max_soft_tokens: int | None = None, adapter: AdapterName = None) -> Any:
        """A picture's soft tokens in text space.

        Args:
            image: anything that :meth:`generate` takes as a picture; or a list or an iterator, which gives a list.
            max_soft_tokens: 70, 140, 280, 560 or 1120; None for the checkpoint's.

        Returns:
            (n, hidden) float32, n at most `max_soft_tokens`.
        """
        if is_several(image):
            return [self._runtime.encode_image(one, max_soft_tokens, adapter) for one in image]
        return self._runtime.encode_image(image, max_soft_tokens, adapter)

    def encode_audio(
        self, samples: Sound, sampling_rate: int = SAMPLE_RATE, adapter: AdapterName = None
    ) -> NDArray[np.float32]:
        """A sound's soft tokens in text space, one for every 40 ms.

        Args:
            samples: an array, (n,) or with channels, or anything else that :func:`gemma4.media.load_audio` takes: a
                path, bytes, an open file, `(array, rate)`, `{"array", "sampling_rate"}`; at most 30 s.
            sampling_rate: of an array that comes without one, in Hz.

        Returns:
            (n, hidden) float32; with an audio encoder there are no rows for less than 10 ms.

        Raises:
            MediaError: it cannot be read, is longer than 30 s, holds NaN, or the model takes no sounds.
        """
        return self._runtime.encode_audio(samples, sampling_rate, adapter)

    # -- conversations -------------------------------------------------------------------------------------------------

    def chat(self, system: str | None = None, tools: Sequence[Any] | None = None) -> Chat:
        """A conversation of several turns, which keeps its history and what the model has computed of it.

        Args:
            system: what the model is told before the first turn.
            tools: as in :meth:`generate`; those that are Python functions are run when the model calls them.

        Raises:
            RequestError: an argument is wrong.

        >>> import gemma4
        >>> chat = gemma4.Model.from_pretrained("demo").chat(system="Be brief.")
        >>> out = chat.send("Hello", max_new_tokens=4)
        >>> [message["role"] for message in chat.messages], chat.messages[-1]["content"] == out.text
        (['system', 'user', 'assistant'], True)
        """
        cache = self._runtime.prefix_cache()

        def ask(messages: list[dict[str, Any]], options: GenerationArguments) -> Answer:
            return self._answer(Question(messages), options, cache)

        return Chat(ask, self._runtime.loaded.written, cache, system, tools)


def _reload(cls: type[Model], arguments: dict[str, Any]) -> Model:
    return cls.from_pretrained(**arguments)
