"""Proofs of every scheme's circuits, for all inputs: results/proofs.json, the certificate, and results/proofs.md.

    python experiments/proofs.py                   # about 5 minutes of one idle core
    python experiments/proofs.py --cache FOLDER    # keeps mapped netlists

Circuits that the generator still makes as the certificate says are left as they are, so a second run takes seconds and
a stopped one continues. What is proved: every decoder has the terms of its format for all codes, every processing
element, as RTL and mapped to the embedded cells, adds the product of the values for all terms, weights and partial
sums, and no sum within a certificate overflows. Decoders are tried as gates on all codes besides. Of
encoders and vector units small ones of each kind are proved, for all levels and all codes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from bitwright.cost.verify import Verification, changed, verify
from bitwright.cost.verify_collectors import try_collectors
from bitwright.cost.verify_proofs import Finding
from bitwright.cost.verify_units import prove_units
from bitwright.schemes import CATALOGUE, FOLDED
from bitwright.store import read_json, write_atomically, write_json

RESULT = Path(__file__).parent / "results" / "proofs.json"
SCHEMES = sorted({
    *(f"{scheme.__name__}()" for scheme in (*CATALOGUE, *FOLDED)),
    "integer(4, 4)", "integer(4, 8)", "ant(3, 3)", "ant_type('flint')", "ant_type('pot')", "ant_type('float')",
    "minifloat(2, 1)", "minifloat(5, 2)", "mxfp8(element=E5M2)",
    "overq(4, 4, tile=16)", "overq(4, 8, precision_overwrite=True)",
    "a2q(4, 4, accumulator_bits=10)", "vs_quant(6, 6)",
    "integer(4, 4, accumulator_bits=12, overflow=Overflow.SATURATE)", "term_revealing(5, 5, group=4, budget=6)",
})  # fmt: skip
PROOF_S = 3600.0


@dataclass(frozen=True)
class Certificate:
    """Of a whole catalogue, and of encoders and vector units."""

    schemes: tuple[Verification, ...]
    units: tuple[Finding, ...] = ()


def known(path: Path) -> Certificate:
    """What an earlier run proved."""
    return read_json(path, Certificate) if path.exists() else Certificate(())


def is_current(found: Verification) -> bool:
    """Whether it speaks of today's circuits and left nothing open."""
    return found.holds and not changed(found) and all(finding.cases != 0 for finding in found.findings)


def table(certificate: Certificate) -> str:
    """For a reader."""
    rows = [_line(f"`{found.scheme}`", finding) for found in certificate.schemes for finding in found.findings]
    units = [_line("", finding) for finding in certificate.units]
    every = [*(f for found in certificate.schemes for f in found.findings), *certificate.units]
    proofs = [finding for finding in every if finding.is_proof]
    tools = sorted({", ".join(found.tools) for found in certificate.schemes})
    return f"""# Proofs of circuits

Made by `python experiments/proofs.py` with {"; ".join(tools)}. {len(certificate.schemes)} schemes, {len(proofs)} proofs
for all inputs in {sum(f.seconds for f in proofs):.0f} s of wall time on a machine with other work. The hash is that of
the circuit's RTLIL (`rtl.verilog.digest`); the whole one is in `proofs.json`.

A decoder is held against a table of `Format.terms`, written as Verilog; a processing element against sum + x·w of the
values in the register's overflow mode, from any state of its registers, as RTL and as the netlist of the embedded
cells. Products of wide factors are split into cases: all values of the weight's upper bits, 3 bits left free, each
proved by SAT. "No overflow" is one step: a sum within bounds that a certificate allows, plus any product, is exact.

| scheme | circuit | method | covers | holds | seconds | RTLIL |
| --- | --- | --- | --- | --- | ---: | --- |
{chr(10).join(rows)}

An encoder is held against a table of what its format encodes, over all levels of all its lanes; VS-Quant's quantizer of
vectors against the integers of `rtl.vector_quantizer.quantize_vectors`; a vector unit against its register plus the sum
of the values' products, times the scales, from any state; the adder of a float register against `Accumulator.add` of
all pairs. Collectors with a float register are tried as gates, narrow ones on all inputs, those of the catalogue on
a million.

| | circuit | method | covers | holds | seconds | RTLIL |
| --- | --- | --- | --- | --- | ---: | --- |
{chr(10).join(units)}
"""


def _line(scheme: str, f: Finding) -> str:
    covered = "all inputs" if f.is_proof else "open" if f.cases == 0 else f"{f.cases:,} cases"
    seconds = f"{f.seconds:.1f}" if f.is_proof else ""
    word, sha256 = "yes" if f.holds else "NO", f"`{f.rtlil_sha256[:12]}`"
    cells = (scheme, f.circuit, f.method, covered, word, seconds, sha256)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder of mapped netlists")
    cache = parser.parse_args().cache
    before = known(RESULT)
    found = {verification.scheme: verification for verification in before.schemes}
    units = {finding.circuit: finding for finding in before.units}
    for text in SCHEMES:
        if text not in found or not is_current(found[text]):
            found[text] = verify(text, proof_s=PROOF_S, cache=cache)
            print("\n".join([text, *found[text].lines()]), flush=True)
            write(Certificate(tuple(found[text] for text in SCHEMES if text in found), before.units))
    proved = []
    for finding in prove_units(PROOF_S, units):
        proved.append(finding)
        print(finding.circuit, "holds" if finding.holds else finding.counterexample, flush=True)
    for finding in try_collectors(cache=cache):
        proved.append(finding)
        print(finding.circuit, "holds" if finding.holds else finding.counterexample, flush=True)
    write(Certificate(tuple(found[text] for text in SCHEMES), tuple(proved)))


def write(certificate: Certificate) -> None:
    write_json(RESULT, certificate)
    write_atomically(RESULT.with_suffix(".md"), table(certificate).encode())


if __name__ == "__main__":
    main()
