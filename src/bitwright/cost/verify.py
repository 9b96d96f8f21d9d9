"""Are a scheme's circuits what its arithmetic says? Decoders and processing element, as gates, beside the golden model.

Every decoder is compared with `Format.terms` on all its codes, where they are few enough, and the processing element,
mapped to the embedded library, on every pair of terms; a proof, where it ends in time, covers all of its inputs.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int as Ints

from bitwright.config import from_text
from bitwright.cost.cells import generic_library
from bitwright.cost.formal import prove_synthesis
from bitwright.cost.library import Library
from bitwright.cost.netlist import yosys_gates
from bitwright.cost.simulate import Simulator, pack, unpack
from bitwright.cost.synthesis import Synthesis, synthesize, synthesize_gates
from bitwright.cost.synthesis_element import check_element, element_plan
from bitwright.cost.yosys import YosysError, find_yosys
from bitwright.formats import Format
from bitwright.rtl.decode import bounds
from bitwright.rtl.decoder import Decoder
from bitwright.rtl.generate import described
from bitwright.rtl.plan import LONGEST
from bitwright.rtl.units import ProcessingElement
from bitwright.rtl.verilog import rtlil
from bitwright.scheme import Scheme

ALL_CODES_BITS = 16
"""Code bits of a decoder up to which all codes are tried; else as many random ones."""


@dataclass(frozen=True)
class Finding:
    """One circuit beside its definition."""

    circuit: str
    rtlil_sha256: str
    method: str
    cases: int | None  # None where a proof covers all, 0 where it came to no end
    counterexample: str | None = None

    @property
    def holds(self) -> bool:
        return self.counterexample is None


@dataclass(frozen=True)
class Verification:
    """What was compared, with which tools."""

    scheme: str
    tool: str
    seed: int
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        return all(finding.holds for finding in self.findings)

    def lines(self) -> list[str]:
        """For a terminal."""
        shown = []
        for f in self.findings:
            cases = "all inputs" if f.cases is None else f"{f.cases:,} cases"
            word = "DIFFERS" if not f.holds else "open   " if f.cases == 0 else "equal  "
            shown.append(f"{word} {f.circuit}: {f.method}" + (f", {cases}" if f.cases != 0 else ""))
            if f.counterexample:
                shown.append(f"        {f.counterexample}")
        return [*shown, f"tools: {self.tool}"]


def verify(
    text: str, *, k: int = LONGEST, proof_s: float = 60.0, seed: int = 0, cache: Path | None = None
) -> Verification:
    """Compare a scheme's circuits, for sums of k products, with its definition. `proof_s` bounds the proof, 0: none."""
    scheme = from_text(text)
    if not isinstance(scheme, Scheme):
        raise ValueError(f"{text} is a recipe of several schemes; verify each of them")
    made, rng = element_plan(scheme, k=k), np.random.default_rng(seed)
    formats = dict.fromkeys([*made.x.formats, *made.w.formats])
    findings = [_decoder(format, rng, cache) for format in formats]
    circuit, library = rtlil(ProcessingElement(made), "element"), generic_library()
    synthesis = synthesize(circuit, library, cache=cache)
    verdict = check_element(synthesis.netlist, library, made, rng)
    element = Finding(
        f"processing element, {made.inner.bits}-bit sums", _sha256(circuit), f"mapped to {library.name}",
        verdict.patterns, verdict.counterexample,
    )  # fmt: skip
    findings.append(element)
    if proof_s > 0:
        findings.append(_proof(element, synthesis, library, circuit, proof_s))
    return Verification(text, f"yosys {find_yosys().version}", seed, tuple(findings))


def _proof(element: Finding, synthesis: Synthesis, library: Library, circuit: str, proof_s: float) -> Finding:
    try:
        proof = prove_synthesis(synthesis, library, circuit, latency=1, timeout_s=proof_s)
    except YosysError as stopped:
        return replace(element, method=f"mapped netlist beside the RTL ({stopped})", cases=0)
    return replace(
        element, method="mapped netlist proved equal to the RTL", cases=None,
        counterexample=None if proof.holds else proof.model,
    )  # fmt: skip


def _decoder(format: Format, rng: np.random.Generator, cache: Path | None) -> Finding:
    """Its terms, in yosys' gates, beside `format.terms`."""
    lanes = max(format.run, 1 + bounds(format).reach)
    circuit = rtlil(Decoder(format, lanes), "decoder")
    codes, are_all = _codes(format, lanes, rng)
    netlist = synthesize_gates(circuit, cache=cache)
    planes = {f"code_{lane}": pack(codes[:, lane], format.bits) for lane in range(lanes)}
    found = Simulator(netlist, yosys_gates()).settle(planes, (1 << len(codes)) - 1, 0)
    exponents, golden = bounds(format).exponent, format.terms(codes)
    keys = [(lane, t) for lane in range(lanes) for t in range(bounds(format).per_lane)]

    def column(part: str) -> Ints[np.ndarray, "rows terms"]:
        ports = [f"{part}_{lane}_{t}" for lane, t in keys]
        nothing = np.zeros(len(codes), np.int64)  # a port of no bits is left out
        return np.stack(
            [unpack(found[p], len(codes), p in netlist.signed) if p in found else nothing for p in ports], 1
        )

    is_term = np.broadcast_to(golden.significand != 0, (len(codes), len(keys)))  # of nothing only that counts
    source = np.repeat(np.arange(lanes), bounds(format).per_lane) - column("back")
    wrong = column("significand") != golden.significand
    wrong |= is_term & (exponents.start + exponents.step * column("exponent") != golden.exponent)
    wrong |= is_term & (source != golden.source)
    first = np.flatnonzero(wrong.any(1))
    how = "all codes" if are_all else "random codes"
    return Finding(
        f"decoder of {described(format)}", _sha256(circuit), f"gates, {how}", len(codes),
        f"codes {codes[first[0]].tolist()}" if len(first) else None,
    )  # fmt: skip


def _codes(format: Format, lanes: int, rng: np.random.Generator) -> tuple[Ints[np.ndarray, "rows lanes"], bool]:
    """Rows of neighbouring codes that stand for numbers, and whether these are all."""
    bits = format.bits
    are_all = bits * lanes <= ALL_CODES_BITS
    if are_all:
        rows = np.arange(2 ** (bits * lanes))[:, None] >> (bits * np.arange(lanes)) & (2**bits - 1)
    else:
        rows = rng.integers(0, 2**bits, (2**ALL_CODES_BITS, lanes))
    return rows[~format.is_reserved(rows).any(1)], are_all


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
