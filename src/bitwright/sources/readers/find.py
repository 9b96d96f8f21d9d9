"""Which reader a path, or module:function, is read by."""

from collections.abc import Callable
from pathlib import Path

from bitwright.sources.readers.arrays import Arrays, TokenArray
from bitwright.sources.readers.folder import ImageFolder
from bitwright.sources.readers.lines import JsonLines, PlainText
from bitwright.sources.readers.parquet import Parquet
from bitwright.sources.readers.tar import SHARDS, TarShards, expanded
from bitwright.sources.records import Reader

READERS: dict[str, Callable[[Path], Reader]] = {
    ".npz": Arrays,
    ".npy": TokenArray,
    ".jsonl": JsonLines,
    ".jsonl.gz": JsonLines,
    ".ndjson": JsonLines,
    ".txt": PlainText,
    ".txt.gz": PlainText,
    ".parquet": Parquet,
    **{suffix: lambda path: TarShards(str(path)) for suffix in (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")},
}
"""By the end of a file's name; a folder holds a folder of images a class."""


def reader(data: Path | str) -> Reader:
    """What reads this path. ValueError where nothing is there, or nothing reads it."""
    path = Path(data)
    if SHARDS.search(str(data)):
        missing = [shard for shard in expanded(str(data)) if not shard.exists()]
        if missing:
            raise ValueError(f"{missing[0]} of {data} does not exist; name the first and last shard that do")
        return TarShards(str(data))
    if path.is_dir():
        return ImageFolder(path)
    found = next(
        (READERS[end] for end in sorted(READERS, key=len, reverse=True) if path.name.lower().endswith(end)), None
    )
    if found is None:
        raise ValueError(
            f"{path} is no data that is read; give a folder of images a class, a file that ends in "
            f"{', '.join(READERS)}, or module:function"
        )
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return found(path)
