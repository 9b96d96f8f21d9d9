import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from bitwright.config import from_text
from bitwright.model.attention import Attention
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.quantization import QuantizedTensor

SCHEMES = (
    "integer(8, 8)",
    "integer(4, 4)",
    "integer(8, 8, input_share=PerRow(), input_range=None)",
    "integer(8, 8, accumulator_bits=14, overflow=Overflow.WRAP)",
    "integer(8, 8, accumulator_bits=14, overflow=Overflow.SATURATE)",
    "vs_quant(4, 4, 4, 4, vector=4)",
    "vs_quant_chip()",
    "ant(4, 4)",
    "mxfp4()",
    "nvfp4()",
)

LENGTH, WIDTH, HEADS, CHANNELS = 5, 7, 2, 12


class Call(nn.Module):
    """One call of scaled_dot_product_attention with fixed options."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, **self.options)


def operands(seed: int = 0, kv_heads: int = HEADS, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (HEADS, LENGTH), (kv_heads, width), (kv_heads, width)
    return tuple(torch.randn(2, *shape, CHANNELS, generator=generator) for shape in shapes)


def bool_mask() -> Tensor:
    mask = torch.rand(2, 1, LENGTH, WIDTH, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[..., 0] = True
    return mask


VARIANTS = {
    "plain": ({}, {}),
    "causal": ({"is_causal": True}, {"width": LENGTH}),
    "causal over more keys": ({"is_causal": True}, {}),
    "bool mask": ({"attn_mask": bool_mask()}, {}),
    "float mask": ({"attn_mask": torch.linspace(-2, 1, WIDTH).expand(LENGTH, WIDTH)}, {}),
    "scale": ({"scale": 0.5}, {}),
    "grouped queries": ({"enable_gqa": True}, {"kv_heads": 1}),
}

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def quantized(scheme: str, variant: str) -> tuple[nn.Module, nn.Module, tuple[Tensor, ...]]:
    """Prepared and frozen module, and fresh operands."""
    options, sizes = VARIANTS[variant]
    seen, fresh = operands(1, **sizes), operands(2, **sizes)
    prepared = calibrate(prepare(Call(**options), from_text(scheme), seen), [Batch(seen, torch.empty(0))])
    return prepared, freeze(prepared), fresh


def by_definition(attention: Attention, query: Tensor, key: Tensor, value: Tensor, **options) -> tuple[Tensor, int]:
    """Head by head with `Datapath.matmul`; the softmax and the masks in float, as torch documents them."""
    if options.get("enable_gqa"):
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scores, first = products(attention, ("query", "key"), query, key)
    scores = scores * options.get("scale", 1 / math.sqrt(CHANNELS))
    if options.get("is_causal"):
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    mask = options.get("attn_mask")
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    y, second = products(attention, ("probability", "value"), torch.softmax(scores, -1), value.transpose(-1, -2))
    return y, first + second


def products(attention: Attention, names: tuple[str, str], x: Tensor, w: Tensor) -> tuple[Tensor, int]:
    heads, overflows = [], 0
    whole = [
        attention.quantizers[name].quantize(t.reshape(-1, t.shape[-1]).contiguous().numpy(), attention.ranges[name])
        for name, t in zip(names, (x, w), strict=True)
    ]
    for i in range(x.shape[0] * x.shape[1]):
        left, right = (rows_of(t, i, m.shape[-2]) for t, m in zip(whole, (x, w), strict=True))
        product = attention.scheme.datapath.matmul(left, right)
        heads.append(torch.from_numpy(product.values.astype(np.float32)))
        overflows += product.overflows
    return torch.stack(heads).view(*x.shape[:2], x.shape[-2], w.shape[-2]), overflows


def rows_of(t: QuantizedTensor, head: int, count: int) -> QuantizedTensor:
    own = slice(head * count, (head + 1) * count)
    scales = tuple(s[own] if len(s) == len(t.codes) else s for s in t.scales)
    return replace(t, codes=t.codes[own], scales=scales)


@every_variant
@every_scheme
def test_exact_attention_is_two_products_by_definition_around_a_float_softmax(scheme, variant):
    _, frozen, fresh = quantized(scheme, variant)
    y = frozen(*fresh)
    attention = frozen.attention[0]
    expected, overflows = by_definition(attention, *fresh, **VARIANTS[variant][0])
    np.testing.assert_array_equal(y.numpy(), expected.numpy())
    assert attention.overflows == overflows


@every_variant
def test_uncalibrated_attention_is_torchs(variant):
    options, sizes = VARIANTS[variant]
    fresh = operands(2, **sizes)
    prepared = prepare(Call(**options), from_text("integer(8, 8)"), fresh)
    # float32: sums of at most 12 products of about 1, in another order than torch's fused kernel
    torch.testing.assert_close(prepared(*fresh), Call(**options)(*fresh), rtol=0, atol=1e-5)


@every_variant
def test_simulated_attention_equals_exact_attention_to_float_rounding(variant):
    prepared, frozen, fresh = quantized("integer(8, 8)", variant)
    # scores agree to 2 · 12 · 2**-24 · Σ|q||k| < 1e-4; such a change moves a probability by less than one step of its
    # 8 bits, which is 1 / 255, in few places: two of 7 probabilities by one step, times |v| < 5
    torch.testing.assert_close(prepared(*fresh), frozen(*fresh), rtol=0, atol=2 * 5 / 255)


def test_a_query_that_may_look_at_nothing_gets_zeros_as_in_torch():
    mask = torch.ones(LENGTH, WIDTH, dtype=torch.bool)
    mask[2] = False
    seen = operands()
    call = Call(attn_mask=mask)
    prepared = calibrate(prepare(call, from_text("integer(8, 8)"), seen), [Batch(seen, torch.empty(0))])
    for model in (call, prepared, freeze(prepared)):
        assert not model(*seen)[:, :, 2].any()


class Twice(nn.Module):
    """Two calls in one module, and one in a child."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Call()

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attend = partial(scaled_dot_product_attention, key=key, value=value)
        return attend(attend(query)) + self.inner(query, key, value)


