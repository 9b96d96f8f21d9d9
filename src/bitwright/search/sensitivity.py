"""What each scheme does to each layer, measured once a layer and scheme: what allocation adds up.

Every measure is a damage: 0 where nothing changes. `error` and `fisher` look at all layers in one run of the float
network, so they suit large ones; `masked_kl` runs it some times a layer; `kl` with each layer under each scheme.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.task import Batch
from bitwright.search.candidates import Candidates
from bitwright.search.point import Alone, Assignment
from bitwright.search.tape import Tape
from bitwright.store import key_of, read_json, write_json

Damages = dict[tuple[str, str], float]
"""By layer and scheme's text."""

Choices = Mapping[str, Sequence[str]]
"""Schemes' texts by layer."""

SAMPLES = 64
"""Of the calibration data, that damages are measured on."""

MASKED = 0.1
"""Part of a layer's weights that is masked for OHQ's estimate, drawn at random."""

ROUNDS = 4
"""Masks of each layer."""

TINY = 1e-30


@dataclass(frozen=True)
class Stored:
    """Damages as a file holds them."""

    measure: str
    damages: tuple[tuple[str, str, float], ...]


class Measure:
    """Damages of layers under schemes, on the first samples of the calibration data."""

    def __init__(self, candidates: Candidates, samples: int = SAMPLES) -> None:
        self.candidates, self.task = candidates, candidates.task
        self.batches = list(_first(candidates.bench.calibration, samples))
        self.tapes = [Tape(candidates, batch) for batch in self.batches]
        self.is_distribution = candidates.task.metric.is_of_logits

    def kl(self, choices: Choices) -> Damages:
        """Mean KL divergence from the float network's outputs; where they are no logits, relative squared error."""
        return {(name, text): self.of({name: text}) for name, texts in choices.items() for text in texts}

    def of(self, assignment: Assignment, changed: Sequence[str] = ()) -> float:
        """The same of the network with all of these layers under their schemes, and others changed in place."""
        found = [
            _divergence(tape.outputs, tape.play(assignment, changed), is_distribution=self.is_distribution)
            for tape in self.tapes
        ]
        return float(np.mean(np.concatenate(found)))

    def error(self, choices: Choices) -> Damages:
        """Squared error of the layer's output over its energy, on inputs of the float network."""

        def damage(output: Tensor, wrong: Tensor, gradient: Tensor) -> Tensor:
            return len(output) * wrong.square().sum() / output.square().sum().clamp(min=TINY)

        return self._local(choices, damage)

    def fisher(self, choices: Choices) -> Damages:
        """Hessian-weighted error: half the sum of squared output errors times the Fisher information's diagonal.

        Gradients of each sample's own loss: cross entropy to the float network's most likely class, or to a class of
        each token; of other outputs half their squared norm.
        """

        def damage(output: Tensor, wrong: Tensor, gradient: Tensor) -> Tensor:
            return (wrong * gradient).square().sum() / 2

        return self._local(choices, damage, has_gradients=True)

    def masked_kl(self, choices: Choices) -> Damages:
        """OHQ's estimate: what masking weights of a layer does to the outputs, times the squared error of its weights.

        W. Huang et al., arXiv 2309.01945; the form of the product as in `docs/concepts/search.md`.
        """
        found: Damages = {}
        for name, texts in choices.items():
            layer = self._weighted(name)
            generator = torch.Generator().manual_seed(self.candidates.names.index(name))
            omega = float(np.mean([self._masked(name, layer, generator) for _ in range(ROUNDS)]))
            weight = layer.weight.detach().float()
            for text in texts:
                made = self.candidates.layer(name, text).simulated
                assert isinstance(made, FakeQuantizedLayer)
                wrong = made.fake_weight().detach().float() - weight
                found[name, text] = float(omega * wrong.square().sum())
        return found

    @torch.no_grad()
    def _masked(self, name: str, layer: FakeQuantizedLayer, generator: torch.Generator) -> float:
        """Divergence of the float network with some of the layer's weights at zero."""
        weight = layer.weight.detach().clone()
        kept = torch.rand(weight.shape, generator=generator) >= MASKED
        try:
            layer.weight.mul_(kept)
            return self.of({}, [name])
        finally:
            layer.weight.copy_(weight)

    def _local(
        self, choices: Choices, damage: Callable[[Tensor, Tensor, Tensor], Tensor], *, has_gradients: bool = False
    ) -> Damages:  # fmt: skip
        """Sums over batches of a function of a layer's output, its error under a scheme, and the loss's gradient."""
        found = {(name, text): 0.0 for name, texts in choices.items() for text in texts}
        layers = {name: self.candidates.float_layers[name] for name in choices}
        count = sum(len(batch.targets) for batch in self.batches)
        for batch in self.batches:
            network = self.candidates.frozen({})
            with seeing(layers) as seen:
                outputs = self.task.forward(network, batch)
            flat = [(name, call) for name, calls in seen.items() for call in calls]
            gradients = [torch.zeros(1)] * len(flat)
            if has_gradients:
                loss = self._loss(outputs)
                gradients = list(torch.autograd.grad(loss, [call.output for _, call in flat], allow_unused=True))
            with torch.no_grad():
                for (name, call), gradient in zip(flat, gradients, strict=True):
                    for text in choices[name] if gradient is not None else ():
                        wrong = call.again(self.candidates.layer(name, text).exact) - call.output.detach()
                        found[name, text] += float(damage(call.output.detach(), wrong, gradient)) / count
        return found

    def _loss(self, outputs: Tensor) -> Tensor:
        """Summed over samples, so that each output's gradient is of its own sample."""
        if not self.is_distribution:
            return outputs.square().sum() / 2
        classes = outputs.flatten(0, -2)
        return nn.functional.cross_entropy(classes, classes.argmax(-1), reduction="sum")

    def _weighted(self, name: str) -> FakeQuantizedLayer:
        layer = self.candidates.float_layers[name]
        if not isinstance(layer, FakeQuantizedLayer):
            raise ValueError(f"{name} is a {type(layer).__name__}, which has no weights to mask; measure by 'kl'")
        return layer


