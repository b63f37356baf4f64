"""The compiled engine: token ids and pixels in, logits and soft tokens out; apart from it, text to ids and back."""

from collections import abc
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

class LayerSpec:
    sliding: bool
    k_is_v: bool
    moe: bool
    kv_layer: int
    head_dim: int
    kv_heads: int
    ffn: int
    rope_theta: float
    rope_pairs: int
    rope_factor: float

class TextConfig:
    vocab: int
    hidden: int
    heads: int
    window: int
    context: int
    ple_dim: int
    ple_vocab: int
    experts: int
    experts_used: int
    expert_ffn: int
    pad_id: int
    placeholders: list[int]
    norm_eps: float
    logit_cap: float
    bidirectional_images: bool
    whole_images: bool
    tied_embeddings: bool
    layers: list[LayerSpec]

class VisionConfig:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    patch: int
    pool: int
    positions: int
    norm_eps: float
    rope_theta: float
    clipped: bool
    standardize: bool

class AudioConfig:
    mel_bins: int
    hidden: int
    layers: int
    heads: int
    channels1: int
    channels2: int
    conv_kernel: int
    chunk: int
    left: int
    right: int
    out: int
    norm_eps: float
    residual_weight: float
    logit_cap: float
    gradient_clip: float
    clipped: bool

class PixelConfig:
    side: int
    width: int
    positions: int
    norm_eps: float

class SampleConfig:
    frame: int
    norm_eps: float

class ModelConfig:
    text: TextConfig
    vision: VisionConfig | None
    audio: AudioConfig | None
    pixels: PixelConfig | None
    samples: SampleConfig | None
    def validate(self) -> None:
        """Raises ModelFileError naming the field that is out of range or inconsistent."""

class DrafterConfig:
    text: TextConfig
    target_hidden: int
    centroids: int
    centroids_used: int

class TensorStore:
    """Tensors of a checkpoint as read-only views on its mapped files."""

    def add_file(self, path: str, data_start: int, alignment: int = 1) -> int:
        """`alignment`: tensors begin at multiples of it after `data_start`, with padding between them."""
    def add(self, name: str, dtype: str, shape: abc.Sequence[int], file: int, begin: int, end: int) -> None: ...
    def add_owned(self, name: str, dtype: str, shape: abc.Sequence[int], data: NDArray[np.uint8]) -> None:
        """A tensor whose bytes are copied into the store."""
    def replace(self, name: str, dtype: str, data: NDArray[np.uint8]) -> None:
        """Gives a registered tensor other bytes, in another format, which are copied into the store."""
    def drop(self, name: str, begin: int, end: int) -> None:
        """Takes the pages of rows of a mapped tensor out of this process's memory."""
    def add_rows(self, name: str, source: str, begin: int, end: int) -> None:
        """Rows of a registered matrix under a name of their own; no copy."""
    def forget(self, name: str) -> None:
        """Takes a name out; its bytes stay mapped and accounted for."""
    def validate(self) -> None: ...
    def names(self) -> list[str]: ...
    def dtype(self, name: str) -> str:
        """`"F32"`, `"F16"`, `"BF16"`, a block format such as `"Q4_0"`, levels (`"I8"`, `"I4"`, `"I2"`), or raw integers
        that no model has been bound to (`"U8"`, `"I32"`, `"I64"`)."""
    def shape(self, name: str) -> list[int]: ...
    def array(self, name: str) -> NDArray[Any]:
        """A read-only view: float32, float16, uint16 holding the bits of a BF16, or uint8 holding the bytes of blocks
        (the last dimension is then the bytes of a row)."""
    def check_unchanged(self) -> None: ...

class Strings(abc.Sequence[str]):
    """Very many strings, which become strings of Python's when they are asked for."""

    def __init__(self, texts: abc.Sequence[str]) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, at: int) -> str: ...  # type: ignore[override]
    def without(self, places: NDArray[np.int32]) -> Strings:
        """The same with empty strings at these places."""

def read_strings(buffer: Any, at: int, count: int) -> tuple[Strings, int] | None:
    """`count` strings of GGUF from byte `at` on, and the byte behind them; None if they are not all there."""

