"""Limits in physical units, as a command line has them: "area<=0.5mm2, top1>=0.69"."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from bitwright.recipe import nearest
from bitwright.search.point import Costs


class Unit(NamedTuple):
    """What a limit's number is multiplied by to be in the unit of `Costs`."""

    field: str
    factors: dict[str, float]


_MM2 = {"mm2": 1.0, "mm²": 1.0, "um2": 1e-6, "µm2": 1e-6, "um²": 1e-6, "µm²": 1e-6}
_UJ = {"uJ": 1.0, "µJ": 1.0, "mJ": 1e3, "nJ": 1e-3, "pJ": 1e-6, "J": 1e6}
_MS = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}
_BYTES = {"": 1.0, "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}

QUANTITIES = {
    "area": Unit("area_mm2", _MM2),
    "array": Unit("array_mm2", _MM2),
    "energy": Unit("energy_uj", _UJ),
    "delay": Unit("delay_ms", _MS),
    "cycles": Unit("cycles", {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}),
    "model": Unit("model_bytes", _BYTES),
    "accumulator": Unit("accumulator_bits", {"": 1.0, "bit": 1.0, "bits": 1.0}),
}
"""What may be limited, less the metric."""

_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_LIMIT = re.compile(rf"([A-Za-z_][\w-]*)\s*(<=|>=|<|>)\s*{_NUMBER}\s*([A-Za-zµ]*[2²]?|%)")
METRIC, DROP = "metric", "drop"
ALIASES = {"latency": "delay", "bytes": "model", "size": "model"}


@dataclass(frozen=True)
class Quality:
    """What a network is measured by."""

    name: str = "top-1 accuracy"
    is_per_cent: bool = True
    higher_is_better: bool = True

    @property
    def words(self) -> tuple[str, ...]:
        """By which a limit may call it: any of its name's, in small letters and digits alone."""
        own = (re.sub(r"[\W_]", "", word.lower()) for word in self.name.split())
        return (METRIC, *(word for word in own if word))


@dataclass(frozen=True)
class Limit:
    """At most, or at least, so much of a quantity."""

    quantity: str  # a name of QUANTITIES, "metric" or "drop" (what the metric loses to float)
    bound: float  # in the unit of the field
    is_most: bool
    text: str

    def excess(self, value: float) -> float:
        """By which part of its bound a value breaks it; 0 where it is kept."""
        beyond = value - self.bound if self.is_most else self.bound - value
        return max(beyond, 0.0) / max(abs(self.bound), 1e-12)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Budget:
    """Limits that hold at once."""

    limits: tuple[Limit, ...] = ()

    @staticmethod
    def of(texts: Iterable[str], quality: Quality = Quality()) -> "Budget":
        """Of texts such as "area<=0.5mm2, top1>=0.69"; a metric in per cent may be written as a part of 1.

        ValueError names the quantity or unit that is not known, another network's metric, and the wrong side.
        """
        parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
        return Budget(tuple(_limit(part, quality) for part in parts))

    @property
    def of_costs(self) -> tuple[Limit, ...]:
        return tuple(limit for limit in self.limits if limit.quantity in QUANTITIES)

    def excess(self, costs: Costs) -> tuple[tuple[str, float], ...]:
        """The limits on costs that are broken, and by how much."""
        found = ((limit.text, limit.excess(cost_of(costs, limit.quantity))) for limit in self.of_costs)
        return tuple((text, beyond) for text, beyond in found if beyond > 0)

    def metric_excess(self, metric: float, drop: float) -> tuple[tuple[str, float], ...]:
        """The same for limits on the metric and on what it loses to float."""
        values = {METRIC: metric, DROP: drop}
        found = ((m.text, m.excess(values[m.quantity])) for m in self.limits if m.quantity in values)
        return tuple((text, beyond) for text, beyond in found if beyond > 0)


def cost_of(costs: Costs, quantity: str) -> float:
    """A field of costs by the name that limits have for it."""
    return float(getattr(costs, QUANTITIES[quantity].field))


def _limit(text: str, quality: Quality) -> Limit:
    found = _LIMIT.fullmatch(text)
    if not found:
        raise ValueError(
            f"a limit of {text!r} found; write a quantity, <= or >=, a number and its unit, as area<=0.5mm2"
        )
    name, sign, number, unit = found.groups()
    quantity, is_most = ALIASES.get(name.lower(), name.lower()), sign[0] == "<"
    if quantity in (*quality.words, DROP):
        kind = DROP if quantity == DROP else METRIC
        return _metric_limit(Limit(kind, float(number), is_most, text), unit, quality)
    if quantity not in QUANTITIES:
        known = [*QUANTITIES, DROP, *quality.words]
        raise ValueError(
            f"{text!r} limits {name!r}; this network's metric is {quality.name}: choose from {', '.join(known)}"
            f"{nearest(name, known)}"
        )
    bound, factors = float(number), QUANTITIES[quantity].factors
    if unit not in factors:
        raise ValueError(f"{text!r} has the unit {unit!r}; {quantity} takes {', '.join(f or 'none' for f in factors)}")
    if not is_most:
        raise ValueError(f"{text!r} asks for at least so much {quantity}, which is a cost; write <=")
    return Limit(quantity, bound * factors[unit], True, text)


def _metric_limit(limit: Limit, unit: str, quality: Quality) -> Limit:
    """The same in the metric's unit."""
    units = ("", "%") if quality.is_per_cent else ("", "dB")
    if unit not in units:
        raise ValueError(f"{limit.text!r} has the unit {unit!r}; this network's metric takes none or {units[1]}")
    should_be_most = limit.quantity == DROP or not quality.higher_is_better
    if limit.is_most is not should_be_most:
        raise ValueError(f"{limit.text!r} limits the metric on its good side; write {'<=' if should_be_most else '>='}")
    is_part = quality.is_per_cent and unit != "%" and limit.bound <= 1 and limit.quantity == METRIC
    return replace(limit, bound=100 * limit.bound) if is_part else limit
