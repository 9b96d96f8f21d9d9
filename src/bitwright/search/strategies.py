"""Published procedures that choose a width for each layer, as they were described."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import numpy as np
import torch

from bitwright.config import from_text
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.scheme import Scheme
from bitwright.search.allocate import Program
from bitwright.search.candidates import Candidates
from bitwright.search.point import Design, Machine
from bitwright.search.prices import Prices
from bitwright.search.sensitivity import Damages, seeing

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
"""MixQuant's candidates."""

MULTIPLIERS = (2.0, 5.0, 20.0, 100.0, 1000.0)
"""Of the error at 8 bits (QEM): one design each."""

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
    """A design for each of MULTIPLIERS: each layer's scheme is the integer one of its width, or the next wider one."""
    return [_by_widths(candidates, mixquant_widths(_weights(candidates), m), machine) for m in MULTIPLIERS]


def ant4_8(candidates: Candidates, damages: Damages, machine: Machine) -> list[Design]:
    """ANT4-8: ant(4, 4) everywhere, and the most damaged layers at 8 bits, more in each of up to PROMOTIONS designs."""
    narrow = next((t for t in candidates.schemes if t.startswith("ant(4")), None)
    wide = next((t for t in candidates.schemes if t in ("ant(8, 8)", "integer(8, 8)")), None)
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
    sizes: Sequence[float] = (0.5, 0.625, 0.75, 0.875), times: Damages | None = None,
) -> list[Design]:  # fmt: skip
    """OHQ: integer programs of damage, latency and energy, each over its largest, within parts of the largest size.

    `damages` are its masked-KL estimate; `latencies` of `latencies`, of the cycle model where None. Huang et
    al., arXiv 2309.01945; the weights of the three are not published.
    """
    candidates = prices.candidates
    choices = [(i, t) for i, name in enumerate(candidates.names) for t in candidates.choices[name]]
    macs = prices.elements(candidates.widest_work(candidates.schemes))
    columns = np.zeros((4, len(choices)))
    for column, (i, text) in enumerate(choices):
        name = candidates.names[i]
        sums = prices.of_layer(machine, macs[text], name, text)
        latency = times[name, text] if times else sums.cycles
        columns[:, column] = damages[name, text], latency, sums.energy, sums.model
    normal = columns[:3] / np.maximum(columns[:3].max(1, keepdims=True), 1e-30)
    cost = np.array(weights) @ normal
    widest = sum(max(columns[3, c] for c, (j, _) in enumerate(choices) if j == i) for i in range(len(candidates.names)))
    found = []
    for size in sizes:
        made = Program(candidates.names, tuple(choices), cost, columns[3:], np.array([size * widest]))
        solved = made.solve()
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
            layer, inputs = candidates.layer(name, text).exact, [x for x, _ in seen.get(name, [])]
            found[name, text] = sum(_seconds(layer, x) for x in inputs)
    return found


def _seconds(layer: torch.nn.Module, x: torch.Tensor) -> float:
    layer(x)
    times = []
    for _ in range(REPEATS):
        started = perf_counter()
        layer(x)
        times.append(perf_counter() - started)
    return median(times)


def _weights(candidates: Candidates) -> list[np.ndarray]:
    layers = (candidates.float_layers[name] for name in candidates.names)
    return [layer.weight.detach().float().numpy() for layer in layers if isinstance(layer, FakeQuantizedLayer)]


def _by_widths(candidates: Candidates, widths: Sequence[int], machine: Machine) -> Design:
    """The scheme whose weights have the width, of integer schemes, or the narrowest of the wider ones."""
    known = integers(candidates)
    if not known:
        raise ValueError("MixQuant chooses widths of integers; name integer schemes, such as integer(4, 8)")
    layered = dict(zip(_weighted(candidates), widths, strict=True))
    chosen = {}
    for name, texts in candidates.choices.items():
        able = [(bits, text) for bits, text in known if text in texts]
        wanted = layered.get(name, 8)
        chosen[name] = next((text for bits, text in able if bits >= wanted), able[-1][1] if able else texts[0])
    return Design(tuple(chosen.items()), machine)


def integers(candidates: Candidates) -> list[tuple[int, str]]:
    """Widths of weights and texts of integer schemes, the narrowest first."""
    return sorted((_weight_bits(text), text) for text in candidates.schemes if text.startswith("integer("))


def _weighted(candidates: Candidates) -> list[str]:
    return [n for n in candidates.names if isinstance(candidates.float_layers[n], FakeQuantizedLayer)]


def _weight_bits(text: str) -> int:
    scheme = from_text(text)
    assert isinstance(scheme, Scheme)
    return scheme.weight.format.bits  # type: ignore[union-attr]


STRATEGIES = ("mixquant", "ohq", "ant4_8")
