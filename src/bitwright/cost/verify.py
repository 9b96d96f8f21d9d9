"""Are a scheme's circuits what its arithmetic says? Decoders and processing element, as gates, beside the golden model.

Every decoder is compared with `Format.terms` on all its codes, where they are few enough, and the processing element,
mapped to the embedded library, on every pair of terms. Proofs, where they end in time, cover all inputs of both.
"""

import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int as Ints

from bitwright.config import from_text
from bitwright.cost.cells import generic_library
from bitwright.cost.netlist import yosys_gates
from bitwright.cost.simulate import Simulator, pack, unpack
from bitwright.cost.synthesis import synthesize, synthesize_gates
from bitwright.cost.synthesis_element import check_element, element_plan
from bitwright.cost.verify_proofs import Finding, claims, lanes_of, prove
from bitwright.formats import Format
from bitwright.rtl.decode import bounds
from bitwright.rtl.decoder import Decoder
from bitwright.rtl.describe import described_in_full
from bitwright.rtl.plan import LONGEST
from bitwright.rtl.units import ProcessingElement
from bitwright.rtl.verilog import digest, rtlil
from bitwright.rtl.yosys import find_yosys
from bitwright.scheme import Scheme

ALL_CODES_BITS = 16
"""Code bits of a decoder up to which all codes are tried; else as many random ones."""


@dataclass(frozen=True)
class Verification:
    """What was compared and proved, with which tools."""

    scheme: str
    scheme_sha256: str
    """Of the values that the scheme's text stands for, as Python writes them."""
    tools: tuple[str, ...]
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
        return [*shown, f"tools: {', '.join(self.tools)}"]


def verify(
    text: str, *, k: int = LONGEST, proof_s: float = 60.0, seed: int = 0, cache: Path | None = None
) -> Verification:
    """A scheme's circuits, for sums of k products, beside its definition; `proof_s` bounds each proof, 0: none."""
    scheme = from_text(text)
    if not isinstance(scheme, Scheme):
        raise ValueError(f"{text} is a recipe of several schemes; verify each of them")
    made, rng = element_plan(scheme, k=k), np.random.default_rng(seed)
    formats = dict.fromkeys([*made.x.formats, *made.w.formats])
    findings = [_decoder(format, rng, cache) for format in formats]
    circuit, library = rtlil(ProcessingElement(made), "element"), generic_library()
    synthesis = synthesize(circuit, library, cache=cache)
    verdict = check_element(synthesis.netlist, library, made, rng)
    findings.append(Finding(
        f"processing element, {made.inner.bits}-bit sums", digest(circuit), f"mapped to {library.name}",
        verdict.patterns, verdict.counterexample,
    ))  # fmt: skip
    findings += prove(made, synthesis, library, proof_s)
    return Verification(text, _sha256(repr(scheme)), tools(), seed, tuple(findings))


def changed(found: Verification, *, k: int = LONGEST) -> list[str]:
    """What the certificate says of a circuit that the generator no longer makes, or not of one that it makes now."""
    scheme = from_text(found.scheme)
    assert isinstance(scheme, Scheme), "verify refuses recipes"
    made = element_plan(scheme, k=k)
    today = {(claim.circuit, claim.sha256) for claim in claims(made)}
    stated = {(finding.circuit, finding.rtlil_sha256) for finding in found.findings if finding.is_proof}
    return sorted({circuit for circuit, _ in today ^ stated})


def tools() -> tuple[str, ...]:
    """Names and versions of what made and compared the circuits."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("bitwright", "amaranth", "numpy")]
    return (f"yosys {find_yosys().version}", *packages, f"python {platform.python_version()}")


def _decoder(format: Format, rng: np.random.Generator, cache: Path | None) -> Finding:
    """Its terms, in yosys' gates, beside `format.terms`."""
    lanes = lanes_of(format)
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
        f"decoder of {described_in_full(format)}", digest(circuit), f"gates, {how}", len(codes),
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
