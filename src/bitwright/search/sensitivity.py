"""What each scheme does to each layer, measured once a layer and scheme: what allocation adds up.

Every measure is a damage: 0 where nothing changes. `error`, `fisher` and `masked_kl` look at a layer alone and need no
run of the network for a scheme; `kl` runs the network with that one layer quantized.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.task import Batch
from bitwright.search.candidates import Candidates
from bitwright.search.point import Assignment
from bitwright.store import key_of, read_json, write_json

Damages = dict[tuple[str, str], float]
"""By layer and scheme's text."""

Progress = Callable[[str, int, int], None]

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
    """Damages of all layers under all schemes, on the first samples of the calibration data."""

    def __init__(self, candidates: Candidates, samples: int = SAMPLES) -> None:
        self.candidates, self.task = candidates, candidates.task
        self.batches = list(_first(candidates.bench.calibration, samples))
        self.outputs = [self._outputs({}, batch) for batch in self.batches]
        self.is_distribution = candidates.task.metric.name in DISTRIBUTIONS

    def kl(self, progress: Progress) -> Damages:
        """Mean KL divergence from the float network's outputs; where they are no logits, relative squared error."""
        pairs = self._pairs()
        found = {}
        for i, (name, text) in enumerate(pairs):
            progress("sensitivity", i, len(pairs))
            found[name, text] = self.of({name: text})
        return found

    def of(self, assignment: Assignment) -> float:
        """The same of the network with all of these layers under their schemes."""
        found = [
            _divergence(exact, self._outputs(assignment, batch), is_distribution=self.is_distribution)
            for exact, batch in zip(self.outputs, self.batches, strict=True)
        ]
        return float(np.mean(np.concatenate(found)))

    def error(self, progress: Progress) -> Damages:
        """Squared error of the layer's output over its energy, on inputs of the float network."""

        def damage(output: Tensor, wrong: Tensor, gradient: Tensor) -> Tensor:
            return len(output) * wrong.square().sum() / output.square().sum().clamp(min=TINY)

        return self._local(progress, damage)

    def fisher(self, progress: Progress) -> Damages:
        """Hessian-weighted error: half the sum of squared output errors times the Fisher information's diagonal.

        Gradients of each sample's own loss: cross entropy to the float network's most likely class, or to a class of
        each token; of other outputs half their squared norm.
        """

        def damage(output: Tensor, wrong: Tensor, gradient: Tensor) -> Tensor:
            return (wrong * gradient).square().sum() / 2

        return self._local(progress, damage, has_gradients=True)

    def masked_kl(self, progress: Progress) -> Damages:
        """OHQ's estimate: what masking weights of a layer does to the outputs, times the squared error of its weights.

        W. Huang et al., arXiv 2309.01945; the form of the product as in `docs/concepts/search.md`.
        """
        generator = torch.Generator().manual_seed(0)
        found: Damages = {}
        names = self._layers()
        for i, name in enumerate(names):
            progress("masks", i, len(names))
            layer = self.candidates.float_layers[name]
            assert isinstance(layer, FakeQuantizedLayer)
            omega = float(np.mean([self._masked(layer, generator) for _ in range(ROUNDS)]))
            weight = layer.weight.detach().float()
            for text in self.candidates.choices[name]:
                made = self.candidates.layer(name, text).simulated
                assert isinstance(made, FakeQuantizedLayer)
                wrong = made.fake_weight().detach().float() - weight
                found[name, text] = float(omega * wrong.square().sum())
        return found

    @torch.no_grad()
    def _masked(self, layer: FakeQuantizedLayer, generator: torch.Generator) -> float:
        """Divergence of the float network with some of the layer's weights at zero."""
        weight = layer.weight.detach().clone()
        kept = torch.rand(weight.shape, generator=generator) >= MASKED
        try:
            layer.weight.mul_(kept)
            return self.of({})
        finally:
            layer.weight.copy_(weight)

    def _local(
        self, progress: Progress, damage: Callable[[Tensor, Tensor, Tensor], Tensor], *, has_gradients: bool = False
    ) -> Damages:  # fmt: skip
        """Sums over batches of a function of a layer's output, its error under a scheme, and the loss's gradient."""
        found = dict.fromkeys(self._pairs(), 0.0)
        names = self._layers()
        count = sum(len(batch.targets) for batch in self.batches)
        for i, batch in enumerate(self.batches):
            progress("sensitivity", i, len(self.batches))
            network = self.candidates.frozen({})
            layers = {name: self.candidates.float_layers[name] for name in names}
            with seeing(layers) as seen:
                outputs = self.task.forward(network, batch)
            flat = [(name, x, y) for name, calls in seen.items() for x, y in calls]
            gradients = [torch.zeros(1)] * len(flat)
            if has_gradients:
                loss = self._loss(outputs)
                gradients = list(torch.autograd.grad(loss, [y for *_, y in flat], allow_unused=True))
            with torch.no_grad():
                for (name, x, y), gradient in zip(flat, gradients, strict=True):
                    for text in self.candidates.choices[name] if gradient is not None else ():
                        wrong = self.candidates.layer(name, text).exact(x.detach()) - y.detach()
                        found[name, text] += float(damage(y.detach(), wrong, gradient)) / count
        return found

    def _loss(self, outputs: Tensor) -> Tensor:
        """Summed over samples, so that each output's gradient is of its own sample."""
        if not self.is_distribution:
            return outputs.square().sum() / 2
        classes = outputs.flatten(0, -2)
        return nn.functional.cross_entropy(classes, classes.argmax(-1), reduction="sum")

    @torch.no_grad()
    def _outputs(self, assignment: Assignment, batch: Batch) -> Tensor:
        return self.task.forward(self.candidates.frozen(assignment), batch)

    def _layers(self) -> list[str]:
        """All names, where each is a layer with weights."""
        kinds = {name: type(layer).__name__ for name, layer in self.candidates.float_layers.items()}
        others = [name for name, kind in kinds.items() if kind != FakeQuantizedLayer.__name__]
        if others:
            raise ValueError(
                f"{others[0]} is of a kind ({kinds[others[0]]}) that only the measure 'kl' looks at; measure by 'kl'"
            )
        return list(kinds)

    def _pairs(self) -> list[tuple[str, str]]:
        return [(name, text) for name, texts in self.candidates.choices.items() for text in texts]


