"""The two layers of a quantized model: one that learns and simulates, one that computes as the hardware does."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from bitwright import kernels
from bitwright.datapath import Certificate
from bitwright.formats import Rounding
from bitwright.kernels import Operand, Stationary
from bitwright.model.lowering import Lowering, Output, Sums
from bitwright.model.register import Readout, static_scale
from bitwright.model.site import Probe, Site, naming
from bitwright.model.stored import store_, stored
from bitwright.model.surrogate import FakeQuantizer, Ranges, Rows, can_learn, learned_ranges
from bitwright.model.weight_norm import LearnedNorm, Start, norm_bound
from bitwright.quantization import QuantizedTensor, Quantizer, Statistics
from bitwright.scheme import Scheme

AT_A_TIME = 1 << 20
"""Input elements that an exact layer works on at a time, whole samples at least: bounds memory at any batch size."""


class FakeQuantizedLayer(Site):
    """A layer in float whose operands are rounded to what the scheme can represent, with statistics to calibrate it.

    Before `resolve` it computes in float. `weight` and `bias` keep their names, so checkpoints fit. Where a gradient is
    asked for, it is the surrogate's (`bitwright.model.surrogate`).
    """

    _fake_weight: Tensor | None

    def __init__(self, layer: nn.Module, lowering: Lowering, scheme: Scheme) -> None:
        super().__init__()
        self.weight: nn.Parameter = layer.weight  # type: ignore[assignment]
        self.bias: nn.Parameter | None = layer.bias  # type: ignore[assignment]
        self.lowering, self.scheme, self.name = lowering, scheme, ""
        self.seen: Statistics | None = None
        self.input_quantizer: Quantizer | None = None
        self.weight_quantizer: Quantizer | None = None
        self._input_ranges: Ranges = ()  # before any is learned
        self._weight_ranges: Ranges = ()
        self._fake_quantizers: dict[str, FakeQuantizer] = {}
        self.sample_shape: torch.Size | None = None
        self.register_buffer("_fake_weight", None, persistent=False)
        self.norm: LearnedNorm | None = None  # where the weight's norm and scale are learned under a bound
        self.readout = Readout()
        self._derived_from: tuple[object, ...] = ()  # versions of what the weight is made from, and its quantizer
        self.register_load_state_dict_post_hook(lambda module, keys: module.forget())

    def forget(self) -> None:
        """Drop what was derived from the weight."""
        self._fake_weight = None

    def no_statistics(self) -> Statistics:
        return Statistics(passes=kernels.PASSES)

    @torch.no_grad()
    def resolve(self, seen: Statistics | None) -> None:
        """Choose formats and ranges from the input's statistics and the weight itself."""
        weight = self.weight.detach().float()
        fitted = self.lowering.fit_weight(self.scheme.weight, weight)
        rows = self.lowering.weight_rows(weight, fitted.alignment).cpu().numpy()
        weights = Statistics.of(rows, kernels.PASSES)
        self.weight_quantizer = fitted.fit(weights, kernels.squared_errors)
        if self.scheme.input is None and norm_bound(self.weight_quantizer.format) is not None:
            raise ValueError(
                f"{self.weight_quantizer.format} bounds sums of integers, but the input stays in float and has none; "
                "give the scheme an input quantizer, such as that of a2q(4, 8, accumulator_bits=16)"
            )
        self._weight_ranges = self.weight_quantizer.estimate(weights, kernels.squared_errors)
        if self.scheme.input is not None:
            if seen is None or not seen.count:
                raise ValueError("no calibration data reached this layer; pass batches that run through it")
            chosen = self.lowering.fit_input(self.scheme.input, weight)
            self.input_quantizer = chosen.fit(seen, kernels.squared_errors)
            self._input_ranges = self.input_quantizer.estimate(seen, kernels.squared_errors)
        self.steps.clear()
        self.norm = None
        self.forget()
        self.fake_weight()

    @torch.no_grad()
    def learn_norm(self, start: Start) -> bool:
        """Learn norm and scale of a weight whose format bounds its norm, from now on; False where there is no bound."""
        quantizer = self.weight_quantizer
        assert quantizer is not None, "resolved before"
        bound = norm_bound(quantizer.format)
        if bound is None or self.norm is not None:
            return bound is not None
        if not can_learn(quantizer, self.weight_ranges):
            raise ValueError(
                "a norm is learned together with one static float32 scale; give the weight no other scales"
            )
        self.weight_quantizer = replace(quantizer, rounding=Rounding.NEAREST_EVEN)  # of rows that are on their grid
        magnitude = torch.from_numpy(self.weight_ranges[0].magnitude)  # type: ignore[union-attr]  # asked before
        rows = self.lowering.weight_rows(self.weight.float(), self.block)
        scale = (magnitude / quantizer.format.full_scale).expand(len(rows), 1)
        direction, norm = start(rows, scale, bound)
        self.weight.copy_(self.lowering.weight_from_rows(direction, self.weight.shape, self.block))
        self.norm = LearnedNorm(norm, scale, bound, quantizer.format.full_scale)
        if "weight" in self.steps:  # the norm brings its own scale
            del self.steps["weight"]
        return True

    def follow(self, seen: Statistics) -> None:
        """Estimate the input's static ranges anew; its format and learned ranges stay."""
        if self.input_quantizer is not None:
            self._input_ranges = self.input_quantizer.estimate(seen, kernels.squared_errors)

    @property
    def calibrated(self) -> dict[str, Ranges]:  # type: ignore[override]  # derived, so read-only
        """Static ranges by operand, before any is learned."""
        return {"input": self._input_ranges, "weight": self._weight_ranges}

    def pin(self, operand: str, ranges: Ranges) -> None:
        """Set the static ranges of "input" or "weight"; a learned range stays."""
        if operand == "input":
            self._input_ranges = ranges
        else:
            self._weight_ranges = ranges
        self.forget()

    @property
    def quantizers(self) -> dict[str, Quantizer]:  # type: ignore[override]  # derived, so read-only
        """Of the operands that are quantized."""
        both = {"input": self.input_quantizer, "weight": self.weight_quantizer}
        return {operand: quantizer for operand, quantizer in both.items() if quantizer is not None}

    @property
    def input_ranges(self) -> Ranges:
        """Static ranges of the input's levels, learned or calibrated; None where a range follows the data."""
        return self._learned("input", self.input_quantizer, self._input_ranges)

    @property
    def weight_ranges(self) -> Ranges:
        """As `input_ranges`, of the weight."""
        if self.norm is not None:
            return self.norm.ranges()
        return self._learned("weight", self.weight_quantizer, self._weight_ranges)

    @property
    def block(self) -> int:
        """Channels that a weight row is padded to a multiple of."""
        return 1 if self.weight_quantizer is None else self.weight_quantizer.alignment

    @property
    def is_resolved(self) -> bool:
        return self.weight_quantizer is not None

    def forward(self, x: Tensor) -> Tensor:
        if self._observes and self.seen is not None:
            with naming(self.name):
                self.seen.update(self.lowering.input_rows(x.detach()).float().cpu().numpy())
        if not self.is_resolved or self._observes:
            return self.lowering.add_bias(self.lowering.forward(x, self.real_weight()), self.bias)
        with naming(self.name):
            fake_input, fake_weight = self._fake_input(x), self.fake_weight()
        reads = self.scheme.input is not None and self.scheme.datapath.inner.readout is not None
        if not reads and not self._measures:
            return self.lowering.forward(fake_input, fake_weight, self.bias)
        y = self.lowering.forward(fake_input, fake_weight)
        if reads:
            y = self.readout(y, self.lowering.per_output(self.unit(), y), self.scheme.datapath.inner)
        if self._measures:
            self.sample_shape = x.shape
            self._measure(x, fake_input, y)
        return self.lowering.add_bias(y, self.bias)

    def unit(self) -> Tensor:
        """What one integer of the inner register stands for, [outputs or 1]. Scales along K raise ValueError."""
        with naming(self.name):
            of_input = static_scale(self.input_quantizer, self.input_ranges, self._step("input"), 1)
            rows = len(self.weight)
            return of_input * static_scale(self.weight_quantizer, self.weight_ranges, self._step("weight"), rows)

    def fake_weight(self) -> Tensor:
        """The weight as its codes represent it: with a gradient while training, derived once a change otherwise."""
        sources = self._weight_sources()
        if any(p.requires_grad for p in sources) and torch.is_grad_enabled() and not torch.compiler.is_exporting():
            self.forget()  # a fused optimizer's step leaves the versions as they are
            return self._represented_weight()
        is_traced = torch.compiler.is_compiling()  # tensors that stand in for the weights have no history
        source = (*[p._version for p in sources], self.weight_quantizer)
        if self._fake_weight is None or (self._derived_from != source and not is_traced):
            with torch.no_grad():
                self._fake_weight = self._represented_weight()
            self._derived_from = source
        return self._fake_weight

    def source_rows(self) -> Tensor:
        """The weight [outputs, K] that is to be quantized; on its grid already where its norm is learned."""
        rows = self.lowering.weight_rows(self.weight.float(), self.block)
        return rows if self.norm is None else self.norm(rows)

    def real_weight(self) -> Tensor:
        """The weight before it is rounded."""
        if self.norm is None:
            return self.weight
        rows = self.norm.real(self.lowering.weight_rows(self.weight.float(), self.block))
        return self.lowering.weight_from_rows(rows, self.weight.shape, self.block).to(self.weight)

    def scale_parameters(self) -> tuple[nn.Parameter, ...]:
        return (*super().scale_parameters(), *(() if self.norm is None else self.norm.parameters()))

    def _weight_sources(self) -> tuple[Tensor, ...]:
        """Parameters that the represented weight is made from."""
        step = self._step("weight")
        learned = () if step is None else (step,)
        return self.weight, *learned, *(() if self.norm is None else self.norm.parameters())

    def _represented_weight(self) -> Tensor:
        assert self.weight_quantizer is not None, "resolved before"
        block = self.block
        rows = Rows(
            lambda w: self.lowering.weight_rows(w, block),
            lambda w, like: self.lowering.weight_from_rows(w, like.shape, block),
        )
        if self.norm is not None:
            return self.norm(self.weight, rows)
        fake = self._fake_quantizer("weight", self.weight_quantizer, self._weight_ranges)
        if fake.is_elementwise:
            rows = Rows(lambda w: w.flatten(1), lambda w, like: w.view(like.shape))
        return fake(self.weight, rows, step=self._step("weight"))

    def _fake_input(self, x: Tensor) -> Tensor:
        if self.input_quantizer is None:
            return x
        fake = self._fake_quantizer("input", self.input_quantizer, self._input_ranges)
        rows = Rows(self.lowering.input_rows, self.lowering.input_from_rows)
        return fake(x, rows, step=self._step("input"), samples=len(x))

    def _fake_quantizer(self, operand: str, quantizer: Quantizer, ranges: Ranges) -> FakeQuantizer:
        """Made anew where the quantizer or the calibrated ranges are others."""
        made = self._fake_quantizers.get(operand)
        if made is None or made.quantizer is not quantizer or made.ranges is not ranges:
            made = self._fake_quantizers[operand] = FakeQuantizer(quantizer, ranges)
        return made

    def _step(self, operand: str) -> Tensor | None:
        return self.steps.get(operand, None)

    def _learned(self, operand: str, quantizer: Quantizer | None, ranges: Ranges) -> Ranges:
        step = self._step(operand)
        return ranges if step is None or quantizer is None else learned_ranges(quantizer, step)

    @torch.no_grad()
    def _measure(self, x: Tensor, fake_input: Tensor, y: Tensor) -> None:
        assert self.measurement is not None, "measuring"
        m = self.measurement
        m.input.add(x, fake_input)
        limit = _largest(self.input_quantizer, self.input_ranges)
        m.input.clipped += int((x.abs() > limit).sum()) if limit is not None else 0
        weight = self.real_weight()
        m.output.add(self.lowering.forward(x, weight), y)
        if not m.weight.count:
            m.weight.add(weight, self.fake_weight())
            m.weight.clipped = int((self.fake_weight().abs() < weight.abs()).logical_and(_at_end(self)).sum())


