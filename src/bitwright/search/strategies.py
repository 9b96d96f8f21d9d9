"""Published procedures that choose a width for each layer, as they were described."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import numpy as np
import torch

from bitwright.cost.widths import alternatives
from bitwright.datapath import Overflow
from bitwright.formats import Int
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.quantization import PerRow, PerTensor
from bitwright.scheme import Scheme
from bitwright.search.allocate import Program
from bitwright.search.budget import Limit
from bitwright.search.candidates import Candidates
from bitwright.search.point import Design, Machine
from bitwright.search.prices import Prices
from bitwright.search.sensitivity import Call, Damages, seeing

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
"""MixQuant's candidates."""

MULTIPLIERS = tuple((255 / (2**bits - 1)) ** 2 for bits in WIDTHS[-2:0:-1])
"""Of the error at 8 bits (QEM): one design each.

Squares of the ratios of steps: only near them does the rule tell layers apart, between them all get one width.
"""

PROMOTIONS = 12
"""Designs of ANT4-8, from none to all of the layers at 8 bits."""

REPEATS = 5
"""Timed runs of a layer, of which the median counts."""


def mixquant_widths(weights: Sequence[np.ndarray], multiplier: float, widths: Sequence[int] = WIDTHS) -> list[int]:
    """Bits of each weight tensor: the fewest whose squared round-off error is at most `multiplier` times that at 8.

    Asymmetric, one scale a tensor. Kloberdanz and Le, arXiv 2309.17341.
    """
    if multiplier < 1:
        raise ValueError(f"a multiplier of {multiplier:g} found; it is at least 1, the error of 8 bits itself")
    found = []
    for weight in weights:
        allowed = multiplier * _round_off(weight, 8)
        found.append(next((bits for bits in sorted(widths) if _round_off(weight, bits) <= allowed), max(widths)))
    return found


def _round_off(weight: np.ndarray, bits: int) -> float:
    """Mean squared error of quantizing and back."""
    low, high = float(weight.min()), float(weight.max())
    scale = (high - low) / (2**bits - 1)
    if scale == 0:
        return 0.0
    zero = np.round(-low / scale)
    codes = np.clip(np.round(weight / scale) + zero, 0, 2**bits - 1)
    return float(np.mean((weight - (codes - zero) * scale) ** 2))


def mixquant(candidates: Candidates, machine: Machine) -> list[Design]:
    """A design for each of MULTIPLIERS: each layer's scheme is the integer one of its width, or the next wider one.

    None where no scheme is of integers.
    """
    if not integers(candidates):
        return []
    return [_by_widths(candidates, mixquant_widths(_weights(candidates), m), machine) for m in MULTIPLIERS]


def ant4_8(candidates: Candidates, damages: Damages, machine: Machine) -> list[Design]:
    """ANT4-8: 4-bit types everywhere, and the most damaged layers at 8-bit integers, more of them in each design.

    At most PROMOTIONS designs; none where no scheme chooses a 4-bit type for each tensor, or none is of 8-bit integers.
    """
    narrow = next((t for t, scheme in candidates.schemes.items() if chooses_types(scheme, 4)), None)
    wide = next((t for t, scheme in candidates.schemes.items() if integer_bits(scheme) == (8, 8)), None)
    if narrow is None or wide is None:
        return []
    names = [n for n in candidates.names if {narrow, wide} <= set(candidates.choices[n])]
    ranked = sorted(names, key=lambda name: -damages[name, narrow])
    base = {name: narrow if narrow in texts else texts[0] for name, texts in candidates.choices.items()}
    counts = sorted({round(part) for part in np.linspace(0, len(ranked), PROMOTIONS)})
    promoted = [base | dict.fromkeys(ranked[:count], wide) for count in counts]
    return [Design(tuple(chosen.items()), machine) for chosen in promoted]