MEASURES: dict[str, Callable[[Measure, Choices], Damages]] = {
    "kl": Measure.kl, "error": Measure.error, "fisher": Measure.fisher, "masked_kl": Measure.masked_kl,
}  # fmt: skip

TOGETHER = ("error", "fisher")
"""Measures that look at all layers in one run of the network."""


def questions(candidates: Candidates, measure: str) -> list[Alone]:
    """What is to be measured, in parts that do not depend on each other."""
    if measure not in MEASURES:
        raise ValueError(f"there is no measure {measure!r} of sensitivity; choose from {', '.join(MEASURES)}")
    whole = tuple(candidates.choices.items())
    return [Alone(measure, whole)] if measure in TOGETHER else [Alone(measure, (one,)) for one in whole]


def stored(folder: Path | None, what: str, key: str, candidates: Candidates, make: Callable[[], Damages]) -> Damages:
    """A value by layer and scheme: read from `folder`, or made and written there."""
    if folder is None:
        return make()
    path = folder / "sensitivity" / f"{key_of(what, key, tuple(candidates.schemes))}.json"
    if path.exists():
        return {(layer, text): value for layer, text, value in read_json(path, Stored).damages}
    found = make()
    write_json(path, Stored(what, tuple((layer, text, value) for (layer, text), value in found.items())))
    return found


def _divergence(exact: Tensor, found: Tensor, *, is_distribution: bool) -> np.ndarray:
    """Of each sample, or token."""
    if not is_distribution:
        wrong = (
            (exact - found).double().flatten(1).square().sum(1)
            if exact.dim() > 1
            else (exact - found).double().square()
        )
        energy = exact.double().flatten(1).square().sum(1) if exact.dim() > 1 else exact.double().square()
        return (wrong / energy.mean().clamp(min=TINY)).numpy()
    p, q = (torch.log_softmax(x.double().flatten(0, -2), -1) for x in (exact, found))
    return (p.exp() * (p - q)).sum(-1).numpy()


@dataclass(frozen=True)
class Call:
    """Of a layer: what it was given, and what it gave."""

    inputs: tuple[Any, ...]
    words: dict[str, Any]
    output: Tensor

    def again(self, layer: nn.Module) -> Tensor:
        """What another layer gives."""
        found = layer(*map(_detached, self.inputs), **{name: _detached(value) for name, value in self.words.items()})
        assert isinstance(found, Tensor), "as the float layer's"
        return found


@contextmanager
def seeing(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Calls of layers."""
    seen: dict[str, list[Call]] = {}

    def see(name: str) -> Callable[..., None]:
        return lambda module, inputs, words, output: seen.setdefault(name, []).append(Call(inputs, words, output))

    hooks = [layer.register_forward_hook(see(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _first(batches: tuple[Batch, ...], samples: int) -> Iterator[Batch]:
    for batch in batches:
        if samples > 0:
            yield batch.first(samples)
        samples -= len(batch.targets)
