"""Write a checkpoint in the layout of a published Gemma 4 and prove it against transformers.

    python export.py RUN/joint.pt OUT --tokenizer DIR [--without-speech]

The directory loads as `Gemma4ForConditionalGeneration` with `AutoProcessor`. The bounds of the encoders' clipped
linears are measured on a few examples: a little inside the largest values seen, so that they do clip now and then.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import utterances
from batches import Encoder
from clips import MOST_FRAMES
from dataset import BUDGETS, PATCH, POOL, draw_picture, patch_positions
from ears import AudioConfig
from gemma4.media.mel import FrontEnd
from layers import Clipped
from modeling import DemoConfig, DemoModel, Rows, continued
from safetensors.torch import load_file, save_file
from torch import Tensor

HERE = Path(__file__).parent
EARS = ("model.audio_tower.", "model.embed_audio.")
PLACES = "model.vision_tower.patch_embedder.position_embedding_table"
INSIDE = 0.95  # of the largest value seen


def config_json(c: DemoConfig, encoder: Encoder) -> dict:
    """config.json."""
    text, vision = c.text, c.vision
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
    }
    return {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "image_token_id": encoder.id("<|image|>"),
        "boi_token_id": encoder.id("<|image>"),
        "eoi_token_id": encoder.id("<image|>"),
        "audio_token_id": encoder.id("<|audio|>"),
        "boa_token_id": encoder.id("<|audio>"),
        "eoa_token_id": encoder.id("<audio|>"),
        "eoa_token_index": encoder.id("<audio|>"),
        "video_token_id": encoder.id("<|video|>"),
        "eos_token_id": [encoder.id("<eos>"), encoder.id("<turn|>")],
        "vision_soft_tokens_per_image": BUDGETS[1],
        "audio_config": audio_json(c.audio),
        "text_config": {
            "model_type": "gemma4_text",
            "dtype": "bfloat16",
            "vocab_size": text.vocab_size,
            "vocab_size_per_layer_input": text.vocab_size,
            "hidden_size": text.hidden_size,
            "hidden_size_per_layer_input": text.hidden_size_per_layer_input,
            "intermediate_size": text.intermediate_size,
            "use_double_wide_mlp": True,
            "num_hidden_layers": text.num_hidden_layers,
            "layer_types": text.layer_types,
            "num_kv_shared_layers": text.num_kv_shared_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "num_global_key_value_heads": None,
            "head_dim": text.head_dim,
            "global_head_dim": text.global_head_dim,
            "attention_k_eq_v": False,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": text.rms_norm_eps,
            "rope_parameters": rope,
            "sliding_window": text.sliding_window,
            "max_position_embeddings": 4096,
            "final_logit_softcapping": text.final_logit_softcapping,
            "use_bidirectional_attention": None,
            "enable_moe_block": False,
            "num_experts": None,
            "top_k_experts": None,
            "moe_intermediate_size": None,
            "tie_word_embeddings": True,
            "pad_token_id": encoder.id("<pad>"),
            "bos_token_id": encoder.id("<bos>"),
            "eos_token_id": encoder.id("<eos>"),
            "use_cache": True,
            "initializer_range": 0.02,
        },
        "vision_config": {
            "model_type": "gemma4_vision",
            "dtype": "bfloat16",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_key_value_heads": vision.num_attention_heads,
            "head_dim": vision.head_dim,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": vision.rms_norm_eps,
            "patch_size": vision.patch_size,
            "pooling_kernel_size": vision.pooling_kernel_size,
            "position_embedding_size": vision.position_embedding_size,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
            "use_clipped_linears": True,
            "standardize": False,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "max_position_embeddings": 4096,
            "initializer_range": 0.02,
        },
    }


def audio_json(audio: AudioConfig) -> dict:
    """audio_config of config.json."""
    return {
        "model_type": "gemma4_audio",
        "dtype": "bfloat16",
        **asdict(audio),
        "hidden_act": "silu",
        "attention_invalid_logits_value": -1e9,
        "gradient_clipping": 1e10,
        "use_clipped_linears": True,
        "initializer_range": 0.02,
    }


def processor_json() -> dict:
    """processor_config.json."""
    picture = {
        "do_convert_rgb": True,
        "do_normalize": False,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "max_soft_tokens": BUDGETS[1],  # with 70 it reads worse
        "soft_token_budgets": list(BUDGETS),  # with which it was trained
        "patch_size": PATCH,
        "pooling_kernel_size": POOL,
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    hearing = {
        "feature_extractor_type": "Gemma4AudioFeatureExtractor",
        "dither": 0.0,
        "feature_size": 128,
        "fft_length": 512,
        "fft_overdrive": False,
        "frame_length": 320,
        "hop_length": 160,
        "input_scale_factor": 1.0,
        "max_frequency": 8000.0,
        "mel_floor": 0.001,
        "min_frequency": 0.0,
        "padding_side": "right",
        "padding_value": 0.0,
        "per_bin_mean": None,
        "per_bin_stddev": None,
        "preemphasis": 0.0,
        "preemphasis_htk_flavor": True,
        "return_attention_mask": True,
        "sampling_rate": 16000,
    }
    return {
        "processor_class": "Gemma4Processor",
        "image_seq_length": BUDGETS[1],
        "audio_seq_length": 750,
        "audio_ms_per_token": 40,
        "image_processor": {"image_processor_type": "Gemma4ImageProcessor", **picture, "image_seq_length": BUDGETS[1]},
        "video_processor": {
            "video_processor_type": "Gemma4VideoProcessor",
            **picture,
            "max_soft_tokens": BUDGETS[0],
            "num_frames": MOST_FRAMES,
        },
        "feature_extractor": hearing,
    }


def measure_bounds(model: DemoModel, pictures: int, sounds: int) -> dict[str, Tensor]:
    """Buffers input_min, input_max, output_min and output_max of every clipped linear."""
    extremes: dict[str, list[float]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, Clipped):

            def look(_: Clipped, inputs: tuple[Tensor], output: Tensor, name: str = name) -> None:
                values = [float(inputs[0].abs().max()), float(output.abs().max())]
                extremes[name] = [max(pair) for pair in zip(values, extremes.get(name, [0.0, 0.0]), strict=True)]

            handles.append(module.register_forward_hook(look))
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for i in range(pictures):
            picture = draw_picture(rng, round(BUDGETS[0] * 16 ** (i / max(1, pictures - 1))))
            pixels = torch.from_numpy(picture.patches).float() * (2 / 255) - 1
            model.soft_tokens(pixels, torch.from_numpy(patch_positions(*picture.grid)), [len(pixels)])
        for _ in range(sounds):
            record = utterances.draw_record(rng)
            frames = torch.from_numpy(record["frames"][: record["length"]].astype(np.float32))
            model.heard(frames[None], torch.tensor([len(frames)]))
    for handle in handles:
        handle.remove()
    bounds = {}
    for name, (before, after) in extremes.items():
        for side, limit in (("input", before), ("output", after)):
            bounds[f"{name}.{side}_min"] = torch.tensor(-limit * INSIDE)
            bounds[f"{name}.{side}_max"] = torch.tensor(limit * INSIDE)
    for name, module in model.named_modules():
        if isinstance(module, Clipped) and name not in extremes:  # nothing to measure on: no bounds
            for end, value in (("input_min", -1e4), ("input_max", 1e4), ("output_min", -1e4), ("output_max", 1e4)):
                bounds[f"{name}.{end}"] = torch.tensor(value)
    return bounds


def load(path: Path | None, last: bool = False, ears: Path | None = None, other: Path | None = None) -> DemoModel:
    """The model of a phase's .pt (the running average of its weights, or the last ones) or of a checkpoint's directory,
    rounded to bf16; an untrained one without a path. `ears`: where what hears is taken from; `other`: a second .pt, for
    the mean of both."""
    model = DemoModel(DemoConfig())
    if path and path.is_dir():
        tensors = load_file(path / "model.safetensors")
        bounds = {name: tensors.pop(name) for name in list(tensors) if name.endswith(("_min", "_max"))}
        tensors[PLACES] = continued(tensors[PLACES].float(), model.config.vision.position_embedding_size)
        model.load_state_dict({name: value.float() for name, value in tensors.items()})
        clip(model, bounds)
    elif path:
        stored = torch.load(path, weights_only=True)["model" if last else "average"]
        if other:
            second = torch.load(other, weights_only=True)["model" if last else "average"]
            stored = {name: value.lerp(second[name], 0.5) for name, value in stored.items()}
        model.load_state_dict({k.removeprefix("model."): v for k, v in stored.items() if k.startswith("model.")})
    if ears:
        tensors = load_file(ears / "model.safetensors")
        heard = {name: value.float() for name, value in tensors.items() if name.startswith(EARS)}
        model.load_state_dict(heard, strict=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16().float())
    return model.eval()


def write(model: DemoModel, out: Path, tokenizer: Path, bounds: dict[str, Tensor]) -> None:
    """All files of the checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(tokenizer / "tokenizer.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, out / name)
    shutil.copyfile(HERE / "chat_template.jinja", out / "chat_template.jinja")
    generation = {
        "bos_token_id": encoder.id("<bos>"),
        "eos_token_id": [encoder.id("<eos>"), encoder.id("<turn|>"), encoder.id("<|tool_response>")],
        "pad_token_id": encoder.id("<pad>"),
        "do_sample": False,
    }
    for name, content in (
        ("config.json", config_json(model.config, encoder)),
        ("processor_config.json", processor_json()),
        ("generation_config.json", generation),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    tensors = {name: value.detach().bfloat16().contiguous() for name, value in model.state_dict().items()}
    tensors |= {name: value.bfloat16() for name, value in bounds.items()}
    partial = out / "model.safetensors.part"
    save_file(dict(sorted(tensors.items())), partial, metadata={"format": "pt"})
    partial.rename(out / "model.safetensors")


def clip(model: DemoModel, bounds: dict[str, Tensor]) -> None:
    """Make the encoders' projections clamp what goes in and out, as the published checkpoint does."""
    limits = {name: value.bfloat16().float() for name, value in bounds.items()}
    for name, module in model.named_modules():
        if isinstance(module, Clipped):
            ends = [limits[f"{name}.{end}"] for end in ("input_min", "input_max", "output_min", "output_max")]
            module.register_forward_pre_hook(lambda _, x, e=ends: (x[0].clamp(e[0], e[1]),))
            module.register_forward_hook(lambda _, x, y, e=ends: y.clamp(e[2], e[3]))


def whole(ids: Tensor, soft: list[range]) -> Rows:
    """One conversation as a row of which every place is asked for; `soft` are the places of its soft tokens."""
    count = len(ids)
    ids, source, nothing = ids.clone(), torch.full((count,), -1), torch.zeros(count, dtype=torch.long)
    places = [place for span in soft for place in span]
    ids[places], source[places] = 0, torch.arange(len(places))
    order = torch.arange(count)
    return Rows(ids, source, order, nothing, nothing, order, torch.tensor([count]))


def spans_of(ids: list[int], token: int) -> list[range]:
    """Where runs of a token are."""
    places = [i for i, value in enumerate(ids) if value == token]
    starts = [i for i in places if i == 0 or ids[i - 1] != token]
    ends = [i + 1 for i in places if i + 1 == len(ids) or ids[i + 1] != token]
    return [range(start, end) for start, end in zip(starts, ends, strict=True)]


def prove(model: DemoModel, out: Path) -> float:
    """Largest difference of logits to transformers in f32, as a share of the largest logit; both with the bounds.

    One conversation has four small pictures and a sound, the other two large pictures: more than a sliding layer sees.
    """
    from transformers import AutoProcessor, Gemma4ForConditionalGeneration

    reference, info = Gemma4ForConditionalGeneration.from_pretrained(
        out, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    processor = AutoProcessor.from_pretrained(out)
    return max(_difference(model, reference, processor, *some) for some in ((4, BUDGETS[0]), (2, BUDGETS[-1])))


def _difference(model: DemoModel, reference: Any, processor: Any, pictures: int, budget: int) -> float:
    """What `prove` says of one conversation."""
    from PIL import Image

    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (pictures, 24, 32, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC) for pixels in noise]
    sound = (0.1 * np.sin(np.cumsum(rng.uniform(0.02, 0.9, 21_000)))).astype(np.float32)
    content = [{"type": "image", "image": image} for image in images]
    content += [{"type": "audio", "audio": sound}, {"type": "text", "text": "Detect all objects."}]
    answer = {"role": "assistant", "content": '[{"box_2d": [10, 20, 300, 400], "label": "red circle"}]'}
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}, answer],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"images_kwargs": {"max_soft_tokens": budget}},
    )
    with torch.no_grad():
        wanted = reference(**inputs).logits[0]

    ids = inputs["input_ids"][0]
    seen = spans_of(ids.tolist(), reference.config.image_token_id)
    heard = spans_of(ids.tolist(), reference.config.audio_token_id)
    assert all(0.8 * budget < len(span) <= budget for span in seen)
    soft = []
    with torch.no_grad():
        for number, span in enumerate(seen):
            count = len(span) * POOL * POOL
            places = inputs["image_position_ids"][number][:count]
            columns = int(places[:, 0].max()) // POOL + 1
            order = torch.argsort(places[:, 1] // POOL * columns + places[:, 0] // POOL, stable=True)
            values = inputs["pixel_values"][number][:count][order] * 2 - 1
            soft.append(model.soft_tokens(values, places[order], [count]))
        frames = torch.from_numpy(FrontEnd().log_mel(sound))
        soft.append(model.heard(frames[None], torch.tensor([len(frames)]))[0])
        got = model.logits(model.hidden(torch.cat(soft), whole(ids, [*seen, *heard]))[0])
    return float((got - wanted).abs().max() / wanted.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="directory with tokenizer.json; made when missing"
    )
    parser.add_argument("--without-speech", action="store_true", help="no espeak-ng to measure the ears' bounds with")
    parser.add_argument("--ears", type=Path, help="a checkpoint to take what hears from, with its bounds")
    parser.add_argument("--other", type=Path, help="a second .pt, begun from the first: the mean of both is written")
    parser.add_argument("--last", action="store_true", help="the last weights instead of their running average")
    arguments = parser.parse_args()
    if arguments.other and (arguments.checkpoint is None or arguments.checkpoint.is_dir()):
        parser.error("--other: there is no .pt that it would be the second of")
    if not (arguments.tokenizer / "tokenizer.json").exists():
        import vocabulary

        vocabulary.save(arguments.tokenizer)
    model = load(arguments.checkpoint, arguments.last, arguments.ears, arguments.other)
    bounds = measure_bounds(model, 40, 0 if arguments.without_speech or arguments.ears else 96)
    if arguments.ears:
        ends = load_file(arguments.ears / "model.safetensors")
        bounds |= {n: v.float() for n, v in ends.items() if n.startswith(EARS) and n.endswith(("_min", "_max"))}
    write(model, arguments.out, arguments.tokenizer, bounds)
    clip(model, bounds)
    difference = prove(model, arguments.out)
    size = sum(path.stat().st_size for path in arguments.out.iterdir() if path.is_file())
    print(f"{arguments.out}: {size / 1e6:.2f} MB, logits differ from transformers by {difference:.2e} of the largest")
    assert difference < 1e-3


if __name__ == "__main__":
    main()
