"""Sentences, stories and characters from text files as token ids, and their way into padded batches."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bitwright.model.data.samples import Reader, Samples
from bitwright.model.data.tokenizers import StoryTokenizer, WordPiece
from bitwright.model.task import Batch

NOT_SCORED = -1
PADDING = 0  # token id of BERT's [PAD]


@final
@dataclass(frozen=True)
class SentencePairs(Reader):
    """Two sentences and how alike people found them, 0 to 5."""

    file: str
    vocabulary: str
    longest: int

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, self.vocabulary)

    def read(self, folder: Path, chosen: range) -> Samples:
        tokenizer = WordPiece.load(folder / self.vocabulary)
        records = json_lines(folder / self.file, chosen)
        pairs = [
            tuple(tokenizer.encode(record[name], longest=self.longest) for name in ("s1", "s2")) for record in records
        ]
        return Samples(pairs, np.array([record["score"] for record in records], np.float64))


@final
@dataclass(frozen=True)
class Sentences(Reader):
    """Sentences and their classes."""

    file: str
    vocabulary: str
    longest: int

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, self.vocabulary)

    def read(self, folder: Path, chosen: range) -> Samples:
        tokenizer = WordPiece.load(folder / self.vocabulary)
        records = json_lines(folder / self.file, chosen)
        tokens = [tokenizer.encode(record["text"], longest=self.longest) for record in records]
        return Samples(tokens, np.array([record["label"] for record in records], np.int64))


@final
@dataclass(frozen=True)
class Stories(Reader):
    """Stories with the next token of every token; the last token of a story is only a target."""

    file: str
    tokenizer: str
    longest: int

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, self.tokenizer)

    def read(self, folder: Path, chosen: range) -> Samples:
        tokenizer = StoryTokenizer.load(folder / self.tokenizer)
        records = json_lines(folder / self.file, chosen)
        stories = [tokenizer.encode(record["text"], longest=self.longest) for record in records]
        return Samples([story[:-1] for story in stories], [story[1:] for story in stories])


@final
@dataclass(frozen=True)
class Streams(Reader):
    """One text cut into equal streams, each with its next characters; the first `warm_up` steps are not scored."""

    file: str
    vocabulary: str
    count: int
    warm_up: int

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, self.vocabulary)

    def read(self, folder: Path, chosen: range) -> Samples:
        inputs, targets = (part[np.array(chosen)] for part in self.cut(folder))
        is_scored = np.arange(inputs.shape[1]) >= self.warm_up
        return Samples(inputs, np.where(is_scored, targets, NOT_SCORED))

    def cut(self, folder: Path) -> tuple[Int64[np.ndarray, "streams time"], Int64[np.ndarray, "streams time"]]:
        ids = json.loads((folder / self.vocabulary).read_text(encoding="utf-8"))
        text = gzip.decompress((folder / self.file).read_bytes()).decode("utf-8")
        characters = np.array([ids[character] for character in text], np.int64)
        length = len(characters) // self.count
        streams = characters[: self.count * length].reshape(self.count, length)
        return streams[:, :-1], streams[:, 1:]


@final
@dataclass(frozen=True)
class WarmUps(Reader):
    """The steps of streams that are not scored, with their next characters."""

    streams: Streams

    @property
    def files(self) -> tuple[str, ...]:
        return self.streams.files

    def read(self, folder: Path, chosen: range) -> Samples:
        inputs, targets = (part[np.array(chosen), : self.streams.warm_up] for part in self.streams.cut(folder))
        return Samples(inputs, targets)


def json_lines(file: Path, chosen: range) -> list[dict[str, Any]]:
    """The records at these lines."""
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    return [json.loads(lines[index]) for index in chosen]


def padded(rows: Sequence[Sequence[int]] | np.ndarray, *, filler: int) -> Int64[Tensor, "rows time"]:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)


def pairs_of_tokens(samples: Samples) -> Batch:
    first, second = zip(*samples.inputs)
    return Batch((padded(first, filler=PADDING), padded(second, filler=PADDING)), torch.as_tensor(samples.targets))


def tokens_with_class(samples: Samples) -> Batch:
    return Batch((padded(samples.inputs, filler=PADDING),), torch.as_tensor(samples.targets))


def tokens_with_next(samples: Samples) -> Batch:
    """Causal networks never see the padding from a scored position, so any token may fill it."""
    return Batch((padded(samples.inputs, filler=0),), padded(samples.targets, filler=NOT_SCORED))


def characters_with_next(samples: Samples) -> Batch:
    return Batch((torch.as_tensor(samples.inputs),), torch.as_tensor(samples.targets))