class QuantizedLayer(nn.Module):
    """A frozen layer: codes and scales, multiplied through the datapath with every register as wide as it really is."""

    codes: Tensor
    zero_points: Tensor | None  # of weights quantized elsewhere
    bias: Tensor | None

    def __init__(self, source: FakeQuantizedLayer, weight: QuantizedTensor, certificate: Certificate | None) -> None:
        super().__init__()
        self.lowering, self.scheme = source.lowering, source.scheme
        self.input_quantizer, self.input_ranges = source.input_quantizer, source.input_ranges
        self.weight_quantizer, self.weight_shape = weight.quantizer, source.weight.shape
        self.k, self.certificate, self.name = weight.k, certificate, source.name
        store_(self, weight)
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().clone())
        self.overflows = self.accumulations = 0
        self._stationary: dict[tuple[Quantizer, torch.device], Stationary] = {}
        self.register_load_state_dict_post_hook(_forget)

    is_resolved = True

    def forget(self) -> None:
        """Drop what was derived from the codes."""
        self._stationary = {}

    def quantized_weight(self) -> QuantizedTensor:
        """The weight's codes and scale codes."""
        return stored(self, self.weight_quantizer, self.k)

    def stationary(self) -> Stationary:
        """The weight as the kernels take it."""
        made_for = self.weight_quantizer, self.codes.device
        if made_for not in self._stationary:
            kernel = self.lowering.kernel(torch.empty(self.weight_shape))
            operand = Operand.of(self.quantized_weight()).to(self.codes.device)
            self._stationary[made_for] = Stationary(operand, kernel)
        return self._stationary[made_for]

    @property
    def weight(self) -> Tensor:
        """Decoded, in the float layer's shape: some networks ask a layer of theirs for it."""
        rows = self.stationary().operand.decode()
        return self.lowering.weight_from_rows(rows, self.weight_shape, self.weight_quantizer.alignment)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if self.input_quantizer is None:
            return self.lowering.add_bias(self.lowering.forward(x, self.weight.to(x)), self.bias)
        x = x.detach()
        images = len(x) if self._shares_dynamic_ranges() else AT_A_TIME * len(x) // max(x.numel(), 1)
        values = self.lowering.empty(x, self.stationary())
        for start in range(0, len(x), max(images, 1)):
            part = slice(start, start + max(images, 1))
            sums = self.sums(x[part].float(), Output(values[part], self.bias))
            self.overflows += sums.overflows
            self.accumulations += sums.accumulations
        return values.to(x.dtype)

    def sums(self, x: Tensor, output: Output | None = None) -> Sums:
        """The output; without its bias where there is no `output` to say it."""
        assert self.input_quantizer is not None, "quantized input"
        with naming(self.name):
            rows = self.lowering.input_rows(x).contiguous()
            operand = kernels.quantize(self.input_quantizer, rows, self.input_ranges)
            return self.lowering.exact(self.scheme.datapath, operand, x, self.stationary(), output)

    def _shares_dynamic_ranges(self) -> bool:
        """Whether a scale set from the input at hand serves several samples, so that all must be seen at once."""
        assert self.input_quantizer is not None, "quantized input"
        scales = self.input_quantizer.scales
        ranges = (*self.input_ranges, *[None] * (len(scales) - len(self.input_ranges)))
        return any(r is None and s.share.cell(2, self.k)[0] > 1 for s, r in zip(scales, ranges, strict=True))


