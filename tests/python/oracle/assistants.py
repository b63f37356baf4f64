"""Writes random tiny drafters with the reference's own classes, and asks the reference what they guess.

Knows: transformers' assistants and how its generation drives them. Must not know: the engine under test.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from gemma4.gguf import TEXT_PREFIX, llama_name
from gguf import GGUFWriter
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4TextConfig,
    Gemma4UnifiedAssistantConfig,
    Gemma4UnifiedAssistantForCausalLM,
    Gemma4UnifiedTextConfig,
    GenerationConfig,
)
from transformers.generation.candidate_generator import SinglePositionMultiTokenCandidateGenerator

from .checkpoints import DTYPES, _initialise
from .reference import Ids, Reference
from .variants import Variant

# A divisor of the vocabulary for each shape that has groups of tokens in its published drafter: 293 groups of 7, and
# groups of one, because 2503 is prime.
CENTROIDS = {"e2b": 293, "e4b": 2503}
# Of logits: the likeliest of a few thousand then stands out, as a trained drafter's does.
LOGIT_SPREAD = 8.0


def _sharing_modes(config: Any) -> list[str | None]:
    return ["reuse"] * config.num_hidden_layers


@contextmanager
def _all_layers_share() -> Iterator[None]:
    """The reference of this version refuses to build layers that all read another model's keys and values, although
    its assistants ask for nothing else; what its layers then do is as it says."""
    modes = property(_sharing_modes)
    with (
        patch.object(Gemma4TextConfig, "kv_sharing_modes", modes),
        patch.object(Gemma4UnifiedTextConfig, "kv_sharing_modes", modes),
    ):
        yield


def build_config(variant: Variant, unified: bool = False, hidden: int = 44) -> Any:
    """A drafter that reads what the variant has. Four layers, the last of them global, as published."""
    text = variant.text
    shared = ("vocab_size", "sliding_window", "num_key_value_heads", "head_dim", "global_head_dim", "attention_k_eq_v")
    fields: dict[str, Any] = {name: text[name] for name in shared if name in text}
    fields |= {
        "num_global_key_value_heads": text.get("num_global_key_value_heads"),
        "hidden_size": hidden,
        "intermediate_size": 76,
        "num_hidden_layers": 4,
        "layer_types": [*["sliding_attention"] * 3, "full_attention"],
        "num_attention_heads": 8,
        "max_position_embeddings": text["max_position_embeddings"],
        "num_kv_shared_layers": 4,
    }
    if not unified:
        fields |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    groups = CENTROIDS.get(variant.name)
    of_groups = {} if groups is None else {"num_centroids": groups, "centroid_intermediate_top_k": 32}
    config, text_config = (
        (Gemma4UnifiedAssistantConfig, Gemma4UnifiedTextConfig)
        if unified
        else (Gemma4AssistantConfig, Gemma4TextConfig)
    )
    return config(
        text_config=text_config(**fields),
        backbone_hidden_size=text["hidden_size"],
        use_ordered_embeddings=groups is not None,
        **of_groups,
    )


def write_assistant(
    directory: Path, variant: Variant, unified: bool = False, dtype: str = "F32", hidden: int = 44
) -> Path:
    """A drafter's directory, with seeded weights under which every mechanism changes the output."""
    directory.mkdir(parents=True, exist_ok=True)
    of = Gemma4UnifiedAssistantForCausalLM if unified else Gemma4AssistantForCausalLM
    with _all_layers_share():
        model = of(build_config(variant, unified, hidden)).eval()
    generator = torch.Generator().manual_seed(variant.seed + 2000)
    with torch.no_grad():
        for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
            if name.endswith(("inv_freq", "embed_scale")):
                continue
            if name.endswith("token_ordering"):
                tensor.copy_(torch.randperm(len(tensor), generator=generator))
                continue
            _initialise(name, tensor, generator)
            if name.endswith("embed_tokens.weight"):  # which is only its head
                tensor.mul_(LOGIT_SPREAD / 0.5)
    model.to(DTYPES[dtype]).save_pretrained(directory)
    return directory


