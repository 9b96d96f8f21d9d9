"""Long texts through networks that take short ones: windows that overlap, each token scored at most once.

A window has up to `length` tokens and starts `stride` tokens after the one before it; what a window shares with the one
before is context and not scored. The first token of a text is never scored, as nothing predicts it; a tokenizer that
begins texts with a token of its own makes that one the first. Windows that do not overlap leave out their first too.
Padding stands at the right, where no scored position sees it, and is not scored. This is the recipe of transformers'
page on the perplexity of fixed-length models.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from bitwright.model.data.text import NOT_SCORED, padded
from bitwright.model.task import Batch, Perplexity

LONGEST = 1024
"""Tokens in a window, where the network takes as many."""


@final
@dataclass(frozen=True)
class Windows:
    """How a text is cut."""

    length: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.length or self.length < 2:
            raise ValueError(
                f"windows of {self.length} tokens every {self.stride} found; a window has at least 2 tokens, and the "
                "next begins inside it or at its end"
            )

    @classmethod
    def of(cls, longest: int | None, length: int | None = None, stride: int | None = None) -> "Windows":
        """Half of a window overlaps unless said otherwise; ValueError where the network takes fewer tokens."""
        if length is not None and longest is not None and length > longest:
            raise ValueError(f"a window of {length} tokens found; the network takes at most {longest}")
        length = length or min(longest or LONGEST, LONGEST)
        return cls(length, stride or max(length // 2, 1))

    def cut(self, tokens: Iterable[int]) -> Iterator[tuple[list[int], list[int]]]:
        """Inputs and the next token of each, below 0 where it is not scored. Holds one window of the stream."""
        kept: list[int] = []
        scored = 1  # tokens of `kept` that are scored already, or never will be
        for token in tokens:
            kept.append(token)
            if len(kept) == self.length:
                yield _window(kept, scored)
                kept = kept[self.stride :]
                scored = max(len(kept), 1)
        if len(kept) > scored:
            yield _window(kept, scored)


def _window(tokens: list[int], scored: int) -> tuple[list[int], list[int]]:
    targets = [NOT_SCORED] * (scored - 1) + tokens[scored:]
    return tokens[:-1], targets


def token_batch(windows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Batch:
    """Windows side by side."""
    inputs, targets = zip(*windows, strict=True)
    return Batch({"input_ids": padded(inputs, filler=0)}, padded(targets, filler=NOT_SCORED))


@torch.no_grad()
def perplexity(
    model: nn.Module,
    texts: Iterable[Iterable[int]],
    *,
    window: int,
    stride: int | None = None,
    batch_size: int = 1,
    logits: Callable[[Any], Tensor] | None = None,
) -> float:
    """exp of the mean loss a token, of a float, prepared or frozen model over token ids of texts of any length.

    One batch of windows is in memory at a time. `logits` finds [windows, time, vocabulary] in what the model gives.
    ValueError where no text has two tokens.
    """
    cut = Windows.of(None, window, stride)
    find, metric = logits or logits_of, Perplexity()
    nats = count = 0.0
    for group in grouped((window for text in texts for window in cut.cut(text)), batch_size):
        batch = token_batch(group)
        assert isinstance(batch.inputs, dict), "as token_batch makes it"
        total, scored = metric.measure(find(model(**batch.inputs)), batch.targets).sum(0)
        nats, count = nats + float(total), count + float(scored)
    if not count:
        raise ValueError("no text has two tokens; perplexity is of tokens that others come before")
    return math.exp(nats / count)


def logits_of(output: Any) -> Tensor:
    """Of a tensor, of a tuple that begins with one, or of what transformers' models give."""
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    return found if found is not None else output[0]


def grouped(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size`, and what is left."""
    kept: list[Any] = []
    for item in items:
        kept.append(item)
        if len(kept) == size:
            yield kept
            kept = []
    if kept:
        yield kept
