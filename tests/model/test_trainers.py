"""A prepared model trains in anyone's loop: plain PyTorch, Hugging Face's Trainer, Lightning."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.train import learn_ranges

EPOCHS, SIZE, RATE = 8, 32, 1e-2

X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
Y = 2 * (X[:, 0] > 0) + (X[:, 1] > X[:, 2])


class Network(nn.Module):
    """Takes keywords and returns its loss, as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, inputs, labels=None):
        logits = self.layers(inputs)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} if labels is None else {"loss": loss, "logits": logits}


def prepared(scheme: str) -> nn.Module:
    torch.manual_seed(0)
    batch = bw.Batch({"inputs": X}, Y)
    return bw.calibrate(bw.prepare(Network(), bw.from_text(scheme), batch.inputs), [batch])


def plain(model: nn.Module, folder: Path, *, bfloat16: bool = False, accumulate: int = 1) -> None:
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for step, (x, y) in enumerate(zip(X.split(SIZE) * EPOCHS, Y.split(SIZE) * EPOCHS, strict=True), 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(inputs=x, labels=y)["loss"]
        (loss / accumulate).backward()
        if step % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def hugging_face(model: nn.Module, folder: Path, *, bfloat16: bool = False, accumulate: int = 1) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs accelerate")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=SIZE, learning_rate=RATE,
        gradient_accumulation_steps=accumulate, bf16=bfloat16, use_cpu=True, save_strategy="no", report_to=[],
        logging_strategy="no", disable_tqdm=True, optim="adamw_torch",
    )  # fmt: skip
    data = [{"inputs": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    trainer = transformers.Trainer(model, arguments, train_dataset=data)
    trainer.train()
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # its autocast would stay around `forward`


def lightning(model: nn.Module, folder: Path, *, bfloat16: bool = False, accumulate: int = 1) -> None:
    library = pytest.importorskip("lightning")

    class Module(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return self.model(inputs=batch[0], labels=batch[1])["loss"]

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), RATE)

    trainer = library.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=1, precision="bf16-mixed" if bfloat16 else "32-true",
        accumulate_grad_batches=accumulate, default_root_dir=folder, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), SIZE))


LOOPS = {
    f"{loop.__name__}{name}": partial(loop, **settings)
    for loop in (plain, hugging_face, lightning)
    for name, settings in {"": {}, ", bfloat16": {"bfloat16": True}, ", accumulated": {"accumulate": 2}}.items()
}
# what Lightning says of its own use of torch, of data loaders, and of a model that was handed over in eval mode
QUIET = ("LeafSpec", "does not have many workers", "in eval mode at the start", "logging interval")
pytestmark = pytest.mark.filterwarnings(*(f"ignore:.*{words}" for words in QUIET))


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return nn.functional.cross_entropy(model(X)["logits"], Y).item()


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("scheme", ["integer(3, 4)", "mxfp4()", "a2q(4, 4, 8)"])
def test_a_prepared_model_learns_and_freezes_to_what_was_trained(loop: Callable, scheme: str, tmp_path: Path):
    model = prepared(scheme)
    before = loss(model)
    loop(model, tmp_path)
    model.eval()
    assert loss(model) < 0.8 * before
    frozen = bw.freeze(model)
    layers = [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]
    for layer, stored in zip(layers, (m for m in frozen.modules() if isinstance(m, QuantizedLayer)), strict=True):
        decoded = torch.from_numpy(stored.quantized_weight().decode()).float()
        assert torch.equal(decoded, layer.fake_weight().detach())
    with torch.no_grad():
        agree = model(X)["logits"].argmax(1) == frozen(X)["logits"].argmax(1)
    assert agree.double().mean() >= 0.99  # the simulation rounds its sums to float32, so a tie may fall otherwise


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_learned_ranges_move_in_any_loop(loop: Callable, tmp_path: Path):
    model = prepared("integer(3, 4)")
    assert learn_ranges(model)
    steps = {name: p.detach().clone() for name, p in model.named_parameters() if ".steps." in name}
    loop(model, tmp_path)
    assert steps
    for name, value in steps.items():
        assert not torch.equal(value, model.get_parameter(name)), name


def test_two_halves_of_a_batch_accumulate_to_its_gradient():
    model = prepared("integer(3, 4)")
    model(inputs=X, labels=Y)["loss"].backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for x, y in zip(X.split(128), Y.split(128), strict=True):
        (model(inputs=x, labels=y)["loss"] / 2).backward()
    for name, parameter in model.named_parameters():
        # sums of 256 float32 terms in another order
        torch.testing.assert_close(parameter.grad, whole[name], rtol=256 * 2.0**-24, atol=1e-6)


def test_under_autocast_weights_have_the_codes_of_float32():
    model = prepared("integer(3, 4)")
    layer = next(m for m in model.modules() if isinstance(m, FakeQuantizedLayer))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.fake_weight(), prepared("integer(3, 4)").layers[0].fake_weight())


def test_a_fused_optimizer_step_is_seen_by_the_simulation():
    model = prepared("integer(3, 4)")
    layer = next(m for m in model.modules() if isinstance(m, FakeQuantizedLayer))
    with torch.no_grad():
        before = layer.fake_weight().clone()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=True)
    model(inputs=X, labels=Y)["loss"].backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.equal(layer.fake_weight(), before)
