"""What a network is asked: records become its inputs, its outputs are found, and a metric judges them.

The kind of the first record and what is known of the network decide; see `role_of`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.model.task import Batch, Metric, Perplexity, Spearman, Top1
from bitwright.sources.network import Network, Prepare
from bitwright.sources.pictures import ResizeAndCrop, decode
from bitwright.sources.records import Picture, Reader, Row, Tokens, Words
from bitwright.sources.windows import Windows, logits_of, token_batch

BATCH = 32

LARGEST_OUTPUT = 2**25
"""Values that a batch of a language model's logits has."""


class Role(ABC):
    """Samples out of records, batches out of samples, and the output that the metric judges."""

    metric: Metric
    batch_size: int = BATCH
    is_a_sample_a_record: bool = True

    @abstractmethod
    def samples(self, records: Iterator[Any]) -> Iterator[Any]:
        """What a batch is made of, one at a time."""

    @abstractmethod
    def batch(self, samples: Sequence[Any]) -> Batch:
        """Inputs and targets."""

    def output(self, found: Any, batch: Batch) -> Tensor:
        """Of what the model gives."""
        return logits_of(found)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model that is quantized."""
        return model


@dataclass(frozen=True)
class Classes(Role):
    """A class a sample."""

    label: Callable[[int | str, str], int]
    batch_size: int = BATCH

    metric = Top1()

    def output(self, found: Any, batch: Batch) -> Tensor:
        logits = logits_of(found)
        if isinstance(logits, Tensor) and logits.dim() == 2 and len(batch.targets):
            largest = int(batch.targets.max())
            if largest >= logits.shape[1]:
                raise ValueError(
                    f"class {largest} found, and the model has {logits.shape[1]}; number classes as the model does"
                )
        return logits


@final
@dataclass(frozen=True)
class ArrayClasses(Classes):
    """Rows as they are."""

    def samples(self, records: Iterator[Row]) -> Iterator[Any]:
        return ((record.x, record.y if record.y < 0 else self.label(record.y, record.where)) for record in records)

    def batch(self, samples: Sequence[Any]) -> Batch:
        x, y = zip(*samples, strict=True)
        return Batch((torch.from_numpy(np.stack(x)),), torch.tensor(y))


@final
@dataclass(frozen=True)
class ImageClasses(Classes):
    """Images through the network's processor."""

    prepare: Prepare = ResizeAndCrop()

    def samples(self, records: Iterator[Picture]) -> Iterator[Any]:
        return ((self.prepare(decode(record)), self.label(record.label, record.where)) for record in records)

    def batch(self, samples: Sequence[Any]) -> Batch:
        x, y = zip(*samples, strict=True)
        return Batch((torch.from_numpy(np.stack(x)),), torch.tensor(y))


@final
@dataclass(frozen=True)
class TextClasses(Classes):
    """Texts through the network's tokenizer, cut to what it takes; two texts as its pair."""

    tokenizer: Any = None
    longest: int = 512

    def samples(self, records: Iterator[Words]) -> Iterator[Any]:
        for record in records:
            if record.target is None or isinstance(record.target, float):
                raise ValueError(f"{record.where}: {record.target!r} found; a class, as label, is wanted")
            yield encoded(self.tokenizer, record, self.longest), self.label(record.target, record.where)

    def batch(self, samples: Sequence[Any]) -> Batch:
        x, y = zip(*samples, strict=True)
        return Batch(side_by_side(self.tokenizer, x), torch.tensor(y))


@final
@dataclass(frozen=True)
class Scores(Role):
    """One number a text or pair, compared with a score by ranks."""

    tokenizer: Any
    longest: int

    metric = Spearman()

    def samples(self, records: Iterator[Words]) -> Iterator[Any]:
        return ((encoded(self.tokenizer, record, self.longest), score(record)) for record in records)

    def batch(self, samples: Sequence[Any]) -> Batch:
        x, y = zip(*samples, strict=True)
        return Batch(side_by_side(self.tokenizer, x), torch.tensor(y, dtype=torch.float64))

    def output(self, found: Any, batch: Batch) -> Tensor:
        return logits_of(found).squeeze(-1)


@final
@dataclass(frozen=True)
class Likeness(Role):
    """Two texts through an encoder; the cosine of their mean states, compared with a score by ranks."""

    tokenizer: Any
    longest: int

    metric = Spearman()

    def samples(self, records: Iterator[Words]) -> Iterator[Any]:
        for record in records:
            if len(record.texts) != 2:
                raise ValueError(f"{record.where} has one text; an encoder compares two, as sentence1 and sentence2")
            parts = (Words((text,), None, record.where) for text in record.texts)
            yield [encoded(self.tokenizer, part, self.longest) for part in parts], score(record)

    def batch(self, samples: Sequence[Any]) -> Batch:
        pairs, y = zip(*samples, strict=True)
        sides = [side_by_side(self.tokenizer, side) for side in zip(*pairs, strict=True)]
        inputs = {f"{name}_{number}": tensor for number, side in enumerate(sides) for name, tensor in side.items()}
        return Batch(inputs, torch.tensor(y, dtype=torch.float64))

    def wrapped(self, model: nn.Module) -> nn.Module:
        return Cosine(model)


