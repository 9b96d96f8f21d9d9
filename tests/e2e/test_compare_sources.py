"""A stranger's folder, file or function through every command that takes a model."""

import csv
import json

import numpy as np
import pytest
import torch
from torch import nn

LLAMA = {
    "vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 16,
}  # fmt: skip
INT8 = ("-s", "integer(8, 8)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model with a tokenizer, and texts."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("stranger")
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).save_pretrained(path / "tiny")
    words = ["[PAD]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran", "in", "park", "and", "rain", "fell"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(path / "tiny")
    texts = ["the cat sat on a mat and the dog ran in the park", "rain fell on the mat", "a dog sat in the rain"] * 4
    (path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def test_a_folder_with_texts_ends_in_a_table_and_a_report(here, folder, tmp_path):
    outcome = here("compare", str(folder / "tiny"), "--data", str(folder / "texts.jsonl"), *INT8)
    assert outcome.status == 0, outcome.err
    assert "tiny: float perplexity" in outcome.out
    assert (tmp_path / "runs/tiny/report.html").exists()
    (row,) = csv.DictReader((tmp_path / "runs/tiny/results.csv").read_text().splitlines())
    assert row["scheme"] == "integer(8, 8)"


def test_texts_are_cut_as_told(here, folder):
    words = ("compare", str(folder / "tiny"), "--data", str(folder / "texts.jsonl"), *INT8)
    found = [here(*words, *cut).out for cut in ((), ("--window", "4"), ("--window", "4", "--stride", "1"))]
    perplexities = {line for out in found for line in out.splitlines() if "float perplexity" in line}
    assert len(perplexities) == 3, perplexities
    assert "at most 16" in here(*words, "--window", "17").sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("certify", "--limit", "2", *INT8), "model.layers.0.mlp.down_proj"),
        (("overflow", "--limit", "2", "-w", "16", "-b", "wrap", *INT8), "report: runs/tiny-overflow/overflow.html"),
        (("cost", *INT8), "model.layers.0.mlp.down_proj"),
    ],
)
def test_other_commands_take_the_same_words(here, folder, arguments, words):
    command, *options = arguments
    outcome = here(command, str(folder / "tiny"), "--data", str(folder / "texts.jsonl"), *options)
    assert outcome.status == 0, outcome.err
    assert words in outcome.out


def test_a_saved_program_is_compared(here, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    shapes = ({0: torch.export.Dim("n", min=1, max=64)},)
    torch.export.save(torch.export.export(model, (torch.randn(2, 4),), dynamic_shapes=shapes), tmp_path / "net.pt2")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(9, 4)).astype("f"), y=np.arange(9) % 3)
    outcome = here("compare", "net.pt2", "--data", "data.npz", *INT8)
    assert outcome.status == 0, outcome.err
    assert "top-1 accuracy" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hf:", "--data", "x.jsonl"), "hf:"),
        (("weights.pth",), "weights_only=True"),
        (("digits", "--calibration", "x.npz"), "leave --calibration out"),
        (("digits", "--stride", "4"), "digits is not text that a language model continues"),
        (("math:pi",), "gives a float"),
    ],
)
def test_a_wrong_source_is_one_sentence(here, arguments, words):
    assert words in here("compare", *arguments, *INT8).sentence
