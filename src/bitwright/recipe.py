"""Which layers get which scheme: rules over names and kinds, first match wins; a rule without a match is an error."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NamedTuple

from bitwright.scheme import Scheme

PRODUCTS = ("Linear", "Conv1d", "Conv2d")
"""Kinds that `first` and `last` count."""


class LayerInfo(NamedTuple):
    """A layer that can be quantized: its name and its kind, in the order of execution where that is known."""

    name: str
    kind: str


@dataclass(frozen=True)
class Rule:
    """Layers that match get the scheme; None keeps them in float.

    `layers` is a shell pattern over names ("blocks.*"), "re:" and a regular expression, a kind ("Linear", "Conv2d",
    "Embedding", "attention"), or "first" or "last" for the first or last matrix product of the network.
    """

    layers: str
    scheme: Scheme | None

    def __post_init__(self) -> None:
        if self.layers.startswith("re:"):
            try:
                re.compile(self.layers[3:])
            except re.error as error:
                raise ValueError(f"Rule: {self.layers!r} is not a regular expression ({error}); correct it") from None

    def matches(self, layer: LayerInfo, products: Sequence[str]) -> bool:
        if self.layers in ("first", "last"):
            return bool(products) and layer.name == products[0 if self.layers == "first" else -1]
        if self.layers.startswith("re:"):
            return re.search(self.layers[3:], layer.name) is not None
        return self.layers == layer.kind or fnmatchcase(layer.name, self.layers)


@dataclass(frozen=True)
class Promotion:
    """The `layers` worst layers of a first calibration move to `scheme` (ANT4-8, artifact option -n8).

    Worst is the largest mean squared error of input and weight together; `always` are promoted first.
    """

    layers: int
    scheme: Scheme
    always: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Rules, and an optional promotion of the worst layers."""

    rules: tuple[Rule, ...]
    promotion: Promotion | None = None

    @staticmethod
    def uniform(scheme: Scheme, *, ends: Scheme | None = None) -> "Recipe":
        """One scheme everywhere; `ends` for the first and last product, as most papers keep those at 8 bits."""
        around = () if ends is None else (Rule("first", ends), Rule("last", ends))
        return Recipe((*around, Rule("*", scheme)))

    def assign(self, layers: Sequence[LayerInfo]) -> dict[str, Scheme | None]:
        """Scheme of each layer; those that no rule matches are left out. ValueError for a rule without a match."""
        products = [layer.name for layer in layers if layer.kind in PRODUCTS]
        assigned: dict[str, Scheme | None] = {}
        used = set()
        for layer in layers:
            for rule in self.rules:
                if rule.matches(layer, products):
                    used.add(rule)
                    assigned.setdefault(layer.name, rule.scheme)
        for rule in self.rules:
            if rule not in used:
                hint = nearest(rule.layers, [n for layer in layers for n in layer])
                raise ValueError(f"the rule for layers {rule.layers!r} matches no layer of this model{hint}")
        return assigned


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of an error's sentence: the most similar of the names that there are."""
    near = get_close_matches(name, choices, n=1, cutoff=0.3)
    return f"; did you mean {near[0]!r}?" if near else ""