def test_every_call_of_a_module_has_statistics_of_its_own():
    seen = operands()
    prepared = calibrate(prepare(Twice(), from_text("integer(8, 8)"), seen), [Batch(seen, torch.empty(0))])
    sites = {m.name: m for m in prepared.modules() if isinstance(m, Attention)}
    assert set(sites) == {"attention", "attention.1", "inner.attention"}
    assert sites["attention"].ranges["query"] != sites["attention.1"].ranges["query"]
    assert all(site.gemms is not None for site in sites.values())
    counts = {row.name: row.count for row in prepared.coverage if row.kind == "attention"}
    assert counts == {"attention": 2, "inner.attention": 1}
    freeze(prepared)(*seen)


def test_without_an_example_attention_is_said_to_stay_in_float():
    prepared = prepare(nn.Sequential(nn.Linear(4, 4), Call()), from_text("integer(8, 8)"))
    assert any(
        row.kind == "attention" and row.status == "float" and "no example" in row.reason for row in prepared.coverage
    )


def test_a_weight_only_scheme_leaves_attention_in_float():
    seen = operands()
    prepared = prepare(Call(), from_text("integer(8, None)"), seen)
    (row,) = prepared.coverage
    assert (row.kind, row.status) == ("attention", "float")
    assert torch.equal(prepared(*seen), Call()(*seen))


def test_a_wrapped_module_still_answers_for_its_fields():
    seen = operands()
    call = Call()
    call.layer_index = 7
    assert prepare(call, from_text("integer(8, 8)"), seen).layer_index == 7


class Pair(nn.Module):
    """One attention block that two inputs run through in a pass, as a pair of sentences does."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Once()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.block(x) + self.block(y)


class Once(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_a_block_that_runs_twice_a_pass_has_one_attention():
    torch.manual_seed(0)
    inputs = torch.randn(2, 1, 4, 8), torch.randn(2, 1, 4, 8)
    fake = calibrate(prepare(Pair(), from_text("integer(8, 8)"), inputs), [Batch(inputs, torch.empty(0))])
    sites = [m for m in fake.modules() if isinstance(m, Attention)]
    assert len(sites) == 1
    assert torch.isfinite(freeze(fake)(*inputs)).all()