@final
class Cosine(nn.Module):
    """Mean of an encoder's states over tokens that are no padding, of two texts, and the cosine between."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, **inputs: Tensor) -> Tensor:
        means = []
        for number in (0, 1):
            side = {n.removesuffix(f"_{number}"): t for n, t in inputs.items() if n.endswith(f"_{number}")}
            states, mask = self.encoder(**side)[0], side["attention_mask"].unsqueeze(-1)
            means.append((states * mask).sum(1) / mask.sum(1))
        return nn.functional.cosine_similarity(*means)


@final
@dataclass(frozen=True)
class NextTokens(Role):
    """Texts or tokens in windows, each token judged once."""

    tokenizer: Any
    windows: Windows
    vocabulary: int | None = None

    metric = Perplexity()
    is_a_sample_a_record = False

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        return min(max(LARGEST_OUTPUT // (self.windows.length * (self.vocabulary or 32_768)), 1), BATCH)

    def samples(self, records: Iterator[Words | Tokens]) -> Iterator[Any]:
        return (window for text in self.texts(records) for window in self.windows.cut(text))

    def batch(self, samples: Sequence[Any]) -> Batch:
        return token_batch(samples)

    def texts(self, records: Iterator[Words | Tokens]) -> Iterator[Iterator[int]]:
        """The tokens of each text; records that continue one are its next part."""
        ahead = next(records, None)
        while ahead is not None:
            first = ahead

            def tokens(first: Words | Tokens = first) -> Iterator[int]:
                nonlocal ahead
                yield from self.ids(first, is_first=True)
                while (ahead := next(records, None)) is not None and getattr(ahead, "continues", False):
                    yield from self.ids(ahead, is_first=False)

            yield tokens()

    def ids(self, record: Words | Tokens, *, is_first: bool) -> Sequence[int]:
        if isinstance(record, Tokens):
            ids = record.ids.tolist()
        else:
            if self.tokenizer is None:
                raise ValueError(
                    f"{record.where} is text, and the model has no tokenizer; give tokens, or put one beside it"
                )
            ids = self.tokenizer(" ".join(record.texts), add_special_tokens=is_first, verbose=False)["input_ids"]
        if self.vocabulary is not None and ids and not 0 <= min(ids) <= max(ids) < self.vocabulary:
            raise ValueError(f"{record.where}: tokens {min(ids)} to {max(ids)} found; the model has {self.vocabulary}")
        return ids


def role_of(network: Network, record: Any, reader: Reader, windows: Windows) -> Role:
    """What the network is asked about such records. ValueError naming what is missing for that."""
    label = labels(network, reader)
    size = network.batch_size or BATCH
    if isinstance(record, Row):
        return ArrayClasses(label, size)
    if isinstance(record, Picture):
        return ImageClasses(label, size, network.prepare or ResizeAndCrop())
    if network.is_causal:
        return NextTokens(network.tokenizer, windows, network.outputs)
    if isinstance(record, Tokens):
        raise ValueError(f"{record.where} holds tokens, and {network.name} is no language model; give texts or arrays")
    if network.tokenizer is None:
        raise ValueError(
            f"{record.where} is text, and {network.name} has no tokenizer; put tokenizer.json beside the model, or "
            "give module:function that returns a Task"
        )
    longest = network.longest or 512
    if network.outputs is None:
        return Likeness(network.tokenizer, longest)
    if network.outputs == 1:
        return Scores(network.tokenizer, longest)
    return TextClasses(label, size, network.tokenizer, longest)


def labels(network: Network, reader: Reader) -> Callable[[int | str, str], int]:
    """Numbers as they are; names as the network orders them, else as the data does."""
    names: Mapping[str, int] = network.classes
    if not set(reader.names) <= set(names):
        names = {name: index for index, name in enumerate(reader.names)}

    def number(label: int | str, where: str) -> int:
        if isinstance(label, str) and label not in names:
            some = ", ".join(list(names)[:8]) or "none are named"
            raise ValueError(f"{where}: there is no class {label!r}; the model's classes: {some}")
        found = names[label] if isinstance(label, str) else label
        if found < 0 or (network.outputs is not None and found >= network.outputs):
            most = "" if network.outputs is None else f" to {network.outputs - 1}"
            raise ValueError(f"{where}: class {found} found; classes are numbered from 0{most}")
        return found

    return number


def score(record: Words) -> float:
    if record.target is None or isinstance(record.target, str):
        raise ValueError(f"{record.where}: {record.target!r} found; a score is wanted, as score or label")
    return float(record.target)


def encoded(tokenizer: Any, record: Words, longest: int) -> dict[str, list[int]]:
    return dict(tokenizer(*record.texts, truncation=True, max_length=longest))


def side_by_side(tokenizer: Any, samples: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
    """Padded at the right."""
    names = [name for name in samples[0] if name in ("input_ids", "attention_mask", "token_type_ids")]
    fillers = {"input_ids": tokenizer.pad_token_id or 0}
    longest = max(len(sample["input_ids"]) for sample in samples)
    return {
        name: torch.tensor(
            [list(chain(s[name], [fillers.get(name, 0)] * (longest - len(s[name])))) for s in samples]
        )
        for name in names
    }  # fmt: skip
