"""Matrix products through an engine that a simulator runs, beside the arithmetic that defines them.

A layer whose blocks are shorter than the engine's has them filled up with codes of zero, and codes of a format that the
engine does not read are written in one that it does, where that keeps every element.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Shaped

from bitwright.datapath import Datapath, Lanes, lanes
from bitwright.formats import Format
from bitwright.quantization import PerBlock, QuantizedTensor
from bitwright.rtl.engine import Engine
from bitwright.rtl.engine_image import Beats, Image, pack_layer
from bitwright.rtl.engine_outputs import OutputEngine
from bitwright.rtl.plan import Plan, plan
from bitwright.scheme import Scheme
from bitwright.simulators.program import Pauses, Program, Streamed

AnyEngine = Engine | OutputEngine

VECTORS = 256
"""Vectors of one job, where nobody says: the engine's memories have a word for each."""


@dataclass(frozen=True)
class Product:
    """x @ w.T through a datapath."""

    name: str
    datapath: Datapath
    x: QuantizedTensor
    w: QuantizedTensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """m, n and K."""
        return len(self.x.codes), len(self.w.codes), self.x.k

    @property
    def length(self) -> int:
        """Products of one inner sum."""
        return self.datapath.inner_elements(self.x.quantizer, self.w.quantizer, *self.w.shape)


@dataclass(frozen=True)
class Compared:
    """What a simulator made of some products. `difference` is the first case that is not the arithmetic's."""

    cycles: int
    beats_sha256: str  # of all beats that went in and came out
    difference: str | None = None

    @property
    def holds(self) -> bool:
        return self.difference is None


class DoesNotFit(ValueError):
    """An engine cannot read a product's tiles or codes."""


def engine_for(scheme: Scheme, rows: int, columns: int, *, k: int, vectors: int = VECTORS) -> Engine:
    """An engine that keeps weights, for all formats of a scheme and sums of up to k products.

    Weights are stored one element a code. ValueError where no circuit computes the scheme at this size.
    """
    return Engine(plan(scheme, k=k).elementwise(), rows, columns, vectors)


def output_engine_for(scheme: Scheme, rows: int, columns: int, *, k: int) -> OutputEngine:
    """The same that keeps sums."""
    return OutputEngine(plan(scheme, k=k).elementwise(), rows, columns)


