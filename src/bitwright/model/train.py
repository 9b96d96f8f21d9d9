"""A training loop for people without one of their own. Any loop trains a prepared model; this one is ordinary.

Batches, and random numbers such as dropout's, depend on seeds and the step alone, so a run that is resumed from its
checkpoint gives the same bits as one that was not interrupted. Under `torchrun` each process takes its part of every
batch.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from bitwright.model.checkpoint import Progress, restore_, resume_, save, sites, snapshot
from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.prepare import observe
from bitwright.model.site import naming
from bitwright.model.task import Batch, Metric, call
from bitwright.model.training import Batches, InOrder, Training, select
from bitwright.model.weight_norm import LearnedNorm, Start, projected

Loss = Callable[[nn.Module, Batch], Tensor]
"""Mean loss of a batch: the model's forward call and what is made of its output."""

Score = Callable[[nn.Module], float]
"""Quality of a model on held-out data; higher is better."""


@dataclass(frozen=True)
class History:
    """What training went through."""

    losses: tuple[float, ...]  # by step
    scores: tuple[float, ...]  # by epoch
    best_epoch: int | None  # whose state the model has now; None without a score


class Diverged(ArithmeticError):
    """The loss or a gradient is NaN or infinite."""


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Of logits [samples, ..., classes] and class numbers [samples, ...]; targets below 0 are not scored."""
    logits: Tensor = call(model, batch.inputs)
    return nn.functional.cross_entropy(logits.flatten(0, -2), batch.targets.flatten().clamp(min=-1), ignore_index=-1)


def metric_of(metric: Metric, batches: Iterable[Batch]) -> Score:
    """A metric on these batches as a score: negative where lower is better."""
    kept = tuple(batches)
    if not kept:
        raise ValueError(f"{metric.name}: the validation data is empty; give at least one batch")

    def score(model: nn.Module) -> float:
        statistics = [metric.measure(call(model, b.inputs), b.targets) for b in kept]
        value = metric.reduce(np.concatenate(statistics))
        return value if metric.higher_is_better else -value

    return score


def learn_ranges(prepared: nn.Module) -> tuple[str, ...]:
    """Static ranges of one level become parameters, in place (LSQ); returns "layer.operand" of each.

    Ranges of several levels, zero points, and ranges that follow the data stay as they are. None at all is an error.
    """
    learned = tuple(f"{name}.{operand}" for name, site in sites(prepared).items() for operand in site.learn_ranges())
    if not learned:
        raise ValueError(
            "no operand has one static float32 scale to learn; use a scheme with a range estimator on a single level"
        )
    return learned


def learn_norms(prepared: nn.Module, start: Start = projected) -> tuple[str, ...]:
    """Weights under a norm bound learn direction, norm and scale (A2Q, A2Q+), in place; returns the layers' names.

    Every state that training reaches keeps the bound, so no accumulator can overflow. `start` is `projected` (EP-init)
    or `unchanged`. Layers without a bound stay as they are. None at all is an error.
    """
    layers = [site for site in sites(prepared).values() if isinstance(site, FakeQuantizedLayer)]
    learned = []
    for layer in layers:
        with naming(layer.name):
            if layer.learn_norm(start):
                learned.append(layer.name)
    if not learned:
        raise ValueError("no weight's format bounds its norm; use a scheme such as a2q(accumulator_bits=16)")
    return tuple(learned)


def norm_excess(model: nn.Module) -> Tensor:
    """Σ max(2**t - bound · s, 0) over all learned norms: the regulariser of A2Q's code, there times 1e-3."""
    return torch.stack([norm.excess() for norm in _norms(model)]).sum()


def log_norm_excess(model: nn.Module) -> Tensor:
    """Σ max(t - log2(bound · s), 0) over all learned norms: the regulariser of A2Q's paper, there times 1e-3."""
    return torch.stack([norm.log_excess() for norm in _norms(model)]).sum()


def penalised(loss: Loss, penalty: Callable[[nn.Module], Tensor], weight: float = 1e-3) -> Loss:
    """A loss with a penalty that is taken after the model ran."""

    def total(model: nn.Module, batch: Batch) -> Tensor:
        return loss(model, batch) + weight * penalty(model)

    return total


def train(
    prepared: nn.Module, batches: Batches | Iterable[Batch], training: Training = Training(), *,
    loss: Loss = cross_entropy, score: Score | None = None, checkpoint: Path | None = None,
) -> History:  # fmt: skip
    """Train a calibrated model in place, and leave it in eval mode with the state of the best score, if there is one.

    A checkpoint file that exists is resumed; it is written after every epoch. NaN or infinity raises `Diverged`.
    """
    batches = batches if isinstance(batches, Batches) else InOrder(tuple(batches))
    unresolved = [name for name, site in sites(prepared).items() if not site.is_resolved]
    if unresolved or not sites(prepared):
        raise ValueError(f"{unresolved[0] if unresolved else 'the model'} is not calibrated; prepare and calibrate it")
    if not len(batches):
        raise ValueError("the training data is empty; give at least one batch")
    with torch.random.fork_rng(devices=[]):
        return _Run(prepared, batches, training, loss, score, checkpoint).history()