class AssistantReference:
    """A drafter and its target in the reference implementation."""

    def __init__(self, directory: Path, target: Reference, unified: bool = False) -> None:
        of = Gemma4UnifiedAssistantForCausalLM if unified else Gemma4AssistantForCausalLM
        with _all_layers_share():
            self.model = of.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
        self.target = target
        # Where no layer shares keys and values, the reference of this version hands none out.
        layers = target.model.model.language_model.layers
        owners = [layer for layer in layers if not layer.self_attn.is_kv_shared_layer]
        for sliding in (True, False):
            of_kind = [layer for layer in owners if layer.self_attn.is_sliding == sliding]
            of_kind[-1].self_attn.store_full_length_kv = True

    @torch.no_grad()
    def draft(self, ids: Ids, steps: int) -> tuple[int, list[int], NDArray[np.float32]]:
        """The target's own next token after a prompt, the tokens that the drafter guesses after that, and the logits
        (steps, vocab) that it guesses them from."""
        inputs = self.target.inputs(ids)
        outputs = self.target.model(**inputs, output_hidden_states=True, return_shared_kv_states=True, use_cache=True)
        token = outputs.logits[:, -1:].argmax(-1)
        config = GenerationConfig(max_length=4096)
        generator = SinglePositionMultiTokenCandidateGenerator(
            self.model, self.target.model.get_input_embeddings(), config
        )
        generator.num_assistant_tokens = steps
        row = torch.cat([inputs["input_ids"], token], dim=1)
        guessed, logits = generator.get_candidates(
            row,
            model_kwargs={"attention_mask": torch.ones_like(row)},
            model_outputs=outputs,
            is_first_iteration=False,
            n_last_matches=0,
        )
        assert logits is not None
        return int(token), guessed[0, row.shape[1] :].tolist(), logits[0].numpy()

    @torch.no_grad()
    def learn(self, ids: Ids, answer: list[int], directory: Path, depth: int = 7) -> None:
        """Give the drafter the head that, by least squares, says an answer by heart, and save it.

        Each place of the answer is looked at as when it is drafted: `depth` steps from the state of the one before.
        """
        whole = np.concatenate([ids, np.array(answer, np.int32)])
        outputs = self.target.model(
            **self.target.inputs(whole), output_hidden_states=True, return_shared_kv_states=True, use_cache=True
        )
        embed = self.target.model.get_input_embeddings()
        features, wanted = list[torch.Tensor](), list[int]()
        hook = self.model.model.norm.register_forward_hook(lambda _m, _i, out: features.append(out[0, 0].clone()))
        for first in range(len(answer) - 1):
            position = len(ids) + first
            state = outputs.hidden_states[-1][:, position - 1 : position]
            seen = {kind: tuple(part[:, :, :position] for part in kv) for kind, kv in outputs.shared_kv_states.items()}
            for place in range(first, min(first + depth, len(answer) - 1)):
                state = self.model(
                    inputs_embeds=torch.cat([embed(torch.tensor([[answer[place]]])), state], dim=-1),
                    attention_mask=torch.ones(1, position + 1),
                    position_ids=torch.tensor([[position]]),
                    shared_kv_states=seen,
                ).last_hidden_state
                wanted.append(answer[place + 1])
        hook.remove()
        known = sorted(set(wanted))
        target = torch.zeros(len(wanted), len(known))
        target[torch.arange(len(wanted)), torch.tensor([known.index(token) for token in wanted])] = 12.0
        head = torch.zeros_like(self.model.lm_head.weight)
        head[known] = torch.linalg.lstsq(torch.stack(features), target).solution.T
        self.model.lm_head.weight.copy_(head)
        self.model.save_pretrained(directory)


def to_gguf(directory: Path, path: Path) -> Path:
    """A drafter's directory as llama.cpp's converter would write it: without the groups of tokens."""
    config = Gemma4AssistantConfig.from_pretrained(directory)
    text = config.get_text_config()
    tensors = load_file(directory / "model.safetensors")
    sliding = [kind == "sliding_attention" for kind in text.layer_types]
    shapes = [text.per_layer_config[index] for index in range(len(sliding))]
    writer = GGUFWriter(path, "gemma4-assistant")
    for name, value in {
        "block_count": len(sliding),
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "embedding_length_out": config.backbone_hidden_size,
        "feed_forward_length": text.intermediate_size,
        "attention.head_count": text.num_attention_heads,
        "attention.sliding_window": text.sliding_window,
        "attention.shared_kv_layers": len(sliding),
        "attention.key_length": shapes[-1].head_dim,
        "attention.value_length": shapes[-1].head_dim,
        "attention.key_length_swa": shapes[0].head_dim,
        "attention.value_length_swa": shapes[0].head_dim,
    }.items():
        writer.add_uint32(f"gemma4-assistant.{name}", value)
    rope = text.rope_parameters
    for name, number in {
        "attention.layer_norm_rms_epsilon": text.rms_norm_eps,
        "rope.freq_base": rope["full_attention"]["rope_theta"],
        "rope.freq_base_swa": rope["sliding_attention"]["rope_theta"],
    }.items():
        writer.add_float32(f"gemma4-assistant.{name}", number)
    writer.add_array("gemma4-assistant.attention.sliding_window_pattern", sliding)
    writer.add_array("gemma4-assistant.attention.head_count_kv", [shape.num_key_value_heads for shape in shapes])
    writer.add_array("tokenizer.ggml.tokens", ["<pad>", "<eos>", "<bos>"])
    half = shapes[-1].head_dim // 2
    turning = int(rope["full_attention"]["partial_rotary_factor"] * shapes[-1].head_dim // 2)
    divisors = np.where(np.arange(half) < turning, 1.0, 1e30).astype(np.float32)
    writer.add_tensor("rope_freqs.weight", divisors)
    for name, tensor in tensors.items():
        own = name.replace("model.", TEXT_PREFIX, 1) if name.startswith("model.") else name
        theirs = f"nextn.{name}" if "projection" in name and "layers" not in name else llama_name(own)
        if not name.startswith(("masked_embedding", "lm_head")):
            assert theirs is not None, name
            writer.add_tensor(theirs, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