def ohq(
    prices: Prices, damages: Damages, machine: Machine, *, weights: tuple[float, float, float] = (1.0, 0.5, 0.5),
    sizes: Sequence[float] = (0.5, 0.625, 0.75, 0.875), times: Damages | None = None, limits: Sequence[Limit] = (),
) -> list[Design]:  # fmt: skip
    """OHQ: integer programs of damage, latency and energy, each over its largest, within parts of the largest size.

    `damages` are its masked-KL estimate; `times` are of `latencies`, of the cycle model where None; `limits` on delay,
    cycles and energy hold besides. Huang et al., arXiv 2309.01945; the weights of the three are not published.
    """
    candidates = prices.candidates
    choices = [(i, t) for i, name in enumerate(candidates.names) for t in candidates.choices[name]]
    macs = prices.elements(candidates.widest_work(candidates.schemes))
    sums = [prices.of_layer(machine, macs[text], candidates.names[i], text) for i, text in choices]
    of_each = [(candidates.names[i], text) for i, text in choices]
    latency = [times[pair] if times else one.cycles for pair, one in zip(of_each, sums, strict=True)]
    terms = np.array([[damages[pair] for pair in of_each], latency, [one.energy for one in sums]])
    cost = np.array(weights) @ (terms / np.maximum(terms.max(1, keepdims=True), 1e-30))
    model = np.array([one.model for one in sums])
    layers = np.array([i for i, _ in choices])
    widest = sum(model[layers == i].max() for i in range(len(candidates.names)))
    able = [limit for limit in limits if limit.quantity in ("energy", "cycles", "delay")]
    costs = np.array([model, *([getattr(one, limit.quantity) for one in sums] for limit in able)])
    found = []
    for size in sizes:
        bounds = np.array([size * widest, *(limit.bound for limit in able)])
        solved = Program(candidates.names, tuple(choices), cost, costs, bounds).solve()
        if solved is not None:
            found.append(Design(tuple(solved[0].items()), machine))
    return found


@torch.no_grad()
def latencies(candidates: Candidates, say: Callable[[str, int, int], None] = lambda *_: None) -> Damages:
    """Seconds that this machine's integer kernels take for each layer under each scheme, the median of some runs."""
    batch = candidates.bench.calibration[0].first(1)
    with seeing(candidates.float_layers) as seen:
        candidates.task.forward(candidates.frozen({}), batch)
    found: Damages = {}
    for i, (name, texts) in enumerate(candidates.choices.items()):
        say("latencies", i, len(candidates.choices))
        for text in texts:
            layer = candidates.layer(name, text).exact
            found[name, text] = sum(_seconds(call, layer) for call in seen.get(name, []))
    return found


def _seconds(call: Call, layer: torch.nn.Module) -> float:
    call.again(layer)
    times = []
    for _ in range(REPEATS):
        started = perf_counter()
        call.again(layer)
        times.append(perf_counter() - started)
    return median(times)


def _weights(candidates: Candidates) -> list[np.ndarray]:
    layers = (candidates.float_layers[name] for name in candidates.names)
    return [layer.weight.detach().float().numpy() for layer in layers if isinstance(layer, FakeQuantizedLayer)]


def _by_widths(candidates: Candidates, widths: Sequence[int], machine: Machine) -> Design:
    """The scheme whose weights have the width, of integer schemes, or the narrowest of the wider ones."""
    known = integers(candidates)
    layered = dict(zip(_weighted(candidates), widths, strict=True))
    chosen = {}
    for name, texts in candidates.choices.items():
        able = [(bits, text) for bits, text in known if text in texts]
        wanted = layered.get(name, 8)
        chosen[name] = next((text for bits, text in able if bits >= wanted), able[-1][1] if able else texts[0])
    return Design(tuple(chosen.items()), machine)


def integers(candidates: Candidates) -> list[tuple[int, str]]:
    """Widths of weights and texts of schemes of integers, the narrowest first."""
    widths = {text: integer_bits(scheme) for text, scheme in candidates.schemes.items()}
    return sorted((bits[0], text) for text, bits in widths.items() if bits)


def integer_bits(scheme: Scheme) -> tuple[int, int] | None:
    """Of weights and inputs, where both are integers with one scale a tensor or row, and no sum overflows."""
    sides = [alternatives(side) for side in (scheme.weight, scheme.input) if side is not None]
    every = [quantizer for side in sides for quantizer in side]
    is_plain = all(isinstance(q.format, Int) and len(q.scales) == 1 for q in every)
    is_coarse = is_plain and all(isinstance(q.scales[0].share, PerTensor | PerRow) for q in every)
    if len(sides) < 2 or not is_coarse or scheme.datapath.inner.overflow is not Overflow.FORBID:
        return None
    weight, inputs = (max(q.format.bits for q in side) for side in sides)
    return weight, inputs


def chooses_types(scheme: Scheme, bits: int) -> bool:
    """Whether weights are of the best of several formats, and these and those of inputs have so many bits."""
    if scheme.input is None:
        return False
    weights = {quantizer.format for quantizer in alternatives(scheme.weight)}
    inputs = {quantizer.format for quantizer in alternatives(scheme.input)}
    return len(weights) > 1 and {format.bits for format in weights | inputs} == {bits}


def _weighted(candidates: Candidates) -> list[str]:
    return [n for n in candidates.names if isinstance(candidates.float_layers[n], FakeQuantizedLayer)]
