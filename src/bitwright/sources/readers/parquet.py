"""Parquet tables of texts or images, a few rows at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from bitwright.sources.readers.columns import WANTED, record, wanted_columns
from bitwright.sources.records import Picture, Reader, Tokens, Words

ROWS = 64
"""Rows that are in memory at a time."""

LARGEST_GROUP = 2**31
"""Bytes of a row group once inflated."""


@final
@dataclass(frozen=True)
class Parquet(Reader):
    """Columns as in JSON Lines; images are bytes of files, as Hugging Face data sets store them."""

    path: Path

    def records(
        self, is_wanted: Callable[[int], bool] = lambda index: True
    ) -> Iterator[tuple[int, Picture | Words | Tokens]]:
        with self._opened() as table:
            names = wanted_columns(table.schema_arrow.names)
            if not names:
                raise ValueError(f"{self.path} has {', '.join(table.schema_arrow.names)}; wanted are {WANTED}")
            index = 0
            for part in table.iter_batches(batch_size=ROWS, columns=names):
                for offset in range(part.num_rows):
                    if is_wanted(index):
                        row = {name: part.column(name)[offset].as_py() for name in part.schema.names}
                        yield index, record(row, f"{self.path}, row {index}")
                    index += 1

    def count(self) -> int:
        with self._opened() as table:
            return table.metadata.num_rows

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            import pyarrow
            import pyarrow.parquet as parquet
        except ImportError:
            raise ImportError("reading Parquet needs pyarrow; pip install 'bitwright[data]'") from None
        try:
            with self.path.open("rb") as opened:
                table = parquet.ParquetFile(opened)
                groups = (table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))
                if (largest := max(groups, default=0)) > LARGEST_GROUP:
                    raise ValueError(
                        f"{self.path} has a row group of {largest} bytes, over {LARGEST_GROUP}; write smaller ones"
                    )
                yield table
        except (pyarrow.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{self.path} is not a whole Parquet file ({_first(error)}); fetch it again") from None


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