def cut_vocabulary(json: bytes) -> tuple[bytes, Strings, Strings] | None:
    """A tokenizer.json with `null` for `model.vocab` and `model.merges`, the tokens by id, the merges (`"left right"`).
    None where they are not plain or the document is not JSON."""

class Bpe:
    """Byte-pair encoding of the family's form. Constant: safe to use from many threads."""

    size: int
    """One more than the largest id."""
    def __init__(
        self,
        tokens: Strings,
        merges: Strings,
        added: abc.Sequence[tuple[str, int, bool]],
        names: tuple[str, str, str],
    ) -> None:
        """`added`: text, id, and whether it stays text where a text spells it; `names`: what messages call the first
        three. Raises ModelFileError where a token appears twice, or a merge or an added token does not fit."""
    def encode(self, text: str) -> list[int]:
        """Without the GIL; signals (Ctrl-C) are polled."""
    def decode(self, ids: abc.Sequence[int]) -> str: ...
    def find(self, token: str) -> int | None: ...
    def token(self, id: int) -> str:
        """Empty where there is none."""
    def byte(self, id: int) -> int:
        """The byte that an id stands for, or -1."""
    def pieces(self) -> list[bytes]:
        """What each id adds to a text."""

def encode(dtype: str, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(..., cols) -> (..., bytes of a row): rows in a storage format such as `"Q4_0"`."""

def decode(dtype: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(..., bytes of a row) -> (..., cols): the values of rows in a storage format."""

class SamplingOptions:
    temperature: float
    """0 = greedy."""
    top_k: int
    """0 = off."""
    top_p: float
    """1 = off."""
    min_p: float
    """0 = off."""
    repetition_penalty: float
    """1 = off."""

class Sampler:
    """Chooses token ids from logits. Deterministic for a seed."""

    def __init__(self, options: SamplingOptions, seed: int) -> None: ...
    def sample(
        self, logits: NDArray[np.float32], history: NDArray[np.int32], allowed: NDArray[np.uint32] | None = None
    ) -> tuple[int, float]:
        """`logits` (vocab,), `history` the ids the repetition penalty looks at, `allowed` (ceil(vocab / 32),): bit
        `id % 32` of word `id // 32` says whether an id may be chosen. Returns the id and its log-probability under the
        unmodified logits. Raises Gemma4Error when no logit is finite, one is NaN, or no id is allowed."""

def top_logprobs(logits: NDArray[np.float32], n: int) -> list[tuple[int, float]]:
    """The n most likely ids of `logits` (vocab,) with their log-probabilities, most likely first."""

class SoftTokens:
    """Rows that stand at placeholder positions of a prompt: `rows` (n, hidden) float32 from position `start` on."""

    def __init__(self, start: int, rows: NDArray[np.float32], image: bool) -> None: ...

class Adapter:
    """What a fine-tuning adds to a model's matrices; nothing is merged, so any number serve one model at once."""

    def __init__(
        self, model: Model, store: TensorStore, parts: abc.Sequence[tuple[str, str, str, int, float, str]]
    ) -> None:
        """`parts`: of each linear its name, its tensors `a` (rank, in) and `b` (out, rank), the rank, what their
        product is multiplied by, and the tensor of its magnitudes (out), empty without. Raises ModelFileError listing
        what does not fit the model."""

class Sequence:
    """The state of one sequence: where it stands, its keys and values. Not for two threads at once."""

    position: int
    """Tokens processed so far."""
    def prefill(
        self,
        ids: NDArray[np.int32],
        soft: abc.Sequence[SoftTokens] = (),
        logits: str = "last",
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32] | None:
        """Computes a whole prompt alone: an `Input`, stepped until it is done."""
    def decode(self, token: int) -> NDArray[np.float32]:
        """Computes one token alone; returns (vocab,) logits."""
    def rewind(self, position: int) -> bool:
        """Forgets all but the first tokens. False, and nothing done, where a sliding layer lost what it would need."""
    boundaries: list[int]
    """Where the chunks of its prompt ended: there it holds the same bits as any other that begins alike."""
    def begin_as(self, other: Sequence, position: int) -> bool:
        """Becomes what another sequence is, or was at a boundary, while this one is empty. False, and nothing done,
        where the other one has lost what the next token would read."""
    def compact(self) -> Sequence:
        """The same, of no more memory than it needs."""
    chunk: int
    """Tokens that are written at once: part of a sliding layer's size."""
    kept_from: int
    """Sliding layers hold all positions from here on that they may need."""
    def memory(self) -> list[NDArray[np.uint8]]:
        """Of each layer's keys and values: to be saved, and restored in a sequence of the same model, format, context
        and chunk."""
    def restore(self, position: int, kept_from: int, boundaries: abc.Sequence[int]) -> None:
        """Becomes what was saved, once its memory is."""
    def kv_bytes(self) -> int: ...

class Input:
    """Ids that a sequence is to take."""

    def __init__(
        self,
        sequence: Sequence,
        ids: NDArray[np.int32],
        soft: abc.Sequence[SoftTokens] = (),
        logits: str = "last",
        tokens: bool = False,
        out: NDArray[np.float32] | None = None,
        states: bool = False,
    ) -> None:
        """(T,) ids after the current position. `logits`: "last" -> (1, vocab), "all" -> (T, vocab), "none", written to
        `out` where it is given. `tokens`: all in one step, each as if it came alone; without it they are a prompt,
        computed in chunks. `states`: keep the states that the logits come from."""
    done: bool
    logits: NDArray[np.float32] | None
    states: NDArray[np.float32]
    """(rows of logits, hidden); no rows where they are not kept."""

def step(inputs: abc.Sequence[Input]) -> None:
    """One step of sequences of one model: the next chunk of the first prompt, and all tokens of the other inputs.
    Signals (Ctrl-C) are polled; if one raises, every input stands where it stood."""

class Model:
    def __init__(
        self,
        config: ModelConfig,
        store: TensorStore,
        text_prefix: str,
        ignored_prefixes: abc.Sequence[str],
        num_threads: int,
    ) -> None:
        """Binds every tensor; raises ModelFileError listing missing and mis-shaped ones."""
    num_threads: int
    unused: list[str]
    def sequence(
        self, max_context: int, kv_dtype: str = "bf16", chunk: int | None = None, adapter: Adapter | None = None
    ) -> Sequence:
        """`kv_dtype`: "f32", "bf16", "q8_0" or "q4_0"; `chunk`: prompt tokens computed at once, by default what suits
        the model; `adapter`: of the whole sequence."""
    def encode_image(self, rgb: NDArray[np.uint8], adapter: Adapter | None = None) -> NDArray[np.float32]:
        """(height, width, 3) uint8, sides multiples of patch * pool -> (n, hidden) float32 soft tokens."""
    def encode_audio(self, frames: NDArray[np.float32], adapter: Adapter | None = None) -> NDArray[np.float32]:
        """(frames, mel_bins) float32 -> (ceil(frames / 4), hidden) float32 soft tokens; without an encoder
        (n, samples of a frame) -> (n, hidden)."""
    def workspace_bytes(self) -> int:
        """What computations of this model work in, kept between them."""

class Drafter:
    def __init__(self, model: Model, config: DrafterConfig, store: TensorStore) -> None:
        """Binds every tensor; raises ModelFileError listing missing and mis-shaped ones, or what does not fit the
        model."""
    unused: list[str]
    def draft(
        self, sequence: Sequence, token: int, state: NDArray[np.float32], most: int, least: float = 0.0
    ) -> list[int]:
        """At most `most` ids that may follow `token`, which comes next in the sequence, up to one less likely than
        `least`. `state`: (hidden,) of the position before."""
    def step(
        self, sequence: Sequence, token: int, state: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """(n,) ids, none for all in order; their (n,) logits; the (hidden,) state that stands for the next one."""

def resample(rgb: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (height, width, 3), as torchvision's antialiased bicubic resize gives it."""

def isa() -> str: ...
def supported_isas() -> list[str]: ...
def cpu_features() -> list[str]: ...
