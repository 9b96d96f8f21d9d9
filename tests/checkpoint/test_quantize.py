"""Folders of safetensors to folders of 4-bit weights: whole, resumable, and read by the library whose layout it is."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bitwright.checkpoint import NAMED, Integers, Nvfp4, Selection, TensorFile, quantize_checkpoint
from bitwright.checkpoint import quantize as job
from bitwright.cli import app

WIDTH, INNER = 128, 256
LAYOUTS = [
    *(make(False) for make in NAMED.values()), *(Integers(bits) for bits in range(2, 9)), Integers(4, None, True),
    Integers(5, 32, True), Integers(8, None, has_inputs=True),
]  # fmt: skip


def layer(i, generator):
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH), "self_attn.v_proj": (WIDTH, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
    }  # fmt: skip
    tensors = {
        f"model.layers.{i}.{name}.weight": torch.randn(shape, generator=generator) * 0.1 * (j + 1)
        for j, (name, shape) in enumerate(shapes.items())
    }
    return tensors | {f"model.layers.{i}.input_layernorm.weight": torch.ones(WIDTH)}


@pytest.fixture
def model(tmp_path):
    """Two files; the layers' q_proj lie apart from their k_proj."""
    generator = torch.Generator().manual_seed(0)
    tensors = layer(0, generator) | layer(1, generator)
    tensors |= {n: torch.randn(64, WIDTH, generator=generator) for n in ("model.embed_tokens.weight", "lm_head.weight")}
    tensors = {n: t.bfloat16() for n, t in tensors.items()}
    folder = tmp_path / "model"
    folder.mkdir()
    first = [n for n in tensors if "q_proj" in n or "embed" in n]
    rest = [n for n in tensors if n not in first]
    parts = {
        name: {n: tensors[n] for n in names} for name, names in (("a.safetensors", first), ("b.safetensors", rest))
    }
    for name, part in parts.items():
        save_file(part, folder / name, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    return folder, tensors


def read(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


@pytest.mark.parametrize("format", [Nvfp4(), Integers()], ids=repr)
def test_linear_weights_are_replaced_and_everything_else_is_kept(model, tmp_path, format):
    folder, tensors = model
    done = quantize_checkpoint(folder, tmp_path / "out", format)
    found = read(tmp_path / "out")
    assert len(done.quantized) == 14
    for name, tensor in tensors.items():
        if name in done.quantized:
            assert name not in found
            assert f"{name}_packed" in found
        else:
            assert torch.equal(found[name], tensor)
    assert sum(t.numel() * t.element_size() for t in found.values()) == done.bytes_after
    assert (tmp_path / "out" / "tokenizer.json").exists()
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(found)
    assert TensorFile(tmp_path / "out" / "a.safetensors").metadata == {"format": "pt"}


def test_projections_that_are_multiplied_together_share_a_global_scale(model, tmp_path):
    folder, tensors = model
    quantize_checkpoint(folder, tmp_path / "out", Nvfp4())
    found = read(tmp_path / "out")
    for names in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")):
        scales = {found[f"model.layers.0.{n}.weight_global_scale"].item() for n in names}
        largest = max(tensors[f"model.layers.0.{n}.weight"].abs().max().item() for n in names)
        assert scales == {torch.tensor(2688 / largest).bfloat16().item()}
    apart = {found[f"model.layers.0.{n}.weight_global_scale"].item() for n in ("self_attn.o_proj", "mlp.down_proj")}
    assert len(apart) == 2


@pytest.mark.filterwarnings("ignore")  # those of the libraries that read
# transformers 5.23 expects zero points unpacked, compressed-tensors 0.20 packs them: neither reads the other's
@pytest.mark.parametrize("format", [f for f in LAYOUTS if not getattr(f, "has_zero_points", False)], ids=repr)
def test_transformers_reads_the_folder_and_decodes_the_same_weights(tmp_path, format):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, max_position_embeddings=64,
    )  # fmt: skip
    own = transformers.LlamaForCausalLM(config).bfloat16().eval()
    own.save_pretrained(tmp_path / "model")
    done = quantize_checkpoint(tmp_path / "model", tmp_path / "out", format)
    found = read(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    stored = QuantizationConfig.model_validate(written["quantization_config"])
    compressor = BaseCompressor.get_value_from_registry(stored.format)
    scheme = stored.config_groups["group_0"]
    for name in done.quantized:
        state = {n.removeprefix(name.removesuffix("weight")): t for n, t in found.items() if n.startswith(name)}
        decoded = compressor.decompress(state, scheme)["weight"]
        own.get_parameter(name).data.copy_(decoded)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits.float(), own(tokens).logits.float(), rtol=2e-2, atol=2e-2)


def test_a_run_that_was_stopped_goes_on_with_what_is_missing(model, tmp_path, monkeypatch):
    folder, _ = model
    expected = quantize_checkpoint(folder, tmp_path / "whole", Nvfp4())

    def fail(what, done, total):
        if what == "b.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(folder, tmp_path / "out", Nvfp4(), progress=fail)
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == ["a.safetensors"]
    done = quantize_checkpoint(folder, tmp_path / "out", Nvfp4())
    assert (done.written, expected.written) == (1, 2)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("format", LAYOUTS, ids=repr)
def test_pieces_change_nothing(model, tmp_path, monkeypatch, format):
    folder, _ = model
    quantize_checkpoint(folder, tmp_path / "whole", format)
    monkeypatch.setattr(job, "CHUNK", 1000)
    quantize_checkpoint(folder, tmp_path / "out", format)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_a_weight_that_is_not_finite_is_named(model, tmp_path):
    folder, _ = model
    tensors = load_file(folder / "b.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "b.safetensors")
    for format in (Nvfp4(), Integers()):
        with pytest.raises(ValueError, match=r"model.layers.1.mlp.up_proj.weight holds NaN"):
            quantize_checkpoint(folder, tmp_path / "out", format)
    assert not list((tmp_path / "out").glob(".*"))


def test_what_is_ignored_stays_and_is_written_into_the_config(model, tmp_path):
    folder, _ = model
    selection = Selection((*Selection().ignore, "model.layers.1.*"))
    done = quantize_checkpoint(folder, tmp_path / "out", Nvfp4(), selection)
    assert all(".layers.0." in name for name in done.quantized)
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    assert {"lm_head", "model.layers.1.mlp.up_proj"} <= set(ignored)


@pytest.mark.parametrize("damage", ["cut", "garbage", "group", "same folder", "no config", "nothing"])
def test_what_cannot_be_read_is_said(model, tmp_path, damage):
    folder, _ = model
    path, out, format, named = folder / "a.safetensors", tmp_path / "out", Nvfp4(), ""
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
        named = "cut short"
    elif damage == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(1000))
        named = "not a safetensors"
    elif damage == "group":
        format, named = Integers(4, 96), "groups of 96"
    elif damage == "same folder":
        out, named = folder, "choose another"
    elif damage == "no config":
        (folder / "config.json").unlink()
        named = "no config.json"
    else:
        for file in folder.glob("*.safetensors"):
            file.unlink()
        named = "holds no .safetensors"
    with pytest.raises(ValueError, match=named):
        quantize_checkpoint(folder, out, format)


@pytest.mark.parametrize("other", ["scheme", "weights", "model"])
def test_nothing_of_another_run_is_overwritten_or_taken_for_its_own(model, tmp_path, other):
    folder, tensors = model
    out, format = tmp_path / "out", Integers()
    quantize_checkpoint(folder, out, format)
    if other == "weights":
        path = folder / "b.safetensors"
        tensors = load_file(path)
        save_file({n: t * 2 for n, t in tensors.items()}, path, {"format": "pt"})
        later = (out / "b.safetensors").stat().st_mtime + 10
        os.utime(path, (later, later))
    elif other == "scheme":
        format = Nvfp4()
    else:
        for path in out.glob("*.safetensors"):
            path.unlink()
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ValueError, match="choose another folder"):
        quantize_checkpoint(folder, out, format)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_what_a_killed_run_left_is_removed_and_pickles_are_not_copied(model, tmp_path):
    folder, _ = model
    (folder / "pytorch_model.bin").write_bytes(b"weights again")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a.safetensors.1.partial").write_bytes(b"half")
    quantize_checkpoint(folder, tmp_path / "out", Integers())
    left = [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".") or p.suffix == ".bin"]
    assert left == []


