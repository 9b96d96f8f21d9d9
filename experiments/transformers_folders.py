"""Trained text networks as folders that transformers loads: its own classes, names and config.json.

The weights are those of the tasks `stories260k`, a Llama, and `minilm_sst2`, a BERT whose classifier reads the mean of
its states: `BertForTokenClassification`, as the mean of a linear layer's outputs is its output for the mean.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bitwright.model.data import data_folder
from bitwright.model.zoo import TASKS
from bitwright.model.zoo.networks_text import PADDING, mean_over_tokens
from bitwright.model.zoo.weights import read_tensors

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """A task's network in transformers' layout: how it is described, and what of its outputs are the task's logits."""

    config: dict[str, Any]
    rename: Callable[[Tensors], Tensors]
    logits: Callable[[Any, Tensor], Tensor]
    linears: str
    """Names of the layers that are quantized: those that engines quantize, heads left out."""


def _llama(tensors: Tensors) -> Tensors:
    """Pairs that turn together are a half apart in transformers, and neighbours in the file."""
    names = (
        (r"^tok_embeddings", "model.embed_tokens"), (r"^norm", "model.norm"), (r"^layers", "model.layers"),
        (r"attention_norm", "input_layernorm"), (r"ffn_norm", "post_attention_layernorm"),
        (r"attention\.w([qkvo])", r"self_attn.\1_proj"), (r"feed_forward\.w1", "mlp.gate_proj"),
        (r"feed_forward\.w2", "mlp.down_proj"), (r"feed_forward\.w3", "mlp.up_proj"),
    )  # fmt: skip
    renamed = _renamed(tensors, names)
    width = LLAMA["hidden_size"] // LLAMA["num_attention_heads"]
    for name, tensor in renamed.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            pairs = tensor.view(-1, width // 2, 2, tensor.shape[1])
            renamed[name] = pairs.transpose(1, 2).reshape(tensor.shape)
    return renamed


def _bert(tensors: Tensors) -> Tensors:
    return _renamed(tensors, ((r"^(embeddings|encoder)", r"bert.\1"),))


def _renamed(tensors: Tensors, names: tuple[tuple[str, str], ...]) -> Tensors:
    found = {}
    for name, tensor in tensors.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor.contiguous()
    return found


LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 172,
    "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BERT: dict[str, Any] = {
    "architectures": ["BertForTokenClassification"], "model_type": "bert", "hidden_size": 384,
    "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 30522,
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
    "pad_token_id": PADDING,
}  # fmt: skip

PUBLISHED = {
    "stories260k": Published(LLAMA, _llama, lambda found, tokens: found.logits, "re:.*_proj"),
    "minilm_sst2": Published(
        BERT, _bert, lambda found, tokens: mean_over_tokens(found.logits, tokens),
        r"re:bert\.encoder\..*(query|key|value|dense)",
    ),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """The task's stored weights as a folder; those of the same name are replaced."""
    weights = TASKS[name].weights
    tensors = read_tensors([data_folder() / file for file in weights.files])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(PUBLISHED[name].rename(tensors), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name].config, indent=2) + "\n")
    return folder


def inputs_of(tokens: Tensor) -> dict[str, Tensor]:
    """What transformers' classes take for a task's tokens [samples, time]."""
    return {"input_ids": tokens, "attention_mask": (tokens != PADDING).to(torch.int64)}
