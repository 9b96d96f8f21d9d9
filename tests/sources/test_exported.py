"""Programs of torch.export compute as their module did, with layers to quantize; what could run code is refused."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.config import from_text
from bitwright.model.prepare import prepare
from bitwright.sources import load_network
from bitwright.sources.resolve import of_module

BATCH = torch.export.Dim("n", min=1, max=64)


class Net(nn.Module):
    """One of each layer, a product with a parameter of its own, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.line = nn.Conv1d(3, 3, 3, dilation=2)
        self.twice = nn.Linear(60, 60)
        self.own = nn.Parameter(torch.randn(5, 60) / 8)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = self.line(self.up(self.depthwise(x)).flatten(2))
        x = self.twice(self.twice(x[..., :20].flatten(1)))
        return F.linear(x, self.own)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made = Net().eval().requires_grad_(False)
    made.norm.running_mean.normal_()
    made.norm.running_var.uniform_(0.5, 2)
    return made


@pytest.fixture(scope="module")
def program(net):
    return torch.export.export(net, (torch.randn(2, 2, 8, 8),), dynamic_shapes=({0: BATCH},))


@pytest.fixture
def file(program, tmp_path) -> Path:
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def test_a_lifted_program_computes_the_same(net, program):
    x = torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(of_module(program, "net").model(x), net(x))


def test_every_product_with_parameters_is_a_layer_under_its_own_name(program):
    found = of_module(program, "net")
    layers = {name for name, m in found.model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)}
    assert {f"graph.{n}" for n in ("conv", "depthwise", "line", "twice")} < layers
    assert len(layers) == 5  # and the parameter of its own; what is called twice is one layer
    prepared = prepare(found.model, from_text("integer(8, 8)"), (torch.randn(1, 2, 8, 8),))
    assert not [row for row in prepared.coverage if row.status == "unsupported"]
    assert {row.count for row in prepared.coverage if row.name == "graph.twice"} == {2}


def test_a_quantized_program_is_the_quantized_module():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    plain[1].running_mean.normal_()
    program = torch.export.export(plain, (torch.randn(2, 2, 8, 8),), dynamic_shapes=({0: BATCH},))
    x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    lifted, expected = (bw.quantize(m, "integer(8, 8)", [x]) for m in (of_module(program, "net").model, plain))
    assert torch.equal(lifted(x), expected(x))


def test_a_saved_program_is_read_back(net, file):
    x = torch.randn(3, 2, 8, 8)
    assert torch.equal(load_network(file).model(x), net(x))


@pytest.mark.parametrize("kind", ["llama", "classifier", "vit"])
def test_a_transformer_keeps_its_names_and_its_attention(kind, model_folder, tmp_path):
    model = load_network(model_folder(kind)).model
    generator = torch.Generator().manual_seed(0)
    tokens = {"input_ids": torch.randint(4, 30, (2, 9), generator=generator)}
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8, generator=generator)} if kind == "vit" else tokens
    torch.export.save(torch.export.export(model, (), inputs), tmp_path / "a.pt2")
    found = load_network(tmp_path / "a.pt2")
    assert found.batch_size == 2
    torch.testing.assert_close(found.model(**inputs), model(**inputs).logits, rtol=0, atol=1e-6)
    layers, expected = (
        {n.removeprefix("graph.") for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        for network in (found.model, model)
    )
    assert layers <= expected
    assert len(expected - layers) <= 1  # a pooler whose output is not asked for
    coverage = prepare(found.model, from_text("integer(8, 8)"), inputs).coverage
    assert [row.status for row in coverage if row.kind == "attention"] == ["quantized"]


def test_a_program_in_training_mode_is_refused():
    program = torch.export.export(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(), (torch.ones(1, 2),))
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        of_module(program, "net")


class Exploit:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def changed(file: Path, change) -> None:
    """Write the archive again with `change(name, content)`; None leaves a member out."""
    with zipfile.ZipFile(file) as stored:
        members = {info.filename: stored.read(info) for info in stored.infolist()}
    with zipfile.ZipFile(file, "w") as stored:
        for name, content in members.items():
            found = change(name, content)
            if found is not None:
                stored.writestr(name, found)


def in_graph(edit):
    """A change of models/model.json."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        graph = json.loads(content)
        edit(graph)
        return json.dumps(graph).encode()

    return change


def set_target(name: str):
    return in_graph(lambda g: g["graph_module"]["graph"]["nodes"][0].update(target=name))


def set_expression(text: str):
    def edit(graph):
        spoiled = json.dumps(graph).replace("Symbol('", text + "+Symbol('")
        assert text in spoiled
        graph |= json.loads(spoiled)

    return in_graph(edit)


def exploit(path: Path) -> bytes:
    content = io.BytesIO()
    torch.save(Exploit(path), content)
    return content.getvalue()


ATTACKS = {
    "operator of torch": set_target("torch.hub.load"),
    "module behind torch": set_target("torch.os.system"),
    "operator": set_target("_operator.methodcaller"),
    "file as a tensor": set_target("torch.ops.aten.from_file.default"),
    "expression": set_expression("__import__"),
    "call": set_expression("open(1)"),
    "power": set_expression("9**9**9"),
    "pickled tensor": lambda n, c: c.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_c" in n else c,
    "example": lambda n, c: pickle.dumps(3) if n.endswith("sample_inputs/model.pt") else c,
    "container": in_graph(
        lambda g: g["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec=json.dumps([1, {"type": "collections.defaultdict", "context": "antigravity", "children_spec": []}])
        )
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_could_run_code_is_refused(attack, file):
    changed(file, ATTACKS[attack])
    with pytest.raises(ValueError, match="could run code when it is read"):
        load_network(file)


def test_example_inputs_are_never_unpickled(file, tmp_path):
    changed(file, lambda n, c: exploit(tmp_path / "touched") if n.endswith("sample_inputs/model.pt") else c)
    with pytest.raises(ValueError, match="example inputs that are more than tensors"):
        load_network(file)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["net/data/aotinductor/model/a.so", "net/data/weights/../../x", "net/extra.py"])
def test_members_that_belong_to_no_graph_are_refused(name, file):
    with zipfile.ZipFile(file, "a") as stored:
        stored.writestr(name, b"x")
    with pytest.raises(ValueError, match="could run code"):
        load_network(file)


@pytest.mark.parametrize("cut", [0, 10, 0.5, -10])
def test_a_damaged_file_is_named(cut, file):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * cut) if isinstance(cut, float) else cut])
    with pytest.raises(ValueError, match=r"net\.pt2"):
        load_network(file)
