"""Rows as one small Parquet file with a stamp over all of its values; to read it, pyarrow is enough."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

R = TypeVar("R")

STAMP = b"bitwright"
"""Under which the file's own metadata has its stamp and what it was made with."""


def stamp_of(about: Mapping[str, Any], rows: Sequence[Any]) -> str:
    """SHA-256 over all values and what they were made with."""
    text = json.dumps([about, [astuple(row) for row in rows]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TableFile(Generic[R]):
    """What a table is called, its rows' dataclass, the script that writes it, and what to do without."""

    name: str
    row: type[R]
    script: str
    otherwise: str

    def write(self, path: Path, about: Mapping[str, Any], rows: Sequence[R]) -> None:
        """With its stamp."""
        parquet = self._parquet()
        import pyarrow

        columns = {name: [getattr(row, name) for row in rows] for name in self._columns}
        said = json.dumps(dict(about) | {"sha256": stamp_of(about, rows)}, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = pyarrow.table(columns).replace_schema_metadata({STAMP: said.encode()})
        parquet.write_table(content, path, compression="zstd")

    def read(self, path: Path) -> tuple[dict[str, Any], tuple[R, ...]]:
        """What stands beside the rows, and the rows. ValueError where the stamp does not fit them."""
        parquet = self._parquet()
        again = f"write it again with {self.script}"
        try:
            content = parquet.read_table(path, use_threads=False)
            about = json.loads((content.schema.metadata or {})[STAMP])
            rows = tuple(self.row(**values) for values in content.to_pylist())
            own = about.pop("sha256")
        except FileNotFoundError:
            raise FileNotFoundError(
                f"there is no table of {self.name} at {path}; {again}, or {self.otherwise}"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path.name} is no table of {self.name} of this version ({error}); {again}") from None
        if stamp_of(about, rows) != own:
            raise ValueError(f"{path.name} does not fit its stamp, so somebody changed it; {again}")
        return about, rows

    @property
    def _columns(self) -> list[str]:
        return [field.name for field in fields(self.row)]  # type: ignore[arg-type]  # rows are dataclasses

    def _parquet(self) -> Any:
        try:
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"measured {self.name} are read with pyarrow, which is not installed; "
                f"pip install 'bitwright[cost]', or {self.otherwise}"
            ) from None
        return parquet
