"""lm-eval judges float and frozen models by tasks that lie in a folder."""

import json

import pytest
import torch

import bitwright as bw
from bitwright.sources import load_network
from bitwright.sources.lm_eval import language_model

TASK = """
task: animals
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/data.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match="needs a tokenizer"):
        language_model(torch.nn.Linear(1, 1), None)


@pytest.mark.filterwarnings("ignore")  # of lm-eval and what it imports
def test_choices_are_scored_as_the_model_scores_them(model_folder, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed; pip install 'bitwright[lm-eval]'")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": "the cat sat on the", "choices": ["mat", "rain"], "answer": i % 2} for i in range(4)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "animals.yaml").write_text(TASK.format(folder=tmp_path))
    network = load_network(model_folder("llama"))
    tokens = torch.tensor([network.tokenizer(row["question"])["input_ids"] for row in rows])
    frozen = bw.quantize(network.model, "integer(8, 8)", [{"input_ids": tokens}])
    for model in (network.model, frozen):
        found = lm_eval.simple_evaluate(
            model=language_model(model, network.tokenizer), tasks=["animals"], bootstrap_iters=0,
            task_manager=lm_eval.tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
        )  # fmt: skip
        expected = model(input_ids=tokens[:1]).logits[0, -1].log_softmax(-1)
        ids = [network.tokenizer(word)["input_ids"][0] for word in rows[0]["choices"]]
        scores = [answer[0] for answer in found["samples"]["animals"][0]["filtered_resps"]]
        # the longer text and the batch add in another order; the frozen model's ranges are fixed
        assert scores == pytest.approx(expected[ids].tolist(), abs=1e-5)
        assert found["results"]["animals"]["acc,none"] == 0.5  # the answers alternate, the question does not
