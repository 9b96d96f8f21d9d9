from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.model.data import data_folder
from bitwright.model.task import Perplexity
from bitwright.model.zoo.real import REAL, TASKS
from bitwright.model.zoo.weights import read_tensors

MINUTES = {"mobilenetv2", "efficientnet_lite0", "tiny_darknet", "resnet20_jpeg", "minilm_stsb", "minilm_sst2"}
ONLY_TEST_DATA = {"dscnn_kws"}

every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
every_task_by_cost = pytest.mark.parametrize(
    "task",
    [pytest.param(task, id=task.name, marks=pytest.mark.slow if task.name in MINUTES else ()) for task in TASKS],
)


@pytest.fixture
def folder() -> Path:
    try:
        return data_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.data
@every_task_by_cost
def test_the_float_metric_is_the_manifests(task, folder):
    model = task.load()
    with torch.inference_mode():
        statistics = [task.metric.measure(task.forward(model, batch), batch.targets) for batch in task.test()]
    printed_digits = 3 if isinstance(task.metric, Perplexity) else 2
    assert round(task.metric.reduce(np.concatenate(statistics)), printed_digits) == task.float_metric


@pytest.mark.data
@every_task
def test_every_stored_tensor_reaches_the_network(task, folder):
    tensors = read_tensors([folder / file for file in task.weights.files])
    # by tens: the forget gate's bias adds one
    marks = {name: torch.tensor(10.0 * number) for number, name in enumerate(tensors)}
    marked = {name: mark.expand(tensors[name].shape) for name, mark in marks.items()}
    converted = task.weights.convert(marked, task.weights.network())
    assert {mark.item() for mark in marks.values()} <= {tensor.flatten()[0].item() for tensor in converted.values()}


@pytest.mark.data
@every_task
def test_a_limit_takes_the_first_test_samples(task, folder):
    whole, limited = next(task.test()), next(task.test(limit=1))
    assert len(limited.targets) == 1
    shared = tuple(slice(size) for size in limited.targets.shape)  # the whole batch may be padded further
    assert torch.equal(limited.targets, whole.targets[shared])


@pytest.mark.data
@every_task
def test_the_network_takes_a_calibration_batch(task, folder):
    batch = next(task.calibration())
    with torch.inference_mode():
        outputs = task.forward(task.load(), type(batch)(tuple(x[:1] for x in batch.inputs), batch.targets[:1]))
    assert outputs.isfinite().all()


@pytest.mark.data
@every_task
def test_every_named_file_can_be_read(task, folder):
    assert all(read() for read in task.files().values())


@pytest.mark.parametrize(
    "task", [task for task in TASKS if task.name not in ONLY_TEST_DATA], ids=lambda task: task.name
)
def test_no_test_sample_calibrates(task):
    test, calibration = task.test_split, task.calibration_split
    assert test.reader != calibration.reader or not set(test.chosen) & set(calibration.chosen)


def test_tasks_are_found_by_their_names():
    assert all(REAL[task.name] is task for task in TASKS)
    assert len(REAL) == len(TASKS)


def test_missing_data_is_named_with_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="set BITWRIGHT_DATA"):
        data_folder(str(tmp_path))