def padded_k(product: Product, products: int | None) -> int:
    """K with every tile filled up to the engine's."""
    k = product.shape[2]
    return k if products is None else -(-k // product.length) * max(products, product.length)


def fitted(engine: AnyEngine, product: Product) -> Product:
    """The same product in tiles and codes that the engine reads. DoesNotFit where there are none."""
    products = engine.plan.products
    length, (_, _, k) = product.length, product.shape
    if products is None and length < k:
        raise DoesNotFit(f"{product.name} sums {length} products at a time, the engine all {k}")
    if products is not None and length > products:
        raise DoesNotFit(f"{product.name} sums {length} products at a time, the engine {products}")
    x, w = product.x, product.w
    if products is not None and length < products:
        x, w = _retiled(x, length, products), _retiled(w, length, products)
    try:
        return replace(product, x=_recoded(x, engine.plan.x.formats), w=_recoded(w, engine.plan.w.formats))
    except ValueError as refused:
        raise DoesNotFit(f"{product.name}: {refused}") from None


def golden(made: Plan, product: Product) -> Shaped[np.ndarray, "tiles m n"]:
    """What leaves the engine by the definition of the datapath: sums of each tile, or what the outer register holds."""
    datapath = product.datapath
    x, w = lanes(product.x, product.length), lanes(product.w, product.length)
    if made.outer is not None:
        return made.outer.contents(datapath.multiply(_bare(x), _bare(w)).values, made.unit)[None]
    inner, raised, found = Datapath(datapath.inner), x.unit + w.unit - made.unit, []
    for t in range(x.integers.shape[1]):
        a, b = x.integers[:, t], w.integers[:, t]
        if datapath.inner.format is None:
            found.append((a @ b.T) << raised)
        else:
            values = inner.multiply(*(_bare(o._replace(integers=o.integers[:, t : t + 1])) for o in (x, w))).values
            found.append(_integers(values, x.unit + w.unit) << raised)
    return np.stack(found)


def compare(program: Program, engine: AnyEngine, products: Sequence[Product], pauses: Pauses = Pauses()) -> Compared:
    """Run these products one after the other, and show the first sum that is not the arithmetic's."""
    images = [pack_layer(engine, each.x, each.w) for each in (fitted(engine, product) for product in products)]
    ran, limit = run(program, images, pauses)
    sent = [getattr(image, name) for image in images for name in ("job", "w", "x")]
    digest = hashlib.sha256(b"".join(part.data.tobytes() + part.last.tobytes() for part in (*sent, ran.beats)))
    return Compared(ran.cycles, digest.hexdigest(), _difference(ran, limit, engine, products, images))


def _difference(
    ran: Streamed, limit: int, engine: AnyEngine, products: Sequence[Product], images: Sequence[Image]
) -> str | None:
    """The first thing that is wrong."""
    if not ran.is_complete:
        return f"{len(ran.beats.data)} of {sum(image.results for image in images)} results after {limit} cycles"
    if ran.flags["out_of_step"]:
        return "the engine says that its streams were out of step"
    first = 0
    for product, image in zip(products, images, strict=True):
        beats = Beats(*(part[first : first + image.results] for part in (ran.beats.data, ran.beats.last)))
        first += image.results
        found, right = image.sums(beats), golden(engine.plan, product)
        wrong = np.argwhere(found != right)
        if len(wrong):
            tile, i, j = wrong[0].tolist()
            where = f"{product.name}: vector {i}, output {j}" + (f", tile {tile}" if len(right) > 1 else "")
            said = f"the circuit gives {found[tile, i, j]}, the arithmetic {right[tile, i, j]}"
            return f"{where}: {said} ({len(wrong)} of {right.size} sums differ)"
    return None


def run(program: Program, images: Sequence[Image], pauses: Pauses = Pauses()) -> tuple[Streamed, int]:
    """What leaves an engine for these images, and the cycles that it was given."""
    streams = {
        name: Beats.joined([getattr(image, name) for image in images]) for name in ("job", "w", "x")
    }  # fmt: skip
    beats = sum(len(stream.data) for stream in streams.values())
    results = sum(image.results for image in images)
    limit = 10_000 + 16 * (beats + results)  # the least chance of a beat is low, and each is tried at every cycle
    limit = limit * 256 // (256 - max(pauses.sources, pauses.sink))
    return program.streams(streams, results, pauses=pauses, limit=limit), limit


def _bare(o: Lanes) -> Lanes:
    """Without the scales that are shared along K."""
    return o._replace(outside=np.ones_like(o.outside))


def _integers(values: Shaped[np.ndarray, "m n"], unit: int) -> Shaped[np.ndarray, "m n"]:
    """Multiples of 2**unit as integers."""
    found = np.ldexp(values, -unit)
    assert np.abs(found).max(initial=0) < 2**53, "float64 holds them"
    return found.astype(np.int64)


def _recoded(t: QuantizedTensor, formats: Sequence[Format]) -> QuantizedTensor:
    """The same elements in codes of one of these formats."""
    if t.quantizer.format in formats:
        return t
    scale, elements = t.quantizer.scales[-1].share, t.elements()
    for format in formats:
        missing = -elements.shape[-1] % format.run
        if missing and scale.splits_k:
            continue
        padded = np.pad(elements, ((0, 0), (0, 0), (0, missing)))
        codes = format.encode(padded)
        if np.array_equal(format.decode(codes), padded):
            return replace(t, codes=codes, quantizer=replace(t.quantizer, format=format))
    raise ValueError(f"elements of {t.quantizer.format} found, the engine reads {' and '.join(map(repr, formats))}")


def _retiled(t: QuantizedTensor, length: int, products: int) -> QuantizedTensor:
    """Tiles of `length` elements, each filled up with zeros to `products`."""
    if t.zero_points is not None:
        raise ValueError("tiles of inputs with a zero point cannot be filled up; use tiles of the engine's size")
    (rows, k), tiles = t.shape, -(-t.k // length)
    codes = np.broadcast_to(t.quantizer.format.encode(np.zeros((1, 1, products))), (rows, tiles, products)).copy()
    flat = t.codes.reshape(rows, -1)
    flat = np.pad(flat[:, : tiles * length], ((0, 0), (0, max(tiles * length - flat.shape[1], 0))))
    codes[:, :, :length] = flat.reshape(rows, tiles, length)
    fine = t.quantizer.scales[-1]
    if not fine.share.splits_k:
        return replace(t, codes=codes.reshape(rows, 1, -1), k=tiles * products)
    scales = fine.share.expand(t.scales[-1], rows, k)[:, ::length]
    quantizer = replace(t.quantizer, scales=(*t.quantizer.scales[:-1], replace(fine, share=PerBlock(products))))
    return replace(t, codes=codes, scales=(*t.scales[:-1], scales), k=tiles * products, quantizer=quantizer)
