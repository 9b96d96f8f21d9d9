"""The training loop: what it does to a model, how it resumes, shares its work, and says what went wrong."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bitwright.config import from_text
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch, Perplexity, Top1
from bitwright.model.train import Diverged, History, cross_entropy, learn_ranges, metric_of, train
from bitwright.model.training import AdamW, Cosine, InOrder, RangeWarmup, Sgd, Shuffled, Staircase, Training


class Network(nn.Module):
    """Three layers, with all that a training loop has to look after: normalisation, dropout, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 8)
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.dropout(self.second(self.norm(self.first(x)).relu()).relu()))


def samples(count: int = 64) -> Batch:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return Batch((x,), 2 * (x[:, 0] > 0) + (x[:, 1] > x[:, 2]))


DATA = Shuffled(samples(), 16)


def prepared(scheme: str = "integer(4, 4)") -> nn.Module:
    torch.manual_seed(0)
    return calibrate(prepare(Network(), from_text(scheme), samples().inputs), [samples()])


def state(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def assert_same(first: nn.Module, second: nn.Module) -> None:
    expected = state(second)
    for name, value in state(first).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    x = samples().inputs
    with torch.no_grad():
        np.testing.assert_array_equal(freeze(first)(*x).numpy(), freeze(second)(*x).numpy())


@pytest.mark.parametrize("optimizer", [AdamW(), Sgd()], ids=repr)
def test_training_lowers_the_loss_and_leaves_a_model_that_freezes(optimizer):
    model = prepared()
    rate = 2e-2 if isinstance(optimizer, AdamW) else 1e-1
    history = train(model, DATA, Training(epochs=12, learning_rate=rate, optimizer=optimizer))
    assert np.mean(history.losses[-4:]) < 0.8 * np.mean(history.losses[:4])
    assert not model.training
    with torch.no_grad():
        # sums of at most 16 products in another order
        np.testing.assert_allclose(freeze(model)(*samples().inputs), model(*samples().inputs), rtol=1e-4, atol=1e-5)


def test_no_epochs_change_nothing():
    model = prepared()
    assert train(model, DATA, Training(epochs=0)) == History((), (), None)
    assert_same(model, prepared())


def test_the_seed_decides_the_result_and_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    runs = [train(prepared(), DATA, Training(seed=seed)).losses for seed in (1, 1, 2)]
    torch.manual_seed(5)
    train(model := prepared(), DATA, Training())
    assert runs[0] == runs[1] != runs[2]
    torch.manual_seed(5)
    train(model, DATA, Training())
    assert torch.equal(torch.rand(1), expected)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("optimizer", [AdamW(), Sgd()], ids=repr)
@pytest.mark.parametrize("learned", [False, True], ids=["static", "learned"])
def test_a_resumed_run_gives_the_bits_of_an_uninterrupted_one(tmp_path, optimizer, learned):
    training = Training(4, 1e-2, optimizer, range_warmup=RangeWarmup(6, 2), batchnorm_epochs=2, weight_decay=0.1)

    def start() -> nn.Module:
        model = prepared()
        if learned:
            learn_ranges(model)
        return model

    def score(model: nn.Module) -> float:
        return metric_of(Top1(), [samples()])(model)

    whole = start()
    expected = train(whole, DATA, training, score=score)
    calls = []

    def interrupted(model: nn.Module, batch: Batch) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 11:
            raise Interrupted
        return cross_entropy(model, batch)

    path = tmp_path / "run.safetensors"
    with pytest.raises(Interrupted):
        train(start(), DATA, training, loss=interrupted, score=score, checkpoint=path)
    model = start()
    assert train(model, DATA, training, score=score, checkpoint=path) == expected
    assert_same(model, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    train(prepared(), DATA, Training(), checkpoint=path)
    with pytest.raises(ValueError, match=r"its training is Training.*delete it, or choose another path"):
        train(prepared(), DATA, Training(seed=1), checkpoint=path)
    with pytest.raises(ValueError, match="its quantizers is"):
        train(prepared("mxfp4()"), DATA, Training(), checkpoint=path)


def test_the_state_of_the_best_score_is_kept_and_patience_ends_training():
    seen = []

    def score(model: nn.Module) -> float:
        seen.append(state(model))
        return [1.0, 3.0, 2.0, 2.5, 9.0][len(seen) - 1]

    model = prepared()
    history = train(model, DATA, Training(epochs=5, patience=2), score=score)
    assert history.scores == (1.0, 3.0, 2.0, 2.5)
    assert history.best_epoch == 1
    for name, value in state(model).items():
        np.testing.assert_array_equal(value, seen[1][name])


def test_a_metric_where_lower_is_better_is_negated():
    batch = Batch((torch.randn(4, 3, 5),), torch.zeros(4, 3, dtype=torch.long))
    assert metric_of(Perplexity(), [batch])(nn.Identity()) < 0


def test_ranges_follow_the_batches_at_first_and_then_stay():
    model = prepared()
    before = model.second.input_ranges
    train(model, DATA, Training(epochs=1, learning_rate=1e-2))
    assert model.second.input_ranges == before
    train(model, InOrder(tuple(DATA.epoch(0))), Training(epochs=1, learning_rate=1e-9, range_warmup=RangeWarmup(1)))
    assert model.second.input_ranges != before


@pytest.mark.parametrize("epochs", [0, 1])
def test_batchnorm_statistics_follow_the_batches_only_in_the_first_epochs(epochs):
    model = prepared()
    train(model, DATA, Training(epochs=2, batchnorm_epochs=epochs))
    assert model.norm.num_batches_tracked == epochs * len(DATA)


def test_weight_decay_leaves_out_biases_and_learned_steps():
    model = prepared("integer(4, 4, weight_range=MinimumError())")
    learn_ranges(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    # with no gradient to follow, only decay moves a parameter
    train(model, DATA, Training(learning_rate=0.1, weight_decay=0.5), loss=lambda m, b: 0 * cross_entropy(m, b))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"first.weight", "second.weight", "head.weight"}


def test_autocast_trains_and_the_model_keeps_its_type():
    model = prepared()
    history = train(model, DATA, Training(epochs=4, learning_rate=1e-2, autocast=torch.bfloat16))
    assert np.mean(history.losses[-4:]) < np.mean(history.losses[:4])
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert model(*DATA.samples.inputs).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Cosine(), [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2]),
        (Cosine(warmup_steps=2, floor=0.5), [0.5, 1, 1, 0.75]),
        (Staircase((0.5, 0.75), 0.1), [1, 1, 0.1, 0.01]),
    ],
    ids=repr,
)
def test_schedules_are_functions_of_the_step(schedule, expected):
    assert [schedule.factor(step, 4) for step in range(4)] == pytest.approx(expected)


