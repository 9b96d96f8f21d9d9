"""Perplexity of long texts equals a direct computation, and the loop that transformers' page shows."""

import math

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.model.data.text import NOT_SCORED
from bitwright.sources.windows import Windows, perplexity


class Counting(nn.Module):
    """Logits that depend on how many tokens came before, so that context matters."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, input_ids):
        return self.table(input_ids).cumsum(1)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Counting().requires_grad_(False)


@pytest.mark.parametrize("length", [2, 3, 8])
@pytest.mark.parametrize("stride", [1, 2, 5, 8])
@pytest.mark.parametrize("tokens", [0, 1, 2, 8, 9, 23])
def test_every_token_that_another_predicts_is_scored_once(length, stride, tokens):
    if stride > length:
        pytest.skip("the next window begins inside the one before, or at its end")
    windows = list(Windows(length, stride).cut(range(tokens)))
    assert [t for _, targets in windows for t in targets if t != NOT_SCORED] == [
        t for t in range(1, tokens) if stride < length or t % length
    ]
    assert all(len(inputs) == len(targets) < length for inputs, targets in windows)


def test_a_text_that_fits_gives_the_mean_loss_of_one_call(model):
    tokens = torch.tensor([[1, 4, 2, 6, 0, 3]])
    loss = nn.functional.cross_entropy(model(tokens)[0, :-1].double(), tokens[0, 1:])
    assert perplexity(model, tokens.tolist(), window=6) == pytest.approx(math.exp(loss), rel=1e-12)


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (8, 8), (6, 1)])
def test_windows_equal_transformers_recipe(model_folder, window, stride):
    """Slices of `window` tokens, labels of the shared part set to -100, losses weighted by the labels that count."""
    from bitwright.sources import load_network

    network = load_network(model_folder("llama")).model
    tokens = torch.randint(4, 30, (1, 29), generator=torch.Generator().manual_seed(1))
    nats, count, before = 0.0, 0, 0
    for begin in range(0, tokens.shape[1], stride):
        end = min(begin + window, tokens.shape[1])
        labels = tokens[:, begin:end].clone()
        labels[:, : -(end - before)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        if scored:
            nats += float(network(tokens[:, begin:end], labels=labels).loss) * scored
        count += scored
        before = end
        if end == tokens.shape[1]:
            break
    # transformers' loss is a mean in float32
    assert perplexity(network, tokens.tolist(), window=window, stride=stride) == pytest.approx(
        math.exp(nats / count), rel=1e-6
    )


def test_batches_change_nothing(model_folder):
    from bitwright.sources import load_network

    network = load_network(model_folder("llama")).model
    texts = torch.randint(4, 30, (5, 21), generator=torch.Generator().manual_seed(2)).tolist()
    one, many = (perplexity(network, texts, window=8, stride=3, batch_size=size) for size in (1, 4))
    assert one == pytest.approx(many, rel=1e-6)  # sums of float32 in another order


def test_a_frozen_model_is_judged_too(model_folder):
    from bitwright.sources import load_network

    network = load_network(model_folder("llama")).model
    tokens = torch.randint(4, 30, (4, 16), generator=torch.Generator().manual_seed(3))
    frozen = bw.quantize(network, "integer(8, 8)", [{"input_ids": tokens}])
    expected = perplexity(network, tokens.tolist(), window=16)
    assert perplexity(frozen, tokens.tolist(), window=16) == pytest.approx(expected, rel=0.02)
    assert perplexity(frozen, tokens.tolist(), window=16) != expected


def test_a_stream_is_never_held_whole(model):
    """Tokens are asked for one by one: at most a window ahead of what is scored."""
    asked = []

    def stream():
        for index in range(1000):
            asked.append(index)
            yield index % 7

    windows = Windows(16, 8).cut(stream())
    for number in range(1, 5):
        next(windows)
        assert len(asked) == 16 + 8 * (number - 1)


def test_texts_without_two_tokens_are_refused(model):
    with pytest.raises(ValueError, match="no text has two tokens"):
        perplexity(model, [[1], []], window=4)


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (4, 0), (4, 5)])
def test_windows_that_leave_tokens_out_are_refused(length, stride):
    with pytest.raises(ValueError, match="a window has at least 2 tokens"):
        Windows(length, stride)


def test_a_window_longer_than_the_network_takes_is_refused():
    with pytest.raises(ValueError, match="takes at most 16"):
        Windows.of(16, 17)
