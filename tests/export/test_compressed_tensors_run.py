"""Checkpoints run by transformers itself: integers of weights and inputs are ours, layers compute their product."""

import copy
from pathlib import Path

import pytest
import torch

import bitwright as bw
from bitwright.config import from_text
from bitwright.export import TARGETS, compressed_tensors
from bitwright.model.data import data_folder
from bitwright.model.layers import QuantizedLayer
from bitwright.model.zoo import TASKS
from bitwright.recipe import Recipe, Rule
from bitwright.schemes import integer
from bitwright.sources.huggingface import load_folder

transformers = pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")
run = pytest.importorskip("bitwright.export.compressed_tensors_run")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries that read

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TOKENS = {"input_ids": torch.arange(1, 17)[None]}
ON_REAL_WEIGHTS = [
    "integer(8, 8)", "integer(8, 8, zero=Zero.FITTED)", "integer(3, None, weight_share=PerBlock(4))",
    "minifloat(4, 3)", "minifloat(input_share=PerRow(), input_range=None)", "nvfp4()", "mxfp4(RoundedRule())",
    "mxfp6(weight_only=True)", "mxfp8(rule=RoundedRule())",
]  # fmt: skip


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, max_position_embeddings=64, attention_bias=True, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def folders(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    try:
        data_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return pytest.importorskip("transformers_folders")


@pytest.mark.data
@pytest.mark.parametrize("name", ["stories260k", "minilm_sst2"])
def test_a_trained_network_in_transformers_own_class_computes_the_tasks_logits(name, folders, tmp_path):
    task, published = TASKS[name], folders.PUBLISHED[name]
    tokens = next(iter(task.calibration())).first(2).inputs[0]
    theirs = load_folder(folders.write(name, tmp_path)).model
    with torch.no_grad():
        expected = task.load()(tokens)
        found = published.logits(theirs(**folders.inputs_of(tokens)), tokens)
    where = tokens != 0 if expected.dim() == 3 else ...  # logits of padding mean nothing
    torch.testing.assert_close(found[where], expected[where], rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.data
@pytest.mark.parametrize("text", ON_REAL_WEIGHTS)
def test_transformers_finds_our_integers_in_a_trained_bert(text, folders, tmp_path):
    tokens = next(iter(TASKS["minilm_sst2"].calibration())).first(2).inputs[0]
    model = load_folder(folders.write("minilm_sst2", tmp_path / "float")).model
    recipe = Recipe((Rule("re:.*layer.[05].*(query|output.dense)", from_text(text)),))
    frozen = bw.quantize(model, recipe, [folders.inputs_of(tokens)])
    found = run.compare(compressed_tensors.write(frozen, tmp_path / "out"), frozen, folders.inputs_of(tokens))
    assert found.layers < 1e-6
    assert found.at_lowest + found.at_ties < found.inputs / 1000 + 1
    if not found.inputs:
        assert found.output < 1e-5


def test_tied_outputs_that_are_quantized_are_untied_in_the_folder(llama, tmp_path):
    frozen = bw.quantize(llama, Recipe((Rule("re:.*(proj|lm_head)", integer(4, None)),)), [TOKENS])
    assert isinstance(frozen.lm_head, QuantizedLayer)
    found = run.compare(compressed_tensors.write(frozen, tmp_path), frozen, TOKENS)
    assert found.output < 1e-5


def test_the_target_runs_transformers_and_says_so(llama, tmp_path):
    target = TARGETS["compressed-tensors"]
    frozen = bw.quantize(llama, Recipe((Rule("re:.*proj", integer(4, 8)),)), [TOKENS])
    assert target.engine == "transformers"
    target.write(frozen, tmp_path, TOKENS, None)
    assert target.verify(tmp_path, frozen, llama, TOKENS).startswith("equal integers, outputs within ")


def test_an_input_scale_that_was_changed_is_found(llama, tmp_path):
    frozen = bw.quantize(llama, Recipe((Rule("re:.*proj", integer(4, 8)),)), [TOKENS])
    compressed_tensors.write(frozen, tmp_path)
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.input_scale"] *= 1.01
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"up_proj: \d+ integers of its input are others in transformers"):
        run.compare(tmp_path, frozen, TOKENS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_in_half_precision_is_held(llama, tmp_path, dtype):
    half = copy.deepcopy(llama).to(dtype)
    frozen = bw.quantize(half, Recipe((Rule("re:.*proj", from_text("nvfp4(weight_only=True)")),)), [TOKENS])
    assert run.compare(compressed_tensors.write(frozen, tmp_path), frozen, TOKENS).layers < 1e-6