def test_a_weight_without_elements_is_kept(model, tmp_path):
    folder, _ = model
    path = folder / "b.safetensors"
    empty = torch.zeros(0, WIDTH, dtype=torch.bfloat16)
    save_file(load_file(path) | {"model.empty.weight": empty}, path, {"format": "pt"})
    assert "model.empty.weight" in quantize_checkpoint(folder, tmp_path / "out", Integers()).kept


@pytest.mark.parametrize("content", ["[1]", "3", "["])
def test_a_config_that_is_no_object_is_refused_in_a_sentence(model, tmp_path, content):
    folder, _ = model
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json (is not JSON|holds no JSON object)"):
        quantize_checkpoint(folder, tmp_path / "out", Integers())


def test_the_command_needs_no_torch(model, tmp_path):
    folder, _ = model
    code = (
        "import sys; sys.modules['torch'] = None; from bitwright.cli import main; "
        f"sys.argv = ['bitwright', 'quantize', {str(folder)!r}, '-s', 'int4', '-o', {str(tmp_path / 'out')!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("14 weights quantized, 4 tensors kept")
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "0 files written" in again.stdout


@pytest.mark.parametrize("scheme", [*NAMED, "int2", "int3", "int8"])
def test_every_named_scheme_is_written_by_the_command(model, tmp_path, scheme):
    folder, _ = model
    done = CliRunner().invoke(app, ["quantize", str(folder), "-s", scheme, "-o", str(tmp_path / "out"), "-q"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("14 weights quantized")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-s", "ant(4, 4)"], "bitwright.export.bundle"), (["-s", "fp8", "--group", "64"], "leave out --group"),
        (["-s", "nvfp4", "--inputs"], "calibrate"), (["-s", "int4", "--group", "12"], "a multiple of 8"),
        (["-s", "int4", "--ignore", "re:("], "correct the regular expression"),
    ],
)  # fmt: skip
def test_what_a_layout_cannot_hold_is_refused_in_one_sentence(model, tmp_path, arguments, sentence, capsys):
    folder, _ = model
    done = CliRunner().invoke(app, ["quantize", str(folder), "-o", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_links_are_followed_where_they_are_read_and_replaced_where_they_are_written(model, tmp_path):
    folder, _ = model
    blob, out, elsewhere = tmp_path / "blobs" / "1", tmp_path / "out", tmp_path / "elsewhere"
    blob.parent.mkdir()
    blob.write_text('{"a": 1}')
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(blob)  # as in the hub's cache
    elsewhere.write_text('{"a": 1}')
    out.mkdir()
    (out / "tokenizer.json").symlink_to(elsewhere)
    (out / "config.json").symlink_to(tmp_path / "nowhere")
    quantize_checkpoint(folder, out, Integers())
    assert not (out / "tokenizer.json").is_symlink()
    assert (out / "tokenizer.json").read_text() == '{"a": 1}'
    assert not (tmp_path / "nowhere").exists()


def test_a_file_of_ones_own_in_the_output_is_not_overwritten(model, tmp_path):
    folder, _ = model
    (folder / "README.md").write_text("theirs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(
        ValueError, match=r"README\.md is there already and is not that of .*; remove it, or choose another"
    ):
        quantize_checkpoint(folder, tmp_path / "out", Integers())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["README.md"]
    (tmp_path / "out" / "README.md").unlink()
    quantize_checkpoint(folder, tmp_path / "out", Integers())
    assert (tmp_path / "out" / "README.md").read_text() == "theirs"
