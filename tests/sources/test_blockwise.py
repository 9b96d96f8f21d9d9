"""Blocks quantized one at a time are those of the whole model quantized at once."""

import contextlib

import pytest
import torch
from typer.testing import CliRunner

from bitwright.cli import app
from bitwright.model.layers import QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.transform import gptq
from bitwright.quantization import PerBlock
from bitwright.recipe import Recipe, Rule
from bitwright.schemes import integer, mxfp4
from bitwright.sources import blockwise
from bitwright.sources.blockwise import quantize_calibrated, read_samples
from bitwright.sources.quantized import load

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLES = [list(range(1, 20)), list(range(30, 60, 2)), [5, 4, 3, 2, 1]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return model, folder


def whole(model, scheme):
    batches = [Batch({"input_ids": torch.tensor([s])}, torch.empty(0)) for s in SAMPLES]
    prepared = calibrate(prepare(model, Recipe((Rule("re:.*proj", scheme),))), batches)
    return freeze(gptq(prepared, batches))


@pytest.mark.parametrize("scheme", [integer(4, None, weight_share=PerBlock(32)), mxfp4(weight_only=True)], ids=repr)
def test_block_by_block_is_gptq_of_the_whole_model(llama, tmp_path, scheme):
    model, folder = llama
    read, expected = load(quantize_calibrated(folder, tmp_path / "out", scheme, SAMPLES)), whole(model, scheme)
    ours = {m.name: m for m in read.modules() if isinstance(m, QuantizedLayer)}
    theirs = {m.name: m for m in expected.modules() if isinstance(m, QuantizedLayer)}
    assert set(ours) == set(theirs)
    equal = [
        (ours[n].quantized_weight().decode() == theirs[n].quantized_weight().decode()).mean() for n in theirs
    ]  # sums of moments in another order may turn a tie
    assert min(equal) > 0.99
    with torch.no_grad():
        tokens = torch.tensor([SAMPLES[0]])
        torch.testing.assert_close(read(tokens).logits, expected(tokens).logits, rtol=0, atol=2e-3)
    assert not (tmp_path / "out" / blockwise.SPOOL).exists()


def test_a_run_that_was_stopped_goes_on_with_the_block_that_is_missing(llama, tmp_path):
    _, folder = llama
    scheme = integer(4, None)
    quantize_calibrated(folder, tmp_path / "whole", scheme, SAMPLES)

    def stop(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_calibrated(folder, tmp_path / "out", scheme, SAMPLES, stop)
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.safetensors")}
    assert len(times) == 2
    quantize_calibrated(folder, tmp_path / "out", scheme, SAMPLES)
    for name, time in times.items():
        assert (tmp_path / "out" / name).stat().st_mtime_ns == time
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("other", ["scheme", "samples", "whole"])
def test_blocks_of_two_runs_are_not_mixed(llama, tmp_path, other):
    _, folder = llama

    def stop(what, done, total):
        if done == 1 and other != "whole":
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        quantize_calibrated(folder, tmp_path / "out", integer(4, None), SAMPLES, stop)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    scheme, samples = integer(3 if other == "scheme" else 4, None), SAMPLES[:-1] if other == "samples" else SAMPLES
    with pytest.raises(ValueError, match="choose another folder"):
        quantize_calibrated(folder, tmp_path / "out", scheme, samples)
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


def test_samples_are_lines_of_json(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "ab"}\n\n{"tokens": [1, 2, 3]}\n')
    assert read_samples(path, lambda text: [ord(c) for c in text], length=2) == [[97, 98], [1, 2]]
    path.write_text('{"text": "ab"}\nab\n')
    with pytest.raises(ValueError, match="line 2"):
        read_samples(path, list)


@pytest.mark.parametrize(
    ("scheme", "samples", "sentence"),
    [(integer(8, 8), SAMPLES, "leaves inputs in float"), (integer(4, None), [], "no calibration sample")],
    ids=["inputs", "samples"],
)
def test_what_is_not_done_is_said(llama, tmp_path, scheme, samples, sentence):
    with pytest.raises(ValueError, match=sentence):
        quantize_calibrated(llama[1], tmp_path / "out", scheme, samples)


@pytest.mark.parametrize("scheme", ["int4", "fp8", "mxfp4"])
def test_the_command_takes_calibration_data(llama, tmp_path, scheme):
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"tokens": {s}}}\n' for s in SAMPLES))
    arguments = ["-s", scheme, "-o", str(tmp_path / "out"), "-c", str(tmp_path / "texts.jsonl"), "-q"]
    group = ["--group", "32"] if scheme == "int4" else []
    done = CliRunner().invoke(app, ["quantize", str(llama[1]), *arguments, *group])
    assert done.exit_code == 0, done.output
    assert sum(isinstance(m, QuantizedLayer) for m in load(tmp_path / "out").modules()) == 21
    refused = CliRunner().invoke(app, ["quantize", str(llama[1]), *arguments, "-s", "nvfp4"])
    assert (refused.exit_code, "one of int2" in refused.stderr) == (2, True)
