"""Every form of data gives the same records, a few at a time, and keeps to the model's processor and classes."""

import gzip
import io
import json
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.model.task import Batch
from bitwright.sources import load_network, load_task
from bitwright.sources.readers import reader
from bitwright.sources.resolve import of_module

COLORS = [("red", (200 + i, 10, 10)) for i in range(4)] + [("blue", (10, 10, 200 + i)) for i in range(4)]


def tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as opened:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return path


def folder_of_images(path: Path, picture) -> Path:
    for index, (name, color) in enumerate(COLORS):
        (path / name).mkdir(parents=True, exist_ok=True)
        (path / name / f"{index}.png").write_bytes(picture(color))
    return path


def samples(path: Path, picture, suffix: str = "cls") -> list[tuple[str, bytes]]:
    """In the folder's order: classes by name."""
    made = []
    for index, (name, color) in sorted(enumerate(COLORS), key=lambda c: (c[1][0], c[0])):
        label = json.dumps({"label": name}) if suffix == "json" else name
        made += [(f"data/{index:04}.png", picture(color)), (f"data/{index:04}.{suffix}", label.encode())]
    return made


def parquet_of_images(path: Path, picture) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    ordered = sorted(COLORS, key=lambda c: c[0])
    images = [{"bytes": picture(color), "path": None} for _, color in ordered]
    pq.write_table(pa.table({"image": images, "label": [name for name, _ in ordered], "other": [1] * 8}), path)
    return path


IMAGES = {
    "folder": lambda path, picture: folder_of_images(path / "images", picture),
    "tar": lambda path, picture: tar(path / "a.tar", samples(path, picture)),
    "tar.gz": lambda path, picture: tar(path / "a.tar.gz", samples(path, picture, "json"), "w:gz"),
    "parquet": lambda path, picture: parquet_of_images(path / "a.parquet", picture),
}


def outputs(task) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(task.test())
    return torch.cat([b.tensors[0] for b in batches]), torch.cat([b.targets for b in batches])


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_every_form_become_what_the_models_processor_makes(kind, tmp_path, picture, model_folder):
    """Held samples are every second one; the model numbers red before blue, which no alphabet does."""
    task = load_task(model_folder("vit"), IMAGES[kind](tmp_path, picture))
    x, y = outputs(task)
    ordered = sorted(COLORS, key=lambda c: c[0])
    tested = [(np.float32(color) / 255, name) for name, color in ordered][1::2]
    assert y.tolist() == [{"red": 0, "blue": 1}[name] for _, name in tested]
    mean, deviation = np.float32([0.5, 0.4, 0.3]), np.float32([0.5, 0.25, 0.2])
    expected = np.stack([(color - mean) / deviation for color, _ in tested])
    # a picture of one colour stays that colour at every size; a float32 rounding each step
    np.testing.assert_allclose(x[:, :, 3, 4].numpy(), expected, rtol=1e-5)
    assert sum(len(b.targets) for b in task.calibration()) == 4


def test_shards_are_one_set(tmp_path, picture):
    members = samples(tmp_path, picture)
    tar(tmp_path / "s-000.tar", members[:6])
    tar(tmp_path / "s-001.tar", members[6:])
    whole = reader(tar(tmp_path / "all.tar", members))
    found = reader(tmp_path / "s-{000..001}.tar")
    assert found.count() == whole.count() == 8
    assert [r.content for _, r in found.records()] == [r.content for _, r in whole.records()]


TEXTS = [{"text": f"the cat {i}", "label": i % 2} for i in range(8)]


def lines(path: Path) -> Path:
    path.write_text("\n".join(map(json.dumps, TEXTS)) + "\n\n")
    return path


def zipped_lines(path: Path) -> Path:
    with gzip.open(path, "wt") as opened:
        opened.write("\n".join(map(json.dumps, TEXTS)))
    return path


def table(path: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(TEXTS), path, row_group_size=3)
    return path


def text_tar(path: Path) -> Path:
    members = [(f"{i}.txt", r["text"].encode()) for i, r in enumerate(TEXTS)]
    labels = [(f"{i}.cls", str(r["label"]).encode()) for i, r in enumerate(TEXTS)]
    return tar(path, [m for pair in zip(members, labels, strict=True) for m in pair])


@pytest.mark.parametrize(
    ("name", "write"), [("a.jsonl", lines), ("a.jsonl.gz", zipped_lines), ("a.parquet", table), ("a.tar", text_tar)]
)
def test_texts_of_every_form_are_the_same_records(name, write, tmp_path):
    found = reader(write(tmp_path / name))
    assert found.count() == len(TEXTS)
    assert [(r.texts, r.target) for _, r in found.records()] == [((r["text"],), r["label"]) for r in TEXTS]
    assert [i for i, _ in found.records(lambda index: index % 3 == 1)] == [1, 4, 7]


def test_texts_are_padded_beside_each_other_with_their_mask(tmp_path, model_folder):
    texts = [{"text": text, "label": "animal"} for text in ("sea", "cat dog", "sea", "cat dog cat", "sea", "cat dog")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, texts)))
    (batch,) = load_task(model_folder("classifier"), tmp_path / "a.jsonl").test()
    assert batch.targets.tolist() == [0, 0, 0]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5, [1, 1, 1, 1, 0]]


