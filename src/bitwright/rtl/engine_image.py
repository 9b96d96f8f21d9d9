"""A layer as a memory image for an engine, and what the engine gives back as sums.

An image has the beats of every stream in order: jobs, weights, inputs. An engine that keeps weights has room for the
sums of so many vectors; more rows of inputs make more jobs. Edges are filled up with codes of zero.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from bitwright.datapath import lanes as rows_in_tiles
from bitwright.formats import Format
from bitwright.quantization import QuantizedTensor
from bitwright.rtl.engine import JOB, LARGEST_JOB, Engine
from bitwright.rtl.engine_outputs import OutputEngine
from bitwright.rtl.operand import Operand
from bitwright.rtl.plan import zero_correction
from bitwright.rtl.stream import from_hex, hex_words
from bitwright.rtl.unit import Unit


@dataclass(frozen=True)
class Beats:
    """What moves over one stream, lowest byte first."""

    data: UInt8[np.ndarray, "beats bytes"]
    last: Bool[np.ndarray, " beats"]  # tlast

    def hex(self) -> str:
        """A word a line for $readmemh: a byte that is 1 at a tlast, then tdata."""
        last = self.last[:, None].astype(np.uint8)
        return "".join(f"{word}\n" for word in hex_words(np.concatenate([self.data, last], 1)))

    @staticmethod
    def joined(parts: "Sequence[Beats]") -> "Beats":
        """One behind the other."""
        return Beats(np.concatenate([part.data for part in parts]), np.concatenate([part.last for part in parts]))

    @staticmethod
    def read(text: str, width: int) -> "Beats":
        """Beats of `width` bytes in such words, as $writememh wrote them."""
        found = from_hex(text.splitlines(), width + 1)
        return Beats(found[:, :width], found[:, width] != 0)


@dataclass(frozen=True)
class Image(ABC):
    """One matrix product for an engine."""

    shape: tuple[int, int, int]  # m, n, k
    job: Beats
    w: Beats
    x: Beats

    @property
    @abstractmethod
    def engine(self) -> Engine | OutputEngine:
        """The one that it was made for."""

    @property
    @abstractmethod
    def results(self) -> int:
        """Beats that the engine gives back."""

    @property
    @abstractmethod
    def cycles(self) -> int:
        """From the first beat to the last one of sums, when no stream pauses and one job is enough."""

    @abstractmethod
    def sums(self, y: Beats) -> Shaped[np.ndarray, "tiles m n"]:
        """What the engine's results say, in the units that it states."""

    def write(self, folder: Path) -> None:
        """`job.hex`, `w.hex` and `x.hex` for $readmemh."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("job", "w", "x"):
            beats: Beats = getattr(self, name)
            (folder / f"{name}.hex").write_text(beats.hex())

    def _values(self, y: Beats) -> Shaped[np.ndarray, "results columns"]:
        if len(y.data) != self.results:
            raise ValueError(f"{len(y.data)} results found; this layer has {self.results}")
        return self.engine.streams.y.unpack(y.data)["sums"]


@singledispatch
def pack_layer(engine: Unit, x: QuantizedTensor, w: QuantizedTensor) -> Image:
    """The image of x @ w.T. ValueError where the engine was not made for these formats or has no room for so much."""
    raise TypeError(f"no image is known for {type(engine).__name__}; give an Engine or an OutputEngine")


@dataclass(frozen=True)
class WeightImage(Image):
    """For an array that keeps weights: a fold is `rows` elements of K of all vectors, for `columns` outputs."""

    made_for: Engine

    @property
    def engine(self) -> Engine:
        return self.made_for

    @property
    def tiles(self) -> int:
        """Results of one output: one, or one a tile where no outer register adds tiles up."""
        engine = self.engine
        if engine.plan.products is None or engine.plan.outer is not None:
            return 1
        return -(-self.shape[2] // engine.plan.products)

    @property
    def results(self) -> int:
        m, n, _ = self.shape
        return m * -(-n // self.engine.columns) * self.tiles

    @property
    def cycles(self) -> int:
        """Counted from the first weights."""
        engine, (m, n, k) = self.engine, self.shape
        if m > engine.vectors:
            raise ValueError(f"{m} vectors are several jobs of {engine.vectors}; the closed form is that of one")
        folds, groups = _folds(engine, k), -(-n // engine.columns)
        period = max(m, engine.shortest_fold)
        waiting = max(period, engine.rows + engine.columns + 1) if engine.goes_on else period
        starts = groups * folds // (engine.folds_per_tile or folds)
        rest = (starts - 1) * period + (groups * folds - starts) * waiting
        return engine.rows + engine.latency + m + 2 + rest

    def sums(self, y: Beats) -> Shaped[np.ndarray, "tiles m n"]:
        m, n, _ = self.shape
        values, jobs, first = self._values(y), [], 0
        for vectors in _parts(m, self.engine.vectors):
            count = self.results // m * vectors
            found = values[first : first + count].reshape(-1, self.tiles, vectors, self.engine.columns)
            jobs.append(found.transpose(1, 2, 0, 3).reshape(self.tiles, vectors, -1)[:, :, :n])
            first += count
        return np.concatenate(jobs, 1)


@pack_layer.register
def _(engine: Engine, x: QuantizedTensor, w: QuantizedTensor) -> WeightImage:
    m, n, k = _sizes(engine, x, w)
    folds, groups = _folds(engine, k), -(-n // engine.columns)
    _require(f"{folds} folds and {groups} groups", folds, groups)
    vectors = _parts(m, engine.vectors)
    starts = range(0, m, engine.vectors)
    inputs = [_inputs(engine, x, folds, slice(start, start + count)) for start, count in zip(starts, vectors)]
    return WeightImage(
        (m, n, k), _jobs([(count, folds, groups) for count in vectors]),
        _with_last(np.tile(_weights(engine, x, w, folds), (len(vectors), 1)), engine.rows),
        Beats.joined([_with_last(np.tile(beats, (groups, 1)), count) for beats, count in zip(inputs, vectors)]),
        engine,
    )  # fmt: skip


@dataclass(frozen=True)
class OutputImage(Image):
    """For an array that keeps sums: a fold is all of K of `rows` vectors, for `columns` outputs."""

    made_for: OutputEngine

    @property
    def engine(self) -> OutputEngine:
        return self.made_for

    @property
    def results(self) -> int:
        m, n, _ = self.shape
        return -(-m // self.engine.rows) * -(-n // self.engine.columns) * self.engine.rows

    @property
    def cycles(self) -> int:
        rows, columns, k = self.engine.rows, self.engine.columns, self.shape[2]
        return 2 * rows + columns + k + 2 + (self.results // rows - 1) * max(k, rows)

    def sums(self, y: Beats) -> Shaped[np.ndarray, "tiles m n"]:
        rows, columns, (m, n, _) = self.engine.rows, self.engine.columns, self.shape
        folds = -(-m // rows)
        # the last row of a fold leaves first
        found = self._values(y).reshape(-1, folds, rows, columns)[:, :, ::-1]
        return found.transpose(1, 2, 0, 3).reshape(1, folds * rows, -1)[:, :m, :n]


@pack_layer.register
def _(engine: OutputEngine, x: QuantizedTensor, w: QuantizedTensor) -> OutputImage:
    m, n, k = _sizes(engine, x, w)
    folds, groups = -(-m // engine.rows), -(-n // engine.columns)
    _require(f"{k} elements of K, {folds} folds and {groups} groups", k, folds, groups)
    stored, held = engine.stored, engine.plan
    inputs = _in_folds(_codes(stored.x, held.x, x)[:, :k], engine.rows)
    weights = _in_folds(_codes(stored.w, held.w, w)[:, :k], engine.columns)
    # all inputs again for each group, weights again for each fold
    x_codes = np.tile(inputs, (groups, 1, 1)).reshape(-1, engine.rows)
    w_codes = np.repeat(weights, folds, 0).reshape(-1, engine.columns)
    starts = np.repeat(_in_folds(_starts(engine, x, w, 1), engine.columns)[:, 0], folds * k, 0)
    formats = {
        name: np.full((len(x_codes), 1), _number(o, t)) for name, o, t in (("x", stored.x, x), ("w", stored.w, w))
    }
    return OutputImage(
        (m, n, k), _jobs([(k, folds, groups)]),
        _with_last(engine.streams.w.pack({"codes": w_codes, "starts": starts, "format": formats["w"]}), k),
        _with_last(engine.streams.x.pack({"codes": x_codes, "format": formats["x"]}), k),
        engine,
    )  # fmt: skip


def _in_folds(codes: Shaped[np.ndarray, "rows k"], lanes: int) -> Shaped[np.ndarray, "folds k lanes"]:
    """So many rows at a time, edges filled up."""
    padded = np.pad(codes, ((0, -len(codes) % lanes), (0, 0)))
    return padded.reshape(-1, lanes, codes.shape[1]).swapaxes(1, 2)


def _sizes(engine: Engine | OutputEngine, x: QuantizedTensor, w: QuantizedTensor) -> tuple[int, int, int]:
    if x.k != w.k:
        raise ValueError(f"inputs of K {x.k} and weights of K {w.k} found; they must agree")
    if x.k > engine.plan.k:
        raise ValueError(
            f"sums of {x.k} products found; the engine has registers for {engine.plan.k}, make it for more"
        )
    return len(x.codes), len(w.codes), x.k


def _require(what: str, *counts: int) -> None:
    if max(counts) > LARGEST_JOB:
        raise ValueError(f"a product of {what} found; {LARGEST_JOB} of each are possible")


def _jobs(counts: Sequence[tuple[int, int, int]]) -> Beats:
    columns = np.asarray(counts).T - 1
    data = JOB.pack({field.name: column[:, None] for field, column in zip(JOB.fields, columns)})
    return Beats(data, np.ones(len(data), bool))


def _with_last(beats: UInt8[np.ndarray, "beats bytes"], fold: int) -> Beats:
    """A tlast at every so many beats."""
    return Beats(beats, np.arange(len(beats)) % fold == fold - 1)


def _weights(engine: Engine, x: QuantizedTensor, w: QuantizedTensor, folds: int) -> UInt8[np.ndarray, "beats bytes"]:
    """Of all groups, for each all folds, for each all rows, the last one first."""
    columns, rows = engine.columns, engine.rows
    stored, held = engine.stored.w, engine.plan.w
    zero = _zero_code(_held(stored, held, w))
    codes = _to_length(_codes(stored, held, w)[:, : w.k], folds * rows, zero)
    edge = ((0, -len(codes) % columns), (0, 0))
    codes = np.pad(codes, edge, constant_values=zero).reshape(-1, columns, folds, rows)
    fields = {"codes": codes.transpose(0, 2, 3, 1)[:, :, ::-1].reshape(-1, columns)}
    for name, values in (("scales", _scales(engine, "w", w, folds)), ("starts", _starts(engine, x, w, folds))):
        of_folds = np.pad(values, edge).reshape(-1, columns, folds).transpose(0, 2, 1)
        fields[name] = np.repeat(of_folds.reshape(-1, columns), rows, 0)
    return engine.streams.w.pack(fields | {"format": np.full((len(fields["codes"]), 1), _number(stored, w))})


def _inputs(engine: Engine, x: QuantizedTensor, folds: int, vectors: slice) -> UInt8[np.ndarray, "beats bytes"]:
    """Of all folds, for each these vectors."""
    stored, held = engine.stored.x, engine.plan.x
    codes = _to_length(_codes(stored, held, x)[vectors], folds * engine.rows, _zero_code(x.quantizer.format))
    fields = {
        "codes": codes.reshape(-1, folds, engine.rows).swapaxes(0, 1).reshape(-1, engine.rows),
        "scale": _scales(engine, "x", x, folds)[vectors].T.reshape(-1, 1),
    }
    return engine.streams.x.pack(fields | {"format": np.full((len(fields["codes"]), 1), _number(stored, x))})


def _folds(engine: Engine, k: int) -> int:
    """Along K, whole tiles."""
    per_tile = engine.folds_per_tile or 1
    return -(-k // (engine.rows * per_tile)) * per_tile


def _parts(length: int, most: int) -> list[int]:
    return [min(most, length - first) for first in range(0, length, most)]


def _codes(stored: Operand, held: Operand, t: QuantizedTensor) -> Int[np.ndarray, "rows k"]:
    """Stored codes, or the elements of a format that reads its neighbours."""
    codes, format = t.codes.reshape(len(t.codes), -1), _held(stored, held, t)
    return codes if format == t.quantizer.format else format.encode(t.quantizer.format.decode(codes))


def _held(stored: Operand, held: Operand, t: QuantizedTensor) -> Format:
    """The format that the engine reads the tensor's codes in."""
    return held.formats[_number(stored, t)]


