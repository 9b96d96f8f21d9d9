"""A bundle is read back bit for bit, and a damaged one is refused in one sentence."""

import json
import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import config
from bitwright.config import from_text
from bitwright.export import bundle
from bitwright.formats import Int
from bitwright.model.zoo import EMBEDDED
from bitwright.quantization import PerRow, PerTensor, Quantizer, Scale
from bitwright.scheme import Scheme
from bitwright.schemes import CATALOGUE


class Small(nn.Module):
    """A convolution with BatchNorm, a depthwise one, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.last, self.scale = nn.Linear(8, 10), nn.LayerNorm(10)

    def forward(self, x):
        x = self.depthwise(torch.relu(self.norm(self.first(x))))
        return self.scale(self.last(x.mean((2, 3))))


X = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def written(small, tmp_path):
    frozen = bw.quantize(small, "vs_quant(4, 4)", [X])
    return frozen, bundle.write(frozen, tmp_path / "bundle")


@pytest.mark.parametrize("factory", CATALOGUE, ids=lambda f: f.__name__)
def test_every_scheme_comes_back_bit_for_bit(factory, small, tmp_path):
    frozen = bw.quantize(small, factory(), [X])
    bundle.verify(bundle.write(frozen, tmp_path), frozen, Small().eval(), (X,))


@pytest.mark.parametrize("text", ["integer(8, 8, zero=Zero.FITTED)", "ant4_8()", "wrapnet(2, 4, 12)"])
def test_zero_points_promoted_layers_and_wrapped_sums_come_back(text, small, tmp_path):
    frozen = bw.quantize(small, text, [X])
    bundle.verify(bundle.write(frozen, tmp_path), frozen, Small().eval(), (X,))


@pytest.mark.parametrize("name", ["digits", "pydoc"])
@pytest.mark.parametrize("text", ["integer(8, 8)", "nvfp4()"])
def test_the_embedded_networks_come_back(name, text, tmp_path):
    task = EMBEDDED[name]
    batch = next(iter(task.calibration())).first(2)
    frozen = bw.quantize(task.load(), text, [batch])
    bundle.verify(bundle.write(frozen, tmp_path), frozen, task.load(), batch.inputs)


def test_codes_are_stored_at_their_own_width(written):
    _, folder = written
    weights = 8 * 3 * 9 + 8 * 9 + 8 * 10
    assert (folder / bundle.TENSORS).stat().st_size < weights * 4 / 2 + 2000  # half of float32, with names and scales


def test_a_flipped_bit_is_refused(written, small):
    _, folder = written
    path = folder / bundle.TENSORS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not the file that its manifest was written for"):
        bundle.read(folder, small, (X,))


def test_another_architecture_is_refused(written):
    _, folder = written
    with pytest.raises(ValueError, match=r"matches no layer|another architecture"):
        bundle.read(folder, nn.Sequential(nn.Linear(3, 3)), (torch.randn(1, 3),))


def test_batch_norm_that_was_folded_asks_for_an_example(written, small):
    _, folder = written
    with pytest.raises(ValueError, match="give an example input, with which BatchNorm is folded"):
        bundle.read(folder, small)


def test_a_folder_without_a_bundle_says_what_makes_one(tmp_path, small):
    with pytest.raises(ValueError, match=r"has no model\.safetensors; bitwright\.export\.bundle\.write makes one"):
        bundle.read(tmp_path, small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=99), "version 99 found"),
        (lambda m: m.pop("places"), "not a Manifest"),
        (lambda m: m["places"][0].update(schemes=["__import__('os').system('true')"]), "not allowed"),
        (lambda m: m["places"][0].update(codes=[2**40, 1, 4]), r"codes are torch.uint8"),
        (lambda m: m["places"][0].update(k=5), "codes of a matrix"),
    ],
)
def test_a_wrong_manifest_is_refused(change, message, written, small, tmp_path):
    _, folder = written
    broken = shutil.copytree(folder, tmp_path / "broken")
    manifest = json.loads((broken / bundle.MANIFEST).read_text())
    change(manifest)
    (broken / bundle.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message):
        bundle.read(broken, small, (X,))


def test_a_model_that_is_not_frozen_is_refused(small, tmp_path):
    prepared = bw.calibrate(bw.prepare(small, from_text("integer(8, 8)"), (X,)), [bw.Batch((X,), X)])
    with pytest.raises(ValueError, match="is not frozen"):
        bundle.write(prepared, tmp_path)


def test_a_model_without_quantized_layers_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="no quantized layer"):
        bundle.write(small, tmp_path)


@dataclass(frozen=True)
class Odd(Int):
    """A user's own format."""


OWN = Scheme(Quantizer(Odd(5), (Scale(PerTensor()),)), Quantizer(Odd(4), (Scale(PerRow()),)))


def test_a_format_of_ones_own_comes_back_where_its_class_is_given(small, tmp_path):
    frozen = bw.quantize(small, OWN, [X])
    bundle.write(frozen, tmp_path, (Odd,))
    bundle.verify(tmp_path, frozen, small, (X,), (Odd,))
    with pytest.raises(ValueError, match="there is no 'Odd'"):
        bundle.read(tmp_path, small, (X,))


def test_a_format_that_could_not_be_read_back_is_not_written(small, tmp_path):
    with pytest.raises(
        ValueError, match=r"no 'Odd'.*; pass your classes as words=\(\.\.\.\), or offer them as entry po"
    ):
        bundle.write(bw.quantize(small, OWN, [X]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_installed_package_offers_its_formats_by_entry_points(small, tmp_path, monkeypatch):
    offered = {"bitwright.words": [SimpleNamespace(name="Odd", load=lambda: Odd)]}
    monkeypatch.setattr(config, "entry_points", lambda group: offered[group])
    config._installed.cache_clear()
    frozen = bw.quantize(small, OWN, [X])
    bundle.verify(bundle.write(frozen, tmp_path), frozen, small, (X,))
    config._installed.cache_clear()


class Named(nn.Module):
    """Linear layers one after the other, under these names."""

    def __init__(self, names):
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Linear(8, 8))

    def forward(self, x):
        for name in self.names:
            x = torch.relu(self.get_submodule(name)(x))
        return x


ODD = [
    "a/b", "a", "A", "a%20b", "é", "x+y(z", "codes", "scales",
    "a\nb", "re:x", "$", "a b", "/", "/a", "a\0b", "(a|b)*",
]  # fmt: skip


@pytest.mark.parametrize("make", [lambda: Named(ODD), lambda: nn.Linear(8, 4)], ids=["odd names", "no name"])
def test_layers_of_any_name_come_back(make, tmp_path):
    model, x = make().eval(), torch.randn(5, 8)
    frozen = bw.quantize(model, "integer(8, 8)", [x])
    bundle.verify(bundle.write(frozen, tmp_path), frozen, make().eval(), (x,))


def test_a_layer_under_two_names_comes_back(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model.add_module("again", model[0])
    x = torch.randn(5, 8)
    frozen = bw.quantize(model.eval(), "nvfp4()", [x])
    bundle.verify(bundle.write(frozen, tmp_path), frozen, model, (x,))