def test_pairs_with_a_score_are_compared_by_ranks(tmp_path, model_folder, sentences):
    pairs = [{"sentence1": a, "sentence2": b, "score": i / 3} for i, (a, b) in enumerate(pairwise(sentences))]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    for kind in ("encoder", "scorer"):
        task = load_task(model_folder(kind), tmp_path / "a.jsonl")
        assert task.metric.name == "Spearman correlation"
        (batch,) = task.test()
        assert task.forward(task.load(), batch).shape == batch.targets.shape


def test_the_likeness_of_a_text_and_itself_is_one(tmp_path, model_folder, sentences):
    pairs = [{"s1": s, "s2": s, "score": 1} for s in sentences]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    task = load_task(model_folder("encoder"), tmp_path / "a.jsonl")
    (batch,) = task.test()
    torch.testing.assert_close(task.forward(task.load(), batch), torch.ones(len(batch.targets)))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_plain_text_is_one_long_text(name, tmp_path, model_folder, sentences, monkeypatch):
    from bitwright.sources.readers import lines as module

    path = tmp_path / name
    content = "\n".join(sentences * 3)
    path.write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    tokenizer = load_network(model_folder("llama")).tokenizer
    expected = tokenizer(content)["input_ids"]

    def tested() -> list[int]:
        task = load_task(model_folder("llama"), path, calibration=path, window=8, stride=4)
        return [t for b in task.test() for row in b.targets.tolist() for t in row if t >= 0]

    assert tested() == expected[1:]
    monkeypatch.setattr(module, "BLOCK", 40)  # cut at ends of lines, the tokens and windows stay
    assert tested() == expected[1:]


def test_tokens_need_no_tokenizer(tmp_path, model_folder):
    tokens = np.arange(40, dtype=np.int32) % 20 + 4
    np.save(tmp_path / "a.npy", tokens)
    (tmp_path / "a.jsonl").write_text(json.dumps({"tokens": tokens.tolist()}))
    tested = [
        [t for b in load_task(model_folder("llama"), tmp_path / name, calibration=tmp_path / name).test()
         for row in b.targets.tolist() for t in row if t >= 0]
        for name in ("a.npy", "a.jsonl")
    ]  # fmt: skip
    assert tested[0] == tested[1] == tokens[1:].tolist()


def test_samples_for_calibration_are_never_tested(tmp_path):
    x = np.arange(300, dtype=np.float32)[:, None]
    np.savez(tmp_path / "a.npz", x=x, y=np.zeros(300, np.int64))
    task = load_task(nn.Linear(1, 2), tmp_path / "a.npz")
    held, tested = (
        {v for b in part for v in b.tensors[0][:, 0].tolist()} for part in (task.calibration(), task.test())
    )
    assert not held & tested
    assert held | tested == set(x[:, 0].tolist())


def test_calibration_data_of_its_own_leaves_the_whole_test(tmp_path):
    x, y = np.ones((10, 1), np.float32), np.zeros(10, np.int64)
    np.savez(tmp_path / "a.npz", x=x, y=y, calibration=2 * x)
    np.savez(tmp_path / "b.npz", x=3 * x, y=y)
    for data, held in ((None, 2.0), (tmp_path / "b.npz", 3.0)):
        task = load_task(nn.Linear(1, 2), tmp_path / "a.npz", calibration=data)
        assert sum(len(b.targets) for b in task.test()) == 10
        assert {v for b in task.calibration() for v in b.tensors[0].flatten().tolist()} == {held}


def test_a_limit_stops_reading(tmp_path):
    """The damage lies behind what is asked for."""
    content = "\n".join(map(json.dumps, TEXTS)) + "\nnot JSON"
    (tmp_path / "a.jsonl").write_text(content)
    found = [record for _, record in zip(range(4), reader(tmp_path / "a.jsonl").records())]
    assert len(found) == 4


def test_a_compressed_array_is_read_a_row_at_a_time(tmp_path):
    import tracemalloc

    x = np.zeros((64, 2**18), np.float32)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=np.zeros(64, np.int64))
    found = reader(tmp_path / "a.npz")
    tracemalloc.start()
    for _, record in found.records():
        assert record.x.shape == (2**18,)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 8  # some rows of 1 MiB


def test_a_function_yields_batches_at_every_pass(tmp_path, monkeypatch):
    (tmp_path / "my_batches.py").write_text(
        "import torch\nfrom bitwright import Batch\n"
        "def batches():\n    for i in range(4):\n"
        "        yield Batch((torch.full((2, 1), float(i)),), torch.zeros(2).long())\n"
        "def pair():\n    return list(batches())[:2], list(batches())[2:]\n"
        "def wrong():\n    yield 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = nn.Linear(1, 2)
    task = load_task(model, "my_batches:batches")
    assert [b.tensors[0][0, 0].item() for b in task.calibration()] == [0]
    for _ in range(2):
        assert [b.tensors[0][0, 0].item() for b in task.test()] == [1, 2, 3]
    assert [len(b.targets) for b in task.test(3)] == [2, 1]
    assert [b.tensors[0][0, 0].item() for b in load_task(model, "my_batches:pair").calibration()] == [0, 1]
    with pytest.raises(ValueError, match="must yield bitwright Batches"):
        list(load_task(model, "my_batches:wrong").calibration())


def test_a_module_is_a_network_without_knowledge_of_its_inputs():
    network = of_module(nn.Linear(2, 2), "m")
    assert (network.tokenizer, network.prepare, network.outputs) == (None, None, None)
    assert isinstance(Batch((torch.zeros(1, 2),), torch.zeros(1)), Batch)
