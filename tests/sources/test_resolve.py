"""One name for every model; a wrong one is answered with what is near and which kinds there are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.sources import Network, load_network, load_task


def sentence(read) -> str:
    with pytest.raises((ValueError, ImportError, OSError)) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_built_in_task_is_itself():
    from bitwright.model.zoo import TASKS

    assert load_task("digits") is TASKS["digits"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "did you mean 'digits'"), ("nothing_like_it", "hf:org/name"), ("model.pt", "weights_only=True"),
        ("pytorch_model.bin", "safetensors"), ("no_such_module:task", "cannot be imported"),
        ("math:pi", "gives a float; it must return"), ("math:tau2", "has no 'tau2'"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_explained(name, words):
    assert words in sentence(lambda: load_network(name))


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2"])
def test_a_file_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        load_network(tmp_path / name)


def test_a_module_without_data_is_told_how_to_get_some():
    assert "--data" in sentence(lambda: load_task(nn.Linear(2, 2)))


def test_a_folder_says_what_it_knows(model_folder):
    found = load_network(model_folder("llama"))
    assert isinstance(found, Network)
    assert (found.name, found.is_causal, found.longest, found.model.training) == ("llama", True, 16, False)
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    assert load_network(model_folder("vit")).classes == {"red": 0, "blue": 1}


@pytest.fixture
def copied(model_folder, tmp_path):
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "copy"))


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_code_of_a_folder_is_never_run(copied):
    (copied / "evil.py").write_text("raise SystemExit('it ran')")
    edit_config(copied, architectures=["Evil"], model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    assert str(copied) in sentence(lambda: load_network(copied))


def test_an_architecture_that_transformers_has_not_is_named(copied):
    edit_config(copied, architectures=["LlamaForNothing"])
    assert "'LlamaForNothing' is none of transformers" in sentence(lambda: load_network(copied))


def test_pickled_weights_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    assert "pickled and could run code" in sentence(lambda: load_network(copied))


@pytest.mark.parametrize("cut", [0, 7, 100, -100])
def test_damaged_weights_are_named(cut, copied):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    assert str(copied) in sentence(lambda: load_network(copied))


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 2}, {"intermediate_size": 48}])
def test_weights_that_do_not_fill_the_model_are_named(changes, copied):
    edit_config(copied, **changes)
    assert str(copied) in sentence(lambda: load_network(copied))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": 3}', '{"model_type": "no_such"}'])
def test_a_damaged_description_is_named(content, copied):
    (copied / "config.json").write_text(content)
    assert str(copied) in sentence(lambda: load_network(copied))


@pytest.mark.parametrize("content", ["", "{}", "[1"])
def test_a_damaged_tokenizer_is_named(content, copied):
    (copied / "tokenizer.json").write_text(content)
    assert str(copied) in sentence(lambda: load_network(copied))


def test_a_folder_of_something_else_is_named(tmp_path):
    assert "has no config.json" in sentence(lambda: load_network(tmp_path))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_missing_is_one_sentence(library, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, library, None)
    assert f"pip install 'bitwright[{library}]'" in sentence(lambda: load_network(f"{library}:resnet18"))


def test_a_network_of_timm_prepares_images_as_it_was_trained():
    pytest.importorskip("timm", reason="timm needs torchvision, which is not installed", exc_type=ImportError)
    from bitwright.sources.named import load_timm

    found = load_timm("test_vit", has_weights=False)
    assert found.prepare.size == found.model.default_cfg["input_size"][1]
    assert "did you mean" in sentence(lambda: load_timm("resnet181"))


def test_a_network_of_torchvision_prepares_images_as_it_was_trained():
    pytest.importorskip("torchvision", reason="no build for this torch is installed", exc_type=ImportError)
    from bitwright.sources.named import load_torchvision

    found = load_torchvision("resnet18", has_weights=False)
    assert (found.prepare.size, found.prepare.resize, found.outputs) == (224, 256, 1000)
