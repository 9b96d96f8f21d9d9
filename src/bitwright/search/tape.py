"""Outputs of a float network's layers, so that what comes before a changed layer is not computed again."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.model.task import Batch
from bitwright.search.candidates import Candidates
from bitwright.search.point import Assignment

MOST_BYTES = 2**30
"""Of a tape; outputs beyond it are computed again."""


class Tape:
    """One batch through the float network: `outputs`, and what each layer gave, call by call.

    `play` gives the same tensors, to the bit, as a run of the whole network.
    """

    @torch.no_grad()
    def __init__(self, candidates: Candidates, batch: Batch, most_bytes: int = MOST_BYTES) -> None:
        self.candidates, self.batch = candidates, batch
        self.names: list[str] = []  # of the calls, in their order
        self.given: list[Tensor | None] = []
        self._left = most_bytes
        hooks = [layer.register_forward_hook(self._record(name)) for name, layer in candidates.float_layers.items()]
        try:
            self.outputs = candidates.task.forward(candidates.frozen({}), batch)
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def play(self, assignment: Assignment, changed: Sequence[str] = ()) -> Tensor:
        """Outputs with some layers under schemes, and others `changed` since they were recorded."""
        others = {*assignment, *changed}
        self.until = min((self._first(name) for name in others), default=len(self.names))
        self.at = 0
        layers = {n: Played(self, self.candidates.float_layers[n]) for n in self.names[: self.until]}
        network = self.candidates.frozen(assignment, layers)
        try:
            return self.candidates.task.forward(network, self.batch)
        finally:
            self.candidates.frozen({})

    def _first(self, name: str) -> int:
        """Of its calls; 0 where none was seen."""
        return self.names.index(name) if name in self.names else 0

    def _record(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            self.names.append(name)
            kept = isinstance(output, Tensor) and output.nbytes <= self._left
            self.given.append(output.detach().clone() if kept else None)
            self._left -= output.nbytes if kept else 0

        return record


class Played(nn.Module):
    """A float layer that gives what it gave before, until the first changed layer is due; then it computes."""

    def __init__(self, tape: Tape, layer: nn.Module) -> None:
        super().__init__()
        self.tape, self.layer = tape, layer

    def forward(self, *inputs: Any, **words: Any) -> Any:
        tape = self.tape
        given = None
        if tape.at < tape.until:
            given = tape.given[tape.at]
            tape.at += 1
        return self.layer(*inputs, **words) if given is None else given.clone()  # who follows may work in place