MEASURES: dict[str, Callable[[Measure, Progress], Damages]] = {
    "kl": Measure.kl, "error": Measure.error, "fisher": Measure.fisher, "masked_kl": Measure.masked_kl,
}  # fmt: skip

DISTRIBUTIONS = ("top-1 accuracy", "perplexity")
"""Metrics whose outputs are logits."""


def measured(
    candidates: Candidates, measure: str, folder: Path | None, key: str, progress: Progress = lambda *_: None
) -> Damages:
    """By one of MEASURES; read from `folder` where the same was measured before."""
    if measure not in MEASURES:
        raise ValueError(f"there is no measure {measure!r} of sensitivity; choose from {', '.join(MEASURES)}")
    return stored(folder, measure, key, candidates, lambda: MEASURES[measure](Measure(candidates), progress))


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


def rank_correlation(first: list[float], second: list[float]) -> float | None:
    """Spearman's; None where one of them does not vary."""
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(spearmanr(first, second).statistic)


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


@contextmanager
def seeing(layers: dict[str, nn.Module]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Inputs and outputs of layers, once a call."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def see(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.setdefault(name, []).append((inputs[0], output))

    hooks = [layer.register_forward_hook(see(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _first(batches: tuple[Batch, ...], samples: int) -> Iterator[Batch]:
    for batch in batches:
        if samples > 0:
            yield batch.first(samples)
        samples -= len(batch.targets)
