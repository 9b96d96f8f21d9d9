"""What is proved of a scheme's circuits, for all inputs: their RTL and their gates keep what values alone specify."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

from bitwright.cost.formal import Dut, Goal, prove_check
from bitwright.cost.formal_overflow import are_integers, step_check, step_goals
from bitwright.cost.formal_spec import decoder_check, element_check, element_goals, operand_check
from bitwright.cost.library import Library
from bitwright.cost.synthesis import Synthesis
from bitwright.formats import Format
from bitwright.rtl.decode import bounds
from bitwright.rtl.decoder import Decoder, OperandDecoder
from bitwright.rtl.describe import described_in_full
from bitwright.rtl.plan import Plan
from bitwright.rtl.unit import Unit
from bitwright.rtl.units import ProcessingElement
from bitwright.rtl.verilog import digest, rtlil
from bitwright.rtl.yosys import YosysError


@dataclass(frozen=True)
class Finding:
    """One circuit beside its definition."""

    circuit: str
    rtlil_sha256: str
    """`rtl.verilog.digest` of its RTLIL."""
    method: str
    cases: int | None  # None where a proof covers all, 0 where it came to no end
    counterexample: str | None = None
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return self.counterexample is None

    @property
    def is_proof(self) -> bool:
        return self.cases is None


@dataclass(frozen=True)
class Claim:
    """A circuit and the Verilog module `check` whose goals say that it does what values specify."""

    circuit: str
    unit: Unit
    module: str
    specification: str
    """In words."""
    check: Callable[[], str]
    goals: tuple[Goal, ...]

    @cached_property
    def rtlil(self) -> str:
        return rtlil(self.unit, self.module)

    @cached_property
    def sha256(self) -> str:
        return digest(self.rtlil)


def lanes_of(format: Format) -> int:
    """Neighbours that a decoder of the format must see at once."""
    return max(format.run, 1 + bounds(format).reach)


def claims(made: Plan) -> list[Claim]:
    """Of every decoder and of the processing element of an elementwise plan, the element's last."""
    found = []
    for format in dict.fromkeys([*made.x.formats, *made.w.formats]):
        lanes = lanes_of(format)
        found.append(Claim(
            f"decoder of {described_in_full(format)}", Decoder(format, lanes), "decoder",
            "equal to the table of its format's terms", partial(decoder_check, format, lanes), (Goal("bad"),),
        ))  # fmt: skip
    for name, operand in (("inputs", made.x), ("weights", made.w)):
        lanes = max(lanes_of(format) for format in operand.formats)
        count = len(operand.formats)
        found.append(Claim(
            f"decoder of the {name}, {count} format{'s' * (count > 1)}", OperandDecoder(operand, lanes), "decoder",
            "equal to the values of its formats", partial(operand_check, operand, lanes), (Goal("bad"),),
        ))  # fmt: skip
    element = ProcessingElement(made)
    name = f"processing element, {made.inner.bits}-bit sums"
    promises = [format.bounds() for format in made.w.formats]
    if are_integers(made) and any(b.norm1 is not None or b.norm1_of_sign is not None for b in promises):
        for format in made.x.formats:
            low, high = format.bounds().units
            found.append(Claim(
                name, element, "element", f"free of overflow within certified sums, inputs of {low} to {high}",
                partial(step_check, made, low, high), step_goals(made),
            ))  # fmt: skip
    found.append(Claim(
        name, element, "element", "equal to sum + x·w from values", partial(element_check, made), element_goals(made)
    ))  # fmt: skip
    return found


def prove(made: Plan, synthesis: Synthesis, library: Library, proof_s: float) -> Iterator[Finding]:
    """A finding for each claim about RTL, and for the element in cells; `proof_s` bounds each, 0 leaves out all."""
    if proof_s <= 0:
        return
    for claim in claims(made):
        yield found(claim, Dut.of_rtlil(claim.rtlil), "RTL", proof_s)
    yield found(claim, Dut.of_netlist(synthesis, library), f"netlist in {library.name}", proof_s)


def found(claim: Claim, dut: Dut, what: str, proof_s: float) -> Finding:
    """What came of one claim about a circuit."""
    start = time.perf_counter()
    finding = Finding(claim.circuit, claim.sha256, f"{what} proved {claim.specification}", None)
    try:
        proof = prove_check(claim.check(), dut, claim.goals, timeout_s=proof_s)
    except YosysError as stopped:
        return replace(
            finding, method=f"{what} not proved {claim.specification} ({stopped})", cases=0,
            seconds=time.perf_counter() - start,
        )  # fmt: skip
    split = f", {proof.cases} cases" if proof.cases > 2 else ""
    return replace(
        finding, method=finding.method + split, counterexample=None if proof.holds else proof.model,
        seconds=time.perf_counter() - start,
    )  # fmt: skip