class QuantizedEmbedding(nn.Module):
    """Rows of a table, stored as codes: weight only, no arithmetic. `weight` [rows, k] is derived from them."""

    codes: Tensor
    weight: Tensor

    def __init__(self, layer: nn.Embedding, scheme: Scheme) -> None:
        super().__init__()
        self.scheme, self.padding_idx, self.name = scheme, layer.padding_idx, ""
        table = Statistics.of(layer.weight.detach().float().cpu().numpy(), kernels.PASSES)
        self.weight_quantizer = scheme.weight.fit(table, kernels.squared_errors)
        ranges = self.weight_quantizer.estimate(table, kernels.squared_errors)
        quantized = self.weight_quantizer.quantize(table.sample, ranges)
        self.k = quantized.k
        store_(self, quantized)
        self.register_buffer("weight", torch.from_numpy(quantized.decode()).to(layer.weight), persistent=False)
        self.measurement = Probe()
        self.measurement.add(layer.weight.detach(), self.weight)
        self.register_load_state_dict_post_hook(_forget)

    @property
    def quantized(self) -> QuantizedTensor:
        """The table's codes and scale codes; when they are set, `weight` is derived anew."""
        return stored(self, self.weight_quantizer, self.k)

    @quantized.setter
    def quantized(self, table: QuantizedTensor) -> None:
        self.weight_quantizer, self.k = table.quantizer, table.k
        store_(self, table)
        self.forget()

    def forget(self) -> None:
        """Derive the table from its codes anew."""
        self.weight.copy_(torch.from_numpy(self.quantized.decode()))

    def forward(self, index: Tensor) -> Tensor:
        return nn.functional.embedding(index, self.weight, self.padding_idx)


def _largest(quantizer: Quantizer | None, ranges: Ranges) -> float | None:
    """Magnitude beyond which a static range clips; None where ranges follow the data."""
    if quantizer is None or not ranges or ranges[0] is None or len(quantizer.scales) > 1:
        return None
    return float(ranges[0].magnitude.max())


def _at_end(layer: FakeQuantizedLayer) -> Tensor:
    """Weights whose code is one of the ends of their format."""
    assert layer.weight_quantizer is not None, "resolved before"
    operand = kernels.quantize(layer.weight_quantizer, layer.source_rows(), layer.weight_ranges)
    bounds = layer.weight_quantizer.format.bounds()
    end = ((operand.elements >= bounds.highest) | (operand.elements <= bounds.lowest)).flatten(1)[:, : operand.k]
    return layer.lowering.weight_from_rows(end, layer.weight.shape, layer.block)


def _forget(layer: QuantizedLayer | QuantizedEmbedding, keys: object) -> None:
    layer.forget()
