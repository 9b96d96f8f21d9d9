"""Which tensors of a checkpoint are quantized, and which share what: by name and shape, as there is no model."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bitwright.checkpoint.codes import KINDS
from bitwright.checkpoint.tensors import Entry

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Projections that engines multiply as one matrix, so that they need one scale."""


@dataclass(frozen=True)
class Selection:
    """Two-dimensional weights, less those whose module's name an `ignore` pattern matches: shell style, or "re:"."""

    ignore: tuple[str, ...] = ("*lm_head", "re:.*embed.*", "re:.*wte$", "re:.*wpe$", "re:.*router$", "re:.*\\.gate$")

    def __post_init__(self) -> None:
        for pattern in self.ignore:
            try:
                re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
            except re.error as error:
                raise ValueError(f"ignore {pattern!r}: {error}; correct the regular expression") from None

    def takes(self, entry: Entry, group: int) -> bool:
        """Whether this tensor is quantized. One that would be, but does not divide into groups, raises ValueError."""
        if not self.is_weight(entry) or self.ignores(entry.name.removesuffix(".weight")):
            return False
        if entry.shape[1] % group or entry.shape[1] % 8:
            raise ValueError(
                f"{entry.name}: rows of {entry.shape[1]} do not divide into groups of {group}; "
                f"ignore it, or choose another group"
            )
        return True

    def is_weight(self, entry: Entry) -> bool:
        return entry.name.endswith(".weight") and len(entry.shape) == 2 and all(entry.shape) and entry.dtype in KINDS

    def ignores(self, module: str) -> bool:
        return any(
            re.match(pattern[3:], module) is not None if pattern.startswith("re:") else fnmatchcase(module, pattern)
            for pattern in self.ignore
        )

    def fused(self, name: str) -> str:
        """What names the group of weights that share a tensor's scale."""
        module = name.removesuffix(".weight")
        parent, _, last = module.rpartition(".")
        return next((f"{parent}.{'+'.join(names)}" for names in FUSED if last in names), module)