class Breaks(nn.Module):
    """A value, or a gradient, that is not finite from the fourth call on: one calibrates."""

    def __init__(self, *, forward: bool) -> None:
        super().__init__()
        self.breaks_forward, self.calls = forward, 0

    def forward(self, x):
        self.calls += 1
        if self.calls < 4:
            return x
        return x / 0 if self.breaks_forward else x + ((x - x.detach()).abs() + 0.0).sqrt()


@pytest.mark.parametrize(
    ("forward", "what"), [(True, "the output of layer 1"), (False, "the output's gradient of layer 0")]
)
def test_divergence_names_the_step_and_the_layer(forward, what):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Breaks(forward=forward), nn.Linear(8, 4))
    model = calibrate(prepare(model, from_text("integer(4, 4)")), [samples()])
    with pytest.raises(Diverged, match=rf"^step 2: .* not finite first is {what}; lower the learning rate"):
        train(model, DATA)


def test_a_learning_rate_that_is_too_high_is_said():
    with pytest.raises(Diverged, match="lower the learning rate"):
        train(prepared(), DATA, Training(epochs=20, learning_rate=1e25, optimizer=Sgd()))


def test_a_loss_that_is_not_finite_of_itself_is_said():
    with pytest.raises(Diverged, match="step 0: the loss is inf; what is not finite first is the loss itself"):
        train(prepared(), DATA, loss=lambda model, batch: cross_entropy(model, batch) / 0)


def test_a_model_that_is_not_calibrated_is_an_error():
    with pytest.raises(ValueError, match="first is not calibrated"):
        train(prepare(Network(), from_text("integer(4, 4)"), samples().inputs), DATA)
    with pytest.raises(ValueError, match="the model is not calibrated"):
        train(Network(), DATA)


def test_no_training_data_is_an_error():
    with pytest.raises(ValueError, match="the training data is empty"):
        train(prepared(), [])


@pytest.mark.parametrize("wrong", [{"epochs": -1}, {"learning_rate": 0.0}, {"weight_decay": -1.0}, {"patience": 0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="found"):
        replace(Training(), **wrong)


SHARED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_train import DATA, Training, prepared
from bitwright.model.train import train
from torch import distributed
from safetensors.torch import save_file
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[3]), world_size=2)
model = prepared()
model.dropout.p = 0.0
train(model, DATA, Training(epochs=2, learning_rate=1e-2))
save_file(dict(model.state_dict()), f"{sys.argv[2]}.{sys.argv[3]}")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    meeting = tmp_path / "meeting"
    command = [sys.executable, "-W", "ignore", "-c", SHARED, str(Path(__file__).parent), str(meeting)]
    running = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    first, second = (load_file(f"{meeting}.{rank}") for rank in range(2))
    alone = prepared()
    alone.dropout.p = 0.0
    train(alone, DATA, Training(epochs=2, learning_rate=1e-2))
    for name, tensor in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        # gradients are sums of 16 samples in another order; Adam's first steps divide them by their own size
        np.testing.assert_allclose(first[name].numpy(), tensor.numpy(), rtol=1e-3, atol=1e-4)
