"""A network under ever narrower accumulators, computed exactly: what it still gets right, and which sums overflow.

All layers have one width at a time; attention's products stay wide. Sums run along K in order, taps of a convolution
before channels. A float register has the exponents that the proved sums need and no subnormals among whole numbers, so
that only its mantissa matters; width = sign + exponent + mantissa.
"""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from bitwright import kernels
from bitwright.config import from_text
from bitwright.datapath import WIDE, Accumulator, Aligned, Datapath, Overflow
from bitwright.formats import Int, Minifloat, Rounding
from bitwright.kernels import Stationary
from bitwright.model.certify import Progress, certify_layer, without_scales
from bitwright.model.evaluate import Reference, evaluate, reference
from bitwright.model.layers import QuantizedLayer
from bitwright.model.prepare import quantize
from bitwright.model.site import naming
from bitwright.model.task import Task
from bitwright.result import NeededBits, OverflowPoint, OverflowSweep, RunInfo

MOST_BITS = 48


@dataclass(frozen=True)
class Register:
    """What is asked of an accumulator beside its width."""

    tile: int = 16  # products whose exact sum is added at once, where sums are added by tiles
    exponent_bits: int = 5  # of float registers


Place = Callable[[Register, int, int, int], Datapath | None]
"""Register, its bits, the bits that are proved enough and the exponent of a unit -> the datapath; None: no such one."""


@dataclass(frozen=True)
class Behaviour:
    """One way of a narrow register."""

    meaning: str
    place: Place
    is_float: bool = False


def _wrap(register: Register, bits: int, proved: int, unit: int) -> Datapath:
    return Datapath(Accumulator(Int(bits), Overflow.WRAP))


def _saturate(register: Register, bits: int, proved: int, unit: int) -> Datapath:
    return Datapath(Accumulator(Int(bits), Overflow.SATURATE))


def _saturate_tiles(register: Register, bits: int, proved: int, unit: int) -> Datapath:
    return Datapath(WIDE, Accumulator(Int(bits), Overflow.SATURATE), register.tile)


def _float(register: Register, bits: int, proved: int, unit: int) -> Datapath | None:
    mantissa_bits = bits - 1 - register.exponent_bits
    if not 1 <= mantissa_bits <= 23:
        return None
    top = 2**register.exponent_bits - 1  # exponent field of the largest binade, which holds the proved sums
    return Datapath(Accumulator(Minifloat(register.exponent_bits, mantissa_bits, bias=top - (proved - 1) - unit)))


def _float_products(register: Register, bits: int, proved: int, unit: int) -> Datapath | None:
    fused = _float(register, bits, proved, unit)
    return None if fused is None else replace(fused, product=fused.inner.format)


def _float_truncated(register: Register, bits: int, proved: int, unit: int) -> Datapath | None:
    fused = _float(register, bits, proved, unit)
    return None if fused is None else replace(fused, inner=replace(fused.inner, rounding=Rounding.TOWARD_ZERO))


def _float_tiles(register: Register, bits: int, proved: int, unit: int) -> Datapath | None:
    fused = _float(register, bits, proved, unit)
    return None if fused is None else Datapath(WIDE, fused.inner, register.tile)


def _aligned(register: Register, bits: int, proved: int, unit: int) -> Datapath | None:
    truncated = _float_truncated(register, bits, proved, unit)
    if truncated is None:
        return None
    products = Aligned(bits - register.exponent_bits)  # sign and mantissa of the register: 14 of E8M13
    return Datapath(WIDE, truncated.inner, register.tile, product=products)


BEHAVIOURS = {
    "wrap": Behaviour("two's complement wraps around", _wrap),
    "saturate": Behaviour("clamps after every product", _saturate),
    "saturate_tiles": Behaviour("clamps when the exact sum of {tile} products is added", _saturate_tiles),
    "float": Behaviour("E{exponent}, every sum rounded to nearest, products exact", _float, True),
    "float_products": Behaviour("E{exponent}, every product and every sum rounded to nearest", _float_products, True),
    "float_truncated": Behaviour("E{exponent}, every sum truncated, products exact", _float_truncated, True),
    "float_tiles": Behaviour("E{exponent}, rounded when the exact sum of {tile} products is added", _float_tiles, True),
    "aligned": Behaviour(
        "E{exponent}, truncated when {tile} products are added that were cut below the largest's bits", _aligned, True
    ),
}
"""By the names that the command line takes."""

