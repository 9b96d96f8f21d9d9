"""A task from stored weights and stored samples. Nothing is read before it is used."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

from torch import nn

from bitwright.model.data import Reader, Samples, data_folder
from bitwright.model.task import Batch, Metric, Task
from bitwright.model.zoo.weights import Conversion, load_weights_


@final
@dataclass(frozen=True)
class Split:
    """Which samples of a collection are used, in which batches."""

    reader: Reader
    chosen: range
    prepare: Callable[[Samples], Batch]
    batch_size: int

    def batches(self, folder: Path, limit: int | None = None) -> Iterator[Batch]:
        try:
            samples = self.reader.read(folder, self.chosen[:limit])
        except FileNotFoundError:
            raise
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile, zlib.error, struct.error) as error:
            names = " or ".join(str(folder / file) for file in self.reader.files)
            raise ValueError(f"{names}: the stored samples cannot be read ({error}); fetch the file again") from error
        for first in range(0, len(samples), self.batch_size):
            yield self.prepare(samples.part(first, first + self.batch_size))


@final
@dataclass(frozen=True)
class Weights:
    """A network, the files that fill it, and how their names become the network's."""

    network: Callable[[], nn.Module]
    files: tuple[str, ...]
    convert: Conversion
    source: str

    def load(self, folder: Path) -> nn.Module:
        return load_weights_(self.network(), [folder / file for file in self.files], self.convert)


@final
@dataclass(frozen=True)
class TrainedTask(Task):
    """A network trained by others, on data that is stored outside the package: see `data_folder`."""

    name: str
    weights: Weights
    data_source: str
    metric: Metric
    float_metric: float
    test_split: Split
    calibration_split: Split

    @property
    def source(self) -> str:  # type: ignore[override]  # read-only here, as every field of a frozen value
        return self.weights.source

    def load(self) -> nn.Module:
        return self.weights.load(data_folder())

    def calibration(self) -> Iterator[Batch]:
        return self.calibration_split.batches(data_folder())

    def test(self, limit: int | None = None) -> Iterator[Batch]:
        return self.test_split.batches(data_folder(), limit)

    def files(self) -> dict[str, Callable[[], bytes]]:
        names = (*self.weights.files, *self.test_split.reader.files, *self.calibration_split.reader.files)
        return {name: partial(read_file, name) for name in names}


def read_file(name: str) -> bytes:
    return (data_folder() / name).read_bytes()
