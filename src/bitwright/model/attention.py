"""Attention products: both operands are activations, so the scheme's input quantizer serves both.

`scaled_dot_product_attention` is a function, not a layer. The module that calls it is wrapped, and while it runs the
call is redirected here; nothing is patched.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bitwright import kernels
from bitwright.datapath.widths import Span, data_type_span
from bitwright.kernels import Stationary
from bitwright.model.lowering import Gemm
from bitwright.model.site import Site, naming
from bitwright.model.surrogate import Ranges, fake_quantize, learned_ranges
from bitwright.quantization import Quantizer, Statistics
from bitwright.scheme import Scheme

OPERANDS = ("query", "key", "probability", "value")
STATIONARY = ("key", "value")
PRODUCTS = (("query", "key"), ("probability", "value"))


class Attention(Site):
    """softmax(q kᵀ · scale + mask) v with both products under a scheme; the softmax stays in float."""

    def __init__(self, name: str, scheme: Scheme) -> None:
        super().__init__()
        self.scheme, self.name = scheme, name
        self.seen: dict[str, Statistics] = {}
        self.quantizers: dict[str, Quantizer] = {}
        self.calibrated: dict[str, Ranges] = {}
        self.is_exact = False
        self.overflows = self.accumulations = 0
        self.gemms: tuple[Gemm, Gemm] | None = None

    def no_statistics(self) -> dict[str, Statistics]:
        return {name: Statistics(passes=kernels.PASSES) for name in OPERANDS}

    def resolve(self, seen: dict[str, Statistics]) -> None:
        """Choose formats and ranges of the four operands."""
        assert self.scheme.input is not None, "weight-only schemes leave attention in float"
        for name in OPERANDS:
            if not seen[name].count:
                raise ValueError("no calibration data reached this attention; pass batches that run through it")
            quantizer = self.scheme.input.fit(seen[name], kernels.squared_errors)
            if name in STATIONARY:  # multipliers select a neighbour of the other operand
                quantizer = quantizer.alone()
            self.quantizers[name], self.calibrated[name] = (
                quantizer,
                quantizer.estimate(seen[name], kernels.squared_errors),
            )
        self.steps.clear()

    def follow(self, seen: dict[str, Statistics]) -> None:
        """Estimate the operands' static ranges anew; their formats and learned ranges stay."""
        for name, quantizer in self.quantizers.items():
            self.calibrated[name] = quantizer.estimate(seen[name], kernels.squared_errors)

    def pin(self, operand: str, ranges: Ranges) -> None:
        """Set the static ranges of an operand; a learned range stays."""
        self.calibrated[operand] = ranges

    @property
    def ranges(self) -> dict[str, Ranges]:
        """Static ranges of each operand's levels, learned or calibrated; None where a range follows the data."""
        learned = {name: learned_ranges(self.quantizers[name], step) for name, step in self.steps.items()}
        return self.calibrated | learned

    @property
    def is_resolved(self) -> bool:
        return bool(self.quantizers)

    def sum_bits(self) -> tuple[int | None, int | None]:
        """Of a register that holds any inner sum of either product, whatever the activations are.

        For the lengths of the first call: more keys make longer sums of values. None before a call.
        """
        if self.gemms is None or not self.quantizers:
            return None, None
        scores, outputs = (self._sum_bits(*product) for product in zip(self.gemms, PRODUCTS, strict=True))
        return scores, outputs

    def _sum_bits(self, gemm: Gemm, names: tuple[str, str]) -> int:
        x, w = (self.quantizers[name] for name in names)
        spans = [self.quantizers[name].element_bounds(self.ranges[name]).units for name in names]
        of_x, of_w = (Span(min(low, 0), max(high, 0)) for low, high in spans)
        return data_type_span(of_x, of_w, self.scheme.datapath.inner_elements(x, w, gemm.n, gemm.k)).bits

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if enable_gqa:
            key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
        scores = self._product("query", "key", query, key) * (
            1 / math.sqrt(query.shape[-1]) if scale is None else scale
        )
        length, width = scores.shape[-2:]
        if is_causal:
            allowed = torch.ones(length, width, dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~allowed, -math.inf)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        masked = (scores == -math.inf).all(-1, keepdim=True)  # a row that may look at nothing gets zeros, as in torch
        probability = torch.softmax(scores.masked_fill(masked, 0), -1).masked_fill(masked, 0)
        probability = functional.dropout(probability, dropout_p)
        if self.gemms is None:
            heads = math.prod(query.shape[1:-2])
            self.gemms = Gemm(length, query.shape[-1], width, heads), Gemm(length, width, value.shape[-1], heads)
        return self._product("probability", "value", probability, value.transpose(-1, -2))

    def _product(self, left: str, right: str, x: Tensor, w: Tensor) -> Tensor:
        """x @ wᵀ over the last axes, operands in the precision that the state of this module asks for."""
        with naming(self.name):
            return self._checked_product(left, right, x, w)

    def _checked_product(self, left: str, right: str, x: Tensor, w: Tensor) -> Tensor:
        if self._observes:
            for name, operand in ((left, x), (right, w)):
                self.seen[name].update(_rows(operand.detach()).float().cpu().numpy())
        if self._observes or not self.is_resolved:
            return x @ w.transpose(-1, -2)
        if self.is_exact:
            return self._exact(left, right, x, w)
        ranges, samples = self.ranges, len(x)
        fake = []
        for name, t in ((left, x), (right, w)):
            step = self.steps.get(name, None)
            rows = fake_quantize(self.quantizers[name], _rows(t).float(), ranges[name], step=step, samples=samples)
            fake.append(rows.view(t.shape).to(t.dtype))
        y = fake[0] @ fake[1].transpose(-1, -2)
        if self._measures and self.measurement is not None:
            self.measurement.input.add(x, fake[0])
            self.measurement.weight.add(w, fake[1])
            self.measurement.output.add(x @ w.transpose(-1, -2), y)
        return y

    def _exact(self, left: str, right: str, x: Tensor, w: Tensor) -> Tensor:
        ranges = self.ranges
        operands = [
            kernels.quantize(self.quantizers[name], _rows(t).float().contiguous(), ranges[name])
            for name, t in ((left, x), (right, w))
        ]
        m, n = x.shape[-2], w.shape[-2]
        outputs = torch.empty(math.prod(x.shape[:-2]), m, n, device=x.device)
        for i, output in enumerate(outputs):  # one product a head
            part = operands[0].take(slice(i * m, (i + 1) * m))
            stationary = Stationary(operands[1].take(slice(i * n, (i + 1) * n)))
            overflows, accumulations = kernels.outputs(self.scheme.datapath, part, stationary, output)
            self.overflows += overflows
            self.accumulations += accumulations
        return outputs.view(*x.shape[:-2], m, n).to(x.dtype)


class _Redirect(TorchFunctionMode):
    def __init__(self, attention: nn.ModuleList) -> None:
        super().__init__()
        self.attention, self.calls = attention, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.calls += 1
            return self.attention[(self.calls - 1) % len(self.attention)](*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class AttentionCaller(nn.Module):
    """A module whose calls of scaled_dot_product_attention go through `attention`, in order."""

    def __init__(self, name: str, inner: nn.Module, schemes: list[Scheme]) -> None:
        super().__init__()
        self.inner = inner
        first = f"{name}.attention" if name else "attention"
        names = [f"{first}.{i}" if i else first for i in range(len(schemes))]
        self.attention = nn.ModuleList(Attention(n, s) for n, s in zip(names, schemes, strict=True))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Redirect(self.attention):
            return self.inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # callers read fields of the module they know, such as `is_causal` or `layer_idx`
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
