"""transformers' own pipelines, on tiny models with random weights and on the bundled one; nothing is downloaded.

torchvision is not installed: the demo's pictures go through the processor that `oracle.reference` has in its place, and
`AnyToAnyPipeline`, which asks for the library by name, is told that it is there.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import gemma4
import torch
import transformers
from oracle.reference import TorchImageProcessor
from transformers import AutoTokenizer, Gemma4AudioFeatureExtractor, Gemma4ForConditionalGeneration
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil
from transformers.pipelines import any_to_any

torch.set_num_threads(1)  # tiny matrices: a second thread only waits

DEMO = Path(gemma4.__file__).parent / "demo_model"
SIDE = 32
LAYERS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def built(task: str, **parts: Any) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings(), mock.patch.object(any_to_any, "requires_backends", lambda *_: None):
        warnings.simplefilter("ignore")
        return transformers.pipeline(task, **parts)


@cache
def detector() -> Any:
    config = transformers.YolosConfig(
        **LAYERS, image_size=[SIDE, SIDE], patch_size=16, num_detection_tokens=5, num_labels=3
    )
    size = {"height": SIDE, "width": SIDE}
    model = transformers.YolosForObjectDetection(config)
    return built("object-detection", model=model, image_processor=YolosImageProcessorPil(size=size))


@cache
def zero_shot_detector() -> Any:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    text = {**LAYERS, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**LAYERS, "image_size": SIDE, "patch_size": 16}
    config = transformers.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    return built(
        "zero-shot-object-detection",
        model=transformers.OwlViTForObjectDetection(config),
        image_processor=OwlViTImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
    )


def recognizer(folder: Path) -> Any:
    vocabulary = {"<pad>": 0, "<unk>": 1, "|": 2, **{letter: 3 + i for i, letter in enumerate("abcde")}}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), pad_token="<pad>", unk_token="<unk>")
    config = transformers.Wav2Vec2Config(
        **LAYERS, vocab_size=8, conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(20, 16), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, feat_extract_norm="layer", pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.Wav2Vec2ForCTC(config).eval()
    features = transformers.Wav2Vec2FeatureExtractor()
    return built("automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=features)


class _Processor(Gemma4Processor):
    def check_argument_for_proper_class(self, *_: Any) -> Any:
        """There is no video processor without torchvision."""


@cache
def demo(task: str) -> Any:
    """The bundled checkpoint in the reference implementation, in float32."""
    settings = json.loads((DEMO / "processor_config.json").read_text())["image_processor"]
    settings.pop("image_processor_type")
    processor = _Processor(
        Gemma4AudioFeatureExtractor.from_pretrained(DEMO),
        TorchImageProcessor(**settings),
        AutoTokenizer.from_pretrained(DEMO),
        None,
        chat_template=(DEMO / "chat_template.jinja").read_text(),
    )
    return built(task, model=_demo_model(), processor=processor)


@cache
def _demo_model() -> Any:
    return Gemma4ForConditionalGeneration.from_pretrained(DEMO, dtype=torch.float32).eval()


def call(pipe: Any, *args: Any, **options: Any) -> Any:
    """What a pipeline returns, warnings aside; all of it where it comes bit by bit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = pipe(*args, **options)
        return list(result) if hasattr(result, "__next__") else result


def form(value: Any) -> Any:
    """Keys, nesting and types of a result; of a list the forms that occur in it."""
    if isinstance(value, dict):
        return {key: form(one) for key, one in value.items()}
    if isinstance(value, list):
        forms = [form(one) for one in value]
        return [one for index, one in enumerate(forms) if one not in forms[:index]]
    return tuple(type(one) for one in value) if isinstance(value, tuple) else type(value)
