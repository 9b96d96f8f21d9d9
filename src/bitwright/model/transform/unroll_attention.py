"""Unroll nn.MultiheadAttention, so that its projections are linear layers and its products an attention.

torch keeps the three input projections in one matrix and multiplies in one call. Unrolled they are layers, and their
heads meet in `scaled_dot_product_attention`. The network computes the same function.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitwright.model.inspect import inside_opaque, unsupported_reason
from bitwright.model.transform.replaced import replaced


def unroll_attention(model: nn.Module) -> nn.Module:
    """A copy with `UnrolledAttention` for nn.MultiheadAttention. What `inspect` calls unsupported stays.

    So does what nn.TransformerEncoderLayer holds, which reads its parameters directly.
    """
    model = copy.deepcopy(model)
    inside = inside_opaque(model)
    replacements: dict[int, nn.Module] = {
        id(module): UnrolledAttention(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention) and unsupported_reason(module) is None and name not in inside
    }
    return replaced(model, replacements)


class UnrolledAttention(nn.Module):
    """An nn.MultiheadAttention whose projections are children, called as the module that it is made of.

    `query`, `key` and `value` are thirds of torch's `in_proj_weight`; `out_proj` keeps its name, fields such as
    `num_heads` too. Attention weights, where asked for, are computed beside the attention, in float and without
    dropout. A query that may look at no key gets zeros. Arguments of wrong shapes raise ValueError.
    """

    embed_dim: int
    num_heads: int
    head_dim: int
    dropout: float
    batch_first: bool

    def __init__(self, module: nn.MultiheadAttention) -> None:
        super().__init__()
        for field, value in vars(module).items():
            if not field.startswith("_"):
                setattr(self, field, value)
        packed, shared = module.in_proj_weight, module.in_proj_bias
        weights = (
            (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight) if packed is None else packed.chunk(3)
        )
        biases = (None, None, None) if shared is None else shared.chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            self.add_module(name, _linear(weight, bias, packed if packed is not None else weight, shared))
        self.out_proj = module.out_proj
        self.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise ValueError("MultiheadAttention: is_causal says what attn_mask is, but there is none; give the mask")
        is_batched = query.dim() == 3
        q, k, v = (
            self._heads(name, x) for name, x in (("query", query), ("key", key), ("value", value))
        )  # [samples, heads, length, features]
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        mixed = functional.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        y = self.out_proj(mixed.transpose(1, 2).flatten(2))
        weights = _weights(q, k, mask) if need_weights else None
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if is_batched else weights.squeeze(0)
        if not is_batched:
            return y.squeeze(0), weights
        return y if self.batch_first else y.transpose(0, 1), weights

    def _heads(self, name: str, x: Tensor) -> Tensor:
        projection = self.get_submodule(name)
        if x.dim() not in (2, 3):
            raise ValueError(
                f"MultiheadAttention: the {name} has {x.dim()} axes; give 2, of one sample, or 3, of several"
            )
        samples_first = x[None] if x.dim() == 2 else x if self.batch_first else x.transpose(0, 1)
        heads: Tensor = projection(samples_first).unflatten(-1, (self.num_heads, self.head_dim))
        return heads.transpose(1, 2)

    def _mask(self, q: Tensor, k: Tensor, attention: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores; it broadcasts to [samples, heads, queries, keys]."""
        samples, heads, queries, keys = *q.shape[:3], k.shape[2]
        mask = None
        if attention is not None:
            added = _added(attention, "attn_mask", [(queries, keys), (samples * heads, queries, keys)], q)
            mask = added.view(-1, heads if added.dim() == 3 else 1, queries, keys)
        if padding is not None:
            shapes: list[tuple[int, ...]] = [(samples, keys), *([(keys,)] if samples == 1 else [])]
            hidden = _added(padding, "key_padding_mask", shapes, q).view(samples, 1, 1, keys)
            mask = hidden if mask is None else mask + hidden
        return mask


def _linear(weight: Tensor, bias: Tensor | None, weights: Tensor, biases: Tensor | None) -> nn.Linear:
    """A layer of these parts of parameters, which learn where the whole does."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=weights.requires_grad)
    if bias is not None and biases is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=biases.requires_grad)
    return linear


def _added(mask: Tensor, name: str, shapes: list[tuple[int, ...]], like: Tensor) -> Tensor:
    """A mask as torch's module reads it: True, or minus infinity, is not looked at."""
    if tuple(mask.shape) not in shapes:
        raise ValueError(
            f"MultiheadAttention: the {name} has shape {tuple(mask.shape)}; give {' or '.join(map(str, shapes))}"
        )
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
    return mask.to(like.dtype)


def _weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores if mask is None else scores + mask, -1)