def _number(stored: Operand, t: QuantizedTensor) -> int:
    """Of the tensor's format, among those that the engine reads."""
    if t.quantizer.format not in stored.formats:
        raise ValueError(
            f"codes of {t.quantizer.format} found; the engine reads {', '.join(map(repr, stored.formats))}"
        )
    return stored.formats.index(t.quantizer.format)


def _to_length(codes: Int[np.ndarray, "rows k"], lanes: int, fill: int) -> Int[np.ndarray, "rows lanes"]:
    codes = codes[:, :lanes]
    return np.pad(codes, ((0, 0), (0, lanes - codes.shape[1])), constant_values=fill)


def _zero_code(format: Format) -> int:
    """Of real zero; 0 where the format has none, as then the other operand's zero has to do."""
    run = np.zeros(format.run)
    return 0 if not np.any(format.decode(run.astype(np.int64))) else int(format.encode(run)[0])


def _scales(engine: Engine, operand: str, t: QuantizedTensor, folds: int) -> Int[np.ndarray, "rows folds"]:
    """Codes of the block scales of each fold; zeros where the engine multiplies by none."""
    outer = engine.plan.outer
    format = None if outer is None else {"x": outer.scale.x, "w": outer.scale.w}[operand]
    rows, k = t.shape
    if format is None:
        return np.zeros((rows, folds), np.int64)
    assert engine.plan.products is not None, "blocks"
    starts = np.arange(folds) * engine.rows // engine.plan.products * engine.plan.products
    share = t.quantizer.scales[-1].share
    return share.expand(t.scales[-1], rows, k)[:, starts].astype(np.int64)


def _starts(
    engine: Engine | OutputEngine, x: QuantizedTensor, w: QuantizedTensor, folds: int
) -> Shaped[np.ndarray, "rows folds"]:
    """What sums of each fold start from: what takes the zero point off its tile's weights; zeros without one."""
    if not engine.plan.has_zero_point or x.zero_points is None:
        return np.zeros((len(w.codes), folds), np.int64)
    zero = np.unique(x.zero_points).astype(np.int64)
    if len(zero) > 1:
        raise ValueError(f"{len(zero)} zero points found; an engine takes one for all inputs, so share it along rows")
    tiles = rows_in_tiles(w, engine.plan.products or w.k)
    weights = tiles.integers.astype(object) << (tiles.unit - engine.plan.w.bounds.exponent.start)
    found = [zero_correction(engine.plan, zero, weights[:, tile])[0] for tile in range(weights.shape[1])]
    return np.repeat(np.stack(found, 1), folds // len(found), 1)
