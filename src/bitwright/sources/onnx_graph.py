"""An ONNX graph as a torch module: a list of steps, each a function of `onnx_table` or a layer of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.sources.onnx_math import Operator

FAULTS = (RuntimeError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError)
"""What torch raises where a file's shapes, types or attributes do not fit each other; also for too much memory."""

MOST_TURNS = 1 << 20
"""Turns that a Loop may take."""


@dataclass(frozen=True)
class Step:
    """One operator: a function, or the path of a submodule. "" among the inputs is a value that is left out."""

    what: str  # as an error names it
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Operator | None = None
    path: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)  # attribute -> path of a graph inside
    last: tuple[str, ...] = ()  # values that no later step reads


class Graph(nn.Module):
    """Runs its steps in order. Inputs by position or by name; one output, or a tuple of several."""

    def __init__(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.steps: tuple[Step, ...] = ()
        self.buffer_of: dict[str, str] = {}  # value -> name of the buffer that holds it

    def hold(self, name: str, value: Tensor) -> None:
        """Keep a constant with the module."""
        self.buffer_of[name] = f"constant_{len(self.buffer_of)}"
        self.register_buffer(self.buffer_of[name], value)

    def forward(self, *given: Any, **named: Any) -> Any:
        values = self._bound(given, named)
        for name, buffer in self.buffer_of.items():
            values[name] = getattr(self, buffer)
        for step in self.steps:
            made = self._made(step, [values[i] if i else None for i in step.inputs])
            for name, value in zip(step.outputs, made, strict=False):
                if name:
                    values[name] = value
            for name in step.last:
                values.pop(name, None)
        results = tuple(values[o] for o in self.outputs)
        return results[0] if len(results) == 1 else results

    def _bound(self, given: Sequence[Any], named: dict[str, Any]) -> dict[str, Any]:
        values = dict(zip(self.inputs, given, strict=False)) | named
        if len(given) > len(self.inputs) or set(values) != set(self.inputs):
            raise ValueError(
                f"the graph has the inputs {', '.join(self.inputs) or 'none'}; found {len(given)} by position"
                + (f" and {', '.join(named)}" if named else "")
            )
        return values

    def _made(self, step: Step, inputs: list[Any]) -> Sequence[Any]:
        while step.run is not None and inputs and inputs[-1] is None:
            inputs.pop()
        bodies = {name: self.get_submodule(path) for name, path in step.bodies.items()}
        try:
            if step.run is None:
                made = self.get_submodule(step.path)(*inputs)
            else:
                made = step.run(*inputs, **step.attributes, **bodies)
        except FAULTS as error:
            raise ValueError(f"{step.what}: {reason(error)}, with inputs {described(inputs)}") from None
        except ValueError as error:
            raise ValueError(
                f"{step.what}: {error}" if step.run is not None and not step.bodies else str(error)
            ) from None
        # a sequence, which is one value, is a list
        return made if isinstance(made, tuple) else (made,)

    def extra_repr(self) -> str:
        return f"{len(self.steps)} steps"


def reason(error: Exception) -> str:
    """The first sentence of an error of torch."""
    line = (str(error).splitlines() or [""])[0].strip()
    return line.removesuffix(".")[:200] or type(error).__name__


def described(inputs: Sequence[Any]) -> str:
    """Shapes and types."""
    return ", ".join(
        f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" if isinstance(x, Tensor) else str(type(x).__name__)
        for x in inputs
    ) or "none"  # fmt: skip


def choose(condition: Tensor, *captured: Any, then_branch: Graph, else_branch: Graph) -> Any:
    """ONNX's If; each branch takes the captured values that it names."""
    branch, other = (then_branch, else_branch) if bool(condition) else (else_branch, then_branch)
    own = captured[: len(then_branch.inputs)] if branch is then_branch else captured[len(other.inputs) :]
    return branch(*own)


def loop(turns: Tensor | None = None, condition: Tensor | None = None, *rest: Any, body: Graph, carried: int) -> Any:
    """ONNX's Loop; carried values first, then what the body captures."""
    state, captured = list(rest[:carried]), rest[carried:]
    most = MOST_TURNS + 1 if turns is None else int(turns)
    goes_on, turn = True if condition is None else bool(condition), 0
    scanned: list[list[Any]] = [[] for _ in range(len(body.outputs) - 1 - carried)]
    while goes_on and turn < most:
        if turn == MOST_TURNS:
            raise ValueError(f"a loop of more than {MOST_TURNS} turns")
        made = body(torch.tensor(turn), torch.tensor(goes_on), *state, *captured)
        made = made if isinstance(made, tuple) else (made,)
        goes_on, state = bool(made[0]), list(made[1 : 1 + carried])
        for rows, value in zip(scanned, made[1 + carried :], strict=True):
            rows.append(value)
        turn += 1
    results = (*state, *(torch.stack(rows) if rows else torch.zeros(0) for rows in scanned))
    return results[0] if len(results) == 1 else results