DEFAULT = ("wrap", "saturate", "saturate_tiles", "float", "float_products")


def widths_of(text: str | None) -> list[int] | None:
    """12..22 and 12,14,16 as numbers, each once, widest first."""
    if text is None:
        return None
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, dots, last = part.partition("..")
            low, high = sorted((int(first), int(last))) if dots else (int(part),) * 2
            found |= set(range(low, high + 1))
    except ValueError:
        raise ValueError(f"{text!r} is no list of widths; write 12..22 or 12,14,16") from None
    return sorted(found, reverse=True)


def sweep(
    task: Task,
    scheme: str = "integer(8, 8)",
    widths: Sequence[int] | None = None,
    behaviours: Sequence[str] = DEFAULT,
    register: Register = Register(),
    *,
    samples: int | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> OverflowSweep:
    """The frozen network of a scheme, evaluated at each width under each behaviour.

    Widths None: from the one that is proved enough down to ten bits less. A scheme whose scales vary along K, and one
    whose inputs stay in float, raise ValueError.
    """
    _require(widths, behaviours, register)
    say = progress or (lambda what, done, total: None)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    say("calibration", 0, 0)
    calibration = tuple(task.calibration())
    scheme_or_recipe = from_text(scheme)
    model = quantize(task.load(), scheme_or_recipe, calibration)
    layers = _layers(model, scheme)
    against = reference(task, task.load(), samples)
    needed = needed_bits(task, model, layers, against)
    proved = max(layer.proved for layer in needed)
    names = {name: _meaning(BEHAVIOURS[name], register) for name in behaviours}
    planned = [(name, bits) for name in names for bits in widths or range(proved, max(proved - 11, 1), -1)]
    points = []
    for i, (name, bits) in enumerate(planned):
        say(name.replace("_", " "), i, len(planned))
        point = _point(task, model, layers, against, needed, (name, bits), register)
        points += [] if point is None else [point]
    if not points:
        raise ValueError(f"no register of {register.exponent_bits} exponent bits has these widths; ask for wider ones")
    info = _info(task, against, sum(len(b.targets) for b in calibration), command, started)
    return OverflowSweep(info, scheme, names, needed, tuple(points))


def needed_bits(
    task: Task, model: nn.Module, layers: Sequence[QuantizedLayer], against: Reference
) -> tuple[NeededBits, ...]:
    """Widths of all complete sums, in registers that hold them. Sums beyond 2**24 are looked at in 24 bits."""
    with _counting(layers) as counts:
        for batch, _ in against.pairs():
            task.forward(model, batch)
    found = []
    for layer in layers:
        certificate = certify_layer(layer)
        assert certificate.exact_bits is not None, "integer sums"
        bits = counts[layer.name]
        last = int(torch.nonzero(bits).max()) if bool(bits.any()) else 0
        found.append(NeededBits(layer.name, certificate.k, certificate.exact_bits, tuple(bits[1 : last + 1].tolist())))
    return tuple(found)


@contextmanager
def _counting(layers: Sequence[QuantizedLayer]) -> Iterator[dict[str, Tensor]]:
    counts = {layer.name: torch.zeros(MOST_BITS + 1, dtype=torch.int64) for layer in layers}

    def note(layer: QuantizedLayer, arguments: tuple[Tensor, ...]) -> None:
        with naming(layer.name):
            for part in arguments[0].float().split(32):
                bits = bits_of(_complete_sums(layer, part))
                counts[layer.name] += torch.bincount(bits.flatten(), minlength=MOST_BITS + 1)[: MOST_BITS + 1]

    with ExitStack() as stack:
        for layer in layers:
            hook: Any = layer.register_forward_pre_hook(note)
            stack.callback(hook.remove)
        yield counts


def bits_of(sums: Tensor) -> Tensor:
    """Width of the smallest two's complement register that holds each whole number."""
    magnitude = torch.where(sums < 0, -sums - 1, sums)
    return torch.frexp(magnitude).exponent.long().clamp(min=0, max=MOST_BITS - 1) + 1


@torch.no_grad()
def _complete_sums(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """Sums in units: the layer's product with every scale one."""
    assert layer.input_quantizer is not None, "quantized input"
    rows = layer.lowering.input_rows(x).contiguous()
    bare = without_scales(kernels.quantize(layer.input_quantizer, rows, layer.input_ranges))
    weight = layer.stationary()
    w = Stationary(without_scales(weight.operand), weight.kernel)
    return layer.lowering.exact(Datapath(WIDE), bare, x, w).values.double() * 2.0 ** -(bare.unit + w.operand.unit)


def _point(
    task: Task,
    model: nn.Module,
    layers: Sequence[QuantizedLayer],
    against: Reference,
    needed: Sequence[NeededBits],
    case: tuple[str, int],
    register: Register,
) -> OverflowPoint | None:
    """The network with this register in every layer; None where it cannot be built."""
    name, bits = case
    behaviour = BEHAVIOURS[name]
    started = time.perf_counter()
    for layer, need in zip(layers, needed, strict=True):
        datapath = behaviour.place(register, bits, need.proved, _unit(layer))
        if datapath is None:
            return None
        layer.scheme = replace(layer.scheme, datapath=datapath)
    found = evaluate(task, model, against)
    changed, sums = [layer.overflows for layer in layers], [sum(need.counts) for need in needed]
    return OverflowPoint(
        name, bits, found.metric, found.agreement, None if behaviour.is_float else sum(changed) / sum(sums),
        () if behaviour.is_float else tuple(c / s for c, s in zip(changed, sums, strict=True)),
        time.perf_counter() - started,
    )  # fmt: skip


def _layers(model: nn.Module, scheme: str) -> list[QuantizedLayer]:
    layers = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
    if any(layer.input_quantizer is None for layer in layers):
        raise ValueError(f"{scheme} leaves inputs in float, so no register holds integers; quantize the inputs too")
    for layer in layers:
        assert layer.input_quantizer is not None, "asked before"
        fitted = layer.lowering.along_k(layer.input_quantizer, layer.weight_shape)
        if any(q.scales[-1].share.splits_k for q in (fitted, layer.weight_quantizer)):
            raise ValueError(
                f"{scheme} has scales that vary along K, so layer {layer.name} has no sum of all its products; "
                "choose scales per row or tensor, as integer(8, 8) has"
            )
        layer.scheme = replace(layer.scheme, datapath=Datapath(WIDE))
    return layers


def _unit(layer: QuantizedLayer) -> int:
    assert layer.input_quantizer is not None, "quantized input"
    formats = (layer.input_quantizer.format, layer.weight_quantizer.format)
    return sum(format.bounds().exponent.start for format in formats)


def _meaning(behaviour: Behaviour, register: Register) -> str:
    return behaviour.meaning.format(tile=register.tile, exponent=register.exponent_bits)


def _require(widths: Sequence[int] | None, behaviours: Sequence[str], register: Register) -> None:
    unknown = [name for name in behaviours if name not in BEHAVIOURS]
    if unknown:
        raise ValueError(f"there is no behaviour {unknown[0]!r}; choose from {', '.join(BEHAVIOURS)}")
    if widths is not None and (not widths or not all(2 <= bits <= MOST_BITS for bits in widths)):
        raise ValueError(f"widths {min(widths, default=0)} to {max(widths, default=0)} found; 2 to {MOST_BITS} do")
    if not 1 <= register.exponent_bits <= 8:
        raise ValueError(f"{register.exponent_bits} exponent bits found; a float register has 1 to 8")


def _info(task: Task, against: Reference, calibration_samples: int, command: str, started: str) -> RunInfo:
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("bitwright", "numpy", "torch")}
    parameters = sum(p.numel() * p.element_size() for p in task.load().parameters())
    return RunInfo(
        task=task.name, model_source=task.source, data_source=task.data_source, metric=task.metric.name,
        metric_unit=task.metric.unit, higher_is_better=task.metric.higher_is_better, float_metric=against.metric,
        float_bytes=parameters, samples=against.samples, calibration_samples=calibration_samples, seed=0,
        evaluation="exact", command=command, started=started, hashes={}, versions=versions,
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}",
    )  # fmt: skip
