"""Which columns of a table are texts, targets, tokens or images, by the names that data sets give them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bitwright.sources.records import LARGEST_FILE, Picture, Tokens, Words

PAIRS = (
    ("sentence1", "sentence2"), ("s1", "s2"), ("text1", "text2"), ("question1", "question2"),
    ("premise", "hypothesis"), ("question", "sentence"), ("anchor", "positive"),
)  # fmt: skip
TEXTS = ("text", "sentence", "content", "story", "document")
IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABELS = ("label", "labels", "class", "cls", "target", "y")
SCORES = ("score", "similarity", "similarity_score")
TOKENS = ("tokens", "input_ids")

WANTED = "text, a pair such as sentence1 and sentence2, tokens, or image, with label or score"


def wanted_columns(names: Iterable[str]) -> list[str]:
    """Those that `record` looks at."""
    known = {*(name for pair in PAIRS for name in pair), *TEXTS, *IMAGES, *LABELS, *SCORES, *TOKENS}
    return [name for name in names if name in known]


def record(row: Mapping[str, Any], where: str) -> Picture | Words | Tokens:
    """A table's row. ValueError naming the columns that it has."""
    for name in TOKENS:
        if name in row:
            return Tokens(token_ids(row[name], where), where)
    for name in IMAGES:
        if name in row:
            return Picture(image_bytes(row[name], where), label(row, where), where)
    for pair in PAIRS:
        if all(name in row for name in pair):
            return Words(tuple(text(row[name], name, where) for name in pair), target(row, where), where)
    for name in TEXTS:
        if name in row:
            return Words((text(row[name], name, where),), target(row, where), where)
    raise ValueError(f"{where} has {', '.join(map(str, row)) or 'no columns'}; wanted are {WANTED}")


def text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} is a {type(value).__name__}; it must be a text")
    return value


def token_ids(value: Any, where: str) -> np.ndarray:
    if not isinstance(value, list) or not all(type(v) is int and 0 <= v < 2**31 for v in value):
        raise ValueError(f"{where}: tokens must be a list of whole numbers from 0")
    return np.array(value, np.int64)


def image_bytes(value: Any, where: str) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or len(content) > LARGEST_FILE:
        raise ValueError(f"{where}: the image must be the bytes of a file, at most {LARGEST_FILE}; paths are not read")
    return content


def label(row: Mapping[str, Any], where: str) -> int | str:
    for name in LABELS:
        if name in row:
            value = row[name]
            if type(value) is int or isinstance(value, str):
                return value
            raise ValueError(f"{where}: {name} is {value!r}; a class is a whole number or a name")
    raise ValueError(f"{where} has {', '.join(map(str, row))}; a class in {', '.join(LABELS)} is missing")


def target(row: Mapping[str, Any], where: str) -> int | str | float | None:
    for name in SCORES:
        if name in row:
            if isinstance(row[name], bool | str) or not np.isfinite(score := _number(row[name])):
                raise ValueError(f"{where}: {name} is {row[name]!r}; a score is a finite number")
            return score
    for name in LABELS:
        if isinstance(row.get(name), float):
            return row[name]
    return label(row, where) if any(name in row for name in LABELS) else None


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