class _Run:
    """The loop: everything that it changes is in the model, the optimizer and `progress`."""

    def __init__(
        self, model: nn.Module, batches: Batches, training: Training, loss: Loss, score: Score | None,
        checkpoint: Path | None,
    ) -> None:  # fmt: skip
        self.model, self.batches, self.training = model, batches, training
        self.loss, self.score, self.checkpoint = loss, score, checkpoint
        self.is_shared = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if self.is_shared else 0
        self.ranks = distributed.get_world_size() if self.is_shared else 1
        self.optimizer = training.optimizer.build(_groups(model, training), training.learning_rate)
        self.progress = Progress()
        if checkpoint is not None and checkpoint.exists():
            self.progress = resume_(checkpoint, model, self.optimizer, training)

    def history(self) -> History:
        """Train to the end."""
        replica = DistributedDataParallel(self.model) if self.is_shared else self.model
        progress = self.progress
        while progress.epoch < self.training.epochs and not self._is_past_patience():
            _set_modes_(self.model, follow_statistics=progress.epoch < self.training.batchnorm_epochs)
            for batch in self.batches.epoch(progress.epoch):
                progress.losses.append(self._step(replica, batch))
            progress.epoch += 1
            self.model.eval()
            if self.score is not None:
                self._judge(self.score)
            if self.checkpoint is not None and self.rank == 0:
                save(self.checkpoint, self.model, self.optimizer, self.training, progress)
        self.model.eval()
        if progress.best:
            restore_(self.model, progress.best)
        if self.is_shared:
            distributed.barrier()  # nobody reads a checkpoint that is being written
        return History(tuple(progress.losses), tuple(progress.scores), progress.best_epoch)

    def _step(self, replica: nn.Module, batch: Batch) -> float:
        step, training = len(self.progress.losses), self.training
        rate = training.learning_rate * training.schedule.factor(step, training.epochs * len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._seed(step)
        if step < training.range_warmup.steps and step % training.range_warmup.every == 0:
            self._follow(batch)
        part = select(batch, slice(self.rank, None, self.ranks))
        if not len(part.targets):
            raise ValueError(f"a batch of {len(batch.targets)} samples has none for each of {self.ranks} processes")
        try:
            value = self._loss(replica, part)
        except ValueError as error:  # from a layer that refuses to quantize what is not finite
            self._explain(step, rate, part, str(error))
            raise
        if not bool(torch.isfinite(value)):
            self._explain(step, rate, part, f"the loss is {value.item()}")
        self.optimizer.zero_grad()
        # processes average their gradients, each of which is a mean over its own samples
        (value * (len(part.targets) * self.ranks / len(batch.targets))).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), training.largest_gradient)
        if not bool(torch.isfinite(norm)):
            self._explain(step, rate, part, f"the gradient's norm is {norm.item()}")
        self.optimizer.step()
        return float(value.detach())

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        dtype = self.training.autocast
        with torch.autocast(batch.tensors[0].device.type, dtype, enabled=dtype is not None):
            return self.loss(model, batch)

    def _seed(self, step: int) -> None:
        torch.manual_seed((self.training.seed * 1_000_003 + step) * self.ranks + self.rank)

    def _follow(self, batch: Batch) -> None:
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        for name, seen in observe(self.model, [batch]).items():
            sites(self.model)[name].follow(seen)
        for module, mode in modes.items():
            module.training = mode

    def _judge(self, score: Score) -> None:
        progress = self.progress
        with torch.no_grad():
            progress.scores.append(score(self.model))
        if max(progress.scores) > max(progress.scores[:-1], default=-np.inf) or not progress.best:
            progress.best, progress.best_epoch = snapshot(self.model), progress.epoch - 1

    def _is_past_patience(self) -> bool:
        progress, patience = self.progress, self.training.patience
        if patience is None or progress.best_epoch is None:
            return False
        return progress.epoch - 1 - progress.best_epoch >= patience

    def _explain(self, step: int, rate: float, batch: Batch, what: str) -> None:
        """Raise `Diverged` with the first layer that is to blame; return where every layer's output is finite."""
        self._seed(step)
        where = _first_not_finite(self.model, lambda: self._loss(self.model, batch))
        if where is None:
            return
        raise Diverged(
            f"step {step}: {what}; what is not finite first is {where}; "
            f"lower the learning rate ({rate:.3g}) or largest_gradient ({self.training.largest_gradient:.3g})"
        )


def _norms(model: nn.Module) -> list[LearnedNorm]:
    found = [norm for norm in model.modules() if isinstance(norm, LearnedNorm)]
    if not found:
        raise ValueError("the model has no learned norm; call learn_norms before training")
    return found


def _groups(model: nn.Module, training: Training) -> list[dict[str, object]]:
    """Matrices decay; vectors (biases, normalisation) and what is learned about scales do not."""
    scales = {id(parameter) for site in sites(model).values() for parameter in site.scale_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    decays = [p for p in trained if p.dim() > 1 and id(p) not in scales]
    chosen = {id(p) for p in decays}
    rest = [p for p in trained if id(p) not in chosen]
    return [{"params": decays, "weight_decay": training.weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _set_modes_(model: nn.Module, *, follow_statistics: bool) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not follow_statistics:
            module.eval()


def _first_not_finite(model: nn.Module, loss: Callable[[], Tensor]) -> str | None:
    """Run once more and watch: outputs in the order of the layers, then gradients in the order of the backward pass."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def check(tensor: Tensor, what: str) -> None:
            if not bool(torch.isfinite(tensor).all()):
                found.append(f"the {what} of layer {name}")

        def see(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                check(output.detach(), "output")
                if output.requires_grad:
                    output.register_hook(lambda gradient: check(gradient, "output's gradient"))

        return see

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name in sites(model) or not list(module.children()):
                stack.callback(module.register_forward_hook(watch(name)).remove)
        with suppress(ValueError):  # the layer that refuses its input comes after the one that made it
            value = loss()
            if found or bool(torch.isfinite(value)):
                model.zero_grad()
                value.backward()
            else:
                found.append("the loss itself")
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            found.append(f"the gradient of {name}")
    return found[0] if found else None
