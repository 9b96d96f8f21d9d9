"""Stimuli and golden outputs for the circuits of schemes, as integers: what a mutant must be noticed by."""

import numpy as np
from jaxtyping import Int as Ints

from bitwright.cost.formal_spec import WHOLE_ROW_BITS
from bitwright.cost.mutants import Bench
from bitwright.cost.simulate import as_port
from bitwright.cost.synthesis_element import Ports, all_ports, element_plan, product
from bitwright.cost.verify_proofs import Claim, claims
from bitwright.rtl.decode import bounds
from bitwright.rtl.decoder import Decoder
from bitwright.rtl.operand import Operand
from bitwright.rtl.plan import Plan, plan
from bitwright.rtl.systolic import WeightStationary
from bitwright.rtl.term import term_shapes
from bitwright.rtl.units import ProcessingElement, VectorUnit
from bitwright.rtl.verilog import rtlil
from bitwright.schemes import CATALOGUE, FOLDED, ant_type, integer

Codes = Ints[np.ndarray, "steps lanes elements"]
Coded = tuple[Ints[np.ndarray, "steps lanes"], Codes, Codes]
"""Positions of formats, codes, elements in units of their operand."""

LANES, CYCLES = 2048, 7

FEW = 7
"""Mutants of a decoder or an element; of larger circuits there are more."""


def catalogue_benches(rng: np.random.Generator, few: int = FEW) -> list[tuple[Bench, int]]:
    """Decoders and element of every scheme, two vector units and an array, with how many mutants each is tried on."""
    found: dict[str, tuple[Bench, int]] = {}
    for scheme in (*CATALOGUE, *FOLDED):
        made = element_plan(scheme())
        for claim in claims(made):
            if isinstance(claim.unit, Decoder) and claim.unit.format.bits * claim.unit.lanes <= WHOLE_ROW_BITS:
                found.setdefault(claim.sha256, (decoder_bench(claim), few))
        found.setdefault(claim.sha256, (element_bench(claim, scheme.__name__, rng), few))
    integers, flint = (plan(scheme, k=64) for scheme in (integer(4, 4), ant_type("flint")))
    large = [
        (vector_bench("vector unit of integer(4, 4)", integers, 4, rng), 2 * few),
        (vector_bench("vector unit of flint", flint, 2, rng), 2 * few),
        (array_bench("2 × 2 array of integer(4, 4)", integers, 2, 2, rng), 3 * few),
    ]
    return [*found.values(), *large]


