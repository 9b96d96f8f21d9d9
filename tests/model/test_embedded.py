import platform
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from bitwright.model.task import Batch
from bitwright.model.zoo.embedded import (
    CHARACTERS,
    DIGITS_WEIGHTS,
    EMBEDDED,
    PYDOC_WEIGHTS,
    TEST_TOPICS,
    UNKNOWN,
    DigitsNetwork,
    encode,
    load_weights,
    metadata,
    pydoc_test_texts,
    pydoc_training_text,
)
from bitwright.model.zoo.train_embedded import JOBS, float_metric, save

digits, pydoc = EMBEDDED["digits"], EMBEDDED["pydoc"]


def samples(batches: Iterator[Batch]) -> set[bytes]:
    return {sample.numpy().tobytes() for batch in batches for sample in batch.inputs[0]}


def test_digits_reproduces_its_float_metric():
    assert float_metric(digits, digits.load()) == digits.float_metric


def test_pydoc_reproduces_its_float_metric():
    # same text: float32 sums in another order; another Python: reworded topics, 0.54 % at most in 3.10.13 to 3.13.0
    tolerance = 1e-4 if platform.python_version() == metadata(PYDOC_WEIGHTS)["python"] else 1e-2
    assert float_metric(pydoc, pydoc.load()) == pytest.approx(pydoc.float_metric, rel=tolerance)


@pytest.mark.parametrize(("weights", "limit_bytes"), [(DIGITS_WEIGHTS, 400_000), (PYDOC_WEIGHTS, 2_000_000)])
def test_weights_are_small_enough_for_the_wheel(weights, limit_bytes):
    assert len(weights.read_bytes()) < limit_bytes


@pytest.mark.parametrize("task", EMBEDDED.values(), ids=EMBEDDED)
def test_no_calibration_sample_is_a_test_sample(task):
    assert not samples(task.calibration()) & samples(task.test())


@pytest.mark.parametrize("task", EMBEDDED.values(), ids=EMBEDDED)
def test_a_limited_test_is_the_beginning_of_the_whole_one(task):
    whole = torch.cat([batch.targets for batch in task.test()])
    limited = torch.cat([batch.targets for batch in task.test(limit=40)])
    assert torch.equal(limited, whole[:40])


@pytest.mark.parametrize("task", EMBEDDED.values(), ids=EMBEDDED)
def test_outputs_do_not_depend_on_the_other_samples_of_a_batch(task):
    model = task.load()
    batch = next(task.test(limit=4))
    with torch.no_grad():
        together = model(*batch.inputs)
        alone = torch.cat([model(sample[None]) for sample in batch.inputs[0]])
    # float32 sums of at most 256 terms, in another order for another batch size, on logits of about 10
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-3)


def test_pydoc_does_not_see_the_characters_that_it_predicts():
    model = pydoc.load()
    ids = next(pydoc.test(limit=1)).inputs[0]
    changed = ids.clone()
    changed[:, 64:] = UNKNOWN
    with torch.no_grad():
        before, after = model(ids), model(changed)
    # the same sums over the same characters, up to their order
    torch.testing.assert_close(after[:, :64], before[:, :64], rtol=0, atol=1e-4)
    assert not torch.allclose(after[:, 64:], before[:, 64:], rtol=0, atol=1e-1)


def test_targets_are_the_next_inputs_and_unknown_characters_are_not_scored():
    for batch in pydoc.test():
        following, targets = batch.inputs[0][:, 1:], batch.targets[:, :-1]
        assert torch.equal(targets, following.where(following != UNKNOWN, -1))


def test_encoding_numbers_every_character_once_and_maps_the_rest_to_unknown():
    assert encode(CHARACTERS + "“ß").tolist() == [*range(1, len(CHARACTERS) + 1), UNKNOWN, UNKNOWN]


def test_the_test_topics_are_every_tenth_where_the_weights_were_trained():
    if platform.python_version() != metadata(PYDOC_WEIGHTS)["python"]:
        pytest.skip(f"trained with Python {metadata(PYDOC_WEIGHTS)['python']}, which has other topics")
    from pydoc_data.topics import topics

    assert tuple(sorted(topics)[::10]) == TEST_TOPICS


def test_training_sees_no_paragraph_of_the_test_topics():
    def paragraphs(text: str) -> set[str]:
        return {" ".join(paragraph.split()) for paragraph in text.split("\n\n")}

    assert not paragraphs(pydoc_training_text()) & paragraphs("\n\n".join(pydoc_test_texts()))


def test_hashed_data_do_not_change_between_calls():
    for task in EMBEDDED.values():
        assert [read() for read in task.files().values()] == [read() for read in task.files().values()]


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"digits\.safetensors: the weights are missing; reinstall bitwright"):
        load_weights(DigitsNetwork(), tmp_path / "digits.safetensors")


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: content[8:]])
def test_corrupt_weights_are_named(tmp_path, damage):
    path = tmp_path / "digits.safetensors"
    path.write_bytes(damage(DIGITS_WEIGHTS.read_bytes()))
    with pytest.raises(ValueError, match=r"digits\.safetensors: the weights do not load into DigitsNetwork"):
        load_weights(DigitsNetwork(), path)


def test_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"pydoc\.safetensors: the weights do not load into DigitsNetwork"):
        load_weights(DigitsNetwork(), PYDOC_WEIGHTS)


@pytest.mark.parametrize("name", JOBS)
def test_training_is_repeatable_and_changes_every_weight(name):
    job, short = JOBS[name], replace(JOBS[name].training, steps=2, batch=4)
    first, second = job.train(short).state_dict(), job.train(short).state_dict()
    for key, tensor in job.train(replace(short, steps=1)).state_dict().items():
        assert torch.equal(first[key], second[key])
        assert not torch.equal(first[key], tensor)


@pytest.mark.parametrize("name", JOBS)
def test_saved_weights_load_rounded_to_the_stored_precision(name, tmp_path):
    job = JOBS[name]
    model = job.train(replace(job.training, steps=1, batch=4))
    expected = {key: tensor.to(job.precision).to(tensor.dtype) for key, tensor in model.state_dict().items()}
    save(model, tmp_path / "weights.safetensors", job.precision)
    loaded = load_weights(model, tmp_path / "weights.safetensors").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.items())
    assert metadata(tmp_path / "weights.safetensors")["python"] == platform.python_version()
