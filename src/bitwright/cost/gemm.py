"""Products of a network from its description alone: a Hugging Face config.json, or the header of a safetensors file.

No weight is read, so a language model of any size is priced in seconds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.gemm import Gemm, LayerGemm

UNGATED = (
    "bert", "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt", "phi",
    "roberta", "starcoder2",
)  # fmt: skip
"""Families whose feed-forward network has two matrices; others are taken to have three, one of which is a gate."""

NAMES = {
    "width": ("hidden_size", "n_embd", "d_model"), "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"), "vocabulary": ("vocab_size",),
}  # fmt: skip
"""What configurations call the same thing."""


@dataclass(frozen=True)
class Transformer:
    """Sizes of a language model with one kind of block and a matrix for the vocabulary."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    feed_forward: int
    is_gated: bool
    vocabulary: int
    experts_used: int = 1

    def __post_init__(self) -> None:
        if self.key_value_heads < 1 or self.heads % self.key_value_heads:
            raise ValueError(
                f"Transformer: {self.heads} heads do not share {self.key_value_heads} pairs of key and value evenly; "
                "correct num_key_value_heads"
            )

    def products(self, tokens: int, context: int | None = None) -> tuple[LayerGemm, ...]:
        """All products for so many tokens in parallel, that look at `context` keys (default: each at all tokens).

        One token and a long context is a step of generation. Heads that share keys are rows of one product. Masked
        products count, as arrays compute them.
        """
        keys = context or tokens
        shared = self.heads // self.key_value_heads
        projected = self.heads * self.head_width
        stored = self.key_value_heads * self.head_width
        made = []
        for i in range(self.layers):
            block = f"layers.{i}"
            made += [
                LayerGemm(f"{block}.query", Gemm(tokens, self.width, projected)),
                LayerGemm(f"{block}.key", Gemm(tokens, self.width, stored)),
                LayerGemm(f"{block}.value", Gemm(tokens, self.width, stored)),
                LayerGemm(f"{block}.scores", Gemm(tokens * shared, self.head_width, keys, self.key_value_heads), True),
                LayerGemm(f"{block}.mixed", Gemm(tokens * shared, keys, self.head_width, self.key_value_heads), True),
                LayerGemm(f"{block}.out", Gemm(tokens, projected, self.width)),
            ]
            rows = tokens * self.experts_used
            if self.is_gated:
                made.append(LayerGemm(f"{block}.gate", Gemm(rows, self.width, self.feed_forward)))
            made.append(LayerGemm(f"{block}.up", Gemm(rows, self.width, self.feed_forward)))
            made.append(LayerGemm(f"{block}.down", Gemm(rows, self.feed_forward, self.width)))
        return (*made, LayerGemm("head", Gemm(tokens, self.width, self.vocabulary)))


def transformer(config: Mapping[str, Any]) -> Transformer:
    """The sizes that a Hugging Face configuration states."""
    found = {what: _first(config, names) for what, names in NAMES.items()}
    missing = [NAMES[what][0] for what, value in found.items() if value is None]
    if missing:
        raise ValueError(f"the configuration has no {' and no '.join(missing)}; give that of a transformer")
    for what, value in found.items():
        if int(value) < 1:
            raise ValueError(f"the configuration has {NAMES[what][0]} of {value}; give at least 1")
    width, heads = int(found["width"]), int(found["heads"])
    feed_forward = config.get("moe_intermediate_size") or _first(config, ("intermediate_size", "n_inner", "ffn_dim"))
    return Transformer(
        width, int(found["layers"]), heads, int(config.get("num_key_value_heads") or heads),
        int(config.get("head_dim") or width // heads), int(feed_forward or 4 * width),
        config.get("model_type") not in UNGATED, int(found["vocabulary"]),
        int(config.get("num_experts_per_tok") or 1),
    )  # fmt: skip


def read_config(path: Path) -> Transformer:
    """Of a config.json."""
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}); give a model's config.json") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object; give a model's config.json")
    return transformer(config.get("text_config") or config)


def read_header(path: Path, tokens: int) -> tuple[LayerGemm, ...]:
    """One product for each matrix of a safetensors file, of which only the header is read.

    Matrices are rows of outputs. Names with "embed", "wte" or "wpe" are tables, and left out; products of activations
    are not in such a file. Convolutions are refused: their outputs' size is not in the file.
    """
    made = []
    for name, entry in _header(path).items():
        shape = entry.get("shape", ())
        if name == "__metadata__" or len(shape) < 2 or any(table in name for table in ("embed", "wte", "wpe")):
            continue
        if len(shape) > 2:
            raise ValueError(
                f"{path}: {name} has {len(shape)} axes, and only matrices say how large a product is; give the network "
                "as a task instead"
            )
        made.append(LayerGemm(name.removesuffix(".weight"), Gemm(tokens, shape[1], shape[0])))
    if not made:
        raise ValueError(f"{path} has no matrix; give a file of a model's weights")
    return tuple(made)


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length < 1 << 27 else b""
    try:
        header = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path} has no header of a safetensors file; give one that safetensors has written")
    return header


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)