def decoder_bench(claim: Claim) -> Bench:
    """All codes of a few neighbours beside `Format.terms`; of a term that is zero only the significand counts."""
    assert isinstance(claim.unit, Decoder)
    format, lanes = claim.unit.format, claim.unit.lanes
    b, bits = bounds(format), format.bits
    rows = np.arange(2 ** (bits * lanes))[:, None] >> (bits * np.arange(lanes)) & (2**bits - 1)
    rows = rows[~format.is_reserved(rows).any(1)]
    golden = format.terms(rows)
    expected: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for i, (lane, t) in enumerate((lane, t) for lane in range(lanes) for t in range(b.per_lane)):
        significand, exponent, source = (np.broadcast_to(p, golden.significand.shape)[None, :, i] for p in golden)
        names = [f"{part}_{lane}_{t}" for part in ("significand", "exponent", "back")]
        values = (significand, (exponent - b.exponent.start) // b.exponent.step, lane - source)
        is_term = significand != 0
        expected |= dict(zip(names, values, strict=True))
        counts |= dict(zip(names, (np.ones_like(is_term), is_term, is_term), strict=True))
    stimulus = {f"code_{lane}": rows[None, :, lane] for lane in range(lanes)}
    return Bench(claim.circuit, claim.rtlil, stimulus, expected, counts, claim)


def element_bench(claim: Claim, scheme: str, rng: np.random.Generator) -> Bench:
    """Random terms, weights loaded now and then; every output of every cycle."""
    assert isinstance(claim.unit, ProcessingElement)
    made, shape = claim.unit.plan, (CYCLES, LANES)
    x, w = (_random_terms(all_ports(b), rng, shape) for b in (made.x.bounds, made.w.bounds))
    load = rng.integers(0, 2, shape)
    register = made.inner
    sum_in = as_port(rng.integers(0, 2 ** min(register.bits, 62), shape), register.bits, register.is_signed)
    held = Ports(*(np.zeros(shape, np.int64) for _ in range(3)))
    for t in range(1, CYCLES):
        for old, above in zip(held, w, strict=True):
            old[t] = np.where(load[t - 1] == 1, above[t - 1], old[t - 1])
    after = sum_in + product(made, x, held, w)
    if register.low is None or register.high is None:
        after = as_port(after, register.bits, register.is_signed)
    else:
        after = np.clip(after, register.low, register.high)
    stimulus, expected = {"load": load, "sum_in": sum_in}, {"sum": _later(after)}
    for side, given, b in (("x", x, made.x.bounds), ("w", w, made.w.bounds)):
        for part in term_shapes(b):
            stimulus[f"{side}_{part}"] = getattr(given, part)
            kept = _later(getattr(x, part)) if side == "x" else getattr(held, part)
            expected[f"{side}_{part}_out"] = kept
    counts = {port: np.repeat(np.arange(CYCLES) > 0, LANES).reshape(shape) for port in expected}
    return Bench(f"processing element of {scheme}", claim.rtlil, stimulus, expected, counts, claim)


def vector_bench(name: str, made: Plan, lanes: int, rng: np.random.Generator) -> Bench:
    """Random codes in random formats, steps taken or not, sums begun anew or not; what is held after each."""
    (x_select, x, x_units), (w_select, w, w_units) = (
        _random_codes(o, rng, (CYCLES, LANES, lanes)) for o in (made.x, made.w)
    )
    enable, first = rng.integers(0, 4, (CYCLES, LANES)) > 0, rng.integers(0, 4, (CYCLES, LANES)) == 0
    first[0], enable[0] = True, True
    added = (x_units * w_units).sum(-1)
    held = np.zeros((CYCLES, LANES), np.int64)
    for t in range(1, CYCLES):
        after = np.where(first[t - 1], 0, held[t - 1]) + added[t - 1]
        held[t] = np.where(enable[t - 1], as_port(after, made.inner.bits, made.inner.is_signed), held[t - 1])
    stimulus = {"enable": enable.astype(np.int64), "first": first.astype(np.int64)}
    stimulus |= {f"x_{i}": x[..., i] for i in range(lanes)} | {f"w_{i}": w[..., i] for i in range(lanes)}
    stimulus |= {"x_select": x_select, "w_select": w_select}
    counts = {"total": np.repeat(np.arange(CYCLES) > 0, LANES).reshape(CYCLES, LANES)}
    return Bench(name, rtlil(VectorUnit(made, lanes), "vector"), stimulus, {"total": held}, counts)


def array_bench(name: str, made: Plan, rows: int, columns: int, rng: np.random.Generator) -> Bench:
    """A whole layer of a weight-stationary array: weights loaded, then vectors with pauses, each beside X·W."""
    unit, vectors = WeightStationary(made, rows, columns), 6
    latency = rows + columns - 1
    cycles = rows + vectors + latency + 1
    w_select, w, w_units = _random_codes(made.w, rng, (1, LANES, rows * columns))
    x_select, x, x_units = _random_codes(made.x, rng, (vectors, LANES, rows))
    w, w_units = (part.reshape(LANES, rows, columns) for part in (w, w_units))
    valid = np.minimum(rng.integers(0, 4, (vectors, LANES)), 1)
    start = as_port(rng.integers(0, 2**made.inner.bits, (vectors, LANES, columns)), made.inner.bits, True)
    products = np.einsum("vlr,lrc->vlc", x_units, w_units)
    golden = as_port(start + products, made.inner.bits, made.inner.is_signed)

    def placed(values: Ints[np.ndarray, "steps lanes"], at: int) -> Ints[np.ndarray, "cycles lanes"]:
        after = np.zeros((cycles - at - len(values), LANES), np.int64)
        return np.concatenate([np.zeros((at, LANES), np.int64), values.astype(np.int64), after])

    stimulus = {"load": placed(np.ones((rows, LANES), np.int64), 0), "valid": placed(valid, rows)}
    stimulus |= {f"x_{r}": placed(x[:, :, r], rows) for r in range(rows)}
    stimulus |= {"x_select": placed(x_select, rows), "w_select": placed(np.repeat(w_select, rows, 0), 0)}
    done = placed(valid, rows + latency)
    expected, counts = {"sum_valid": done}, {"sum_valid": np.ones((cycles, LANES), bool)}
    for c in range(columns):
        stimulus[f"w_{c}"] = placed(w[:, ::-1, c].T, 0)
        stimulus[f"sum_in_{c}"] = placed(start[:, :, c], rows)
        expected[f"sum_{c}"], counts[f"sum_{c}"] = placed(golden[:, :, c], rows + latency), done == 1
    return Bench(name, rtlil(unit, "array"), stimulus, expected, counts)


def _later(values: Ints[np.ndarray, "cycles lanes"]) -> Ints[np.ndarray, "cycles lanes"]:
    return np.concatenate([np.zeros_like(values[:1]), values[:-1]])


def _random_terms(every: Ports, rng: np.random.Generator, shape: tuple[int, int]) -> Ports:
    chosen = rng.integers(0, len(every.significand), shape)
    return Ports(*(part[chosen] for part in every))


def _random_codes(operand: Operand, rng: np.random.Generator, shape: tuple[int, int, int]) -> Coded:
    """For each cycle and lane a format, and codes in it with what they stand for."""
    select = rng.integers(0, len(operand.formats), shape[:2])
    codes, units = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, format in enumerate(operand.formats):
        every = np.arange(2**format.bits)[:, None]
        usable = every[~format.is_reserved(every)[:, 0], 0]
        terms = format.terms(every)
        places = np.broadcast_to(terms.exponent, terms.significand.shape) - operand.bounds.exponent.start
        values = (terms.significand << np.maximum(places, 0)).sum(1)
        chosen = rng.choice(usable, shape)
        codes = np.where(select[..., None] == i, chosen, codes)
        units = np.where(select[..., None] == i, values[chosen], units)
    return select, codes, units
